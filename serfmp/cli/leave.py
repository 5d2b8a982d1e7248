"""`serfmp leave`: makes the agent leave the cluster and end."""

from __future__ import annotations

from typing import Any, Final

from serfmp.cli.connection import connected, explained, limit_of, rpc_flags
from serfmp.cli.flags import GoCommand
from serfmp.cli.output import say

COMMAND: Final = GoCommand(
    "leave",
    "leave [options]",
    "Makes the running agent tell the cluster that it leaves, and then end.",
    rpc_flags(),
)


def run(values: dict[str, Any], _words: list[str]) -> int:
    """Leave. Returns the exit code."""
    with connected(values) as client, explained("Error leaving"):
        client.leave(limit_s=limit_of(values))
    say("Graceful leave complete")
    return 0
