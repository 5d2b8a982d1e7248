"""A monitor beside real agents: a table that is always whole, the clients of the documentation, and who may watch."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from serfmp.client import BusMessage, BusMonitor, Client, ConnectError, Gap
from tests.harness import Agent, Launcher, eventually

if TYPE_CHECKING:
    from collections.abc import Callable

DEADLINE_S = 30.0
ROOT = Path(__file__).resolve().parent.parent.parent
CLIENTS = dict(
    re.findall(r"<!-- client: (\w+) -->\n```\w+\n(.*?)```", (ROOT / "docs/monitor-bus.md").read_text(), re.DOTALL)
)
"""The clients that the documentation shows, by language."""

NODE_MODULES = os.environ.get("SERFMP_NODE_MODULES", "")
"""Where the npm packages `zeromq` and `@msgpack/msgpack` are."""


def addresses(agent: Agent) -> tuple[str, str]:
    with Client(str(agent.options.rpc)) as client:
        return client.bus()


def until(monitor: BusMonitor, condition: Callable[[BusMessage | Gap], object], what: str) -> list[BusMessage | Gap]:
    """All messages up to the one that the condition holds for."""
    seen: list[BusMessage | Gap] = []

    def look() -> bool:
        item = monitor.next(1.0)
        if item is not None:
            seen.append(item)
        return item is not None and bool(condition(item))

    eventually(look, DEADLINE_S, what)
    return seen


def topics(items: list[BusMessage | Gap]) -> list[str]:
    return [item.topic for item in items if isinstance(item, BusMessage)]


def test_who_watches_gets_the_figures_of_all_processes_often_though_nobody_watched_before(launch: Launcher) -> None:
    one = launch.serfmp("one")
    with BusMonitor(*addresses(one)) as monitor:
        assert {row["name"] for row in monitor.processes} >= {"agent", "gossip", "detector", "rpc", "dispatcher"}
        assert all(row["pss"] for row in monitor.processes)
        names = {f"serfmp.loop.late_ms.{row['name']}" for row in monitor.processes}
        told: list[set[str]] = []

        def enough(item: BusMessage | Gap) -> bool:
            if isinstance(item, BusMessage) and item.topic == "metric.values":
                told.append(set(item.body["gauges"]))
            return len(told) == 10

        until(monitor, enough, "ten messages of figures")
    # Each once a second; of a process that nobody watches, one message of five would have some.
    assert [name for name in sorted(names) if sum(name in gauges for gauges in told) < 5] == []


def test_a_table_follows_members_events_probes_handlers_and_restarts(launch: Launcher) -> None:
    one = launch.serfmp("one", handlers=["user:deploy=exit 3"], extra=["-disable-coalescing"])
    with BusMonitor(*addresses(one)) as monitor:
        assert list(monitor.members) == ["one"]
        two = launch.serfmp("two", join=[one], tags={"role": "web"})
        seen = until(monitor, lambda item: getattr(item, "topic", "") == "probe.acked", "two was probed")
        assert {"member.row", "member.join"} <= set(topics(seen))
        row = monitor.members["two"]
        assert (row["status"], row["tags"], row["address"]) == ("alive", {"role": "web"}, two.bind.host)
        assert row["probe"]["timed"]

        with Client(str(one.options.rpc)) as client:
            client.event("deploy", b"v1")
        seen = until(monitor, lambda item: getattr(item, "topic", "") == "handler.ended", "the handler ended")
        event = next(item for item in seen if isinstance(item, BusMessage) and item.topic == "user.deploy")
        assert "log.info" in topics(seen)
        assert (event.ltime, event.body["payload"], event.node) == (1, b"v1", "one")
        ended = seen[-1]
        assert isinstance(ended, BusMessage)
        assert (ended.body["code"], ended.body["error"]) == (3, "exit status 3")
        until(monitor, lambda _: monitor.handlers and monitor.handlers[0]["failed"] == 1, "the table tells it")
        until(monitor, lambda _: monitor.counters.get("serf.events.deploy") == 1, "it was counted")

        processes = {row["name"]: row for row in monitor.processes}
        assert {"agent", "gossip", "detector", "rpc", "dispatcher", "worker-0"} <= set(processes)
        os.kill(processes["dispatcher"]["pid"], signal.SIGKILL)
        seen = until(monitor, lambda item: getattr(item, "topic", "") == "process.started", "it is started again")
        assert "process.ended" in topics(seen)
        # Its own end is a gap, behind which everything is whole again.
        os.kill(processes["rpc"]["pid"], signal.SIGKILL)
        seen = until(monitor, lambda item: isinstance(item, Gap), "the gap is told")
        assert seen[-1] == Gap("", 0)
        assert set(monitor.members) == {"one", "two"}

        two.kill()
        seen = until(monitor, lambda item: getattr(item, "topic", "") == "suspicion.dead", "two has failed")
        told = topics(seen)
        assert {"suspicion.suspected", "probe.failed", "member.failed"} <= set(told)
        until(monitor, lambda _: monitor.members["two"]["status"] == "failed", "the table says so")
        assert "invocations" in monitor.queues


def run(command: list[str], agent: Agent) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "EVENTS": addresses(agent)[0],
        "SERF_RPC_ADDR": str(agent.options.rpc),
        "NODE_PATH": NODE_MODULES,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)


def test_the_clients_of_the_documentation_see_an_event(launch: Launcher, tmp_path: Path) -> None:
    one = launch.serfmp("one")
    commands = {"bus": [sys.executable, "-m", "serfmp", "bus", "-follow", "user.", "metric."]}
    programs = {"shell": ["/bin/sh"], "python": [sys.executable], "node": ["node"]}
    for language, code in CLIENTS.items():
        program = tmp_path / language
        program.write_text(code.replace("Client()", f"Client('{one.options.rpc}')"))
        commands[language] = [*programs[language], str(program), *(addresses(one) if language == "node" else ())]
    if not NODE_MODULES:
        del commands["node"]
    lines: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        clients = {language: stack.enter_context(run(command, one)) for language, command in commands.items()}
        for client in clients.values():
            stack.callback(client.kill)
        for client in clients.values():
            read(client)
        with Client(str(one.options.rpc)) as rpc:
            rpc.event("deploy", b"v1")
        for language, client in clients.items():
            while "user.deploy" not in lines.get(language, ""):
                lines[language] = read(client)
    assert json.loads(lines["bus"])["body"]["payload"] == "v1"
    if not NODE_MODULES:
        pytest.skip("all but node: set SERFMP_NODE_MODULES to where the npm packages zeromq and @msgpack/msgpack are")


def read(client: subprocess.Popen[str]) -> str:
    assert client.stdout is not None
    line = client.stdout.readline()
    assert line, "it has ended"
    return line


def test_every_client_of_the_documentation_is_tested() -> None:
    assert set(CLIENTS) == {"shell", "python", "node"}


def test_a_bus_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ConnectError, match=f"the monitor bus at ipc://{tmp_path}/e gave no sign within 0.1 s"):
        BusMonitor(f"ipc://{tmp_path}/e", f"ipc://{tmp_path}/s", limit_s=0.1)


@pytest.mark.root
def test_only_the_group_may_watch(launch: Launcher, tmp_path: Path) -> None:
    config = tmp_path / "agent.json"
    config.write_text('{"monitor_group": "nogroup"}')
    one = launch.serfmp("one", extra=[f"-config-file={config}"])
    events, snapshot = (address.removeprefix("ipc://") for address in addresses(one))
    Path(events).parents[2].chmod(0o711)  # the test's own place, which only root may enter
    code = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"

    def connect(path: str, group: int) -> int:
        done = subprocess.run(
            ["/usr/bin/python3", "-c", code, path],
            check=False,
            stderr=subprocess.DEVNULL,
            extra_groups=[],
            user=65534,
            group=group,
            cwd="/",
        )
        return done.returncode

    member = 65534
    assert [connect(path, member) for path in (events, snapshot)] == [0, 0]
    assert connect(events, 65533)
    private = str(Path(events).parents[1] / "bus" / "workers")
    assert connect(private, member)


@pytest.mark.parametrize(("group", "text"), [("no-such-group", "there is no group 'no-such-group' on this host")])
def test_a_group_that_is_not_there_is_refused(launch: Launcher, tmp_path: Path, group: str, text: str) -> None:
    config = tmp_path / "agent.json"
    config.write_text(json.dumps({"monitor_group": group}))
    one = launch.serfmp("one", extra=[f"-config-file={config}"], wait=False)
    assert one.wait_exit(DEADLINE_S) == 1
    assert text in one.log()
    assert not psutil.pid_exists(one.pid)
