"""Frames survive the bus unchanged, and nothing else is accepted."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serfmp.bus import frames, plain
from serfmp.detector.effects import (
    EventKind,
    EventRequest,
    JoinRequest,
    LeaveRequest,
    Member,
    MemberEvent,
    MemberStatus,
    UserEventReceived,
)
from serfmp.errors import InternalError

text = st.text(st.characters(codec="utf-8"), max_size=8) | st.just("n\udcff")
values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2**64 - 1) | st.binary(max_size=8) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)
FRAMES: list[type] = [
    cls
    for cls in vars(frames).values()
    if isinstance(cls, type) and dataclasses.is_dataclass(cls) and cls not in {frames.Envelope, frames.LogLine}
]


@pytest.mark.parametrize("cls", FRAMES, ids=lambda cls: cls.__name__)
@given(data=st.data())
def test_every_frame_comes_back_as_it_went(cls: type, data: st.DataObject) -> None:
    fields = {field.name: data.draw(values) for field in dataclasses.fields(cls)}
    frame = cls(**fields)
    assert frames.decode(frames.encode(frame)) == frame


def test_lines_of_the_log_come_back_as_they_went() -> None:
    lines = [frames.LogLine(number, 1.5, "INFO", "agent", f"n\udcff {number}") for number in range(3)]
    assert frames.decode(frames.encode(frames.LogLines.of(lines))).lines() == lines


def test_every_frame_class_has_a_kind() -> None:
    assert {cls.__name__ for cls in FRAMES} == {cls.__name__ for cls in frames._FRAMES}


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
def test_the_header_carries_generations_and_sequence(sender: int, receiver: int, sequence: int) -> None:
    message = frames.seal(frames.encode(frames.Fence(7)), sender, receiver, sequence)
    assert frames.open_sealed(message) == (frames.Envelope(sender, receiver, sequence), frames.Fence(7))


@given(st.binary(max_size=60))
def test_bytes_that_no_process_sends_raise_the_internal_error(message: bytes) -> None:
    try:
        frames.open_sealed(message)
    except InternalError:
        return
    pytest.fail("accepted") if message[:1] != bytes([frames.FORMAT]) else None


member = st.builds(
    Member,
    text,
    st.binary(min_size=4, max_size=4),
    st.integers(0, 65535),
    st.dictionaries(text, text, max_size=3),
    st.sampled_from(MemberStatus),
    st.tuples(*[st.integers(0, 255)] * 6),
)
events = st.builds(
    MemberEvent,
    st.integers(1, 2**60),
    st.sampled_from([kind for kind in EventKind if kind < EventKind.USER]),
    st.lists(member, max_size=3).map(tuple),
) | st.builds(
    UserEventReceived, st.integers(1, 2**60), st.integers(0, 2**64 - 1), text, st.binary(max_size=9), st.booleans()
)


def carried(value: Any) -> Any:
    """What comes out at the other end of the bus."""
    return typing.cast("frames.Events", frames.decode(frames.encode(frames.Events([value])))).events[0]


@given(events)
def test_events_survive_the_bus(event: MemberEvent | UserEventReceived) -> None:
    assert plain.event_from_plain(carried(plain.event_to_plain(event))) == event


@pytest.mark.parametrize(
    "request_", [JoinRequest(("a:1", "b"), True), EventRequest("deploy", b"\xff", False), LeaveRequest()]
)
def test_requests_survive_the_bus(request_: JoinRequest | EventRequest | LeaveRequest) -> None:
    kind, fields = plain.request_to_plain(request_)
    assert plain.request_from_plain(kind, carried(fields)) == request_
