"""`serfmp handlers`: the agent's handlers, what waits and runs, and how the last runs ended.

Rules: a line for each handler; with a name, or `-verbose`, its last runs below, the latest first, with the end of their
output. JSON holds everything. Text of scripts is shown with control characters escaped.
"""

from __future__ import annotations

import time
from typing import Any, Final

from serfmp.cli.connection import CommandError, connected, explained, require_format, rpc_flags
from serfmp.cli.flags import BOOLEAN, ROW_FORMATS, GoCommand, flag, format_flag
from serfmp.cli.output import go_json, say, table, visible
from serfmp.client import Handler, HandlerResult

COMMAND: Final = GoCommand(
    "handlers",
    "handlers [options] [name]",
    "Shows the agent's event handlers: what waits, what runs, how many runs failed, how the last ones ended. With a "
    "name (or the command of a handler that has none) only that one, with its last runs.",
    [
        format_flag(),
        flag("verbose", "Show the last runs of all handlers.", kind=BOOLEAN, default=False),
        *rpc_flags(),
    ],
)

COLUMNS: Final = ("handler", "on", "queued", "running", "ended", "failed", "dropped", "last")

SHOWN: Final = 60
"""Characters of a command in the table."""


def run(values: dict[str, Any], words: list[str]) -> int:
    """Ask and show. Returns the exit code."""
    if len(words) > 1:
        say(f"At most one handler may be named.\n\n{COMMAND.help_text()}")
        return 1
    require_format(values)
    with connected(values) as client, explained("Error asking the agent"):
        handlers = client.handlers()
    if words:
        handlers = tuple(handler for handler in handlers if handler.name == words[0])
        if not handlers:
            raise CommandError(f"The agent has no handler '{visible(words[0])}'")
    if values["format"] == "json":
        say(go_json({"handlers": [_map(handler) for handler in handlers]}))
        return 0
    if values["format"] in ROW_FORMATS:
        from serfmp.cli.formats import Rows, show

        cells = [
            (
                handler.name,
                handler.on,
                handler.queued,
                handler.running,
                handler.ended,
                handler.failed,
                handler.dropped,
                (handler.last[-1].error or "ok") if handler.last else None,
            )
            for handler in handlers
        ]
        show(values["format"], Rows(COLUMNS, cells, [_map(handler) for handler in handlers]))
        return 0
    if not handlers:
        say("The agent has no handlers.")
        return 0
    say(table([COLUMNS, *(_row(handler) for handler in handlers)]))
    if words or values["verbose"]:
        for handler in handlers:
            say(f"\n{visible(handler.name)}")
            for result in reversed(handler.last):
                say(_told(result))
    return 0


def _row(handler: Handler) -> list[str]:
    name = visible(handler.name).replace("|", "¦")
    last = handler.last[-1] if handler.last else None
    return [
        name if len(name) <= SHOWN else name[: SHOWN - 1] + "…",
        ",".join(map(visible, handler.on)),
        str(handler.queued),
        str(handler.running),
        str(handler.ended),
        str(handler.failed),
        str(handler.dropped),
        "-" if last is None else visible(last.error) or "ok",
    ]


def _told(result: HandlerResult) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(result.at))
    again = f", try {result.attempt + 1}" if result.attempt else ""
    lines = [f"  {when}  {visible(result.event)}  {visible(result.error) or 'ok'}  {result.seconds:.2f} s{again}"]
    text = result.output.decode("utf-8", "replace").rstrip("\n")
    if text:
        cut = "… " if result.output_size > len(result.output) else ""
        lines += [f"    {cut}{visible(line)}" for line in text.split("\n")]
    return "\n".join(lines)


def _map(handler: Handler) -> dict[str, Any]:
    return {
        "name": handler.name,
        "on": list(handler.on),
        "command": handler.command,
        "queued": handler.queued,
        "running": handler.running,
        "ended": handler.ended,
        "failed": handler.failed,
        "dropped": handler.dropped,
        "last": [
            {
                "at": result.at,
                "event": result.event,
                "attempt": result.attempt,
                "code": result.code,
                "signal": result.signal,
                "error": result.error,
                "seconds": result.seconds,
                "output": result.output.decode("utf-8", "replace"),
                "output_size": result.output_size,
            }
            for result in handler.last
        ],
    }
