"""`serfmp tags`: changes the tags of the agent's node (spec agent.md 3.2)."""

from __future__ import annotations

from typing import Any, Final

from serfmp.cli.connection import CommandError, connected, explained, require_format, rpc_flags
from serfmp.cli.flags import BOOLEAN, GoCommand, flag, format_flag, parse_tag
from serfmp.cli.output import go_json, say, visible
from serfmp.errors import UserError

COMMAND: Final = GoCommand(
    "tags",
    "tags [options]",
    "Changes the tags of the agent's node while it runs: first those to delete go, then those to set come. With -list "
    "shows them.",
    [
        flag("delete", "Tag to delete. May be given several times.", many=True, shown="delete key"),
        format_flag(),
        flag("list", "Show the tags, after the change if one is asked for.", kind=BOOLEAN, default=False),
        flag("set", "Tag to set. May be given several times.", many=True, shown="set key=value"),
        *rpc_flags(),
    ],
)


def run(values: dict[str, Any], _words: list[str]) -> int:
    """Ask for the change. Returns the exit code."""
    require_format(values)
    changes = bool(values["set"] or values["delete"])
    if not changes and not values["list"]:
        say(COMMAND.help_text())
        return 1
    with connected(values) as client:
        try:
            changed = dict(parse_tag(text) for text in values["set"])
        except UserError as error:
            raise CommandError(f"Error: {error}") from error
        with explained("Error setting tags"):
            if changes:
                client.tags(changed, values["delete"])
        if values["list"]:
            with explained("Error querying agent"):
                found = dict(sorted(client.stats().get("tags", {}).items()))
            _show(values["format"], found)
        else:
            say("Successfully updated agent tags")
    return 0


def _show(form: str, tags: dict[str, str]) -> None:
    match form:
        case "text":
            for key, value in tags.items():
                say(f"{visible(key)}={visible(value)}")
        case "json":
            say(go_json({"tags": tags}))
        case _:
            from serfmp.cli.formats import Rows, show

            show(form, Rows(("key", "value"), list(tags.items())))
