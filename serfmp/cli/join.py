"""`serfmp join`: makes the agent join a cluster."""

from __future__ import annotations

from typing import Any, Final

from serfmp.cli.connection import connected, explained, limit_of, rpc_flags
from serfmp.cli.flags import BOOLEAN, GoCommand, flag
from serfmp.cli.output import say

COMMAND: Final = GoCommand(
    "join",
    "join [options] address...",
    "Makes the running agent join the cluster of the agents at these addresses. It is enough if one of them answers.",
    [
        flag("replay", "Also deliver user events from before the join.", kind=BOOLEAN, default=False),
        *rpc_flags(),
    ],
)


def run(values: dict[str, Any], words: list[str]) -> int:
    """Join. Returns the exit code."""
    if not words:
        say(f"At least one address to join must be specified.\n\n{COMMAND.help_text()}")
        return 1
    with connected(values) as client, explained("Error joining the cluster"):
        reached = client.join(words, replay=values["replay"], limit_s=limit_of(values))
    say(f"Successfully joined cluster by contacting {reached} nodes.")
    return 0
