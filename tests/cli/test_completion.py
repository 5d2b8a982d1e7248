"""Shell completion: the scripts are good shell, and bash completes with its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from serfmp.cli.completion import bash, fish, zsh
from serfmp.cli.main import COMMANDS, main
from tests.harness import Launcher

ROOT: Final = Path(__file__).parents[2]
SHELLS: Final = {"bash": bash, "zsh": zsh, "fish": fish}


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_printed_and_its_shell_can_read_it(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert script == SHELLS[shell]() + "\n"
    assert all(name in script for name in COMMANDS)
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run([shell, "-n"], input=script, capture_output=True, check=False, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


def test_no_shell_or_an_unknown_one_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion"]) == 1
    assert main(["completion", "csh"]) == 1
    assert capsys.readouterr().out.startswith("The shell must be given: bash, zsh or fish.\n")


def complete(line: list[str], env: dict[str, str] | None = None) -> list[str]:
    """What bash offers for the last of these words."""
    words = " ".join(f"'{word}'" for word in line)
    program = f"""
compopt() {{ :; }}
serfmp() {{ '{sys.executable}' -m serfmp "$@"; }}
{bash()}
COMP_WORDS=({words})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_serfmp
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(
        ["bash", "--norc", "-c", program],
        capture_output=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        text=True,
        timeout=30,
    )
    assert done.stderr == ""
    return sorted(done.stdout.split())


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_commands_flags_values_and_members(launch: Launcher) -> None:
    assert complete(["serfmp", "re"]) == ["reachability", "reload"]
    assert complete(["serfmp", "members", "-rpc-a"]) == ["-rpc-addr=", "-rpc-auth="]
    assert complete(["serfmp", "members", "-format=j"]) == ["json", "jsonl"]
    assert complete(["serfmp", "members", "-format", "=", "c"]) == ["csv"]
    assert complete(["serfmp", "agent", "-profile", "="]) == ["lan", "local", "wan"]
    assert complete(["serfmp", "completion", ""]) == ["bash", "fish", "zsh"]
    assert complete(["serfmp", "agent", "-config-file", "=", "pyproj"]) == ["pyproject.toml"]
    agent = launch.serfmp("alpha")
    env = {"SERF_RPC_ADDR": str(agent.options.rpc)}
    assert complete(["serfmp", "why", "al"], env) == ["alpha"]
    assert complete(["serfmp", "query", "-node", "=", ""], env) == ["alpha"]
