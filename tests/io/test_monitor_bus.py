"""The public monitor bus by itself: numbers, snapshots, and monitors that do not behave."""

from __future__ import annotations

import stat
import tempfile
import threading
from collections import deque
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack
import pytest
import zmq

from serfmp.bus.loop import Loop
from serfmp.client import BusMessage, BusMonitor, Gap
from serfmp.io.monitor_bus import EVENTS_HWM, REQUEST_LIMIT, SUBSCRIPTION_LIMIT, MonitorBus
from serfmp.io.monitor_gate import CONNECTION_LIMIT
from tests.harness import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEADLINE_S = 20.0
MEMBERS = [msgpack.packb({"name": name}) for name in "ab"]
EMPTY: dict[str, Any] = {
    "handlers": [],
    "processes": [],
    "metrics": {"counters": {}, "gauges": {}, "samples": {}},
}


class Stage:
    """A bus in a thread of its own, which carries out what a test hands it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.loop = Loop()
        self.bus = MonitorBus(
            self.loop,
            str(directory),
            "n1",
            lambda: ({"rows": 7, **EMPTY}, [msgpack.packb({"name": "a"}), msgpack.packb({"name": "b"})]),
        )
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets: list[zmq.Socket[bytes]] = []
        self._jobs: deque[Callable[[], None]] = deque()
        self.loop.call_every(0.001, self._work)
        self._thread = threading.Thread(target=self.loop.run, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while self._jobs:
            self._jobs.popleft()()

    def do(self, job: Callable[[], None]) -> None:
        self._jobs.append(job)
        done = threading.Event()
        self._jobs.append(done.set)
        assert done.wait(DEADLINE_S), "the bus is held up"

    def publish(self, *topics: str) -> None:
        def publish() -> None:
            for topic in topics:
                self.bus.publish(topic, {"topic": topic})

        self.do(publish)

    @property
    def addresses(self) -> tuple[str, str]:
        return f"ipc://{self.directory}/events", f"ipc://{self.directory}/snapshot"

    def socket(self, kind: int) -> zmq.Socket[bytes]:
        made = self.context.socket(kind)
        self._sockets.append(made)
        return made

    def subscriber(self, *topics: str, hwm: int = 0) -> zmq.Socket[bytes]:
        """A subscriber whose subscription has arrived."""
        socket = self.socket(zmq.SUB)
        socket.setsockopt(zmq.RCVHWM, hwm)
        # The bus hears of a topic once, whoever subscribes it: the last one is this socket's own.
        mark = f"mark.{len(self._sockets)}"
        for topic in (*topics, mark):
            socket.setsockopt(zmq.SUBSCRIBE, topic.encode())
        socket.connect(self.addresses[0])
        eventually(lambda: self.bus.wanted(mark.encode()), DEADLINE_S, "the subscription has arrived")
        return socket

    def ask(self, request: bytes = b"snapshot", kind: int = zmq.REQ) -> dict[str, Any]:
        with self.context.socket(kind) as socket:
            socket.connect(self.addresses[1])
            socket.send_multipart([request] if kind == zmq.REQ else [b"", request])
            assert socket.poll(int(DEADLINE_S * 1000)), "no answer"
            answer: dict[str, Any] = msgpack.unpackb(socket.recv_multipart()[-1])
            return answer

    def close(self) -> None:
        self.do(self.loop.stop)
        self._thread.join(DEADLINE_S)
        self.bus._context.destroy(linger=0)
        self.context.destroy(linger=0)


@pytest.fixture
def stage() -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="s") as name:
        made = Stage(Path(name))
        yield made
        made.close()


def receive(socket: zmq.Socket[bytes]) -> tuple[str, dict[str, Any], dict[str, Any]]:
    assert socket.poll(int(DEADLINE_S * 1000)), "no message"
    topic, header, body = socket.recv_multipart()
    return topic.decode(), msgpack.unpackb(header), msgpack.unpackb(body)


def test_every_message_has_a_number_and_one_of_its_family(stage: Stage) -> None:
    monitor = stage.subscriber("member.", "user.")
    stage.publish("member.join", "user.deploy", "probe.acked", "member.failed")
    got = [receive(monitor) for _ in range(3)]
    assert [topic for topic, _, _ in got] == ["member.join", "user.deploy", "member.failed"]
    assert [header["family_number"] for _, header, _ in got] == [1, 1, 2]
    first, second, last = (header["number"] for _, header, _ in got)
    assert (second - first, last - first) == (1, 3), "what nobody subscribed is numbered, too"
    assert got[0][1]["epoch"] == stage.bus.epoch
    assert got[0][2] == {"topic": "member.join"}


def test_the_beat_tells_the_last_numbers(stage: Stage) -> None:
    monitor = stage.subscriber("bus.")
    stage.publish("member.join", "member.leave")
    eventually(lambda: receive(monitor)[2]["numbers"].get("member") == 2, DEADLINE_S, "the beat tells them")


def test_a_snapshot_says_which_messages_it_contains(stage: Stage) -> None:
    stage.publish("member.join", "user.deploy")
    for kind in (zmq.REQ, zmq.DEALER):
        body = stage.ask(kind=kind)
        assert (body["version"], body["epoch"], body["node"], body["rows"]) == (1, stage.bus.epoch, "n1", 7)
        assert [row["name"] for row in body["members"]] == ["a", "b"]
        assert body["numbers"]["member"] == body["numbers"]["user"] == 1
        assert body["number"] >= 2
    assert "ask for 'snapshot'" in stage.ask(b"everything")["error"]


def test_monitors_that_do_not_read_lose_messages_and_hold_up_nobody(stage: Stage) -> None:
    stopped = [stage.subscriber("user.", hwm=1) for _ in range(3)]
    asker = stage.socket(zmq.DEALER)
    asker.setsockopt(zmq.RCVHWM, 1)
    asker.connect(stage.addresses[1])
    for _ in range(2000):
        asker.send_multipart([b"", b"snapshot"])
    reader = stage.subscriber("user.")
    count = 4 * EVENTS_HWM
    for start in range(0, count, 512):
        stage.publish(*(f"user.{number}" for number in range(start, start + 512)))
        for number in range(start, start + 512):
            assert receive(reader)[1]["family_number"] == number + 1
    assert stage.ask()["number"] >= count
    for socket in stopped:
        numbers = []
        while socket.poll(200):
            numbers.append(receive(socket)[1]["family_number"])
        stage.publish("user.last")
        numbers.append(receive(socket)[1]["family_number"])
        assert len(numbers) < count
        assert any(after != before + 1 for before, after in pairwise(numbers)), "it sees the gap"


def test_garbage_from_monitors_is_refused(stage: Stage) -> None:
    for address, kind in ((stage.addresses[1], zmq.DEALER), (stage.addresses[0], zmq.XSUB)):
        hostile = stage.socket(kind)
        hostile.connect(address)
        for message in (b"\x01" + b"x" * REQUEST_LIMIT, b"", b"\x00", b"\xff" * 100):
            hostile.send(message)
        hostile.send_multipart([b"a", b"b", b"c", b"d"])
        hostile.close(0)
    assert stage.ask()["node"] == "n1"
    reader = stage.subscriber("user.")
    stage.publish("user.x")
    assert receive(reader)[0] == "user.x"


def test_the_sockets_are_for_user_and_group_only(stage: Stage) -> None:
    for name in ("events", "snapshot"):
        assert stat.S_IMODE((stage.directory / name).stat().st_mode) == 0o660


def test_a_monitor_that_was_too_slow_is_told_and_is_whole_again(stage: Stage) -> None:
    with BusMonitor(*stage.addresses, topics=["user."], waiting=1) as monitor:
        for start in range(0, 4 * EVENTS_HWM, 512):
            stage.publish(*(f"user.{number}" for number in range(start, start + 512)))
        seen: list[BusMessage | Gap | None] = []
        while not seen or not isinstance(seen[-1], Gap):
            seen.append(monitor.next(DEADLINE_S))
            assert seen[-1] is not None
        gap = seen[-1]
        assert gap.family == "user"
        assert gap.missed > 0
        assert monitor.gaps == 1
        eventually(lambda: monitor.next(0.05) is None, DEADLINE_S, "all is read")
        stage.publish("user.last")
        last = monitor.next(DEADLINE_S)
        assert isinstance(last, BusMessage)
        assert (last.topic, last.family_number) == ("user.last", 4 * EVENTS_HWM + 1)


def test_a_flood_of_subscriptions_is_forgotten_with_its_connection(stage: Stage) -> None:
    flood = stage.socket(zmq.SUB)
    flood.setsockopt(zmq.SNDHWM, 0)
    flood.connect(stage.addresses[0])
    for number in range(2 * SUBSCRIPTION_LIMIT):
        flood.setsockopt(zmq.SUBSCRIBE, b"member.%d" % number)
    eventually(lambda: stage.bus.counters["serfmp.monitors.overruns"], DEADLINE_S, "it is noticed")
    flood.close(0)
    eventually(lambda: stage.bus.gates[0].open, DEADLINE_S, "it is open again")
    eventually(lambda: not stage.bus._subscribed, DEADLINE_S, "all is forgotten")
    reader = stage.subscriber("user.")
    stage.publish("user.x")
    assert receive(reader)[0] == "user.x"


def test_a_crowd_of_connections_is_sent_away_and_who_watches_is_back_soon(stage: Stage) -> None:
    watching = stage.subscriber("user.")
    crowd: list[zmq.Socket[bytes]] = []

    def crowded() -> bool:
        crowd.extend(stage.socket(zmq.SUB) for _ in range(40))
        for one in crowd[-40:]:
            one.connect(stage.addresses[0])
        return stage.bus.counters["serfmp.monitors.overruns"] > 0

    try:
        eventually(crowded, DEADLINE_S, "there are too many")
        assert len(crowd) > CONNECTION_LIMIT
        assert stage.ask()["node"] == "n1", "the other socket is not concerned"
    finally:
        for one in crowd:
            one.close(0)
    eventually(lambda: stage.bus.gates[0].open, DEADLINE_S, "it is open again")
    assert stat.S_IMODE((stage.directory / "events").stat().st_mode) == 0o660

    def seen() -> bool:
        stage.publish("user.x")
        return bool(watching.poll(50))

    eventually(seen, DEADLINE_S, "who watched is connected again")
