"""Streams: one message each way over one TCP connection, without input or output here.

Rules (spec wire.md 6 and 12.5):

* From the outside in: label (written by the dialling side only), encrypted frame, compression, one message.
* A reply carries no label, but when it is encrypted the label is authenticated all the same.
* Nothing marks the end of a plaintext message: it ends where its own counts say, and must be found while bytes arrive.
* `feed` takes what arrived and does a bounded amount of work at once; `step` goes on with what is left. After an error
  the stream is to be closed; where the protocol wants the other side told, the error's `reply` holds the bytes.
* Only failures of the outer layers are told, and only to a dialler; anything further in just ends the stream.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import ClassVar, Final

from serfmp.errors import InternalError
from serfmp.wire import lzw
from serfmp.wire.crypto import OVERHEAD
from serfmp.wire.errors import Kind, WireError
from serfmp.wire.messages import Ack, ErrorReply, MessageType, Ping, User, decode_ack, decode_error, decode_ping, encode
from serfmp.wire.msgpack_raw import read_record, record_length
from serfmp.wire.packet import (
    PacketFormat,
    compressed_if_shorter,
    label_bytes,
    label_header,
    open_compress,
    shown_label,
)
from serfmp.wire.push_pull import MAX_NODES, MAX_USER, PushPullReader, claimed, encode_push_pull
from serfmp.wire.stream_scan import MapScanner, MessageScanner

__all__ = [
    "MAX_NODES",
    "MAX_USER",
    "PushPullReader",
    "StreamReader",
    "decode_stream_message",
    "encode_push_pull",
    "seal_stream",
]

MAX_FRAME: Final = 20 << 20
"""Longest encrypted frame, in bytes."""

MAX_DECOMPRESSED: Final = 40 << 20
"""Most bytes that a stream may decompress to."""

MAX_RECEIVED: Final = 40 << 20
"""Most bytes that are read from one connection: 20 MiB of user state and as much for the members."""

COMPRESS_UP_TO: Final = 64 << 10
"""Longer messages are sent as they are: compressing takes 8 ms per 64 KiB, and nothing else happens meanwhile."""

WORK_PER_FEED: Final = 64 << 10
"""Bytes that `feed` decompresses or looks through before it leaves the rest to `step`."""

_FRAME_HEADER: Final = 5
_INBOUND_TYPES: Final = frozenset({MessageType.PUSH_PULL, MessageType.PING, MessageType.USER})
_REPLY_TYPES: Final = frozenset({MessageType.PUSH_PULL, MessageType.ACK, MessageType.ERROR})


def seal_stream(message: bytes, fmt: PacketFormat, dialling: bool) -> bytes:
    """What to send for one message: as the dialling side with its label, as the accepting side without."""
    if fmt.compress and fmt.compress_over < len(message) <= COMPRESS_UP_TO:
        message = compressed_if_shorter(message)
    label = label_bytes(fmt.label)
    if fmt.keyring:
        length = len(message) + OVERHEAD
        header = bytes((MessageType.ENCRYPT,)) + length.to_bytes(4, "big")
        message = header + fmt.keyring.seal(message, header + label)
    if label and dialling:
        message = label_header(label) + message
    return message


def decode_stream_message(message: bytes) -> Ping | Ack | User | ErrorReply | PushPullReader:
    """Decode a complete message of a stream, type byte included. Raises `WireError`."""
    kind = message[0] if message else -1
    if kind == MessageType.PUSH_PULL:
        return PushPullReader(message)
    if kind == MessageType.PING:
        return decode_ping(message)
    if kind == MessageType.ACK:
        return decode_ack(message)
    if kind == MessageType.ERROR:
        return decode_error(message)
    if kind == MessageType.USER:
        start = 1 + record_length(memoryview(message)[1:])
        length = claimed(read_record(memoryview(message)[1:start]), b"UserMsgLen", MAX_USER)
        if len(message) < start + length:
            raise WireError("a user message is shorter than its header says")
        return User(message[start : start + length])
    raise WireError(f"a stream holds a message of type {kind}", "type")


class _Phase(Enum):
    """What the reader waits for."""

    LABEL = 0
    FRAME = 1
    ENCRYPTED = 2
    LAYER = 3
    COMPRESSED = 4
    DECOMPRESSING = 5
    MESSAGE = 6
    DONE = 7


class _Progress(Enum):
    """What one piece of work led to."""

    ON = 0
    """To the next phase."""
    WAIT = 1
    """More input is needed."""
    BUSY = 2
    """The budget is used up."""


class StreamReader:
    """Reads the one message of a stream. `inbound`: the other side dialled; it may send a label and is told of errors.

    `message` is None until the message is complete; then it holds the message with its type byte, cut at its true end.
    """

    __slots__ = (
        "_buffer",
        "_compress",
        "_decompressor",
        "_fmt",
        "_inbound",
        "_label",
        "_phase",
        "_scanner",
        "_whole",
        "message",
    )

    def __init__(self, fmt: PacketFormat, inbound: bool) -> None:
        self.message: bytes | None = None
        self._fmt = fmt
        self._inbound = inbound
        self._label = label_bytes(fmt.label)
        self._phase = _Phase.LABEL if inbound else _Phase.FRAME
        self._buffer = bytearray()
        self._whole = False
        """Whether the buffer is all that will ever come, since it was opened from an outer layer."""
        self._compress = MapScanner(MAX_RECEIVED)
        self._decompressor: lzw.Decompressor | None = None
        self._scanner = MessageScanner()

    def feed(self, data: bytes) -> None:
        """Take bytes that arrived. Raises `WireError`: then send its `reply`, if any, and close the stream."""
        if self._whole or self._phase is _Phase.DONE:
            return
        self._buffer += data
        if len(self._buffer) > MAX_RECEIVED:
            raise WireError(f"a stream brought more than {MAX_RECEIVED} bytes", "limit")
        self.step(WORK_PER_FEED)

    def step(self, budget: int) -> bool:
        """Do about `budget` bytes of work; True while some is left that needs no more input. Raises `WireError`."""
        while True:
            progress = self._WORK[self._phase](self, budget)
            if progress is not _Progress.ON:
                return progress is _Progress.BUSY

    def _take_label(self, _budget: int) -> _Progress:
        """Take the label off, which must be the configured one. Errors are not answered (wire.md 6)."""
        buffer = self._buffer
        if not self._label:
            if buffer[:1] == bytes((MessageType.LABEL,)):
                raise WireError("it has a label and this agent has none; is -label the same on both sides?", "label")
            if not buffer:
                return _Progress.WAIT
        else:
            header = label_header(self._label)
            if not header.startswith(buffer[: len(header)]):
                raise WireError(
                    f"it has another label than {shown_label(self._label)}, or none; is -label the same on both sides?",
                    "label",
                )
            if len(buffer) < len(header):
                return _Progress.WAIT
            del buffer[: len(header)]
        self._phase = _Phase.FRAME
        return _Progress.ON

    def _begin_frame(self, _budget: int) -> _Progress:
        """See from the first byte whether there is an encrypted frame, and whether there should be one."""
        if not self._buffer:
            return _Progress.WAIT
        encrypted = self._buffer[0] == MessageType.ENCRYPT
        if encrypted and not self._fmt.keyring:
            raise self._told(
                "it is encrypted, and this agent has no key; does it need -encrypt or -keyring-file?", "encrypt"
            )
        if self._fmt.keyring and not encrypted:
            raise self._told("it is not encrypted, and this agent has a key; has the other side one?", "encrypt")
        self._phase = _Phase.ENCRYPTED if encrypted else _Phase.LAYER
        return _Progress.ON

    def _open_frame(self, _budget: int) -> _Progress:
        if len(self._buffer) < _FRAME_HEADER:
            return _Progress.WAIT
        header = bytes(self._buffer[:_FRAME_HEADER])
        length = int.from_bytes(header[1:], "big")
        if length > MAX_FRAME:
            raise self._told(f"an encrypted frame of {length} bytes is over the limit of {MAX_FRAME}", "limit")
        if len(self._buffer) < _FRAME_HEADER + length or self._fmt.keyring is None:
            return _Progress.WAIT
        try:
            plaintext = self._fmt.keyring.open(
                bytes(memoryview(self._buffer)[_FRAME_HEADER : _FRAME_HEADER + length]), header + self._label
            )
        except WireError as error:
            raise self._told(str(error), error.kind) from None
        self._replace(bytearray(plaintext))
        self._phase = _Phase.LAYER
        return _Progress.ON

    def _look_at_layer(self, _budget: int) -> _Progress:
        if not self._buffer:
            return _Progress.WAIT
        if self._buffer[0] == MessageType.COMPRESS:
            self._phase = _Phase.COMPRESSED
        else:
            self._begin_message()
        return _Progress.ON

    def _begin_decompression(self, budget: int) -> _Progress:
        """Wait for the whole compress message. The answer to an error in it is the same as to one of decompression."""
        try:
            end = self._compress.scan(self._buffer, self._compress.fed + budget)
            if end is None:
                return self._unfinished(self._compress.busy)
            self._decompressor = open_compress(bytes(memoryview(self._buffer)[:end]), MAX_DECOMPRESSED)
        except WireError as error:
            raise self._told(str(error), error.kind) from None
        self._replace(bytearray())
        self._phase = _Phase.DECOMPRESSING
        return _Progress.ON

    def _decompress(self, budget: int) -> _Progress:
        decompressor = self._decompressor
        if decompressor is None:
            raise InternalError("a stream is being decompressed without a decompressor")
        try:
            if not decompressor.step(budget):
                return _Progress.BUSY
        except WireError as error:
            raise self._told(str(error), error.kind) from None
        self._decompressor = None
        self._replace(decompressor.release())
        if not self._buffer:
            raise self._told("the decompressed message is empty", "empty")
        self._begin_message()
        return _Progress.ON

    def _begin_message(self) -> None:
        kind = self._buffer[0]
        if kind not in (_INBOUND_TYPES if self._inbound else _REPLY_TYPES):
            raise WireError(f"a stream holds a message of type {kind}", "type")
        self._phase = _Phase.MESSAGE

    def _look_for_end(self, budget: int) -> _Progress:
        end = self._scanner.scan(self._buffer, budget)
        if end is None:
            return self._unfinished(self._scanner.busy)
        self.message = bytes(memoryview(self._buffer)[:end])
        self._buffer = bytearray()
        self._phase = _Phase.DONE
        return _Progress.ON

    def _unfinished(self, busy: bool) -> _Progress:
        if busy:
            return _Progress.BUSY
        if self._whole:
            raise WireError("the message inside a stream's outer layer is cut short")
        return _Progress.WAIT

    def _rest(self, _budget: int) -> _Progress:
        return _Progress.WAIT

    def _replace(self, content: bytearray) -> None:
        """Go on with the content of an outer layer; what came behind that layer is ignored."""
        self._buffer = content
        self._whole = True

    def _told(self, text: str, kind: Kind) -> WireError:
        """An error that a dialler is told (wire.md 3.8)."""
        reply = seal_stream(encode(ErrorReply(text)), self._fmt, dialling=False) if self._inbound else None
        return WireError(text, kind, reply)

    _WORK: ClassVar[dict[_Phase, Callable[[StreamReader, int], _Progress]]] = {
        _Phase.LABEL: _take_label,
        _Phase.FRAME: _begin_frame,
        _Phase.ENCRYPTED: _open_frame,
        _Phase.LAYER: _look_at_layer,
        _Phase.COMPRESSED: _begin_decompression,
        _Phase.DECOMPRESSING: _decompress,
        _Phase.MESSAGE: _look_for_end,
        _Phase.DONE: _rest,
    }
