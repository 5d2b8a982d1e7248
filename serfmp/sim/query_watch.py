"""What must hold of queries at every step of every run: the rules P18 to P20 of spec serf.md 18, checked from outside.

Rules: what a query asks for is known by its name, as whoever drives the run has announced it. A query and what a node
does with it are known by Lamport time and ID; they are watched over the deaths of detectors, but not over those of
agents. What an asker counts is watched for one detector: its journal does not hold who has answered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from serfmp.detector.effects import Effect, QueryProgress, QueryReceived, SendPacket
from serfmp.detector.serf.asking import ACK
from serfmp.sim.host import Host
from serfmp.wire.message_types import MessageType
from serfmp.wire.serf_messages import QueryResponse, Relay, SerfType, decode_serf

USER_BYTE: Final = int(MessageType.USER)
ANSWER_BYTES: Final = frozenset({int(SerfType.QUERY_RESPONSE), int(SerfType.RELAY)})

Fail = Callable[[Host, str, str], None]
"""Host, rule, text; does not return."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a query asks for: `nodes` that shall answer, or None for all; whether acks are wanted."""

    nodes: frozenset[str] | None
    ack: bool

    def passes(self, node: str) -> bool:
        """Whether its filters let a node take part."""
        return self.nodes is None or node in self.nodes


@dataclass(slots=True)
class _Told:
    """What an asker was told."""

    acks: set[str] = field(default_factory=set)
    responses: set[str] = field(default_factory=set)
    done: bool = False


class QueryWatch:
    """See the module."""

    def __init__(self, fail: Fail) -> None:
        self._fail = fail
        self._wanted: dict[str, Wanted] = {}
        self._names: dict[tuple[int, int], str] = {}
        self._deadlines: dict[tuple[str, int, int, int], float] = {}
        self._answered: dict[tuple[str, int, int, int, bool], int] = {}
        """Turn in which a node acked (True) or answered a query, by node, life, Lamport time, ID."""
        self._told: dict[tuple[str, int, int, int], _Told] = {}
        self._turn = 0

    def announce(self, name: str, wanted: Wanted) -> None:
        """A query of this name may be sent."""
        self._wanted[name] = wanted

    def took(self, host: Host, event: QueryReceived) -> None:
        """A consumer got a query."""
        wanted = self._wanted.get(event.name)
        if wanted is None:
            self._fail(host, "P18", f"query {event.name} was never asked")
        elif not wanted.passes(host.name):
            self._fail(host, "P18", f"query {event.name} is not for it")
        self._names[event.ltime, event.id] = event.name
        self._deadlines[host.name, host.life, event.ltime, event.id] = event.deadline

    def turned(self, host: Host, effects: list[Effect], now: float) -> None:
        """A turn of the host is over."""
        self._turn += 1
        for effect in effects:
            if isinstance(effect, QueryProgress):
                self._progress(host, effect)
            elif isinstance(effect, SendPacket):
                for part in effect.parts:
                    if part[0] == USER_BYTE and len(part) > 1 and part[1] in ANSWER_BYTES:
                        self._sent(host, part[1:], now)

    def _progress(self, host: Host, told: QueryProgress) -> None:
        key = host.name, host.life, host.generation, told.request[2]
        state = self._told.setdefault(key, _Told())
        if state.done:
            self._fail(host, "P19", f"{told.kind} of {told.node} after the end of query {told.request[2]}")
        if told.kind == "done":
            state.done = True
            return
        seen = state.acks if told.kind == "ack" else state.responses
        if told.node in seen:
            self._fail(host, "P19", f"a second {told.kind} of {told.node} to query {told.request[2]}")
        seen.add(told.node)

    def _sent(self, host: Host, message: bytes, now: float) -> None:
        answer = decode_serf(message)
        if isinstance(answer, Relay):
            answer = decode_serf(answer.inner)
        if not isinstance(answer, QueryResponse) or answer.sender != host.name:
            return
        is_ack = bool(answer.flags & ACK)
        turn = self._answered.setdefault((host.name, host.life, answer.ltime, answer.id, is_ack), self._turn)
        if turn != self._turn:
            self._fail(host, "P18, P20", f"a second {'ack' if is_ack else 'response'} to {answer.ltime}, {answer.id}")
        deadline = self._deadlines.get((host.name, host.life, answer.ltime, answer.id))
        if not is_ack and deadline is not None and now > deadline:
            self._fail(host, "P20", f"a response {now - deadline:.4f} s after the deadline")
        name = self._names.get((answer.ltime, answer.id))
        if is_ack and name is not None and not (self._wanted[name].ack and self._wanted[name].passes(host.name)):
            self._fail(host, "P18", f"an ack to query {name}, which wants none of it")

    def answers(self, host: Host, request: int) -> tuple[set[str], set[str]]:
        """Who acked, and who answered, a query of a host, as its present detector told."""
        told = self._told.get((host.name, host.life, host.generation, request), _Told())
        return set(told.acks), set(told.responses)
