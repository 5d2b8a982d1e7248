from __future__ import annotations

import math

import pytest

from serfmp.wire.coordinate import Coordinate, decode_ack_payload, encode_ack_payload
from serfmp.wire.errors import WireError

GOOD = Coordinate((0.0,) * 8, 1.5, 0.0, 1e-5)


def test_a_good_coordinate_has_no_fault() -> None:
    assert GOOD.fault() == ""


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["vec", "error", "adjustment", "height"])
def test_what_is_not_finite_is_a_fault_and_not_an_error(value: float, place: str) -> None:
    fields = {"vec": (0.0,) * 8, "error": 1.5, "adjustment": 0.0, "height": 1e-5}
    fields[place] = (*GOOD.vec[:7], value) if place == "vec" else value
    assert decode_ack_payload(encode_ack_payload(Coordinate(**fields))).fault() == "not a finite number"  # type: ignore[arg-type]


def test_another_dimension_is_a_fault() -> None:
    assert "3 dimensions" in Coordinate((0.0,) * 3, 1.5, 0.0, 1e-5).fault()
    assert Coordinate((0.0,) * 3, 1.5, 0.0, 1e-5).fault(dimensions=3) == ""


def test_integers_are_accepted() -> None:
    payload = b"\x01\x84\xaaAdjustment\x00\xa5Error\x01\xa6Height\x00\xa3Vec\x92\x01\xff"
    assert decode_ack_payload(payload) == Coordinate((1.0, -1.0), 1.0, 0.0, 0.0)


@pytest.mark.parametrize(
    "payload",
    [b"", b"\x00\x80", b"\x02\x80", b"\x01", b"\x01\x81\xa3Vec\xdc\x00\x41" + bytes(65), b"\x01\x81\xa3Vec\x91\xa1x"],
)
def test_what_is_no_coordinate_is_refused(payload: bytes) -> None:
    with pytest.raises(WireError):
        decode_ack_payload(payload)
