"""RPC on a unix socket: who may use it, what is replaced and what is not, and what clients are told."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from serfmp.agent.rpc_socket import RpcSocket
from serfmp.client import Client, ConnectError
from serfmp.errors import UserError
from tests.harness import Agent, Launcher, eventually

ROOT: Final = Path(__file__).parents[2]


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory whose sockets have short paths."""
    with tempfile.TemporaryDirectory(prefix="s") as name:
        yield Path(name)


def members(address: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "serfmp", "members", f"-rpc-addr={address}"],
        capture_output=True,
        check=False,
        cwd=ROOT,
        text=True,
        timeout=60,
    )
    return done.stdout


def on_unix(launch: Launcher, path: Path) -> Agent:
    agent = launch.serfmp("a", wait=False, extra=[f"-rpc-addr=unix://{path}"])
    agent.wait_log("Log data will now stream", 60)
    return agent


def test_an_agent_is_commanded_through_a_socket_of_its_user_and_group(launch: Launcher, short: Path) -> None:
    path = short / "rpc.sock"
    address = f"unix://{path}"
    agent = on_unix(launch, path)
    assert f"RPC addr: '{address}'" in agent.log()
    mode = path.stat().st_mode
    assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o660)
    assert members(address) == f"a  {agent.bind}  alive\n"
    with Client(address) as client:
        stream = client.stream("user")
        client.event("deploy", b"x", coalesce=False)
        assert stream.next_event(20) is not None
    agent.wait_log(f"Accepted client: unix pid={os.getpid()} uid={os.geteuid()} gid={os.getegid()}", 10)
    # What a killed agent leaves behind is replaced by the next one; one that ends in order takes it along.
    agent.kill()
    assert path.exists()
    assert members(address).endswith(f"dial unix {path}: connect: connection refused\n")
    again = on_unix(launch, path)
    assert members(address) == f"a  {again.bind}  alive\n"
    again.signal(signal.SIGINT)
    assert again.wait_exit(60) == 0
    assert not path.exists()
    assert members(address).endswith(f"dial unix {path}: connect: no such file or directory\n")


def test_a_killed_rpc_process_loses_no_client_of_the_socket(launch: Launcher, short: Path) -> None:
    path = short / "rpc.sock"
    agent = on_unix(launch, path)
    (rpc,) = agent.pids_by_role()["rpc"]
    os.kill(rpc, signal.SIGKILL)
    eventually(lambda: agent.pids_by_role().get("rpc", (rpc,)) != (rpc,), 60, "another rpc process")
    assert members(f"unix://{path}") == f"a  {agent.bind}  alive\n"


def test_a_living_socket_and_a_file_are_left_alone(short: Path) -> None:
    path = short / "s"
    first = RpcSocket(f"unix://{path}")
    with pytest.raises(UserError, match=r"listen unix .*: bind: address already in use; another agent listens there"):
        RpcSocket(f"unix://{path}")
    # Its successor has taken the path: that is not removed.
    path.unlink()
    second = RpcSocket(f"unix://{path}")
    first.close()
    assert path.exists()
    second.close()
    assert not path.exists()
    path.write_text("precious")
    with pytest.raises(UserError, match="address already in use"):
        RpcSocket(f"unix://{path}")
    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("unix://relative", "written unix:///path"),
        ("unix:/only/one", "written unix:///path"),
        ("unix:///" + "x" * 120, "longer than 107 bytes"),
        ("unix:///no/such/directory/s", "no such file or directory"),
    ],
)
def test_bad_paths_are_refused_with_a_reason(address: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        RpcSocket(address)


def test_clients_are_told_what_is_wrong_with_an_address() -> None:
    with pytest.raises(ConnectError, match="written unix:///path"):
        Client("unix://x")
    with pytest.raises(ConnectError, match=r"dial unix /x{120}: connect: AF_UNIX path too long"):
        Client("unix:///" + "x" * 120)


def test_a_socket_that_nobody_takes_from_counts_as_living(short: Path) -> None:
    path = short / "s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as full:
        full.bind(str(path))
        full.listen(0)
        waiting = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(3)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(str(path))
        with pytest.raises(UserError, match="another agent listens there"):
            RpcSocket(f"unix://{path}")
        for client in waiting:
            client.close()


@pytest.mark.parametrize(
    ("address", "auth", "warned"),
    [("0.0.0.0:0", "", True), ("0.0.0.0:0", "x", False), ("127.0.0.1:0", "", False), ("localhost:0", "", False)],
)
def test_rpc_beyond_loopback_without_a_token_is_warned_of(
    tmp_path: Path, address: str, auth: str, warned: bool
) -> None:
    file = tmp_path / "a.json"
    file.write_text(f'{{"rpc_auth": "{auth}", "rpc_addr": "{address}"}}')
    done = subprocess.run(
        [sys.executable, "-m", "serfmp", "agent", "-check", "-node=a", f"-config-file={file}"],
        capture_output=True,
        check=True,
        cwd=ROOT,
        text=True,
        timeout=60,
    )
    assert ("whoever reaches it commands this agent" in done.stdout) is warned
