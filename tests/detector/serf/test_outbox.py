"""The outbox keeps events until all consumers have them, within its bound."""

from __future__ import annotations

from serfmp.detector.effects import Count, Log
from serfmp.wire.serf_messages import UserEvent
from tests.detector.rig import Rig


def events(rig: Rig, count: int, first: int = 1) -> None:
    for number in range(first, first + count):
        rig.serf(UserEvent(number, f"e{number}", b"", coalesce=False))


def held(rig: Rig, after: int = 0) -> list[int]:
    rig.take()
    return [event.sequence for event in rig.core.outbox(after)]


def test_events_stay_until_every_consumer_has_them() -> None:
    rig = Rig()
    events(rig, 4)
    assert held(rig) == [1, 2, 3, 4, 5]
    rig.core.acknowledge("rpc", 4)
    assert held(rig) == [1, 2, 3, 4, 5]
    rig.core.acknowledge("dispatcher", 2)
    assert held(rig) == [3, 4, 5]
    assert held(rig, after=4) == [5]
    assert rig.core.acknowledged("rpc") == 4


def test_nobody_gets_an_event_before_its_record_was_taken() -> None:
    rig = Rig()
    rig.take()
    events(rig, 2)
    assert [event.sequence for event in rig.core.outbox(0)] == [1]
    rig.core.acknowledge("rpc", 1)
    rig.core.acknowledge("dispatcher", 1)
    assert not list(rig.core.outbox(0))
    rig.take()
    assert [event.sequence for event in rig.core.outbox(1)] == [2, 3]


def test_acknowledgements_never_go_back_nor_beyond_what_was_sent() -> None:
    rig = Rig()
    events(rig, 2)
    rig.core.acknowledge("rpc", 99)
    rig.core.acknowledge("rpc", 1)
    rig.core.acknowledge("unknown", 2)
    assert rig.core.acknowledged("rpc") == 3
    assert held(rig) == [1, 2, 3]


def test_a_slow_consumer_loses_the_oldest_counted_and_logged_once_per_burst() -> None:
    rig = Rig(outbox_limit=10)
    for burst in range(2):
        events(rig, 15, first=1 + burst * 15)
        rig.take()
        for consumer in ("rpc", "dispatcher"):
            rig.core.acknowledge(consumer, 99)
    assert rig.effects.count(Count("serfmp.outbox.dropped")) == 6 + 5
    warnings = [effect for effect in rig.effects if isinstance(effect, Log) and "dropping the oldest" in effect.text]
    assert len(warnings) == 2
