"""The public monitor bus: what happens in the agent, for whoever may open its sockets (docs/monitor-bus.md).

Rules:

* Two sockets in the public directory, bound here: `events` (PUB) and `snapshot` (ROUTER), the Clone pattern. Who may
  open the directory may watch; nobody can change anything through them.
* A message is three frames: topic, header, body. Every message has a number, counted over all messages, and a second
  one, counted over its family (the topic's first word): a subscriber of a family sees by it what it missed.
* The beat tells the last numbers every second, so that a loss at the end is seen, too.
* Nobody is waited for. For each subscriber at most `EVENTS_HWM` messages wait, then new ones are dropped for it; a
  snapshot that its asker does not take is dropped. Copies of one message and of one snapshot share their memory.
* A family that nobody has subscribed is numbered, and not encoded.
* At most `serfmp.io.monitor_gate.CONNECTION_LIMIT` monitors are connected to each socket.
* The sockets have a ZeroMQ context, and so an I/O thread, of their own.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgpack
import zmq

from serfmp.bus.endpoints import PUBLIC_EVENTS, PUBLIC_SNAPSHOT, make_public_socket
from serfmp.bus.packing import pack
from serfmp.io.monitor_gate import MonitorGate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from serfmp.bus.loop import Loop

    State = Callable[[], tuple[dict[str, Any], Sequence[bytes]]]

VERSION: Final = 1
"""Version of headers, bodies and snapshots. Raised when something is taken away or changes its meaning."""

EVENTS_HWM: Final = 4096
"""Messages that wait for one subscriber."""

SNAPSHOT_HWM: Final = 4
"""Snapshots that wait for one asker."""

REQUEST_LIMIT: Final = 1024
"""Bytes of a request or a subscription."""

REQUESTS_PER_TURN: Final = 8
"""Requests answered in one turn."""

SNAPSHOT_AGE: Final = 0.2
"""Seconds for which one snapshot answers all who ask at least; longer where making it took longer."""

SUBSCRIPTIONS_COMPARED: Final = 64
"""Different subscriptions up to which a topic is compared with each; beyond that everything counts as subscribed."""

SUBSCRIPTION_LIMIT: Final = 1024
"""Different subscriptions, beyond which all monitors are sent away: ZeroMQ would keep any number."""

SUBSCRIPTIONS_PER_TURN: Final = 256
"""Subscriptions read in one turn."""

BEAT_PERIOD: Final = 1.0
"""Seconds between two beats."""

REQUEST: Final = b"snapshot"
"""The only request there is."""

_SOCKET_MODE: Final = 0o660


class MonitorBus:
    """See the module.

    `state()` gives the body of a snapshot but for the numbers, and the members, each encoded; `on_news()` is called
    when monitors have come or gone.
    """

    def __init__(
        self, loop: Loop, directory: str, node: str, state: State, on_news: Callable[[], object] | None = None
    ) -> None:
        self._loop = loop
        self._node = node
        self._state = state
        self.epoch = os.urandom(8).hex()
        """Names the run of this process: numbers begin anew with another one."""
        self._number = 0
        self._numbers: Counter[str] = Counter()
        self._subscribed: set[bytes] = set()
        self._snapshot: tuple[float, zmq.Frame] | None = None
        """Until when it answers all who ask, and the answer."""
        self.counters: Counter[str] = Counter()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        self._events = make_public_socket(self._context, zmq.XPUB, hwm=EVENTS_HWM, size_limit=REQUEST_LIMIT)
        self._snapshots = make_public_socket(self._context, zmq.ROUTER, hwm=SNAPSHOT_HWM, size_limit=REQUEST_LIMIT)
        self._directory = Path(directory)
        self._watched = loop.add_socket(self._events, self._read_subscriptions, told=True)
        self.gates = [
            MonitorGate(
                loop,
                self._context,
                watched,
                f"ipc://{self._directory / name}",
                partial(self._bind, watched.socket, name),
                self.counters,
                on_news,
            )
            for watched, name in (
                (self._watched, PUBLIC_EVENTS),
                (loop.add_socket(self._snapshots, self._answer, told=True), PUBLIC_SNAPSHOT),
            )
        ]
        loop.call_every(BEAT_PERIOD, self._beat)

    @property
    def connected(self) -> int:
        """Connections of monitors, to both sockets."""
        return sum(gate.connected for gate in self.gates)

    @property
    def heard(self) -> bool:
        """Whether anybody has subscribed anything."""
        return bool(self._subscribed)

    def pass_over(self, family: str) -> None:
        """Number a message of this family that nobody hears."""
        self._number += 1
        self._numbers[family] += 1

    def publish(self, topic: str, body: Mapping[str, Any], ltime: int | None = None, at: float | None = None) -> None:
        """Tell all who have subscribed a prefix of `topic`. `at`: wall time of what happened, by default now."""
        family = topic.partition(".")[0]
        self.pass_over(family)
        name = topic.encode("utf-8", "surrogateescape")
        if not self.wanted(name):
            return
        header = {
            "version": VERSION,
            "epoch": self.epoch,
            "number": self._number,
            "family_number": self._numbers[family],
            "node": self._node,
            "time": time.time() if at is None else at,
            "ltime": ltime,
        }
        self._watched.used = True
        with suppress(zmq.Again):
            self._events.send_multipart((name, pack(header), pack(body)), zmq.NOBLOCK)
            self.counters["serfmp.monitors.published"] += 1

    def wanted(self, topic: bytes) -> bool:
        """Whether somebody subscribed this topic."""
        known = self._subscribed
        return len(known) > SUBSCRIPTIONS_COMPARED or any(topic.startswith(prefix) for prefix in known)

    def _bind(self, socket: zmq.Socket[bytes], name: str) -> None:
        """Bind a socket in the public directory, for its user and group only."""
        path = self._directory / name
        socket.bind(f"ipc://{path}")
        with suppress(OSError):
            os.chown(path, -1, self._directory.stat().st_gid)
        path.chmod(_SOCKET_MODE)

    # --- inner part ---------------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        # Its own number is the next one.
        self.publish("bus.beat", {"number": self._number + 1, "numbers": dict(self._numbers)})

    def _read_subscriptions(self) -> None:
        for _ in range(SUBSCRIPTIONS_PER_TURN):
            try:
                message = self._events.recv(zmq.NOBLOCK)
            except zmq.Again:
                break
            if message[:1] == b"\0":
                self._subscribed.discard(message[1:])
            elif message[:1] == b"\1":
                self._subscribed.add(message[1:])
        if len(self._subscribed) > SUBSCRIPTION_LIMIT:
            # With its connections ZeroMQ forgets what they had subscribed, and tells so here.
            self.gates[0].send_away()

    def _answer(self) -> None:
        for _ in range(REQUESTS_PER_TURN):
            try:
                *way, request = self._snapshots.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if len(way) > 2:
                self.counters["serfmp.monitors.refused"] += 1
                continue
            self.counters["serfmp.monitors.snapshots"] += 1
            if request == REQUEST:
                answer = self._current()
            else:
                answer = zmq.Frame(pack({"version": VERSION, "error": "unknown request; ask for 'snapshot'"}))
            try:
                for part in way:
                    self._snapshots.send(part, zmq.NOBLOCK | zmq.SNDMORE)
                self._snapshots.send(answer, zmq.NOBLOCK, copy=False)
            except zmq.ZMQError:  # it does not read, or is gone
                self.counters["serfmp.monitors.snapshots_dropped"] += 1

    def _current(self) -> zmq.Frame:
        now = self._loop.clock()
        kept = self._snapshot
        if kept is None or now > kept[0]:
            state, members = self._state()
            body = {
                "version": VERSION,
                "epoch": self.epoch,
                "number": self._number,
                "numbers": dict(self._numbers),
                "node": self._node,
                "time": time.time(),
                **state,
            }
            frame = zmq.Frame(_with_members(body, members))
            # However large it is, making it takes a tenth of the time at most.
            until = now + max(SNAPSHOT_AGE, 10 * (self._loop.clock() - now))
            kept = self._snapshot = (until, frame)
        return kept[1]


def _with_members(body: Mapping[str, Any], members: Sequence[bytes]) -> bytes:
    """The map with the key `members`, whose rows are encoded already."""
    packer = msgpack.Packer(use_bin_type=True, unicode_errors="surrogateescape", autoreset=False)
    packer.pack_map_header(len(body) + 1)
    for key, value in body.items():
        packer.pack(key)
        packer.pack(value)
    packer.pack("members")
    packer.pack_array_header(len(members))
    data: bytes = packer.bytes()
    return data + b"".join(members)


def unpack(data: bytes) -> Any:
    """The inverse of `pack`."""
    return msgpack.unpackb(data, unicode_errors="surrogateescape", strict_map_key=False)
