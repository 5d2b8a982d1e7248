"""Everything that can be seen of one agent from outside while its handlers suffer, measured by threads.

Rules:

* Events and queries come in through another agent, so that what the victim's RPC suffers is not mixed into them.
* A request without an answer within `ANSWER_S` counts as that long. What never came counts as infinite.
* The instant handler writes when it ran; its delay begins with the request that sent the event.
* Every thread goes at fixed times and makes up for what it missed, so that a slow answer does not thin out the load.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from scripts.proofs.watch import Pinger
from tests.harness import Agent, AnswerRecord, ConnectionLost, RpcClient, RpcError, UserRecord

INSTANT = "instant"
"""Name of the events and queries for the handlers that need no time."""

ANSWER_S = 10.0
QUERY_S = 3.0
PING_RATE = 20.0
ASK_RATE = 10.0
INSTANT_RATE = 2.0
QUERY_RATE = 1.0
LOOK_S = 0.05

_FAILURES = (OSError, ConnectionLost, RpcError)


def handlers(directory: Path) -> list[str]:
    """The instant handlers; the one for events writes into `directory`."""
    note = f'read -r line; echo "$line $(date +%s%N)" >> {directory}/instant'
    return [f"user:{INSTANT}={note}", f"query:{INSTANT}=echo yes"]


class Observation:
    """Measures from `start` to `stop`; the findings stay."""

    def __init__(self, victim: Agent, feeder: Agent, pinger: Pinger, directory: Path) -> None:
        self._victim = victim
        self._feeder = feeder
        self._pinger = pinger
        self._directory = directory
        self.answers: list[float] = []
        """Seconds that the victim's RPC took, each time that it was asked for its members."""
        self.statuses: dict[str, dict[str, float]] = {}
        """When the victim's members first showed a node in a state: by name and state, monotonic seconds."""
        self.sent: list[bytes] = []
        """Payloads of all events that were sent."""
        self.failed = 0
        """Events that the feeder refused."""
        self.queries: list[tuple[float, list[AnswerRecord]]] = []
        self.no_queries = False
        """The agents do not know queries."""
        self._stream = victim.stream("user")
        self._instants = 0
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._feed_stop = threading.Event()
        self._feeding: list[threading.Thread] = []

    def __enter__(self) -> Self:
        for name, rate, act in (
            ("ping", PING_RATE, self._ping),
            ("ask", ASK_RATE, self._asker()),
            ("look", 1 / LOOK_S, self._looker()),
        ):
            self._threads.append(_begin(name, rate, act, self._stop))
        for name, rate, act in (("instant", INSTANT_RATE, self._send_instant), ("query", QUERY_RATE, self._query)):
            self._feeding.append(_begin(name, rate, act, self._feed_stop))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end_feeding()
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def begin_load(self, name: str, rate: float) -> None:
        """Send events of this name, so many a second, from now on."""
        client = self._feeder.connect()
        self._feeding.append(_begin("load", rate, lambda: self._send(client, name, name.encode()), self._feed_stop))

    def end_feeding(self) -> None:
        """Send no more events and queries; what is on its way may still come."""
        self._feed_stop.set()
        for thread in self._feeding:
            thread.join()

    def first(self, node: str, status: str) -> float:
        """When the victim first showed a node in a state; infinity for never."""
        return self.statuses.get(node, {}).get(status, math.inf)

    @property
    def streamed(self) -> list[bytes]:
        """Payloads of the user events on the victim's own stream, in order."""
        return [record.payload for record in self._stream.records if isinstance(record, UserRecord)]

    def instant_delays(self) -> tuple[list[float], bool]:
        """Seconds from the sending of each instant event until its handler ran; infinity if it did not.

        And whether they ran in the order in which the events stood on the agent's stream.
        """
        ran: dict[bytes, float] = {}
        file = self._directory / "instant"
        rows = [line.split() for line in file.read_bytes().splitlines()] if file.exists() else []
        for row in rows:
            if len(row) == 3:
                ran[b" ".join(row[:2])] = (int(row[2]) - int(row[1])) / 1e9
        instants = [payload for payload in self.sent if b" " in payload]
        order = [payload for payload in self.streamed if payload in ran]
        return [ran.get(payload, math.inf) for payload in instants], order == list(ran)[: len(order)]

    def query_share(self) -> float:
        """Which part of the queries was answered by the instant handler; nan where agents do not know queries."""
        if self.no_queries or not self.queries:
            return math.nan
        good = sum(any(r.kind == "response" for r in records) for _at, records in self.queries)
        return good / len(self.queries)

    # --- what the threads do ------------------------------------------------------------------------------------------

    def _ping(self) -> None:
        self._pinger.ping(self._victim)

    def _asker(self) -> Callable[[], None]:
        asking = _Connection(self._victim)

        def ask() -> None:
            began = time.monotonic()
            try:
                asking.client().call("members", deadline_s=ANSWER_S)
                self.answers.append(time.monotonic() - began)
            except _FAILURES:
                asking.forget()
                self.answers.append(max(ANSWER_S, time.monotonic() - began))

        return ask

    def _looker(self) -> Callable[[], None]:
        asking = _Connection(self._victim)

        def look() -> None:
            try:
                members = asking.client().members()
            except _FAILURES:
                asking.forget()
                return
            now = time.monotonic()
            for member in members:
                self.statuses.setdefault(member.name, {}).setdefault(member.status, now)

        return look

    def _send_instant(self) -> None:
        self._instants += 1
        self._send(self._feeder.client(), INSTANT, b"%d %d" % (self._instants, time.time_ns()))

    def _send(self, client: RpcClient, name: str, payload: bytes) -> None:
        try:
            client.event(name, payload)
            self.sent.append(payload)
        except _FAILURES:
            self.failed += 1

    def _query(self) -> None:
        if self.no_queries:
            return
        try:
            with self._feeder.connect() as client:
                began = time.monotonic()
                stream = client.query(INSTANT, timeout_s=QUERY_S, nodes=[self._victim.node])
                with contextlib.suppress(*_FAILURES, AssertionError):
                    stream.wait_for(
                        lambda r: isinstance(r, AnswerRecord) and r.kind == "response", QUERY_S, "the query's answer"
                    )
                records = [record for record in stream.records if isinstance(record, AnswerRecord)]
                self.queries.append((began, records))
        except RpcError as error:
            self.no_queries = "command" in error.text.lower()
        except (OSError, ConnectionLost):
            self.queries.append((time.monotonic(), []))


class _Connection:
    """A connection that is opened again after a failure."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._client: RpcClient | None = None

    def client(self) -> RpcClient:
        if self._client is None or not self._client.is_connected:
            self._client = RpcClient(self._agent.options.rpc, deadline_s=ANSWER_S)
        return self._client

    def forget(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None


def _begin(name: str, rate: float, act: Callable[[], None], stop: threading.Event) -> threading.Thread:
    def run() -> None:
        begin, number = time.monotonic(), 0
        while not stop.wait(max(0.0, begin + number / rate - time.monotonic())):
            act()
            number += 1
            # A hung agent is not asked a hundred times at once when it wakes.
            behind = (time.monotonic() - begin) * rate - number
            if behind > rate:
                number += int(behind)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread
