"""The runtime directory is private, unique, short, and explains what is wrong."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from serfmp.agent.config import AgentConfig
from serfmp.agent.runtime import RuntimeDirectory
from serfmp.bus.endpoints import PATH_LIMIT, Endpoints
from serfmp.digest import short_name
from serfmp.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory with a short name: socket paths have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="s") as name:
        yield Path(name)


def config(tmp_path: Path, node: str = "n1", port: int = 7946) -> AgentConfig:
    return AgentConfig(node=node, bind_port=port, runtime_directory=str(tmp_path))


def test_it_is_private_and_released(short: Path) -> None:
    runtime = RuntimeDirectory(config(short))
    assert stat.S_IMODE(runtime.path.stat().st_mode) == 0o711, "others pass through, and see nothing"
    assert stat.S_IMODE(runtime.bus.stat().st_mode) == 0o700
    assert stat.S_IMODE(runtime.public.stat().st_mode) == 0o750
    (runtime.bus / "old").touch()
    (runtime.public / "old").touch()
    runtime.release()
    again = RuntimeDirectory(config(short))
    assert list(again.bus.iterdir()) == list(again.public.iterdir()) == []
    again.release()


def test_a_second_agent_of_the_same_name_and_address_is_refused_with_the_pid_of_the_first(short: Path) -> None:
    program = (
        "import sys; from serfmp.agent.config import AgentConfig; from serfmp.agent.runtime import RuntimeDirectory\n"
        "r = RuntimeDirectory(AgentConfig(node='n1', runtime_directory=sys.argv[1])); print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(short)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"pid {holder.pid}"):
            RuntimeDirectory(config(short))
        other = RuntimeDirectory(config(short, port=7947))
        other.release()
        holder.kill()
        holder.wait()
        RuntimeDirectory(config(short)).release()


def test_odd_names_give_short_paths(short: Path) -> None:
    base = short / ("d" * max(1, 50 - len(str(short))))
    runtime = RuntimeDirectory(config(base, node="../../x\udcff" * 40))
    assert runtime.path.parent == base
    assert len(os.fsencode(runtime.bus)) < PATH_LIMIT
    Endpoints(str(runtime.bus))
    runtime.release()


def test_a_directory_that_is_too_deep_is_refused_with_advice(short: Path) -> None:
    with pytest.raises(UserError, match="-runtime-dir"):
        Endpoints(str(short / ("d" * 100)))


def test_an_unusable_place_is_refused_with_advice(short: Path) -> None:
    (short / "file").touch()
    with pytest.raises(UserError, match="choose another with -runtime-dir"):
        RuntimeDirectory(config(short / "file"))


def test_short_names_differ_and_stay_the_same() -> None:
    names = {short_name(f"n{number}\n127.0.0.1\n{port}".encode()) for number in range(100) for port in range(100)}
    assert len(names) == 10_000
    assert all(len(name) == 12 for name in names)
    assert short_name(b"alpha") == short_name(b"alpha")
    assert short_name(b"alpha") != short_name(b"ahpla")


def test_an_agent_without_keys_and_token_does_not_load_openssl() -> None:
    program = (
        "import importlib, sys, serfmp.cli.agent, serfmp.agent.supervisor\n"
        "from serfmp.agent.child import ROLES\n"
        "for module in ROLES.values(): importlib.import_module(module)\n"
        "print(sorted({'_hashlib', 'ssl', 'cryptography'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
