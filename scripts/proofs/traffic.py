"""Traffic for agents that know a crowd: what a busy day brings to a large cluster, in a few minutes.

Rules:

* All agents get the same: each packet goes to each of them, each client of one has its like at the others.
* Members of the crowd come to life with other tags, are suspected, contradict, and leave or fail some seconds later.
  Those that are alive at a time are few: agents probe them in vain, as they would in a cluster that has trouble.
* Clients send events and change a tag, ask for all members, and read a stream of everything.
* What goes wrong with a client is counted and told, and the client begins anew.
"""

from __future__ import annotations

import itertools
import selectors
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Self

from scripts.proofs.crowd import PLAIN, PORT, VERSIONS, address, name
from scripts.proofs.sight import Line
from serfmp.wire.messages import Alive, Dead, Message, Suspect, encode
from serfmp.wire.packet import seal_packet
from serfmp.wire.tags import encode_tags
from tests.harness import Agent

CHANGES = 10.0
"""Members a second that come to life."""

DOUBTED_AFTER_S, GONE_AFTER_S = 1.0, 3.0
"""After a member has come to life: it is suspected and contradicts; it leaves or fails."""

EVENTS = 10.0
"""User events a second, to each agent."""

PAYLOAD = bytes(100)
ASK_S = 1.0
"""Between two questions for all members, to each agent."""

TAG_S = 10.0
"""Between two changes of an agent's own tags."""

ANSWER_S = 30.0


class Traffic:
    """Runs from `start` to `stop`. `count`: the members that the agents know, all of which take part in turn."""

    def __init__(self, agents: Sequence[Agent], count: int) -> None:
        self._agents = agents
        self._count = count
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self.done: Counter[str] = Counter()
        """How much of what, by all agents together."""
        self.errors: list[tuple[str, str]] = []
        """What went wrong: kind of the agent (empty for gossip), and what it was."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Begin."""
        self._begin("", self._churn)
        for agent in self._agents:
            for client in (self._send, self._ask, self._listen, self._tag):
                self._begin(agent.kind, partial(client, agent))

    def stop(self) -> None:
        """End; each client gets the answer that it waits for."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _begin(self, kind: str, run: Callable[[], None]) -> None:
        def guarded() -> None:
            while not self._stop.is_set():
                try:
                    run()
                except OSError as error:
                    with self._lock:
                        self.errors.append((kind, f"{type(error).__name__}: {error}"))
                    self._stop.wait(ASK_S)

        thread = threading.Thread(target=guarded, name="traffic", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _note(self, what: str) -> None:
        with self._lock:
            self.done[what] += 1

    def _ticks(self, period: float) -> Iterator[int]:
        """Numbers at a steady pace until the end; a pause is not made up for."""
        due = time.monotonic()
        for number in itertools.count():
            due = max(due + period, time.monotonic())
            if self._stop.wait(due - time.monotonic()):
                return
            yield number

    # --- gossip -------------------------------------------------------------------------------------------------------

    def _churn(self) -> None:
        due: deque[tuple[float, list[Message]]] = deque()
        later: deque[tuple[float, list[Message]]] = deque()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            for turn in self._ticks(1 / CHANGES):
                now = time.monotonic()
                number, life = turn % (self._count - 1), 2 + 2 * (turn // (self._count - 1))
                node = name(number)
                meta = encode_tags({"role": "web", "dc": "east", "version": f"{turn}"})
                self._tell(udp, [Alive(life, node, address(number), PORT, meta, VERSIONS)], "came to life")
                again = Alive(life + 1, node, address(number), PORT, meta, VERSIONS)
                due.append((now + DOUBTED_AFTER_S, [Suspect(life, node, name(number ^ 1)), again]))
                by = node if turn % 2 else name(number ^ 1)
                later.append((now + GONE_AFTER_S, [Dead(life + 1, node, by)]))
                for queue, what in ((due, "were suspected and contradicted"), (later, "left or failed")):
                    while queue and queue[0][0] <= now:
                        self._tell(udp, queue.popleft()[1], what)

    def _tell(self, udp: socket.socket, messages: Sequence[Message], what: str) -> None:
        for packet in seal_packet([encode(message) for message in messages], checksum=False, fmt=PLAIN):
            for agent in self._agents:
                udp.sendto(packet, (agent.bind.host, agent.bind.port))
        self._note(f"members that {what}")

    # --- clients ------------------------------------------------------------------------------------------------------

    def _send(self, agent: Agent) -> None:
        line = Line(agent.node, agent.options.rpc)
        with line.socket:
            for number in self._ticks(1 / EVENTS):
                line.send("event", {"Name": f"deploy-{number % 10}", "Payload": PAYLOAD, "Coalesce": False})
                self._note("events sent")
                line.drain()

    def _ask(self, agent: Agent) -> None:
        line = Line(agent.node, agent.options.rpc)
        with line.socket:
            line.socket.settimeout(ANSWER_S)
            for _ in self._ticks(ASK_S):
                line.send("members")
                while not line.read():
                    pass
                self._note("times that members were asked for")

    def _listen(self, agent: Agent) -> None:
        line = Line(agent.node, agent.options.rpc)
        with line.socket, selectors.DefaultSelector() as selector:
            line.send("stream", {"Type": "*"})
            selector.register(line.socket, selectors.EVENT_READ)
            while not self._stop.is_set():
                for _ in selector.select(ASK_S):
                    for _ in line.read():
                        self._note("records of events read")

    def _tag(self, agent: Agent) -> None:
        line = Line(agent.node, agent.options.rpc)
        with line.socket:
            for number in self._ticks(TAG_S):
                line.send("tags", {"Tags": {"number": f"{number}"}, "DeleteTags": []})
                self._note("changes of own tags")
                line.drain()
