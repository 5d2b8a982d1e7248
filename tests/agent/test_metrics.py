"""Metrics of a running agent: served, sent, dumped, and beside those of the real agent."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import tempfile
from pathlib import Path

import pytest

from tests.harness import Launcher, eventually, needs_serf

DEADLINE_S = 30.0


def ask(path: Path, page: str) -> tuple[int, str]:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(DEADLINE_S)
        client.connect(str(path))
        client.sendall(f"GET {page} HTTP/1.1\r\nHost: agent\r\n\r\n".encode())
        head, _, body = b"".join(iter(lambda: client.recv(65536), b"")).partition(b"\r\n\r\n")
        return int(head.split()[1]), body.decode()


def test_an_agent_serves_its_metrics_and_dumps_them_on_a_signal(launch: Launcher) -> None:
    with tempfile.TemporaryDirectory(prefix="s") as name:
        path = Path(name) / "metrics"
        two = launch.serfmp("two")
        one = launch.serfmp("one", join=[two], handlers=["user=true"], extra=[f"-metrics-addr=unix:{path}"])
        one.event("deploy")
        wanted = (
            'serfmp_members{status="alive"} 2',
            "serf_member_join_total 2",
            'agent_invoke_seconds_count{handler="true"} 1',
            'serf_events_by_name_total{event="deploy"} 1',
            'serfmp_process_up{process="detector"} 1',
            "memberlist_pushPullNode_seconds_count",
            "memberlist_probeNode_seconds_count",
            'memberlist_node_instances{state="alive"} ',
        )
        text = ""

        def told() -> bool:
            nonlocal text
            status, text = ask(path, "/metrics")
            return status == 200 and all(line in text for line in wanted[:5])

        eventually(told, DEADLINE_S, "all is told")
        eventually(lambda: all(line in ask(path, "/metrics")[1] for line in wanted[5:]), DEADLINE_S, "probes, too")
        assert ask(path, "/health") == (200, "ok\n")
        eventually(lambda: ask(path, "/ready") == (200, "ok\n"), DEADLINE_S, "it is ready")
        os.kill(two.pid, signal.SIGUSR1)
        os.kill(one.pid, signal.SIGUSR1)
        first = r"\[20\d\d-\d\d-\d\d \d\d:\d\d:\d0 [+-]\d{4} \w+\]\[[GCS]\] 'serf-agent\."

        def dumped() -> bool:
            os.kill(one.pid, signal.SIGUSR1)
            return "serf-agent.serf.events.deploy': Count: 1 Sum: 1.000 LastUpdated: " in one.errors()

        eventually(dumped, DEADLINE_S, "the interval is over and dumped", interval_s=0.5)
        assert all(re.match(first, line) for line in one.errors().splitlines())
        os.kill(one.pid, signal.SIGTERM)
        one.wait_exit(DEADLINE_S)
        assert not path.exists()


def names(server: socket.socket) -> set[tuple[str, str]]:
    """Names and kinds that an agent has sent."""
    host = socket.gethostname()
    found: set[tuple[str, str]] = set()
    while True:
        try:
            data = server.recv(65536).decode()
        except BlockingIOError:
            return found
        for line in data.splitlines():
            name, rest = line.split(":")
            found.add((name.replace(f".{host}.", ".HOST."), rest.split("|")[1]))


@pytest.mark.interop
@needs_serf
def test_statsd_gets_what_the_real_agent_sends(launch: Launcher, tmp_path: Path) -> None:
    seen: dict[str, set[tuple[str, str]]] = {}
    for kind in ("serf", "serfmp"):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind(("127.0.0.1", 0))
            server.setblocking(False)
            config = tmp_path / f"{kind}.json"
            config.write_text(json.dumps({"statsd_addr": f"127.0.0.1:{server.getsockname()[1]}"}))
            start = launch.serf if kind == "serf" else launch.serfmp
            agent = start(f"{kind}1", handlers=["user=true"], extra=[f"-config-file={config}"])
            start(f"{kind}2", join=[agent])
            agent.event("deploy")
            found = seen.setdefault(kind, set())

            def all_there(found: set[tuple[str, str]] = found, server: socket.socket = server) -> bool:
                found |= names(server)
                # Go's run time has no counterpart.
                theirs = {(name, unit) for name, unit in seen["serf"] if ".runtime." not in name}
                wanted = {"agent.invoke.true", "memberlist.probeNode", "serf.events.deploy", "agent.ipc.command"}
                return theirs <= found and {f"serf-agent.{name}" for name in wanted} <= {name for name, _ in found}

            eventually(all_there, DEADLINE_S, f"{kind} has sent them")


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("metrics_addr", "192.0.2.1:9464", "Invalid metrics address: 192.0.2.1:9464 is no loopback address"),
        ("metrics_addr", "127.0.0.1", "Invalid metrics address: address 127.0.0.1: missing port in address"),
        ("statsd_addr", "127.0.0.1", "Failed to start statsd sink. Got: address 127.0.0.1: missing port in address"),
        ("statsite_addr", "1:2:3", "Failed to start statsite sink. Got: address 1:2:3: too many colons in address"),
    ],
)
def test_wrong_addresses_are_refused(launch: Launcher, tmp_path: Path, key: str, value: str, text: str) -> None:
    config = tmp_path / "agent.json"
    config.write_text(json.dumps({key: value}))
    agent = launch.serfmp("one", extra=[f"-config-file={config}"], wait=False)
    assert agent.wait_exit(DEADLINE_S) == 1
    assert text in agent.log()
