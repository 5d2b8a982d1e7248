"""Queries of others: seen once, passed on unless that would do harm (spec serf.md 10.2)."""

from __future__ import annotations

from typing import Any

import pytest

from serfmp.detector.serf.queries import NO_BROADCAST
from serfmp.wire.messages import User
from serfmp.wire.serf_messages import Query, encode_serf
from tests.detector.rig import Rig

PLAIN: dict[str, Any] = {
    "ltime": 1,
    "id": 7,
    "address": bytes((127, 0, 0, 9)),
    "port": 7946,
    "source_node": "asker",
    "filters": (),
    "flags": 1,
    "relay_factor": 0,
    "timeout_ns": 10**9,
    "name": "uptime",
    "payload": b"",
}


def passed_on(rig: Rig) -> list[bytes]:
    """What waits in the query queue, which is emptied."""
    queue = rig.core._swim.gossip.queues[2]
    parts: list[bytes] = []
    queue.draw(parts, 2, 100000)
    queue.settle()
    queue.prune(0)
    return parts


def test_a_query_is_passed_on_once_byte_for_byte() -> None:
    rig = Rig()
    message = encode_serf(Query(**PLAIN))
    rig.receive(User(message))
    assert passed_on(rig) == [b"\x08" + message]
    rig.receive(User(message))
    assert passed_on(rig) == []
    assert rig.core.stats()["query_time"] == "2"


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"id": 8}, True),
        ({"flags": NO_BROADCAST}, False),
        ({"name": "_serf_ping"}, True),
        ({"name": "_serf_install-key", "payload": b""}, False),
        ({"name": "_serf_remove-key", "payload": b""}, False),
        ({"name": "_serf_use-key", "payload": b"\x07\x81\xa3Key\xa1k"}, True),
        ({"filters": (b"\x00\x91\xa1x",)}, True),
    ],
)
def test_what_is_passed_on(changes: dict[str, Any], wanted: bool) -> None:
    rig = Rig()
    rig.serf(Query(**{**PLAIN, **changes}))
    assert bool(passed_on(rig)) is wanted


def test_a_query_with_an_empty_filter_kills_peers_and_is_not_passed_on() -> None:
    rig = Rig()
    message = encode_serf(Query(**{**PLAIN, "filters": (b"\x00",)}))
    rig.receive(User(message.replace(b"\xa7Filters\x91\xa1\x00", b"\xa7Filters\x91\xa0")))
    assert passed_on(rig) == []
    assert any("serfmp.query.harmful" in str(effect) for effect in rig.take())


def test_old_queries_are_dropped() -> None:
    rig = Rig()
    rig.serf(Query(**{**PLAIN, "ltime": 1000}))
    passed_on(rig)
    rig.serf(Query(**{**PLAIN, "ltime": 488}))
    assert passed_on(rig) == []
    rig.serf(Query(**{**PLAIN, "ltime": 489}))
    assert len(passed_on(rig)) == 1


@pytest.mark.parametrize(
    "message", [b"", b"\x05\x80", b"\x09\x80", b"\x02\x80", b"\x06\xc0", b"\x63", b"\x04\xff", b"\x03"]
)
def test_other_and_damaged_messages_change_nothing(message: bytes) -> None:
    rig = Rig()
    before = rig.core.stats()
    rig.receive(User(message))
    assert rig.core.stats() == before
