"""`serfmp info`: what the agent tells of itself (spec agent.md 3.5).

Sections and their keys are sorted by name; an empty section shows its name only. The JSON form is the same as an object
of objects of strings.
"""

from __future__ import annotations

from typing import Any, Final

from serfmp.cli.connection import CommandError, connected, explained, rpc_flags
from serfmp.cli.flags import ROW_FORMATS, GoCommand, format_flag
from serfmp.cli.output import go_json, say, visible

COMMAND: Final = GoCommand(
    "info",
    "info [options]",
    "Shows what the running agent tells of itself: its name and tags, its handlers, its times and queues.",
    [format_flag(), *rpc_flags()],
)


def run(values: dict[str, Any], _words: list[str]) -> int:
    """Show it. Returns the exit code."""
    with connected(values) as client, explained("Error querying agent"):
        stats = client.stats()
    sections = {name: dict(sorted(keys.items())) for name, keys in sorted(stats.items())}
    match values["format"]:
        case "text":
            for name, keys in sections.items():
                say(f"{visible(name)}:")
                for key, value in keys.items():
                    say(f"\t{visible(key)} = {visible(value)}")
        case "json":
            say(go_json(sections))
        case form if form in ROW_FORMATS:
            from serfmp.cli.formats import Rows, show

            cells = [(name, key, value) for name, keys in sections.items() for key, value in keys.items()]
            show(form, Rows(("section", "key", "value"), cells))
        case other:
            raise CommandError(f'Encoding error: Invalid output format "{other}"')
    return 0
