"""User events: limits, window, exactly once (spec serf.md 8, 21)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serfmp.detector.effects import Answer, Count, EventRequest, Publish, Samples, UserEventReceived
from serfmp.detector.serf.user_events import RECENT_BYTES, RecentMessages
from serfmp.wire.messages import User
from serfmp.wire.serf_messages import UserEvent, encode_serf
from serfmp.wire.serf_state import EventSlot, PushPullState, encode_push_pull_state
from tests.detector.rig import Rig


def send(rig: Rig, name: str, payload: bytes = b"", number: int = 1) -> str:
    """Ask for an event; gives the error text of the answer."""
    rig.core.request(("rpc", 1, number), EventRequest(name, payload, coalesce=True), rig.now)
    (answer,) = [effect for effect in rig.take() if isinstance(effect, Answer)]
    return answer.error


def got(rig: Rig) -> list[tuple[int, str, bytes]]:
    """User events published since the last look."""
    return [(event.ltime, event.name, event.payload) for event in rig.events() if isinstance(event, UserEventReceived)]


def receive(rig: Rig, ltime: int, name: str = "e", payload: bytes = b"") -> None:
    rig.serf(UserEvent(ltime, name, payload, coalesce=False))


def merge(rig: Rig, join: bool = False, **state: Any) -> None:
    encoded = encode_push_pull_state(PushPullState(**{"ltime": 1, "query_ltime": 1, **state}))
    for _ in rig.core._serf.merge_state(encoded, join):
        pass


@pytest.mark.parametrize(
    ("settings", "size", "error"),
    [
        ({}, 513, "user event exceeds configured limit of 512 bytes before encoding"),
        ({}, 500, "encoded user event exceeds configured limit of 512 bytes after encoding"),
        ({"user_event_size_limit": 9216}, 9217, "user event exceeds configured limit of 9216 bytes before encoding"),
        (
            {"user_event_size_limit": 9216},
            9210,
            "encoded user event exceeds configured limit of 9216 bytes after encoding",
        ),
        ({}, 450, ""),
    ],
)
def test_the_size_is_checked_before_anything_changes(settings: dict[str, Any], size: int, error: str) -> None:
    rig = Rig(**settings)
    assert send(rig, "e", bytes(size - 1)) == error
    assert rig.core.stats()["event_time"] == ("1" if error else "2")


def test_an_own_event_is_delivered_here_and_queued() -> None:
    rig = Rig()
    rig.take()
    rig.core.request(("rpc", 1, 1), EventRequest("deploy", b"payload", coalesce=True), rig.now)
    (event,) = rig.events()
    assert event == UserEventReceived(2, 1, "deploy", b"payload", True)
    assert rig.core.stats()["event_queue"] == "1"


def test_a_request_asked_again_makes_no_second_event() -> None:
    rig = Rig()
    assert send(rig, "deploy", number=5) == ""
    assert send(rig, "deploy", number=5) == ""
    assert rig.core.stats()["event_time"] == "2"


def test_a_received_event_is_passed_on_byte_for_byte() -> None:
    rig = Rig()
    encoded = b"\x03\x85\xa5LTime\x01\xa4Name\xa1e\xa7Payload\xa1p\xa2CC\xc3\xa6Future\x2a"
    rig.receive(User(encoded))
    assert got(rig) == [(1, "e", b"p")]
    parts: list[bytes] = []
    rig.core._swim.gossip.queues[3].draw(parts, 2, 1000)
    assert parts == [b"\x08" + encoded]


def test_the_window_has_the_golden_values() -> None:
    rig = Rig(event_buffer=512)
    rig.core._serf.events.clock.time = 512
    receive(rig, 0)
    assert [ltime for ltime, *_ in got(rig)] == [0]
    rig.core._serf.events.clock.time = 513
    receive(rig, 0, "another")
    receive(rig, 1)
    assert [ltime for ltime, *_ in got(rig)] == [1]
    rig = Rig(event_buffer=512)
    receive(rig, 1000)
    receive(rig, 489)
    receive(rig, 488)
    assert [ltime for ltime, *_ in got(rig)] == [1000, 489]
    assert rig.core.stats()["event_time"] == "1001"


def test_by_default_an_event_may_be_later_than_with_serf_and_a_push_pull_carries_as_much() -> None:
    rig = Rig()
    receive(rig, 5000)
    receive(rig, 5001 - 4096)
    receive(rig, 5000 - 4096)
    for ltime in range(4400, 5000):
        receive(rig, ltime)
    assert [ltime for ltime, *_ in got(rig)][:3] == [5000, 905, 4400]
    slots = [slot.ltime for slot in rig.core._serf.events.slots()]
    assert sorted(slots) == list(range(5001 - 512, 5001))


def test_an_event_is_known_by_time_name_and_payload() -> None:
    rig = Rig()
    for ltime, name, payload in (
        (5, "a", b""),
        (5, "a", b""),
        (5, "a", b"x"),
        (5, "b", b""),
        (6, "a", b""),
        (5, "b", b""),
    ):
        receive(rig, ltime, name, payload)
    assert got(rig) == [(5, "a", b""), (5, "a", b"x"), (5, "b", b""), (6, "a", b"")]


def test_a_duplicate_is_not_passed_on() -> None:
    rig = Rig()
    receive(rig, 5)
    queue = rig.core._swim.gossip.queues[3]
    queue.prune(0)
    receive(rig, 5)
    assert queue.size == 0


def test_events_of_one_time_are_bounded() -> None:
    rig = Rig(slot_limit=10)
    for number in range(15):
        receive(rig, 5, f"e{number}")
    assert len(got(rig)) == 10
    assert rig.effects.count(Count("serfmp.event.refused")) == 5


def test_the_highest_lamport_time_is_refused() -> None:
    rig = Rig()
    rig.take()
    rig.receive(User(b"\x03\x82\xa5LTime\xcf\xff\xff\xff\xff\xff\xff\xff\xff\xa4Name\xa1e"))
    assert got(rig) == []
    assert rig.core.stats()["event_time"] == "1"


def test_a_push_pull_replays_events_in_the_order_of_their_times_and_gossips_none() -> None:
    rig = Rig()
    rig.take()
    slots = (EventSlot(7, (("c", b""),)), EventSlot(3, (("a", b""), ("b", b""))))
    merge(rig, event_ltime=8, events=slots)
    merge(rig, event_ltime=8, events=slots)
    assert got(rig) == [(3, "a", b""), (3, "b", b""), (7, "c", b"")]
    assert rig.core.stats()["event_queue"] == "0"


@pytest.mark.parametrize(("join", "ignore_old", "expected"), [(True, True, []), (True, False, [3]), (False, True, [3])])
def test_a_join_without_replay_delivers_nothing_of_before(join: bool, ignore_old: bool, expected: list[int]) -> None:
    rig = Rig()
    rig.take()
    rig.core._serf.ignore_old = ignore_old
    merge(rig, join, event_ltime=8, events=(EventSlot(3, (("a", b""),)),))
    assert [ltime for ltime, *_ in got(rig)] == expected
    receive(rig, 8)
    assert [ltime for ltime, *_ in got(rig)] == [8]


def test_the_state_for_a_push_pull_holds_the_events_of_the_ring() -> None:
    rig = Rig()
    receive(rig, 5, "a")
    receive(rig, 5, "b", b"payload")
    other = Rig()
    other.take()
    for _ in other.core._serf.merge_state(rig.core._serf.local_state(), join=False):
        pass
    assert got(other) == [(5, "a", b""), (5, "b", b"payload")]


def test_gossip_of_the_encoded_event_carries_its_fields() -> None:
    rig = Rig()
    send(rig, "deploy", b"x")
    parts: list[bytes] = []
    rig.core._swim.gossip.queues[3].draw(parts, 2, 1000)
    assert parts == [b"\x08" + encode_serf(UserEvent(1, "deploy", b"x", coalesce=True))]


def test_what_came_before_is_known_by_its_bytes_within_a_bound() -> None:
    recent = RecentMessages()
    size = RECENT_BYTES // 100
    messages = [number.to_bytes(size, "big") for number in range(1000)]
    for message in messages:
        assert recent.split([message]) == ([], [message])
        recent.add(message)
        assert recent.split([message]) == ([message], [])
    kept, forgotten = recent.split(messages)
    assert forgotten + kept == messages
    assert kept == messages[-len(kept) :], "the oldest go first"
    assert RECENT_BYTES <= sum(map(len, kept)) <= 2 * (RECENT_BYTES + size)


def test_a_repetition_in_a_packet_is_counted_and_what_stands_beside_it_is_taken() -> None:
    rig = Rig()
    first, second = (b"\x08" + encode_serf(UserEvent(ltime, "e", b"", coalesce=False)) for ltime in (1, 2))
    rig.packet(first)
    assert got(rig) == [(1, "e", b"")]
    rig.packet(first, second, first)
    effects = rig.take()
    assert sum(isinstance(effect, Publish) for effect in effects) == 1
    sizes = [effect.values for effect in effects if isinstance(effect, Samples) and effect.name == "serf.msgs.received"]
    assert sizes == [(len(first) - 1, len(first) - 1, len(second) - 1)]
    assert rig.core.news([first, second, b""]) == [b""]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6), st.booleans()), max_size=40))
def test_a_repetition_changes_nothing_whatever_was_in_between(received: list[tuple[int, int, bool]]) -> None:
    """Events with the same name and payload differ by Lamport time; own ones come back from others."""
    rig = Rig(event_buffer=4)
    rig.alive("x")
    for step, (number, ltime, own) in enumerate(received):
        if own:
            assert send(rig, "e", b"%d" % number, step) == ""
        else:
            receive(rig, ltime, payload=b"%d" % number)
    rig.take()
    told = [
        (event.ltime, event.name, event.payload)
        for effect in rig.effects
        if isinstance(effect, Publish) and isinstance(event := effect.event, UserEventReceived)
    ]
    assert len(told) == len(set(told))
    for ltime, name, payload in told:
        for coalesce in (False, True):
            rig.serf(UserEvent(ltime, name, payload, coalesce))
    assert got(rig) == []
