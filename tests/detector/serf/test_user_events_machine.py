"""The window of user events against a plain model of spec serf.md 8, with detectors that are killed in between."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from serfmp.detector.effects import EventRequest, UserEventReceived
from serfmp.detector.records import Recovered
from serfmp.wire.serf_messages import UserEvent
from serfmp.wire.serf_state import EventSlot, PushPullState, encode_push_pull_state
from tests.detector.rig import Rig

WINDOW = 6

ltimes = st.integers(0, 30)
payloads = st.sampled_from((b"", b"1", b"2"))


class UserEventsMachine(RuleBasedStateMachine):
    """A small ring, so that it wraps often."""

    def __init__(self) -> None:
        super().__init__()
        self.rig = Rig(event_buffer=WINDOW)
        self.requests = 0
        self.clock = 1
        self.minimum = 0
        self.known: set[tuple[int, bytes]] = set()
        self.expected: list[tuple[int, bytes]] = []

    def accept(self, ltime: int, payload: bytes) -> None:
        self.clock = max(self.clock, ltime + 1)
        old = self.clock > WINDOW and ltime < self.clock - WINDOW
        if ltime >= self.minimum and not old and (ltime, payload) not in self.known:
            self.known.add((ltime, payload))
            self.expected.append((ltime, payload))

    @rule(ltime=ltimes, payload=payloads)
    def receive(self, ltime: int, payload: bytes) -> None:
        self.rig.serf(UserEvent(ltime, "e", payload, coalesce=False))
        self.accept(ltime, payload)

    @rule(payload=payloads)
    def send(self, payload: bytes) -> None:
        self.requests += 1
        self.rig.core.request(("rpc", 1, self.requests), EventRequest("e", payload, coalesce=False), self.rig.now)
        self.accept(self.clock, payload)

    @rule(ltime=ltimes, slots=st.dictionaries(ltimes, payloads, max_size=4), ignore_old=st.booleans())
    def push_pull(self, ltime: int, slots: dict[int, bytes], ignore_old: bool) -> None:
        events = tuple(EventSlot(time, (("e", payload),)) for time, payload in slots.items())
        state = encode_push_pull_state(PushPullState(ltime=1, event_ltime=ltime, events=events, query_ltime=1))
        serf = self.rig.core._serf
        serf.ignore_old = ignore_old
        for _ in serf.merge_state(state, join=True):
            pass
        serf.ignore_old = False
        if ltime > 0:
            self.clock = max(self.clock, ltime)
        if ignore_old:
            self.minimum = max(self.minimum, ltime)
        for time in sorted(slots):
            self.accept(time, slots[time])

    @rule(compacted=st.booleans())
    def kill(self, compacted: bool) -> None:
        self.everything_new_is_delivered_once_and_in_order()
        journal = list(self.rig.core.snapshot_records()) if compacted else self.rig.journal
        self.rig = Rig(Recovered.replay(journal), 2, self.rig.now, event_buffer=WINDOW)
        self.rig.journal = journal
        assert self.rig.events() == []

    @invariant()
    def everything_new_is_delivered_once_and_in_order(self) -> None:
        told = [(event.ltime, event.payload) for event in self.rig.events() if isinstance(event, UserEventReceived)]
        expected, self.expected = self.expected, []
        assert told == expected
        assert self.rig.core._serf.clocks[1] == self.clock
        assert self.rig.core._serf.events.minimum == self.minimum


TestUserEvents = UserEventsMachine.TestCase
TestUserEvents.settings = settings(max_examples=60, stateful_step_count=30)
