"""User events at a given rate through RPC, and what became of each of them.

Rules:

* Every event has a payload that no other has: origin and number. So it is known of each event whether it arrived at an
  agent, and how often.
* Events are due at fixed times. A sender that was held up sends what is overdue at once: the total is kept.
* Several connections per agent, each waiting for its answers: there are always requests under way when something dies.
* An event whose request failed is neither expected nor forbidden; it is counted apart.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tests.harness import Agent, ConnectionLost, RpcClient, RpcError

HANDLED = "h"
"""Name of the events that a handler is meant to see, too."""

STREAMED = "load"
"""Name of all others."""

HANDLED_EVERY = 20
"""Each so many-th event is one for handlers."""

CONNECTIONS_PER_RATE = 25.0
"""Events per second for which a connection is opened."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One request: times in seconds of the monotonic clock; `error` is empty when it succeeded."""

    origin: str
    payload: bytes
    name: str
    sent_at: float
    answered_at: float
    error: str


class EventLoad:
    """Sends from `start` to `stop`; `rates` are events per second by agent."""

    def __init__(self, rates: Mapping[Agent, float]) -> None:
        self._rates = rates
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._sent: list[Sent] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to send."""
        begin = time.monotonic()
        for agent, rate in self._rates.items():
            numbers = itertools.count(1)
            for _ in range(max(1, round(rate / CONNECTIONS_PER_RATE))):
                thread = threading.Thread(
                    target=self._send, args=(agent, rate, numbers, begin), name=f"load {agent.node}", daemon=True
                )
                self._threads.append(thread)
                thread.start()

    def stop(self) -> None:
        """End; every request under way gets its answer first."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def sent(self) -> list[Sent]:
        """A copy of all requests that have ended so far."""
        with self._lock:
            return list(self._sent)

    def _send(self, agent: Agent, rate: float, numbers: itertools.count[int], begin: float) -> None:
        client: RpcClient | None = None
        # A count is advanced by one bytecode: each number goes to one thread.
        for number in numbers:
            if self._stop.wait(max(0.0, begin + number / rate - time.monotonic())):
                break
            payload = f"{agent.node}-{number}".encode()
            name = STREAMED if number % HANDLED_EVERY else HANDLED
            sent_at, error = time.monotonic(), ""
            try:
                if client is None or not client.is_connected:
                    client = agent.connect()
                client.event(name, payload)
            except (OSError, ConnectionLost, RpcError) as failure:
                error = str(failure) or repr(failure)
            with self._lock:
                self._sent.append(Sent(agent.node, payload, name, sent_at, time.monotonic(), error))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an agent got of the events of some origins. `surplus`: arrived though the request had failed."""

    expected: int
    lost: tuple[bytes, ...]
    repeated: tuple[bytes, ...]
    surplus: int


def outcome(sent: Iterable[Sent], got: Counter[bytes], origins: Iterable[str], name: str = "") -> Outcome:
    """Compare. With a `name` only events of this name count."""
    chosen = [s for s in sent if s.origin in set(origins) and name in {"", s.name}]
    return Outcome(
        expected=sum(not s.error for s in chosen),
        lost=tuple(s.payload for s in chosen if not s.error and not got[s.payload]),
        repeated=tuple(s.payload for s in chosen if got[s.payload] > 1),
        surplus=sum(1 for s in chosen if s.error and got[s.payload]),
    )
