"""Metrics as others read them: Prometheus, statsd, statsite; and receivers that are slow, absent or hostile."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import tempfile
import threading
from collections import Counter
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from serfmp.bus.frames import Report
from serfmp.bus.loop import Loop
from serfmp.bus.metrics import VALUES, Metrics
from serfmp.io import prometheus
from serfmp.io.metric_sinks import BUFFER_LIMIT, DATAGRAM, StatsdSink, StatsiteSink, lines
from serfmp.io.metrics_dump import dump
from serfmp.io.metrics_http import CLIENT_LIMIT, HEAD_LIMIT, MetricsServer, Page
from serfmp.io.metrics_store import Interval, MetricsStore
from tests.harness import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEADLINE_S = 20.0
EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples" / "monitoring"


def report(
    counts: dict[str, int] | None = None, samples: dict[str, list[float]] | None = None, **gauges: float
) -> Report:
    metrics = Metrics()
    for name, values in (samples or {}).items():
        for value in values:
            metrics.sample(name, value)
    _, _, plain = metrics.take()
    return Report("x", counts or {}, gauges, plain, [], 0)


def promtool(*words: str, given: str = "") -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool (of the Debian package prometheus) is not on PATH")
    done = subprocess.run(
        [program, *words], input=given, capture_output=True, text=True, cwd=EXAMPLES, timeout=DEADLINE_S, check=False
    )
    # Complaints about the style of Serf's names are no errors.
    assert done.returncode == 0 or not re.search("error|parsing", done.stderr), done.stdout + done.stderr


def full_store() -> MetricsStore:
    store = MetricsStore()
    store.take(
        report(
            {"serf.events": 3, 'serf.events.a "b"\\\n\udcff': 3, "memberlist.udp.sent": 10},
            {"memberlist.probeNode": [0.2, 3, 70000], "serf.msgs.sent": [17], "agent.invoke.echo hi": [12.5]},
        )
    )
    store.take(Report("y", {}, {"serfmp.queue.event": 4, "serfmp.loop.late_ms.rpc": 1.5}, {}, [], 0))
    return store


def test_prometheus_text_has_serfs_names_seconds_labels_and_histograms() -> None:
    text = prometheus.render(full_store())
    found = text.splitlines()
    assert "serf_events_total 3" in found
    assert 'serf_events_by_name_total{event="a \\"b\\"\\\\\\n�"} 3' in found
    assert "memberlist_udp_sent_total 10" in found
    assert "serf_member_failed_total 0" in found, "there before it happens"
    assert 'serfmp_queue_size{queue="event"} 4' in found
    assert 'serfmp_loop_late_ms{process="rpc"} 1.5' in found
    assert 'memberlist_probeNode_seconds_bucket{le="0.00025"} 1' in found
    assert 'memberlist_probeNode_seconds_bucket{le="60"} 2' in found
    assert 'memberlist_probeNode_seconds_bucket{le="+Inf"} 3' in found
    assert "memberlist_probeNode_seconds_count 3" in found
    assert 'agent_invoke_seconds_sum{handler="echo hi"} 0.0125' in found
    assert 'serf_msgs_sent_bucket{le="25"} 1' in found
    assert "# TYPE memberlist_probeNode_seconds histogram" in found
    assert "# HELP serf_events_by_name_total serf.events.EVENT" in found


def test_prometheus_reads_the_text() -> None:
    promtool("check", "metrics", given=prometheus.render(full_store()))


def test_the_alert_rules_of_the_example_are_right() -> None:
    promtool("check", "config", "prometheus.yml")
    promtool("test", "rules", "alerts_test.yml")


def test_dashboard_and_rules_use_names_that_there_are() -> None:
    dashboard = json.loads((EXAMPLES / "dashboard.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked += re.findall(r"expr: (.*)", (EXAMPLES / "alerts.yml").read_text())
    names = set(re.findall(r"\b((?:serf|serfmp|memberlist|agent)_\w+)", " ".join(asked)))
    documented = (EXAMPLES.parent.parent / "docs/metrics.md").read_text()
    for name in names:
        base = re.sub(r"_(total|seconds|bucket)\b", "", re.sub(r"_bucket$", "", name))
        parts = base.replace("_", ".?").replace(".?", "[._`, ]*")
        assert base in documented or re.search(parts, documented) or base.rpartition("_")[2] in documented, name


def test_the_dump_is_serfs() -> None:
    interval = Interval(0.0)
    interval.gauges["g"] = 22
    store = MetricsStore()
    store.take(report({"agent.ipc.command": 2}, {"memberlist.gossip": [1, 2, 3]}))
    [present] = store._intervals
    present.gauges["memberlist.size.local"] = 22
    text = dump([present])
    when = r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \+\d{4} \w+\]"
    updated = r"LastUpdated: \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+ \+\d{4} \w+"
    assert re.fullmatch(
        rf"{when}\[G\] 'serf-agent\.memberlist\.size\.local': 22\.000\n"
        rf"{when}\[C\] 'serf-agent\.agent\.ipc\.command': Count: 1 Sum: 2\.000 {updated}\n"
        rf"{when}\[S\] 'serf-agent\.memberlist\.gossip': "
        rf"Count: 3 Min: 1\.000 Mean: 2\.000 Max: 3\.000 Stddev: 1\.000 Sum: 6\.000 {updated}\n",
        text,
    )


def test_the_lines_for_statsd_are_serfs() -> None:
    told = report({"serf.events.x y": 1}, {"agent.invoke.echo hi: there | cat": [6.692581]}, **{"runtime.a": 22})
    assert list(lines(told, "host", rates=True)) == [
        b"serf-agent.serf.events.x_y:1.000000|c\n",
        b"serf-agent.host.runtime.a:22.000000|g\n",
        b"serf-agent.agent.invoke.echo_hi__there___cat:6.692581|ms\n",
    ]
    many = list(lines(report(None, {"s": [1.0] * (4 * VALUES)}), "h", rates=True))
    assert many == [b"serf-agent.s:1.000000|ms|@0.2500\n"] * VALUES


# --- with a loop ------------------------------------------------------------------------------------------------------


class Turning:
    """A loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.counters: Counter[str] = Counter()
        self._jobs: list[Callable[[], Any]] = []
        self.loop.call_every(0.002, self._work)
        self._thread = threading.Thread(target=self.loop.run, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        jobs, self._jobs = self._jobs, []
        for job in jobs:
            job()

    def do(self, job: Callable[[], Any]) -> Any:
        done = threading.Event()
        results: list[Any] = []

        def run() -> None:
            results.append(job())
            done.set()

        self._jobs = [*self._jobs, run]
        assert done.wait(DEADLINE_S), "the loop is held up"
        return results[0]

    def close(self) -> None:
        self.do(self.loop.stop)
        self._thread.join(DEADLINE_S)


@pytest.fixture
def turning() -> Iterator[Turning]:
    made = Turning()
    yield made
    made.close()


def test_statsd_gets_datagrams_of_whole_lines() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(DEADLINE_S)
        counters: Counter[str] = Counter()
        sink = StatsdSink(server.getsockname(), "h", counters)
        sink.take(report({f"c.{number}": 1 for number in range(100)}))
        got = b""
        while got.count(b"\n") < 100:
            datagram = server.recv(65536)
            assert len(datagram) <= DATAGRAM
            assert datagram.endswith(b"\n")
            got += datagram
        sink._socket.close()
    assert not counters


def test_statsite_that_comes_late_and_goes_gets_whole_lines(turning: Turning) -> None:
    place = socket.socket()
    place.bind(("127.0.0.1", 0))
    address = place.getsockname()
    sink = turning.do(lambda: StatsiteSink(turning.loop, address, "h", turning.counters))
    eventually(lambda: turning.counters["serfmp.statsite.connections_lost"], DEADLINE_S, "nobody listens")
    name = "n" * 1000
    for number in range(2 * BUFFER_LIMIT // len(name)):
        told = report({f"{name}.{number}": 1})
        turning.do(partial(sink.take, told))
    assert turning.counters["serfmp.statsite.lost"] > 0
    assert len(sink._waiting) <= BUFFER_LIMIT
    place.listen(1)
    place.settimeout(DEADLINE_S)
    first, _ = place.accept()
    first.settimeout(DEADLINE_S)
    got = first.recv(100)
    assert got.startswith(b"serf-agent.nnn")
    first.close()  # with unread bytes: it is reset in the middle of a line
    second, _ = place.accept()
    second.settimeout(DEADLINE_S)
    turning.do(lambda: sink.take(report({"last": 1})))
    got = b""
    while not got.endswith(b"serf-agent.last:1.000000|c\n"):
        got += second.recv(65536)
    assert all(line.startswith(b"serf-agent.") for line in got.splitlines())
    second.close()
    place.close()


@pytest.fixture
def server(turning: Turning) -> Iterator[Callable[[bytes], bytes]]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(64)
    pages = {"/metrics": lambda: Page(200, "m 1\n" * 100_000), "/health": lambda: Page(503, "ill\n")}
    turning.do(lambda: MetricsServer(turning.loop, listener, pages, turning.counters))

    def ask(request: bytes) -> bytes:
        with socket.create_connection(listener.getsockname(), DEADLINE_S) as client:
            client.sendall(request)
            return b"".join(iter(lambda: client.recv(65536), b""))

    ask.address = listener.getsockname()  # type: ignore[attr-defined]
    yield ask
    turning.do(lambda: turning.loop.remove(listener))
    listener.close()


def test_pages_are_served_and_everything_else_is_refused(server: Callable[[bytes], bytes]) -> None:
    answer = server(b"GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"m 1\n" * 100_000)
    head = server(b"HEAD /metrics HTTP/1.0\n\n")
    assert head.endswith(b"\r\n\r\n")
    assert b"Content-Length: 400000\r\n" in head
    for request, status in (
        (b"GET /health HTTP/1.1\r\n\r\n", b"503 Service Unavailable"),
        (b"GET /other HTTP/1.1\r\n\r\n", b"404 Not Found"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405 Method Not Allowed"),
        (b"\xff\x00garbage\r\n\r\n", b"400 Bad Request"),
        (b"GET / HTTP/1.1\r\n" + b"x" * HEAD_LIMIT * 2, b"431 Request Header Fields Too Large"),
    ):
        assert server(request).startswith(b"HTTP/1.1 " + status), request[:30]


def test_clients_that_say_nothing_are_bounded_and_do_not_stand_in_the_way(
    server: Callable[[bytes], bytes], turning: Turning
) -> None:
    address = server.address  # type: ignore[attr-defined]
    silent = [socket.create_connection(address, DEADLINE_S) for _ in range(CLIENT_LIMIT + 4)]
    eventually(lambda: turning.counters["serfmp.http.refused"] == 4, DEADLINE_S, "four were refused")
    # One that asks and never reads.
    silent[0].sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
    silent[1].close()
    eventually(
        lambda: server(b"GET /health HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 503"),
        DEADLINE_S,
        "there is room again",
        ignoring=(OSError,),
    )
    for client in silent:
        client.close()


def test_a_unix_socket_that_a_killed_agent_left_is_taken_over_and_one_in_use_is_not() -> None:
    from serfmp.agent.sockets import MetricsSocket
    from serfmp.errors import UserError

    with tempfile.TemporaryDirectory(prefix="s") as name:
        path = Path(name) / "m"
        left = MetricsSocket(f"unix:{path}")
        with pytest.raises(UserError, match="address already in use"):
            MetricsSocket(f"unix:{path}")
        left.socket.close()
        taken = MetricsSocket(f"unix:{path}")
        taken.close()
        assert not path.exists()
