"""The network coordinate that rides on an ack.

Rules (spec wire.md 8):

* One version byte and one map. Another version is an error of its own text, because the ack itself still counts.
* Decoding checks the form only. Whether a coordinate can be used (its dimension, NaN, infinities) is for whoever does
  arithmetic with it: `fault` says.
* Seconds, except `error`, which has no unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Final

from serfmp.wire.errors import WireError
from serfmp.wire.msgpack_raw import items, put_array_header, put_real, read_record, real

PAYLOAD_VERSION: Final = 1
"""First byte of an ack's payload."""

DIMENSIONS: Final = 8
"""Length of the vector that every agent uses."""

_MAX_DIMENSIONS: Final = 64
"""Longest vector that is decoded at all."""


@dataclass(frozen=True, slots=True)
class Coordinate:
    """A place in the space of round-trip times: `vec`, `adjustment` and `height` in seconds."""

    vec: tuple[float, ...]
    error: float
    adjustment: float
    height: float

    def fault(self, dimensions: int = DIMENSIONS) -> str:
        """Why this coordinate cannot be used; empty if it can."""
        if len(self.vec) != dimensions:
            return f"{len(self.vec)} dimensions instead of {dimensions}"
        if not (
            isfinite(self.error)
            and isfinite(self.adjustment)
            and isfinite(self.height)
            and all(map(isfinite, self.vec))
        ):
            return "not a finite number"
        return ""


def encode_ack_payload(coordinate: Coordinate) -> bytes:
    """The payload of an ack that carries this coordinate."""
    return b"".join(
        (
            b"\x01\x84\xaaAdjustment",
            put_real(coordinate.adjustment),
            b"\xa5Error",
            put_real(coordinate.error),
            b"\xa6Height",
            put_real(coordinate.height),
            b"\xa3Vec",
            put_array_header(len(coordinate.vec)),
            *map(put_real, coordinate.vec),
        )
    )


def decode_ack_payload(payload: bytes) -> Coordinate:
    """The coordinate in the payload of an ack. Raises `WireError` of kind `coordinate` or `field`."""
    if not payload:
        raise WireError("an ack carries no coordinate", "coordinate")
    if payload[0] != PAYLOAD_VERSION:
        raise WireError(f"an ack carries a payload of version {payload[0]}", "coordinate")
    get = read_record(payload[1:]).get
    vec = items(get(b"Vec"))
    if len(vec) > _MAX_DIMENSIONS:
        raise WireError(f"a coordinate has {len(vec)} dimensions", "coordinate")
    return Coordinate(tuple(map(real, vec)), real(get(b"Error")), real(get(b"Adjustment")), real(get(b"Height")))


# --- arithmetic: to the bit as every agent does it (spec serf.md 15.2) ------------------------------------------------


def total(numbers: list[float]) -> float:
    """The sum from left to right; Python's own compensates for rounding."""
    result = 0.0
    for number in numbers:
        result += number
    return result


def length_of(vec: tuple[float, ...]) -> float:
    """The length of a vector."""
    return sqrt(total([x * x for x in vec]))


def raw_distance(a: Coordinate, b: Coordinate) -> float:
    """Seconds between two coordinates of one dimension, without their adjustments."""
    return length_of(tuple(x - y for x, y in zip(a.vec, b.vec, strict=True))) + a.height + b.height


def distance_ns(a: Coordinate, b: Coordinate) -> int:
    """The estimated round trip between two valid coordinates of one dimension, in nanoseconds."""
    raw = raw_distance(a, b)
    adjusted = raw + a.adjustment + b.adjustment
    return int((adjusted if adjusted > 0.0 else raw) * 1e9)
