"""`serfmp config show`: the configuration that an agent runs with, and where each value comes from.

Rules: the values of now, tags included; keys that a reload has changed have their new origin. Secrets are hidden. Flags
may stand before and behind `show`. Real Serf agents have no such command.
"""

from __future__ import annotations

from typing import Any, Final

from serfmp.cli.connection import connected, explained, require_format, rpc_flags
from serfmp.cli.flags import GoCommand, flag
from serfmp.cli.output import say
from serfmp.cli.settings import show_settings

COMMAND: Final = GoCommand(
    "config",
    "config show [options]",
    "Shows the configuration that the agent runs with, and where each value comes from.",
    [flag("format", "text (default) or json.", default="text", shown="format=text"), *rpc_flags()],
)


def run(values: dict[str, Any], words: list[str]) -> int:
    """Show it. Returns the exit code."""
    later, rest = COMMAND.values(words[1:])
    usual, _ = COMMAND.values([])
    values = {**values, **{name: value for name, value in later.items() if value != usual[name]}}
    if words[:1] != ["show"] or rest:
        say(f"What to do must be given: show.\n\n{COMMAND.help_text()}")
        return 1
    require_format(values, ("text", "json"))
    with connected(values) as client, explained("Error querying agent"):
        settings = client.config()
    show_settings([(setting.key, setting.value, setting.origin) for setting in settings], values["format"])
    return 0
