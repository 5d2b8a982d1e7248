"""Commands of either program, run to their ends against an agent."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.harness.agents import Agent

SERFMP: Final = (sys.executable, "-m", "serfmp")
SERF: Final = ("serf",)

LIMIT_S: Final = 60.0
"""For a command to end."""

ROOT: Final = Path(__file__).parents[2]


def run_command(agent: Agent, *words: str, program: Sequence[str] = ()) -> "subprocess.CompletedProcess[str]":
    """Ask an agent by the command line of its own kind, or by this one."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SERF_")}
    return subprocess.run(
        [*(program or (SERFMP if agent.kind == "serfmp" else SERF)), *words],
        capture_output=True,
        check=False,
        cwd=ROOT,
        env={**inherited, "SERF_RPC_ADDR": str(agent.options.rpc)},
        text=True,
        timeout=LIMIT_S,
    )
