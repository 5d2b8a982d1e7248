"""`serfmp event`: sends a user event to all nodes."""

from __future__ import annotations

import os
from typing import Any, Final

from serfmp.cli.connection import connected, explained, rpc_flags
from serfmp.cli.flags import BOOLEAN, GoCommand, flag
from serfmp.cli.output import say

COMMAND: Final = GoCommand(
    "event",
    "event [options] name [payload]",
    "Sends a user event to all nodes of the cluster, where handlers may act on it.",
    [
        flag(
            "coalesce",
            "Whether a node may deliver only the last of several events with this name that follow each other closely. "
            "Default: true.",
            kind=BOOLEAN,
            default=True,
            shown="coalesce=true/false",
        ),
        *rpc_flags(),
    ],
)


def run(values: dict[str, Any], words: list[str]) -> int:
    """Send it. Returns the exit code."""
    if not words or len(words) > 2:
        reason = (
            "Too many command line arguments. Only a name and payload must be specified."
            if words
            else "An event name must be specified."
        )
        say(f"{reason}\n\n{COMMAND.help_text()}")
        return 1
    name, payload = words[0], os.fsencode(words[1]) if len(words) > 1 else b""
    with connected(values) as client, explained("Error sending event"):
        client.event(name, payload, coalesce=values["coalesce"])
    say(f"Event '{name}' dispatched! Coalescing enabled: {'true' if values['coalesce'] else 'false'}")
    return 0
