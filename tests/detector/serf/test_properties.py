"""Rules of spec serf.md 18 that histories of whole clusters do not show: P3, P6 to P10, P22, P28, P29, P31."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serfmp.detector.config import LAN
from serfmp.detector.effects import (
    Answer,
    EventKind,
    EventRequest,
    MemberStatus,
    QueryRequest,
    Request,
    RespondRequest,
    TagsRequest,
)
from serfmp.sim.cluster import Cluster
from serfmp.sim.network import Conditions
from serfmp.wire.errors import WireError
from serfmp.wire.messages import User, decode_packet_message
from serfmp.wire.serf_messages import JoinIntent, LeaveIntent, Query, UserEvent, encode_serf
from serfmp.wire.serf_state import EventSlot, PushPullState, encode_push_pull_state
from serfmp.wire.snapshot import SnapshotState
from tests.detector.rig import OWN, Rig

names = st.sampled_from(["x", "y", OWN])
ltimes = st.integers(1, 40)


# --- clocks -----------------------------------------------------------------------------------------------------------


@given(clocks=st.tuples(st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.integers(0, 1 << 40)))
def test_p3_a_clock_that_was_saved_goes_on_behind_it(clocks: tuple[int, int, int]) -> None:
    member, event, query = clocks
    rig = Rig(found=SnapshotState(clock=member, event_clock=event, query_clock=query))
    assert all(now > saved for now, saved in zip(rig.core._serf.clocks, clocks, strict=True))


# --- intents ----------------------------------------------------------------------------------------------------------


@given(
    intents=st.lists(st.tuples(st.booleans(), ltimes), min_size=1, max_size=6, unique_by=lambda intent: intent[1]),
    known=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_p6_intents_of_distinct_times_commute(intents: list[tuple[bool, int]], known: bool, seed: int) -> None:
    shuffled = list(intents)
    random.Random(seed).shuffle(shuffled)
    outcomes = []
    for order in (intents, shuffled):
        rig = Rig()
        if known:
            rig.alive("x")
        for leaving, ltime in order:
            rig.serf(LeaveIntent(ltime, "x") if leaving else JoinIntent(ltime, "x"))
        rig.alive("x")
        row = rig.core._serf.members.get("x")
        assert row is not None
        outcomes.append((row.status, row.status_ltime))
    leaving, ltime = max(intents, key=lambda intent: intent[1])
    assert outcomes[0] == outcomes[1] == (MemberStatus.LEAVING if leaving else MemberStatus.ALIVE, ltime)


@given(intents=st.lists(st.tuples(st.booleans(), names, ltimes), max_size=30))
def test_p7_each_intent_is_news_once(intents: list[tuple[bool, str, int]]) -> None:
    rig = Rig()
    rig.alive("x")
    members = rig.core._serf.members
    news: set[tuple[bool, str, int]] = set()
    for intent in intents:
        leaving, node, ltime = intent
        if members.leave_intent(ltime, node, prune=False) if leaving else members.join_intent(ltime, node):
            assert intent not in news
            news.add(intent)


def cluster_of(count: int, seed: int, **conditions: Any) -> Cluster:
    """A cluster that knows itself."""
    cluster = Cluster(seed, LAN, Conditions(**conditions))
    hosts = [cluster.add(f"n{number}") for number in range(count)]
    for host in hosts[1:]:
        cluster.join(host, hosts[0])
    everybody = dict.fromkeys((host.name for host in hosts), MemberStatus.ALIVE)
    assert cluster.run_until(lambda: all(host.statuses() == everybody for host in hosts), 60)
    return cluster


@pytest.mark.parametrize("seed", range(4))
def test_p8_a_living_node_contradicts_whoever_says_that_it_leaves(seed: int) -> None:
    cluster = cluster_of(8, seed, loss=0.05)
    liar, victim = cluster.hosts["n3"], cluster.hosts["n5"]
    ltime = liar.alive.serf.clock.time + 3
    cluster.forge(liar, User(encode_serf(LeaveIntent(ltime, victim.name))))

    def refuted() -> bool:
        rows = [host.alive.serf.members.get(victim.name) for host in cluster.running]
        return all(row is not None and row.status is MemberStatus.ALIVE and row.status_ltime > ltime for row in rows)

    assert cluster.run_until(refuted, 120)


@pytest.mark.parametrize("seed", range(4))
def test_p9_who_leaves_is_told_as_left_by_everybody_and_never_as_failed(seed: int) -> None:
    cluster = cluster_of(10, seed)
    leaver = cluster.hosts["n4"]
    cluster.leave(leaver)
    cluster.run(8)
    cluster.crash(leaver)
    cluster.run(60)
    for host in cluster.running:
        assert host.member_events(EventKind.MEMBER_LEAVE) == ["n4"]
        assert host.member_events(EventKind.MEMBER_FAILED) == []


@pytest.mark.parametrize("seed", range(4))
def test_p10_who_crashes_is_told_as_failed_by_everybody_once(seed: int) -> None:
    cluster = cluster_of(10, seed)
    cluster.crash(cluster.hosts["n4"], silent=bool(seed % 2))
    cluster.run(90)
    for host in cluster.running:
        assert host.member_events(EventKind.MEMBER_FAILED) == ["n4"]
        assert host.member_events(EventKind.MEMBER_LEAVE) == []


# --- push/pull --------------------------------------------------------------------------------------------------------

states = st.builds(
    PushPullState,
    ltime=ltimes,
    status_ltimes=st.dictionaries(names, ltimes, max_size=3),
    left_members=st.lists(names, max_size=2, unique=True).map(tuple),
    event_ltime=ltimes,
    events=st.lists(
        st.builds(
            EventSlot, ltimes, st.lists(st.tuples(st.sampled_from("ab"), st.binary(max_size=2)), max_size=2).map(tuple)
        ),
        max_size=4,
    ).map(tuple),
    query_ltime=ltimes,
)


@given(state=states, gone=st.booleans())
def test_p22_merging_the_same_state_twice_is_merging_it_once_and_lowers_nothing(
    state: PushPullState, gone: bool
) -> None:
    rig = Rig()
    rig.alive("x")
    if gone:
        rig.dead("x")
    encoded = encode_push_pull_state(state)

    def merge() -> tuple[Any, ...]:
        for _ in rig.core._serf.merge_state(encoded, join=False):
            pass
        rows = {row.name: (row.status, row.status_ltime) for row in rig.core._serf.members}
        return rig.core._serf.clocks[1:], rows, rig.core._serf.events.slots()

    before = {row.name: row.status_ltime for row in rig.core._serf.members}
    clocks = rig.core._serf.clocks
    first = merge()
    assert all(row[1] >= before[name] for name, row in first[1].items())
    assert all(now >= then for now, then in zip(rig.core._serf.clocks, clocks, strict=True))
    # What is said of the local node is contradicted, with a new time of its own.
    own = first[1].pop(OWN, None)
    second = merge()
    assert (second[1].pop(OWN, None) is None) == (own is None)
    assert second == first


# --- limits -----------------------------------------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    messages=st.lists(st.tuples(st.integers(1, 300), st.sampled_from("abc"), st.binary(max_size=300)), max_size=60),
    depth=st.integers(1, 20),
)
def test_p28_queues_stay_within_their_depth_and_packets_within_their_size(
    messages: list[tuple[int, str, bytes]], depth: int
) -> None:
    rig = Rig(queue_depth_limit=depth)
    for number in range(4):
        rig.alive(f"n{number}")
    for ltime, name, payload in messages:
        rig.serf(UserEvent(ltime, name, payload, coalesce=False))
        rig.serf(LeaveIntent(ltime, name))
        assert all(queue.size <= depth for queue in rig.core._swim.gossip.queues[1:])
    rig.pass_time(0.3)
    for _, parts in rig.sent():
        assert parts


@pytest.mark.parametrize(
    "request_made",
    [
        EventRequest("e", bytes(513), coalesce=False),
        EventRequest("e" * 513, b"", coalesce=True),
        QueryRequest("q", bytes(1025), (), {}, ack=False, relay_factor=0, timeout=0.0),
        QueryRequest("q", b"", (), {}, ack=False, relay_factor=256, timeout=0.0),
        QueryRequest("q", b"", ("n" * 1100,), {}, ack=False, relay_factor=0, timeout=0.0),
        RespondRequest(1, 1, bytes(1025)),
        RespondRequest(1, 1, b""),
        TagsRequest({"t": "x" * 513}, ()),
    ],
)
def test_p29_what_is_too_large_is_refused_and_changes_nothing(request_made: Request) -> None:
    rig = Rig()
    rig.take()
    state = list(rig.core.snapshot_records())
    rig.core.request(("rpc", 1, 1), request_made, rig.now)
    (answer,) = [effect for effect in rig.take() if isinstance(effect, Answer)]
    assert answer.error
    assert list(rig.core.snapshot_records()) == state
    assert all(not queue.size for queue in rig.core._swim.gossip.queues[1:])


# --- robustness -------------------------------------------------------------------------------------------------------


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(packets=st.lists(st.binary(min_size=1, max_size=80), max_size=20), serf=st.booleans())
def test_p31_no_bytes_raise_out_of_the_core(packets: list[bytes], serf: bool) -> None:
    rig = Rig()
    rig.alive("x")
    for data in packets:
        try:
            message = decode_packet_message(b"\x08" + data if serf else data)
        except WireError:
            continue
        rig.receive(message)
    rig.pass_time(1.0)
    rig.take()
    assert rig.core.stats()["health_score"].isdigit()


@given(
    ltime=st.one_of(ltimes, st.integers(0, (1 << 64) - 1)),
    id=st.integers(0, (1 << 32) - 1),
    filters=st.lists(st.binary(min_size=1, max_size=30), max_size=3).map(tuple),
    flags=st.integers(0, 255),
    timeout=st.integers(-(1 << 62), 1 << 62),
    name=st.one_of(
        st.text(max_size=5),
        st.sampled_from(
            [f"_serf_{name}" for name in ("install-key", "use-key", "remove-key", "list-keys", "conflict", "ping")]
        ),
    ),
    payload=st.binary(min_size=1, max_size=40),
)
def test_p31_no_query_raises_out_of_the_core(**fields: Any) -> None:
    rig = Rig()
    query = Query(
        fields["ltime"],
        fields["id"],
        bytes((127, 0, 0, 9)),
        7946,
        "asker",
        fields["filters"],
        fields["flags"],
        3,
        fields["timeout"],
        fields["name"],
        fields["payload"],
    )
    rig.serf(query)
    rig.pass_time(0.5)
    rig.take()
    assert rig.core._serf.clocks[2] >= 1
