"""`serfmp force-leave`: makes the cluster take a failed node for one that left."""

from __future__ import annotations

from typing import Any, Final

from serfmp.cli.connection import connected, explained, rpc_flags
from serfmp.cli.flags import BOOLEAN, GoCommand, flag
from serfmp.cli.output import say

COMMAND: Final = GoCommand(
    "force-leave",
    "force-leave [options] name",
    "Makes the cluster take a node for one that has left. This is for failed nodes that will not come back: nobody "
    "tries to reach them any more. A node that is alive contradicts, and stays.",
    [
        flag(
            "prune",
            "Also remove it from the list of members, now if it is gone, else as soon as it goes.",
            kind=BOOLEAN,
            default=False,
        ),
        *rpc_flags(),
    ],
)


def run(values: dict[str, Any], words: list[str]) -> int:
    """Ask for it. Returns the exit code."""
    if len(words) != 1:
        say(f"A node name must be specified to force leave.\n\n{COMMAND.help_text()}")
        return 1
    with connected(values) as client, explained("Error force leaving"):
        client.force_leave(words[0], prune=values["prune"])
    return 0
