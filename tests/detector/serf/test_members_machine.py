"""Intents and notices against a plain model of spec serf.md 5: any order of them, known and unknown nodes."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from serfmp.detector.effects import MemberStatus
from serfmp.wire.serf_messages import JoinIntent, LeaveIntent
from tests.detector.rig import OWN, Rig

ALIVE, LEAVING, LEFT, FAILED = MemberStatus.ALIVE, MemberStatus.LEAVING, MemberStatus.LEFT, MemberStatus.FAILED

names = st.sampled_from(("x", "y"))
ltimes = st.integers(1, 12)


@dataclass
class Row:
    """A member of the model."""

    status: MemberStatus
    ltime: int = 0
    incarnation: int = 1


class MembersMachine(RuleBasedStateMachine):
    """No time passes: nothing expires, nothing leaves the queue."""

    def __init__(self) -> None:
        super().__init__()
        self.rig = Rig()
        self.rows: dict[str, Row] = {}
        self.buffer: dict[str, tuple[bool, int]] = {}
        self.own_ltime = 0
        self.clock = 1
        self.queued = 0

    def witness(self, ltime: int) -> None:
        self.clock = max(self.clock, ltime + 1)

    def news(self, name: str, leaving: bool, ltime: int) -> bool:
        """An intent about a node that is not known."""
        if ltime <= self.buffer.get(name, (False, 0))[1]:
            return False
        self.buffer[name] = (leaving, ltime)
        return True

    @rule(name=names, ltime=ltimes)
    def join_intent(self, name: str, ltime: int) -> None:
        self.rig.serf(JoinIntent(ltime, name))
        self.witness(ltime)
        row = self.rows.get(name)
        if row is None:
            self.queued += self.news(name, leaving=False, ltime=ltime)
        elif ltime > row.ltime:
            row.ltime = ltime
            row.status = ALIVE if row.status is LEAVING else row.status
            self.queued += 1

    @rule(name=names, ltime=ltimes)
    def leave_intent(self, name: str, ltime: int) -> None:
        self.rig.serf(LeaveIntent(ltime, name))
        self.witness(ltime)
        row = self.rows.get(name)
        if row is None:
            self.queued += self.news(name, leaving=True, ltime=ltime)
        elif ltime > row.ltime:
            row.ltime = ltime
            row.status = {ALIVE: LEAVING, FAILED: LEFT}.get(row.status, row.status)
            self.queued += 1

    @rule(ltime=ltimes)
    def leave_intent_about_the_local_node(self, ltime: int) -> None:
        self.rig.serf(LeaveIntent(ltime, OWN))
        self.witness(ltime)
        if ltime >= self.own_ltime:
            self.own_ltime = self.clock
            self.witness(self.clock)
            self.queued += 1

    @rule(name=names)
    def node_is_there(self, name: str) -> None:
        row = self.rows.get(name)
        self.rig.alive(name, 1 if row is None else row.incarnation + 1)
        if row is None:
            leaving, ltime = self.buffer.get(name, (False, 0))
            self.rows[name] = Row(LEAVING if leaving else ALIVE, ltime)
        else:
            row.incarnation += 1
            if row.status in {LEFT, FAILED}:
                row.status = ALIVE

    @rule(name=names, itself=st.booleans())
    def node_is_gone(self, name: str, itself: bool) -> None:
        row = self.rows.get(name)
        self.rig.dead(name, 1 if row is None else row.incarnation, name if itself else "z")
        if row is not None and row.status in {ALIVE, LEAVING}:
            row.status = LEFT if itself or row.status is LEAVING else FAILED

    @invariant()
    def rows_are_those_of_the_model(self) -> None:
        members = self.rig.core._serf.members
        found = {row.name: (row.status, row.status_ltime) for row in members if row.name != OWN}
        assert found == {name: (row.status, row.ltime) for name, row in self.rows.items()}
        own = members.get(OWN)
        assert own is not None
        assert (own.status, own.status_ltime) == (ALIVE, self.own_ltime)

    @invariant()
    def clock_and_queue_are_those_of_the_model(self) -> None:
        assert self.rig.core._serf.clocks[0] == self.clock
        assert self.rig.core.stats()["intent_queue"] == str(self.queued)


TestMembers = MembersMachine.TestCase
TestMembers.settings = settings(max_examples=60, stateful_step_count=30)
