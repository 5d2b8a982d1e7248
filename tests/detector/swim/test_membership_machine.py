"""The transition table against a plain model of spec swim.md 3: any order of alive, suspect and dead messages."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serfmp.detector.effects import EventKind, MemberEvent
from serfmp.detector.swim.table import NodeState
from serfmp.wire.messages import Suspect
from tests.detector.rig import OWN, OWN_ADDRESS, Rig, address_of

ALIVE, SUSPECT, DEAD, LEFT = NodeState.ALIVE, NodeState.SUSPECT, NodeState.DEAD, NodeState.LEFT
JOIN, UPDATE = EventKind.MEMBER_JOIN, EventKind.MEMBER_UPDATE
LEAVE, FAILED = EventKind.MEMBER_LEAVE, EventKind.MEMBER_FAILED

NAMES = ("x", "y", OWN)
METAS = (b"\xff\x80", b"\xff\x81\xa1k\xa1v")

names = st.sampled_from(NAMES)
incarnations = st.integers(0, 6)
senders = st.sampled_from(("x", "y", "z", OWN))


@dataclass
class Node:
    """One row of the model."""

    state: NodeState
    incarnation: int
    address: bytes
    meta: bytes
    accusers: frozenset[str] = frozenset()
    confirmations: int = 0


class MembershipMachine(RuleBasedStateMachine):
    """No time passes, so no suspicion ends by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.rig = Rig()
        # Three more, so that suspicions want two confirmations whatever the others do.
        for name in ("a", "b", "c"):
            self.rig.alive(name)
        self.events: list[tuple[EventKind, str]] = []
        self.score = 0
        self.nodes = {OWN: Node(ALIVE, 1, OWN_ADDRESS, METAS[0])}
        self.rig.events()

    def refute(self, accused_at: int) -> None:
        own = self.nodes[OWN]
        own.incarnation = max(own.incarnation, accused_at) + 1
        self.score = min(self.score + 1, 7)

    @rule(name=names, incarnation=incarnations, elsewhere=st.booleans(), meta=st.sampled_from(METAS))
    def alive(self, name: str, incarnation: int, elsewhere: bool, meta: bytes) -> None:
        home = OWN_ADDRESS if name == OWN else address_of(name)
        address = address_of("elsewhere") if elsewhere else home
        self.rig.alive(name, incarnation, address=address, meta=meta)
        node = self.nodes.get(name)
        if name == OWN:
            own = self.nodes[OWN]
            same = incarnation == own.incarnation and meta == own.meta
            if address == home and incarnation >= own.incarnation and not same:
                self.refute(incarnation)
            return
        if node is None:
            if incarnation > 0:
                self.nodes[name] = Node(ALIVE, incarnation, address, meta)
                self.events.append((JOIN, name))
            return
        moves = node.address != address
        if (moves and node.state is not LEFT) or (not moves and incarnation <= node.incarnation):
            return
        if node.state in {DEAD, LEFT}:
            self.events.append((JOIN, name))
        elif node.meta != meta:
            self.events.append((UPDATE, name))
        self.nodes[name] = Node(ALIVE, incarnation, address, meta)

    @rule(name=names, incarnation=incarnations, sender=senders, merged=st.booleans())
    def suspect(self, name: str, incarnation: int, sender: str, merged: bool) -> None:
        message = Suspect(incarnation, name, sender)
        if merged:
            self.rig.core._swim.membership.suspect(message, merged=True)
        else:
            self.rig.receive(message)
        node = self.nodes.get(name)
        if node is None or incarnation < node.incarnation:
            return
        if node.state is SUSPECT:
            if not merged and node.confirmations < 2 and sender not in node.accusers:
                node.accusers |= {sender}
                node.confirmations += 1
        elif node.state is ALIVE and name == OWN:
            self.refute(incarnation)
        elif node.state is ALIVE:
            node.state, node.incarnation = SUSPECT, incarnation
            node.accusers, node.confirmations = frozenset() if merged else frozenset({sender}), 0

    @rule(name=names, incarnation=incarnations, sender=senders)
    def dead(self, name: str, incarnation: int, sender: str) -> None:
        self.rig.dead(name, incarnation, sender)
        node = self.nodes.get(name)
        if node is None or incarnation < node.incarnation or node.state in {DEAD, LEFT}:
            return
        if name == OWN:
            self.refute(incarnation)
            return
        node.state, node.incarnation = (LEFT if sender == name else DEAD), incarnation
        self.events.append((LEAVE if sender == name else FAILED, name))

    @precondition(lambda self: len(self.nodes) == len(NAMES))
    @rule(name=names, incarnation=incarnations)
    def everything_again(self, name: str, incarnation: int) -> None:
        """What was accepted once changes nothing when it comes again."""
        self.alive(name, incarnation, elsewhere=False, meta=METAS[0])
        self.alive(name, incarnation, elsewhere=False, meta=METAS[0])
        self.dead(name, incarnation, "z")
        self.dead(name, incarnation, "z")

    @invariant()
    def the_table_is_that_of_the_model(self) -> None:
        for name in NAMES:
            model = self.nodes.get(name)
            assert self.rig.known(name) is (model is not None)
            if model is None:
                continue
            node = self.rig.node(name)
            assert (node.state, node.incarnation, node.address, node.meta) == (
                model.state,
                model.incarnation,
                model.address,
                model.meta,
            )
            assert (node.suspicion is not None) is (model.state is SUSPECT)
            if node.suspicion is not None:
                assert node.suspicion.confirmations == model.confirmations

    @invariant()
    def users_are_told_what_the_model_says(self) -> None:
        told = [
            (event.kind, member.name)
            for event in self.rig.events()
            if isinstance(event, MemberEvent)
            for member in event.members
        ]
        expected, self.events = self.events, []
        assert told == expected

    @invariant()
    def each_refutation_costs_health(self) -> None:
        assert self.rig.score == self.score


TestMembership = MembershipMachine.TestCase
TestMembership.settings = settings(max_examples=60, stateful_step_count=30)
