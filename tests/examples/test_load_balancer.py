"""The load balancer example, with real requests through haproxy while servers come, go, die and lie."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import subprocess
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness import Agent, Endpoint, Launcher, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "load-balancer"
DEADLINE_S = 30.0
HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")

pytestmark = pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed (Debian: apt-get install haproxy)")


@contextlib.contextmanager
def web_server(name: str, endpoint: Endpoint) -> Iterator[None]:
    """Answers every request with its name, until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(name)))
            self.end_headers()
            self.wfile.write(name.encode())

        def log_message(self, *_arguments: Any) -> None:
            return

    server = ThreadingHTTPServer((endpoint.host, endpoint.port), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Balancer:
    """The agent with the handler, and haproxy beside it."""

    def __init__(self, launch: Launcher, directory: Path) -> None:
        # Short, for haproxy's unix socket.
        self.directory = directory / "lb"
        options = launch.options("balancer")
        self.front = launch.options("front").bind
        self.environment = {
            "LB_DIRECTORY": str(self.directory),
            "LB_BIND": str(self.front),
            "LB_SERFMP": f"{sys.executable} -m serfmp",
            "SERF_RPC_ADDR": str(options.rpc),
            "PATH": f"/usr/local/bin:/usr/bin:/bin:{Path(str(HAPROXY)).parent}",
        }
        script = f"{sys.executable} {EXAMPLE}/update-haproxy"
        self.agent = launch.serfmp(
            "balancer",
            bind=options.bind,
            rpc=options.rpc,
            handlers=[f"member-join,member-leave,member-failed,member-update={script}"],
            env=self.environment,
        )
        self.statuses: Counter[int] = Counter()

    @property
    def configuration(self) -> str:
        path = self.directory / "haproxy.cfg"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    @property
    def servers(self) -> list[str]:
        """Their names in the configuration."""
        return [line.split()[1] for line in self.configuration.splitlines() if line.startswith("    server ")]

    def ask(self) -> str:
        """One request; who answered."""
        connection = http.client.HTTPConnection(self.front.host, self.front.port, timeout=DEADLINE_S)
        with contextlib.closing(connection):
            connection.request("GET", "/")
            answer = connection.getresponse()
            self.statuses[answer.status] += 1
            return answer.read().decode()

    def until_answered_by(self, *names: str) -> None:
        """Ask until only these answer, and all of them."""
        eventually(lambda: {self.ask() for _ in range(6)} == set(names), DEADLINE_S, f"exactly {names} answer")


@pytest.fixture
def balancer(launch: Launcher, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Balancer]:
    one = Balancer(launch, tmp_path_factory.mktemp("b"))
    eventually(lambda: one.configuration, DEADLINE_S, "the first configuration is there")
    pid_file = one.directory / "haproxy.pid"
    haproxy = subprocess.Popen(
        [str(HAPROXY), "-W", "-f", str(one.directory / "haproxy.cfg"), "-p", str(pid_file)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: pid_file.exists() and pid_file.read_text().strip(), DEADLINE_S, "haproxy runs")
        eventually(lambda: one.ask() is not None, DEADLINE_S, "haproxy answers", ignoring=(OSError,))
        yield one
    finally:
        haproxy.terminate()
        haproxy.wait(DEADLINE_S)


def web(launch: Launcher, name: str, balancer: Balancer, stack: contextlib.ExitStack) -> Agent:
    endpoint = launch.options("web").bind
    stack.enter_context(web_server(name, endpoint))
    # haproxy takes the member's address: agent and server share it.
    bind = Endpoint(endpoint.host, launch.options("agent").bind.port)
    return launch.serfmp(name, bind=bind, tags={"role": "web", "port": str(endpoint.port)}, join=[balancer.agent])


def test_requests_reach_exactly_the_servers_that_are_members(launch: Launcher, balancer: Balancer) -> None:
    assert balancer.ask()  # 503: nobody serves
    with contextlib.ExitStack() as stack:
        first = web(launch, "one", balancer, stack)
        balancer.until_answered_by("one")
        web(launch, "two", balancer, stack)
        balancer.until_answered_by("one", "two")
        dying = web(launch, "three", balancer, stack)
        balancer.until_answered_by("one", "two", "three")
        balancer.statuses.clear()
        first.leave()
        balancer.until_answered_by("two", "three")
        dying.kill()  # its web server lives on: only the cluster knows
        balancer.until_answered_by("two")
        assert set(balancer.statuses) == {200}, "no request failed while servers left and died"


def test_runs_at_the_same_time_and_members_that_lie_leave_a_valid_configuration(
    launch: Launcher, balancer: Balancer
) -> None:
    lies = ("80\n    server evil 127.0.0.9:1", "70000", "²", "")
    with contextlib.ExitStack() as stack:
        web(launch, "good", balancer, stack)
        for number, port in enumerate(lies):
            launch.serfmp(f"lies {number} {{}};", tags={"role": "web", "port": port}, join=[balancer.agent])
        web(launch, "odd name; x", balancer, stack)
        balancer.until_answered_by("good", "odd name; x")
        assert balancer.servers == ["1-good", "2-odd_name__x"]
        (balancer.directory / "haproxy.cfg").write_text("torn by somebody", encoding="utf-8")
        runs = [
            subprocess.Popen(
                [sys.executable, str(EXAMPLE / "update-haproxy")],
                env=balancer.environment,
                cwd=EXAMPLE.parents[1],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            for _ in range(8)
        ]
        told = [run.communicate(timeout=DEADLINE_S)[1].decode() for run in runs]
        assert [run.returncode for run in runs] == [0] * 8, told
        assert all("is left out" in text for text in told)
        balancer.until_answered_by("good", "odd name; x")
        assert balancer.servers == ["1-good", "2-odd_name__x"]


def test_a_configuration_that_haproxy_refuses_changes_nothing(launch: Launcher, balancer: Balancer) -> None:
    before = balancer.configuration
    with contextlib.ExitStack() as stack:
        web(launch, "one", balancer, stack)
        balancer.until_answered_by("one")
        before = balancer.configuration
        run = subprocess.run(
            [sys.executable, str(EXAMPLE / "update-haproxy")],
            env={**balancer.environment, "LB_BIND": "no address"},
            cwd=EXAMPLE.parents[1],
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 1
        assert "haproxy refuses the new configuration" in run.stderr
        assert balancer.configuration == before
        balancer.until_answered_by("one")
