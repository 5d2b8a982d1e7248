"""A monitor on the public bus of an agent: what happens, and a live table that is always whole (docs/monitor-bus.md).

Rules:

* It subscribes, asks for a snapshot, and applies what came behind it: the Clone pattern. From then on the table follows
  the messages.
* A message that is missing, by the numbers of its family or by the beat, or an agent whose bus was started again, is a
  `Gap`: it is told, a snapshot is taken again, and the table is whole once more.
* The agent waits for nobody. Who reads too slowly gets gaps, not old news.
* One monitor is used from one thread. It needs to be allowed to open the sockets: the agent's user, or the group
  `monitor_group`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import msgpack
import zmq

from serfmp.client.errors import ConnectError, ProtocolError

VERSION: Final = 1
"""Version of the bus that this module understands."""

RECEIVE_HWM: Final = 50_000
"""Messages that wait here for a program that is busy."""

LIMIT_S: Final = 5.0
"""Seconds for a snapshot, and for the first sign of the agent."""

SNAPSHOT_LIMIT: Final = 64 * 1024 * 1024
"""Largest message that is accepted, in bytes."""

BUS_FAMILY: Final = "bus"
MEMBER_TABLE: Final = "member.table"
"""The member table of the agent was replaced: only a snapshot tells what is in it."""


@dataclass(frozen=True, slots=True)
class BusMessage:
    """One message. `number` counts all messages of this run of the bus, `family_number` those of the topic's family.

    `time`: seconds since the epoch. `ltime`: Lamport time of user events and queries, else None.
    """

    topic: str
    number: int
    family_number: int
    node: str
    time: float
    ltime: int | None
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Gap:
    """Messages of a family were missed (`missed`: how many), or, without a family, the bus was started again.

    When it is told, the table holds a new snapshot already.
    """

    family: str
    missed: int


class BusMonitor:
    """See the module. `events` and `snapshot` are ZeroMQ addresses, as `Client.bus()` gives them.

    `topics`: prefixes, by default everything. For gaps to be noticed they should be whole families, such as `member`.

        with Client() as client:
            addresses = client.bus()
        with BusMonitor(*addresses) as monitor:
            for message in monitor:
                print(message.topic, message.body, len(monitor.members))
    """

    def __init__(
        self,
        events: str,
        snapshot: str,
        topics: Sequence[str] = ("",),
        *,
        limit_s: float = LIMIT_S,
        waiting: int = RECEIVE_HWM,
    ) -> None:
        """Subscribe and take the first snapshot; at most `waiting` messages wait here.

        Raises `ConnectError` if the bus does not answer.
        """
        self._limit_s = limit_s
        self._snapshot_address = snapshot
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._pending: deque[BusMessage | Gap] = deque()
        self._epoch = ""
        self._seen: dict[str, int] = {}
        self._families = {topic.partition(".")[0] for topic in topics}
        self.table: dict[str, Any] = {}
        """The last snapshot but for what the properties hold: lifecycle, stats, recent."""
        self.members: dict[str, dict[str, Any]] = {}
        """Members by name; `since`: when the status was first seen, `probe`: the last probe of it."""
        self.handlers: list[dict[str, Any]] = []
        self.processes: list[dict[str, Any]] = []
        self.counters: dict[str, int] = {}
        self.gauges: dict[str, float] = {}
        self.samples: dict[str, dict[str, float]] = {}
        self.gaps = 0
        """How often something was missed."""
        self._socket = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVHWM, waiting)
        self._socket.setsockopt(zmq.MAXMSGSIZE, SNAPSHOT_LIMIT)
        for topic in {*topics, BUS_FAMILY}:
            self._socket.setsockopt(zmq.SUBSCRIBE, topic.encode("utf-8", "surrogateescape"))
        try:
            self._socket.connect(events)
            # The beat is the sign that the subscription has arrived.
            if not self._wait(limit_s):
                raise ConnectError(f"the monitor bus at {events} gave no sign within {limit_s:g} s")
            self._resynchronise()
        except zmq.ZMQError as error:
            self.close()
            raise ConnectError(f"cannot open the monitor bus at {events}: {error.strerror}") from error
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the sockets. May be called again."""
        self._context.destroy(linger=0)

    def __iter__(self) -> Iterator[BusMessage | Gap]:
        """Messages and gaps, for ever."""
        while True:
            item = self.next(None)
            if item is not None:
                yield item

    def next(self, timeout_s: float | None) -> BusMessage | Gap | None:
        """The next message or gap; None if nothing comes within so many seconds (None: wait for ever).

        The table holds what the message says when it is returned.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._pending:
            left = None if until is None else max(0.0, until - time.monotonic())
            if not self._wait(left):
                return None
            self._read()
        return self._pending.popleft()

    @property
    def queues(self) -> dict[str, dict[str, float | None]]:
        """Sizes and bounds of the agent's queues, by name."""
        size, bound = "serfmp.queue.", "serfmp.queue_limit."
        return {
            name.removeprefix(size): {"size": value, "bound": self.gauges.get(bound + name.removeprefix(size))}
            for name, value in self.gauges.items()
            if name.startswith(size)
        }

    # --- inner part ---------------------------------------------------------------------------------------------------

    def _wait(self, seconds: float | None) -> bool:
        return bool(self._socket.poll(None if seconds is None else int(seconds * 1000)))

    def _read(self) -> None:
        """Take one message, if there is one."""
        try:
            parts = self._socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return
        if len(parts) != 3:
            raise ProtocolError(f"a message of the monitor bus has {len(parts)} frames instead of 3")
        header, body = _unpack(parts[1]), _unpack(parts[2])
        topic = parts[0].decode("utf-8", "surrogateescape")
        family = topic.partition(".")[0]
        if header["epoch"] != self._epoch:
            self._gap("", 0)
            return
        if family == BUS_FAMILY:
            self._compare(body["numbers"])
            return
        number = header["family_number"]
        missed = number - self._seen.get(family, 0) - 1
        if missed < 0:
            return  # it stands in the snapshot
        if missed and self._whole(family):
            self._gap(family, missed)
            return
        self._seen[family] = number
        if topic == MEMBER_TABLE:
            self._resynchronise()
        else:
            self._apply(topic, body)
        message = BusMessage(topic, header["number"], number, header["node"], header["time"], header["ltime"], body)
        self._pending.append(message)

    def _whole(self, family: str) -> bool:
        """Whether all of a family is subscribed."""
        return "" in self._families or family in self._families

    def _compare(self, numbers: Mapping[str, int]) -> None:
        for family, number in numbers.items():
            missed = number - self._seen.get(family, 0)
            if missed > 0 and family != BUS_FAMILY and self._whole(family):
                self._gap(family, missed)
                return

    def _gap(self, family: str, missed: int) -> None:
        self.gaps += 1
        self._resynchronise()
        self._pending.append(Gap(family, missed))

    def _resynchronise(self) -> None:
        """Take a snapshot; what came before it and is still on the way is skipped by its number."""
        body = take_snapshot(self._context, self._snapshot_address, self._limit_s)
        self._epoch = body["epoch"]
        self._seen = dict(body["numbers"])
        metrics = body.pop("metrics")
        self.counters, self.gauges, self.samples = metrics["counters"], metrics["gauges"], metrics["samples"]
        self.members = {row["name"]: row for row in body.pop("members")}
        self.handlers, self.processes = body.pop("handlers"), body.pop("processes")
        self.table = body

    def _apply(self, topic: str, body: Mapping[str, Any]) -> None:
        family, _, rest = topic.partition(".")
        match family, rest:
            case "member", "row":
                known = self.members.get(body["name"], {})
                self.members[body["name"]] = {"probe": known.get("probe"), **body}
            case "member", "gone":
                self.members.pop(body["name"], None)
            case "probe", _:
                row = self.members.get(body["node"])
                if row is not None:
                    row["probe"] = dict(body)
            case "handler", "table":
                self.handlers = list(body["handlers"])
            case "process", "table":
                self.processes = list(body["processes"])
            case "metric", "values":
                for name, amount in body["counters"].items():
                    self.counters[name] = self.counters.get(name, 0) + amount
                self.gauges.update(body["gauges"])
                self.samples.update(body["samples"])


def take_snapshot(context: zmq.Context[zmq.Socket[bytes]], address: str, limit_s: float = LIMIT_S) -> dict[str, Any]:
    """One snapshot (docs/monitor-bus.md). Raises `ConnectError` if none comes, `ProtocolError` for another version."""
    with context.socket(zmq.REQ) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, SNAPSHOT_LIMIT)
        socket.connect(address)
        socket.send(b"snapshot")
        if not socket.poll(int(limit_s * 1000)):
            raise ConnectError(f"no snapshot came from {address} within {limit_s:g} s")
        body = _unpack(socket.recv())
    if "error" in body:
        raise ProtocolError(f"the monitor bus refused: {body['error']}")
    return body


def _unpack(data: bytes) -> dict[str, Any]:
    try:
        body = msgpack.unpackb(data, unicode_errors="surrogateescape", strict_map_key=False)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise ProtocolError(f"the monitor bus sent what is no msgpack: {error}") from error
    if not isinstance(body, dict):
        raise ProtocolError("the monitor bus sent something else than a map")
    if "version" in body and body["version"] != VERSION:
        raise ProtocolError(f"the monitor bus speaks version {body['version']}, this client {VERSION}")
    return body
