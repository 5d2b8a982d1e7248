"""Under a service manager, and as the first process of a container."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serfmp.agent.sd_notify import ServiceManager
from serfmp.bus.loop import Loop
from tests.harness import Launcher, LoopbackAllocator, eventually

DEADLINE_S = 20.0
ROOT = Path(__file__).parent.parent.parent


class Manager:
    """The socket of a service manager, and what came on it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)
        self.messages: list[str] = []

    def look(self) -> list[str]:
        while True:
            try:
                self.messages.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return self.messages

    def wait(self, start: str, count: int = 1) -> str:
        def there() -> list[str]:
            return [message for message in self.look() if message.startswith(start)][count - 1 : count]

        return eventually(there, DEADLINE_S, f"{count} times {start!r}")[0]


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory with a short name: socket paths have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="s") as name:
        yield Path(name)


@pytest.fixture
def manager(short: Path) -> Iterator[Manager]:
    made = Manager(f"{short}/notify")
    yield made
    made.socket.close()


def test_the_service_manager_hears_of_start_reload_life_and_end(launch: Launcher, manager: Manager) -> None:
    env = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "1000000"}
    agent = launch.serfmp("one", env=env, handlers=["user=env > env"], wait=False)
    ready = manager.wait("READY=1")
    assert ready == f"READY=1\nSTATUS=Node one, gossip on {agent.bind}, RPC on {agent.options.rpc}"
    manager.wait("WATCHDOG=1", 2)
    agent.signal(signal.SIGHUP)
    assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", manager.wait("RELOADING=1"))
    manager.wait("READY=1", 2)
    agent.event("look")
    environment = agent.options.directory / "env"
    eventually(lambda: environment.exists() and environment.read_text(), DEADLINE_S, "the handler has run")
    assert not re.search("NOTIFY_SOCKET|WATCHDOG", environment.read_text())
    agent.signal(signal.SIGINT)
    manager.wait("STOPPING=1\nSTATUS=Leaving the cluster")
    assert agent.wait_exit(DEADLINE_S) == 0
    order = [message.partition("=")[0] for message in manager.look() if not message.startswith("WATCHDOG")]
    assert order == ["READY", "RELOADING", "READY", "STOPPING", "STOPPING"]


def test_a_reload_that_fails_ends_for_the_service_manager_too(
    launch: Launcher, manager: Manager, tmp_path: Path
) -> None:
    file = tmp_path / "c.json"
    file.write_text("{}")
    agent = launch.serfmp("one", env={"NOTIFY_SOCKET": manager.address}, extra=[f"-config-file={file}"])
    manager.wait("READY=1")
    file.write_text("{")
    agent.signal(signal.SIGHUP)
    manager.wait("RELOADING=1")
    manager.wait("READY=1", 2)
    agent.wait_log("Failed to reload configs", DEADLINE_S)


def test_a_full_or_missing_socket_never_blocks_and_loses_nothing_that_fits(manager: Manager) -> None:
    told: list[str] = []
    loop = Loop()
    environment = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "5000000", "WATCHDOG_PID": str(os.getpid())}
    service = ServiceManager(loop, environment, lambda _level, text: told.append(text))
    assert environment == {}
    assert service.watchdog_period == 5.0
    for number in range(2000):
        service.ready(str(number))
    manager.look()

    def last() -> bool:
        loop.call_soon(lambda: None)
        loop.turn()
        return manager.look()[-1].endswith("STATUS=1999")

    eventually(last, DEADLINE_S, "the last message comes")
    assert told == []
    Path(manager.address).unlink()
    for _ in range(10):
        service.stopping("x")
    assert told == ["The service manager cannot be told: no such file or directory"]
    service.close()


def test_the_watchdog_is_silent_while_a_loop_is_stuck_beyond_mending(manager: Manager) -> None:
    loop = Loop()
    environment = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "20000"}
    service = ServiceManager(loop, environment, lambda _level, _text: None)
    alive = [True]
    service.watch(lambda: alive[0])

    def beats() -> int:
        before = len(manager.look())
        until = time.monotonic() + 0.2
        while time.monotonic() < until:
            loop.turn()
            manager.look()
        return len(manager.look()) - before

    assert beats() >= 3
    alive[0] = False
    assert beats() == 0
    alive[0] = True
    assert beats() >= 3
    service.close()


def test_another_process_s_watchdog_is_not_ours() -> None:
    environment = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}
    service = ServiceManager(Loop(), environment, lambda _level, _text: None)
    assert service.watchdog_period == 0.0
    service.close()


def can_unshare() -> bool:
    program = shutil.which("unshare")
    return program is not None and subprocess.run([program, "--pid", "--fork", "true"], check=False).returncode == 0


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0 or not can_unshare(), reason="needs root and process namespaces")
def test_as_the_first_process_it_collects_orphans_and_ends_when_told(loopback: LoopbackAllocator, short: Path) -> None:
    """The first process of a container gets every orphan, and no signal that it has no handler for."""
    bind, rpc = loopback.endpoint(), loopback.endpoint()
    orphans = "for i in 1 2 3 4 5; do (setsid sh -c 'sleep 0.1' >/dev/null 2>&1 &); done"
    command = [
        *("unshare", "--pid", "--fork", "--mount-proc", "--kill-child"),
        *(sys.executable, "-m", "serfmp", "agent", "-node=one", f"-bind={bind}", f"-rpc-addr={rpc}"),
        *(f"-event-handler=user={orphans}", f"-runtime-dir={short}"),
    ]
    log = short / "log"
    with log.open("wb") as out, subprocess.Popen(command, cwd=ROOT, stdout=out) as outer:
        try:
            eventually(lambda: "Log data will now" in log.read_text(), DEADLINE_S, "it serves")
            children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
            (first,) = map(int, children.read_text().split())
            assert "NSpid:\t" in Path(f"/proc/{first}/status").read_text()
            assert Path(f"/proc/{first}/status").read_text().split("NSpid:")[1].split()[1] == "1"
            send = [sys.executable, "-m", "serfmp", "event", f"-rpc-addr={rpc}", "-coalesce=false", "go"]
            subprocess.run(send, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, timeout=DEADLINE_S)
            eventually(lambda: "Received event: user-event: go" in log.read_text(), DEADLINE_S, "the handler runs")

            def states() -> set[str]:
                own = Path(f"/proc/{first}/task/{first}/children").read_text().split()
                found = set()
                for pid in own:
                    status = Path(f"/proc/{pid}/status")
                    found.add(status.read_text().split("State:\t")[1][0] if status.exists() else "")
                return found | {str(len(own))}

            eventually(lambda: states() & {"7", "6"} and "Z" not in states(), DEADLINE_S, "all orphans are collected")
            os.kill(first, signal.SIGTERM)
            eventually(lambda: "shutdown complete" in log.read_text(), DEADLINE_S, "it ends")
            outer.wait(DEADLINE_S)
        finally:
            outer.kill()
