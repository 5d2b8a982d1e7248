"""`reload` and `config show`: what a running agent runs with, and what a reload makes of it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from serfmp.client import AgentError, Client, ReloadResult
from tests.harness import Agent, Launcher, needs_serf

DEADLINE_S = 30.0


def run(*words: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "serfmp", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout


def shown(agent: Agent) -> dict[str, dict[str, Any]]:
    code, output = run("config", "show", "-format=json", f"-rpc-addr={agent.options.rpc}")
    assert code == 0, output
    found: dict[str, dict[str, Any]] = json.loads(output)
    return found


def write(path: Path, *lines: str) -> None:
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def test_the_running_configuration_has_its_origins_and_follows_reloads_and_tags(
    launch: Launcher, tmp_path: Path
) -> None:
    file = tmp_path / "c.json"
    write(file, '"log_level": "info"', '"tags": {"a": "1"}', '"event_handlers": ["user=true"]', '"workers": 1')
    key = "HvY8ubRZMgafUOWvrOadwOckVa1wN3QWAo46FVKbVN8="
    agent = launch.serfmp("one", extra=[f"-config-file={file}", f"-encrypt={key}"], log_level="")
    rpc = f"-rpc-addr={agent.options.rpc}"
    rows = shown(agent)
    assert rows["log_level"] == {"value": "info", "origin": f"{file}:2"}
    assert rows["tags"] == {"value": {"a": "1"}, "origin": f"{file}:3"}
    assert rows["bind"] == {"value": str(agent.bind), "origin": "flag"}
    assert rows["encrypt_key"] == {"value": "(secret)", "origin": "flag"}
    assert rows["heal_interval"] == {"value": 300.0, "origin": "default"}
    assert run("tags", rpc, "-set=b=2")[0] == 0
    assert shown(agent)["tags"] == {"value": {"a": "1", "b": "2"}, "origin": f"{file}:3, changed at run time"}
    write(file, '"workers": 3', '"log_level": "debug"', '"tags": {"a": "1"}', '"leave_on_terminate": true')
    code, output = run("reload", rpc)
    assert code == 0
    assert output.splitlines() == [
        "Reloaded: handler removed: true",
        "Reloaded: leave_on_terminate: False → True",
        "Reloaded: log_level: INFO → DEBUG",
        "Reloaded: workers: 1 → 3 (needs a restart, not applied)",
    ]
    assert "==> Asked to reload\n" in agent.log()
    rows = shown(agent)
    assert rows["log_level"] == {"value": "debug", "origin": f"{file}:3"}
    assert rows["event_handlers"] == {"value": [], "origin": "default"}
    assert rows["workers"] == {"value": 1, "origin": f"{file}:5"}
    assert rows["tags"]["value"] == {"a": "1", "b": "2"}
    assert run("reload", rpc) == (0, "Reloaded: nothing has changed\n")
    table = run("config", rpc, "show")[1].splitlines()
    assert table[0].split() == ["key", "value", "from"]
    assert any(row.split() == ["heal_interval", "300s", "default"] for row in table)


def test_reloads_that_are_asked_for_at_once_are_carried_out_one_after_another(launch: Launcher, tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    write(file, '"log_level": "info"')
    agent = launch.serfmp("one", extra=[f"-config-file={file}"], log_level="")
    agent.wait_log("Log data will now", DEADLINE_S)
    write(file, '"log_level": "debug"')

    def ask(_number: int) -> ReloadResult:
        with Client(str(agent.options.rpc)) as client:
            return client.reload()

    agent.signal(signal.SIGHUP)
    with ThreadPoolExecutor() as pool:
        # Asked for while the first one is under way, or behind it: both are answered.
        assert [result.ok for result in pool.map(ask, range(2))] == [True, True]
    said = [line for line in agent.log().splitlines() if line.startswith("==> Reload")]
    assert said.count("==> Reloaded: log_level: INFO → DEBUG") == 1
    assert 2 <= said.count("==> Reloading configuration...") <= 3


def test_a_reload_that_fails_tells_why(launch: Launcher, tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    write(file, '"log_level": "info"')
    agent = launch.serfmp("one", extra=[f"-config-file={file}"], log_level="")
    write(file, '"rpc_auth": "x"', '"log_level": "loud"')
    code, output = run("reload", f"-rpc-addr={agent.options.rpc}")
    assert code == 1
    assert output.splitlines() == [
        f"Invalid log level: LOUD. Valid log levels are: [TRACE DEBUG INFO WARN ERR] ({file}:3)",
        "Failed to reload configs",
    ]
    assert shown(agent)["log_level"] == {"value": "info", "origin": f"{file}:2"}


def test_a_reload_by_the_pid_file_finds_the_agent_or_says_that_there_is_none(launch: Launcher, tmp_path: Path) -> None:
    agent = launch.serfmp("one")
    agent.wait_log("Log data will now", DEADLINE_S)
    (file,) = Path(shown(agent)["runtime_dir"]["value"]).glob("*/agent.pid")
    code, output = run("reload", f"-pid-file={file}")
    assert (code, output) == (
        0,
        f"Asked the agent (pid {agent.pid}) to reload; its output tells what has changed\n",
    )
    agent.wait_log("==> Reloaded: nothing has changed", DEADLINE_S)
    left = tmp_path / "agent.pid"
    left.write_text(f"{agent.pid}\n")
    assert run("reload", f"-pid-file={left}") == (1, f"No agent runs that uses {left}\n")
    gone = tmp_path / "gone"
    assert run("reload", f"-pid-file={gone}") == (
        1,
        f"Error reading the pid file: {gone}: no such file or directory\n",
    )


@pytest.mark.interop
@needs_serf
def test_the_real_agent_has_no_such_commands_and_that_is_told(launch: Launcher) -> None:
    agent = launch.serf("one")
    code, output = run("reload", f"-rpc-addr={agent.options.rpc}")
    assert code == 1
    assert output == "Error reloading: Unsupported command; this agent has no such command, send it SIGHUP\n"
    with Client(str(agent.options.rpc)) as client, pytest.raises(AgentError, match="Unsupported command"):
        client.config()


def test_what_is_to_be_shown_must_be_said() -> None:
    for words in ([], ["hide"], ["show", "me"]):
        code, output = run("config", *words)
        assert code == 1
        assert output.startswith("What to do must be given: show.\n\nUsage: serfmp config show [options]")
