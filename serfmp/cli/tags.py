"""`serfmp tags`: changes the tags of the agent's node (spec agent.md 3.2)."""

from __future__ import annotations

from typing import Any, Final

from serfmp.cli.connection import CommandError, connected, rpc_flags
from serfmp.cli.flags import GoCommand, flag, parse_tag
from serfmp.cli.output import say
from serfmp.client import ClientError
from serfmp.errors import UserError

COMMAND: Final = GoCommand(
    "tags",
    "tags [options]",
    "Changes the tags of the agent's node while it runs: first those to delete go, then those to set come.",
    [
        flag("delete", "Tag to delete. May be given several times.", many=True, shown="delete key"),
        flag("set", "Tag to set. May be given several times.", many=True, shown="set key=value"),
        *rpc_flags(),
    ],
)


def run(values: dict[str, Any], _words: list[str]) -> int:
    """Ask for the change. Returns the exit code."""
    if not values["set"] and not values["delete"]:
        say(COMMAND.help_text())
        return 1
    with connected(values) as client:
        try:
            changed = dict(parse_tag(text) for text in values["set"])
        except UserError as error:
            raise CommandError(f"Error: {error}") from error
        try:
            client.tags(changed, values["delete"])
        except ClientError as error:
            raise CommandError(f"Error setting tags: {error}") from error
    say("Successfully updated agent tags")
    return 0
