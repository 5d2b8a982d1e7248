"""The layers of a UDP packet around its messages.

Rules (spec wire.md 1.1 and 4):

* From the outside in: label, encryption, checksum, compression, compound, messages; each is optional except the last.
* Label, encryption and checksum are honoured once, in this order, outermost only. One compression and a few compounds
  in each other are followed; no agent nests deeper. All of it is done in a loop, so depth costs no stack.
* A part that is empty is skipped when read and never written, because it kills old peers. A part that overruns ends its
  compound: the parts before it count, the rest is `truncated`.
* What is decompressed is bounded in size, and in time by stepping: `open_packet` gives the work back as a
  `PendingPacket` when its budget is used up.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from zlib import crc32

from serfmp.errors import InternalError, UserError
from serfmp.wire import lzw
from serfmp.wire.crypto import OVERHEAD, Keyring
from serfmp.wire.errors import WireError
from serfmp.wire.messages import MessageType
from serfmp.wire.msgpack_raw import U8_MAX, U16_MAX, put_raw, raw, read_record, uint

MAX_PARTS: Final = 255
"""Most messages in one compound: its count is one byte."""

MAX_OPENED: Final = 1024
"""Most messages taken from one packet; the rest counts as truncated."""

MAX_DEPTH: Final = 3
"""Compounds within compounds that are followed. Real agents nest none."""

MAX_DECOMPRESSED: Final = 1 << 20
"""Most bytes that a packet may decompress to (wire.md 12.2)."""

LABEL_MAX: Final = 255
CHECKSUM_LENGTH: Final = 5
"""Type byte and CRC-32."""

COMPRESS_OVER: Final = 256
"""Messages of up to this many bytes are not worth compressing."""

_OTHER_BODIES: Final = frozenset({0xC0, 0xDE, 0xDF})
"""First bytes of a body beside those of short maps: nil and the longer maps."""

_ALGORITHM_LZW: Final = 0
_CHECKSUM_HEADER: Final = struct.Struct(">BI")
# As plain numbers: to look a member up costs more than to compare it, and every packet is compared often.
_COMPOUND: Final = int(MessageType.COMPOUND)
_COMPRESS: Final = int(MessageType.COMPRESS)
_CHECKSUM: Final = int(MessageType.CHECKSUM)
_LABEL: Final = int(MessageType.LABEL)
_LAYERS: Final = frozenset({_COMPOUND, _COMPRESS, _CHECKSUM, _LABEL})
_NESTED: Final = frozenset({_COMPOUND, _COMPRESS})
"""Layers that may be inside a compound."""


@dataclass(frozen=True, slots=True)
class PacketFormat:
    """How packets and streams are dressed here: keys, label, and whether and from which size on to compress."""

    keyring: Keyring | None = None
    label: str = ""
    compress: bool = True
    compress_over: int = COMPRESS_OVER

    def __post_init__(self) -> None:
        if len(label_bytes(self.label)) > LABEL_MAX:
            raise UserError(f"the label {self.label!r} is longer than {LABEL_MAX} bytes; choose a shorter one")


@dataclass(frozen=True, slots=True)
class Opened:
    """The messages of a packet, each with its type byte, and how many parts were lost to a compound cut short."""

    parts: tuple[bytes, ...]
    truncated: int


@lru_cache(maxsize=64)
def label_bytes(label: str) -> bytes:
    """The label as it is sent and authenticated."""
    return label.encode("utf-8", "surrogateescape")


def shown_label(label: bytes) -> str:
    """The label as a log line may show it."""
    return repr(label.decode("utf-8", "backslashreplace"))


# --- writing ----------------------------------------------------------------------------------------------------------


def seal_packet(parts: Sequence[bytes], checksum: bool, fmt: PacketFormat) -> list[bytes]:
    """The datagrams that carry `parts`, each a complete message: one for every 255 parts."""
    if not all(parts):
        raise InternalError("an empty message would kill old peers")
    return [
        _dress(_compound(parts[start : start + MAX_PARTS]), checksum, fmt) for start in range(0, len(parts), MAX_PARTS)
    ]


def _compound(parts: Sequence[bytes]) -> bytes:
    if len(parts) == 1:
        return parts[0]
    lengths = [len(part) for part in parts]
    if max(lengths) > U16_MAX:
        raise InternalError(f"a message of {max(lengths)} bytes cannot share a packet")
    return b"".join((struct.pack(f">BB{len(parts)}H", _COMPOUND, len(parts), *lengths), *parts))


def _dress(message: bytes, checksum: bool, fmt: PacketFormat) -> bytes:
    if fmt.compress and len(message) > fmt.compress_over:
        message = compressed_if_shorter(message)
    if checksum:
        message = _CHECKSUM_HEADER.pack(_CHECKSUM, crc32(message)) + message
    label = label_bytes(fmt.label)
    if fmt.keyring:
        message = fmt.keyring.seal(message, label)
    if label:
        message = label_header(label) + message
    return message


def compressed_if_shorter(message: bytes) -> bytes:
    """The message inside a compress layer, or as it is where that is not shorter."""
    packed = b"\x09\x82\xa4Algo\x00\xa3Buf" + put_raw(lzw.compress(message))
    return packed if len(packed) < len(message) else message


def label_header(label: bytes) -> bytes:
    """The header that carries a label."""
    return bytes((_LABEL, len(label))) + label


# --- reading ----------------------------------------------------------------------------------------------------------


def open_packet(data: bytes, fmt: PacketFormat, budget: int = lzw.STEP) -> Opened | PendingPacket:
    """The messages of a datagram, or the work left when `budget` bytes were decompressed. Raises `WireError`."""
    label = label_bytes(fmt.label)
    if label:
        data = _without_label(data, label)
    if not data:
        raise WireError("a packet is empty", "empty")
    if fmt.keyring:
        _refuse_label(data[0])
        data = fmt.keyring.open(data, label)
    kind = data[0]
    if kind <= 1 and not fmt.keyring and _looks_encrypted(data):
        raise WireError(
            "it looks encrypted, and this agent has no key; does it need -encrypt or -keyring-file?", "encrypt"
        )
    if kind not in _LAYERS:
        return Opened((data,), 0)
    _refuse_label(kind)
    if kind == _CHECKSUM and len(data) >= CHECKSUM_LENGTH:
        data = _without_checksum(data)
        kind = data[0]
        if kind not in _NESTED:
            return Opened((data,), 0)
    if kind == _COMPOUND:
        parts, truncated = _split(data)
        if _NESTED.isdisjoint([part[0] for part in parts]):
            return Opened(tuple(parts), truncated)
    pending = PendingPacket(data)
    return pending.step(budget) or pending


def _refuse_label(kind: int) -> None:
    if kind == _LABEL:
        raise WireError("it has a label and this agent has none; is -label the same on both sides?", "label")


def _looks_encrypted(data: bytes) -> bool:
    """Whether a packet that begins like a ping cannot be one, because no body follows.

    The version byte of an encrypted packet is the type of a ping or an indirect ping; what follows is random.
    """
    return len(data) >= OVERHEAD and not (0x80 <= data[1] <= 0x8F or data[1] in _OTHER_BODIES)


def _without_label(data: bytes, label: bytes) -> bytes:
    header = label_header(label)
    if not data.startswith(header):
        raise WireError(
            f"it has another label than {shown_label(label)}, or none; is -label the same on both sides?", "label"
        )
    return data[len(header) :]


def _without_checksum(data: bytes) -> bytes:
    claimed = _CHECKSUM_HEADER.unpack_from(data)[1]
    inner = data[CHECKSUM_LENGTH:]
    if crc32(inner) != claimed:
        raise WireError("a packet's checksum does not fit", "checksum")
    if not inner:
        raise WireError("a packet has a checksum of nothing", "empty")
    return inner


def open_compress(message: bytes, limit: int) -> lzw.Decompressor:
    """A decompressor for the content of a compress message, type byte included. Raises `WireError`."""
    body = read_record(message[1:])
    algorithm = uint(body.get(b"Algo"), U8_MAX)
    if algorithm != _ALGORITHM_LZW:
        raise WireError(f"compressed with the unknown algorithm {algorithm}", "compress")
    return lzw.Decompressor(raw(body.get(b"Buf")), limit)


def _split(message: bytes) -> tuple[list[bytes], int]:
    """The parts of a compound that are not empty, and how many were lost to its end. Raises `WireError`."""
    size = len(message)
    if size < 2:
        raise WireError("a compound has no count", "compound")
    count = message[1]
    at = 2 + 2 * count
    if size < at:
        raise WireError(f"a compound of {count} parts has {size} bytes", "compound")
    parts: list[bytes] = []
    for number, length in enumerate(struct.unpack_from(f">{count}H", message, 2)):
        end = at + length
        if end > size:
            return parts, count - number
        if length:
            parts.append(message[at:end])
        at = end
    return parts, 0


class PendingPacket:
    """A packet that is being opened: call `step` until it gives the messages."""

    __slots__ = ("_compressed", "_decompressor", "_depth", "_parts", "_stack", "_truncated")

    def __init__(self, message: bytes) -> None:
        # What is still to be opened, the next at the end, each with the number of compounds around it.
        self._stack: list[tuple[bytes, int]] = [(message, 0)]
        self._parts: list[bytes] = []
        self._truncated = 0
        self._compressed = False
        self._decompressor: lzw.Decompressor | None = None
        self._depth = 0

    def step(self, budget: int) -> Opened | None:
        """Go on until about `budget` more bytes are decompressed; None while work is left. Raises `WireError`."""
        while True:
            if self._decompressor is not None:
                if not self._decompressor.step(budget):
                    return None
                inner = self._decompressor.result()
                self._decompressor = None
                if not inner:
                    raise WireError("a compressed message is empty", "empty")
                self._stack.append((inner, self._depth))
            if not self._stack:
                return Opened(tuple(self._parts), self._truncated)
            message, depth = self._stack.pop()
            if message[0] == _COMPOUND:
                self._open_compound(message, depth)
            elif message[0] == _COMPRESS:
                if self._compressed:
                    raise WireError("a packet is compressed more than once", "compress")
                self._compressed = True
                self._depth = depth
                self._decompressor = open_compress(message, MAX_DECOMPRESSED)
            elif len(self._parts) < MAX_OPENED:
                self._parts.append(message)
            else:
                self._truncated += 1

    def _open_compound(self, message: bytes, depth: int) -> None:
        if depth == MAX_DEPTH:
            raise WireError(f"more than {MAX_DEPTH} compounds in each other", "compound")
        parts, truncated = _split(message)
        self._truncated += truncated
        self._stack.extend((part, depth + 1) for part in reversed(parts))
