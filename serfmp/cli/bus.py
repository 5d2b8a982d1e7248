"""`serfmp bus`: where the agent's public monitor bus is, and what is told on it (docs/monitor-bus.md).

Rules: without `-follow` the two addresses. With it, a line of JSON for each message, until interrupted; a gap is a line
with the key `gap`. Bytes (payloads) are shown as text, with U+FFFD for what is none.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Final

from serfmp.cli.connection import connected, explained, rpc_flags
from serfmp.cli.flags import BOOLEAN, GoCommand, flag
from serfmp.cli.output import say, table

COMMAND: Final = GoCommand(
    "bus",
    "bus [options] [topic ...]",
    "Tells where the agent's public monitor bus is, for programs that watch it. With -follow, shows what is told "
    "on it, a line of JSON for each message: all of it, or the topics that begin with one of the words.",
    [
        flag("follow", "Show what is told, until interrupted.", kind=BOOLEAN, default=False),
        *rpc_flags(),
    ],
)


def run(values: dict[str, Any], words: list[str]) -> int:
    """Ask and show. Returns the exit code."""
    if words and not values["follow"]:
        say(f"Topics may be given with -follow only.\n\n{COMMAND.help_text()}")
        return 1
    with connected(values) as client, explained("Error asking the agent"):
        addresses = client.bus()
    if not values["follow"]:
        say(table([["events", addresses[0]], ["snapshot", addresses[1]]]))
        return 0
    from serfmp.client.bus import BusMonitor

    with explained("Error watching the agent"), BusMonitor(*addresses, topics=words or ("",)) as monitor:
        for item in monitor:
            say(json.dumps(line(item), ensure_ascii=False))
            sys.stdout.flush()
    return 0


def line(item: Any) -> dict[str, Any]:
    """A message or a gap as JSON shows it."""
    from serfmp.client.bus import Gap

    if isinstance(item, Gap):
        return {"gap": item.family or "all", "missed": item.missed}
    found: dict[str, Any] = plain(
        {
            "topic": item.topic,
            "number": item.number,
            "node": item.node,
            "time": item.time,
            "ltime": item.ltime,
            "body": item.body,
        }
    )
    return found


def plain(value: Any) -> Any:
    """A value of the bus as JSON can hold it: bytes and texts that are no text get U+FFFD."""
    match value:
        case bytes():
            return value.decode("utf-8", "replace")
        case str():
            return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        case dict():
            return {plain(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
    return value
