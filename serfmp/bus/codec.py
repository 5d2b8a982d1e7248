"""How frames become bytes, whatever they say.

Rules:

* A frame is a dataclass of plain fields (what msgpack carries without help); never pickle. It becomes a msgpack array
  `[kind, field, …]`; a kind is the frame's place among all.
* On the bus each message is a header and a frame. The header holds the version of the frames, the generation of the
  sender, the generation of the process it is meant for, and a sequence number whose meaning belongs to the edge (0
  where the edge has none). What was meant for a dead generation is dropped by whoever opens it.
* Text may hold bytes that are not UTF-8 (node names): it is carried with surrogateescape.
"""

from __future__ import annotations

import dataclasses
import struct
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

import msgpack

from serfmp.bus.packing import pack
from serfmp.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_HEADER: Final = struct.Struct(">BIIQ")


@dataclass(frozen=True, slots=True)
class Envelope:
    """The header of a message on the bus."""

    sender: int
    receiver: int
    sequence: int


class Codec:
    """The frames of one version: `frames` are all their types, in an order that is the same at both ends."""

    def __init__(self, version: int, frames: Sequence[type]) -> None:
        self._version = version
        self._frames = tuple(frames)
        self._forms = {frame: (kind, _reader(frame)) for kind, frame in enumerate(self._frames)}
        """Kind of a frame, and what gives its fields, by its type."""

    def encode(self, frame: object) -> bytes:
        """The body of a frame as bytes."""
        kind, fields = self._forms[type(frame)]
        return pack((kind, *fields(frame)))

    def decode(self, body: bytes) -> Any:
        """The frame in these bytes. Raises `InternalError` for bytes that no process of this release sends."""
        try:
            kind, *fields = msgpack.unpackb(body, unicode_errors="surrogateescape", strict_map_key=False)
            return self._frames[kind](*fields)
        except (ValueError, TypeError, IndexError, msgpack.exceptions.UnpackException) as error:
            raise InternalError(f"a frame of {len(body)} bytes on the bus cannot be decoded: {error}") from error

    def seal(self, body: bytes, sender: int, receiver: int, sequence: int = 0) -> bytes:
        """A message of the bus: generations, sequence and an encoded frame."""
        return _HEADER.pack(self._version, sender, receiver, sequence) + body

    def open_sealed(self, message: bytes) -> tuple[Envelope, Any]:
        """Header and frame of a message. Raises `InternalError`."""
        if len(message) < _HEADER.size:
            raise InternalError(f"a message of {len(message)} bytes on the bus has no header")
        version, sender, receiver, sequence = _HEADER.unpack_from(message)
        if version != self._version:
            raise InternalError(f"a message on the bus has format {version}, this process speaks {self._version}")
        return Envelope(sender, receiver, sequence), self.decode(message[_HEADER.size :])


def _reader(frame: type) -> Callable[[Any], tuple[Any, ...]]:
    names = tuple(field.name for field in dataclasses.fields(frame))
    if len(names) > 1:
        return attrgetter(*names)
    # `attrgetter` gives no tuple of one field, and wants one at least.
    return partial(_only_value, attrgetter(*names)) if names else _nothing


def _only_value(get: Callable[[Any], Any], frame: object) -> tuple[Any, ...]:
    return (get(frame),)


def _nothing(_frame: object) -> tuple[Any, ...]:
    return ()
