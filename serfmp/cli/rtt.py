"""`serfmp rtt`: estimates the round trip between two nodes from their coordinates (spec agent.md 3.2)."""

from __future__ import annotations

from typing import Any, Final

from serfmp.cli.connection import CommandError, connected, explained, require_format, rpc_flags
from serfmp.cli.flags import GoCommand, format_flag
from serfmp.cli.output import go_json, say, visible
from serfmp.client import Client
from serfmp.wire.coordinate import Coordinate, distance_ns

COMMAND: Final = GoCommand(
    "rtt",
    "rtt [options] node1 [node2]",
    "Estimates the round trip between two nodes, by default between a node and the agent's own, from the network "
    "coordinates that agents learn from their probes. Nothing is sent to the nodes.",
    [format_flag(), *rpc_flags()],
)


def run(values: dict[str, Any], words: list[str]) -> int:
    """Ask and tell. Returns the exit code."""
    require_format(values)
    with connected(values) as client:
        if not 1 <= len(words) <= 2:
            say(f"One or two node names must be specified\n\n{COMMAND.help_text()}")
            return 1
        first = words[0]
        with explained("Error querying agent"):
            second = words[1] if len(words) > 1 else client.stats().get("agent", {}).get("name", "")
        with explained("Error getting coordinates"):
            one, other = _coordinate(client, first), _coordinate(client, second)
    if len(one.vec) != len(other.vec):
        raise CommandError(f"The coordinates of {visible(first)} and {visible(second)} have different dimensions")
    milliseconds = round(distance_ns(one, other) / 1e6, 3)
    if values["format"] == "json":
        say(go_json({"from": first, "to": second, "rtt_ms": milliseconds}))
        return 0
    if values["format"] != "text":
        from serfmp.cli.formats import Rows, show

        show(values["format"], Rows(("from", "to", "rtt_ms"), [(first, second, milliseconds)]))
        return 0
    say(f"Estimated {visible(first)} <-> {visible(second)} rtt: {distance_ns(one, other) / 1e6:.3f} ms")
    return 0


def _coordinate(client: Client, node: str) -> Coordinate:
    found = client.coordinate(node)
    if found is None:
        raise CommandError(f'Could not find a coordinate for node "{visible(node)}"')
    return found
