"""Journal records: replaying any prefix, compaction, garbage."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serfmp.detector.effects import EventRequest, LeaveRequest, Lifecycle, MemberStatus, Plain
from serfmp.detector.records import RecordKind, Recovered
from serfmp.wire.serf_messages import JoinIntent, LeaveIntent, Query, UserEvent
from tests.detector.rig import OWN, Rig


def eventful() -> Rig:
    """A core to which everything that is journaled has happened."""
    rig = Rig()
    for name in "abcdef":
        rig.alive(name)
    rig.take()
    rig.suspect("a")
    rig.dead("b")
    rig.dead("c", sender="c")
    rig.alive("d", 2, meta=b"\xff\x81\xa1k\xa1v")
    rig.take()
    rig.serf(LeaveIntent(4, "e"))
    rig.serf(JoinIntent(6, "f"))
    rig.serf(LeaveIntent(9, "unknown"))
    rig.serf(Query(3, 77, bytes((127, 0, 0, 9)), 1, "q", (), 0, 0, 1, "name", b""))
    for number in range(5):
        rig.serf(UserEvent(number + 1, f"e{number}", b"p", coalesce=False))
    rig.core.request(("rpc", 1, 1), EventRequest("own", b"payload", coalesce=True), rig.now)
    rig.take()
    rig.suspect(OWN, 4)
    rig.core.acknowledge("rpc", 5)
    rig.core.acknowledge("dispatcher", 3)
    rig.core._serf.events.raise_minimum(2)
    rig.take()
    return rig


def travelled(records: list[tuple[Plain, ...]]) -> list[tuple[Any, ...]]:
    """As the journal gives them back."""
    packed = [msgpack.packb(record, unicode_errors="surrogateescape") for record in records]
    return [tuple(msgpack.unpackb(data, unicode_errors="surrogateescape", strict_map_key=False)) for data in packed]


def state_of(rig: Rig) -> dict[str, Any]:
    """What must survive."""
    core = rig.core
    return {
        "members": core.members(),
        "clocks": core._serf.clocks,
        "outbox": list(core.outbox(0)),
        "acknowledged": core._serf.outbox.acknowledged,
        "sequence": core._serf.outbox.sequence,
        "minimum": core._serf.events.minimum,
        "ring": core._serf.events.slots(),
        "queries": list(core._serf.queries.saved()),
        "intents": {intent.node: (intent.leaving, intent.ltime) for intent in core._serf.recent_intents},
        "ltimes": {row.name: row.status_ltime for row in core._serf.members},
        "nodes": {record.name: (record.state, record.incarnation) for record in core._swim.table if record.name != OWN},
    }


@pytest.mark.parametrize("compacted", [False, True])
def test_a_recovered_core_has_the_state_of_the_dead_one_and_repeats_no_event(compacted: bool) -> None:
    rig = eventful()
    records = list(rig.core.snapshot_records()) if compacted else rig.journal
    again = Rig(Recovered.replay(travelled(records)), generation=2, now=101.0)
    assert state_of(again) == state_of(rig)
    assert again.incarnation == rig.incarnation + 1
    assert again.events() == []


def test_compacting_a_recovered_core_gives_the_same_state_again() -> None:
    rig = eventful()
    for _ in range(3):
        records = travelled(list(rig.core.snapshot_records()))
        again = Rig(Recovered.replay(records), generation=2, now=101.0)
        again.take()
        assert state_of(again) == state_of(rig)
        rig = again


def test_a_suspect_gets_its_whole_time_again_and_a_request_is_not_repeated() -> None:
    rig = Rig(Recovered.replay(eventful().journal), generation=2, now=103.0)
    suspicion = rig.node("a").suspicion
    assert suspicion is not None
    assert suspicion.started == 103.0
    rig.take()
    rig.core.request(("rpc", 1, 1), EventRequest("own", b"payload", coalesce=True), rig.now)
    assert rig.events() == []


def test_the_latest_events_are_gossiped_again_own_ones_longer() -> None:
    journal = eventful().journal
    for now, queued in ((100.5, 6), (105.0, 1), (111.0, 0)):
        rig = Rig(Recovered.replay(journal), generation=2, now=now)
        assert rig.core.stats()["event_queue"] == str(queued)


def test_every_prefix_of_a_journal_gives_a_core_that_misses_and_repeats_no_event() -> None:
    """Events that were recorded are kept; those not recorded had not left the process, and are made up for."""
    whole = eventful()
    for end in range(len(whole.journal) + 1):
        records = travelled(whole.journal[:end])
        rig = Rig(Recovered.replay(records), generation=2, now=101.0)
        rig.take()
        everything = list(rig.core.outbox(0))
        sequences = [event.sequence for event in everything]
        assert sequences == sorted(set(sequences))
        statuses = {member.name: member.status for member in rig.core.members()}
        for record in rig.core._swim.table:
            gone = statuses[record.name] in {MemberStatus.LEFT, MemberStatus.FAILED}
            assert gone == record.gone
        assert statuses[OWN] is MemberStatus.ALIVE


def test_own_incarnation_grows_with_every_recovery() -> None:
    rig = Rig()
    rig.take()
    journal = rig.journal
    for generation in range(2, 6):
        again = Rig(Recovered.replay(journal), generation=generation)
        again.take()
        journal = journal + again.journal
        assert again.incarnation == generation


def test_the_own_row_counts_where_a_torn_journal_lacks_the_own_incarnation() -> None:
    rig = Rig()
    rig.take()
    rig.suspect(OWN, 5)
    rig.take()
    rows = [number for number, record in enumerate(rig.journal) if record[0] == RecordKind.NODE.value]
    torn = rig.journal[: rows[-1] + 1]
    assert max(int(str(record[1])) for record in torn if record[0] == RecordKind.OWN.value) < 6
    recovered = Rig(Recovered.replay(torn), 2)
    assert recovered.incarnation == recovered.node(OWN).incarnation == 7


def test_the_state_of_a_leave_survives() -> None:
    rig = Rig()
    rig.core.request(("rpc", 1, 1), LeaveRequest(), rig.now)
    rig.take()
    recovered = Recovered.replay(travelled(list(rig.core.snapshot_records())))
    assert recovered.lifecycle is Lifecycle.LEAVING
    assert recovered.leave_ltime == 1


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**64) | st.text(max_size=4) | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(st.tuples(st.sampled_from([*RecordKind, "unknown"]), st.lists(plain, max_size=9))))
def test_records_that_cannot_be_understood_never_stop_a_recovery(records: list[tuple[str, list[Any]]]) -> None:
    Recovered.replay([(str(kind), *values) for kind, values in records])


def test_garbage_is_counted_and_the_rest_is_used() -> None:
    recovered = Recovered.replay([("unknown", 1), ("own", 7), ("node", "too short"), (), ("clocks", 1, 2, 3)])
    assert (recovered.incarnation, recovered.clocks, recovered.skipped) == (7, (1, 2, 3), 3)
