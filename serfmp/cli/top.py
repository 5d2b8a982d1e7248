"""`serfmp top`: a live view of an agent: members, probes, queues, handlers, processes, what happened last.

Rules: everything comes from the agent's monitor bus (docs/monitor-bus.md), so that watching holds nobody up, however
many watch. With `-once` one picture is written and the command ends; with `-format=json` (which means `-once`) programs
get what the picture is made of. Keys are told by `?`.
"""

from __future__ import annotations

import os
import select
import sys
import time
from typing import TYPE_CHECKING, Any, Final, Self

from serfmp.cli.bus import plain
from serfmp.cli.connection import CommandError, connected, explained, require_format, rpc_flags
from serfmp.cli.flags import BOOLEAN, GoCommand, flag
from serfmp.cli.output import go_json, say
from serfmp.client import ClientError

if TYPE_CHECKING:
    from serfmp.client.bus import BusMonitor

COMMAND: Final = GoCommand(
    "top",
    "top [options]",
    "Shows what an agent does, live: members with round trips, probes, health, queues, handlers, each process with its "
    "processor time and memory, and what happened last. Press ? for the keys, q to end.",
    [
        flag("filter", "Show only members whose name or tags hold this text.", shown="filter=text"),
        flag("format", "text (default) or json, which implies -once.", default="text", shown="format=text"),
        flag("once", "Write one picture and end.", kind=BOOLEAN, default=False),
        flag("sort", "Order of members: name, status, rtt or age.", default="name", shown="sort=name"),
        flag("svg", "Write the picture into this SVG file and end.", shown="svg=path"),
        *rpc_flags(),
    ],
)

SORTS: Final = ("name", "status", "rtt", "age")

FRAME_S: Final = 0.25
"""Seconds between two pictures at least."""

SETTLE_S: Final = 1.3
"""Seconds for which a single picture waits, so that figures of a second are there."""

WIDTH: Final = 120
"""Columns of a picture that is not drawn on a terminal."""


def run(values: dict[str, Any], words: list[str]) -> int:
    """Watch and draw. Returns the exit code."""
    if words:
        say(f"This command takes no words.\n\n{COMMAND.help_text()}")
        return 1
    require_format(values, ("text", "json"))
    if values["sort"] not in SORTS:
        raise CommandError(f"Invalid order: {values['sort']}. It must be one of: {', '.join(SORTS)}")
    with connected(values) as client, explained("Error asking the agent"):
        addresses = client.bus()
    from serfmp.cli.top_state import TopState
    from serfmp.client.bus import BusMonitor

    state = TopState(values["sort"], values["filter"])
    try:
        with BusMonitor(*addresses) as monitor:
            if values["format"] == "json":
                _settle(monitor, state)
                say(go_json(plain(state.to_map(monitor))))
            elif values["once"] or values["svg"]:
                _settle(monitor, state)
                _draw_once(monitor, state, values["svg"])
            elif not (sys.stdin.isatty() and sys.stdout.isatty()):
                raise CommandError("This is no terminal: use -once, -format=json or -svg")
            else:
                _live(monitor, state)
    except ClientError as error:
        raise CommandError(f"Error watching the agent: {error}") from error
    except OSError as error:
        raise CommandError(f"Cannot write the picture: {error.strerror}") from error
    return 0


def _settle(monitor: BusMonitor, state: Any) -> None:
    until = time.monotonic() + SETTLE_S
    while (left := until - time.monotonic()) > 0:
        item = monitor.next(left)
        if item is not None:
            state.take(item)


def _draw_once(monitor: BusMonitor, state: Any, svg: str) -> None:
    import io

    from rich.console import Console

    from serfmp.cli.top_view import picture

    if svg:
        console = Console(width=WIDTH, record=True, file=io.StringIO(), force_terminal=True)
        console.print(picture(monitor, state))
        console.save_svg(svg, title="serfmp top")
    else:
        console = Console(width=None if sys.stdout.isatty() else WIDTH)
        console.print(picture(monitor, state))


def _live(monitor: BusMonitor, state: Any) -> None:
    from rich.console import Console
    from rich.live import Live

    from serfmp.cli.top_view import picture

    console = Console()
    with _Keys() as keys, Live(console=console, screen=True, auto_refresh=False) as live:
        drawn_at = 0.0
        while True:
            item = monitor.next(FRAME_S)
            if item is not None:
                state.take(item)
            for key in keys.pressed():
                if not state.press(key, monitor):
                    return
            now = time.monotonic()
            if now - drawn_at >= FRAME_S:
                drawn_at = now
                live.update(picture(monitor, state, height=console.height), refresh=True)


class _Keys:
    """Single keys of the terminal, without echo; everything is as before at the end."""

    def __enter__(self) -> Self:
        import termios
        import tty

        self._descriptor = sys.stdin.fileno()
        self._before = termios.tcgetattr(self._descriptor)
        tty.setcbreak(self._descriptor)
        return self

    def __exit__(self, *_: object) -> None:
        import termios

        termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)

    def pressed(self) -> list[str]:
        """What was pressed since the last call; arrows by name."""
        text = ""
        while select.select([self._descriptor], [], [], 0)[0]:
            data = os.read(self._descriptor, 64)
            if not data:
                return ["q"]
            text += data.decode("utf-8", "replace")
        for sequence, name in (("\x1b[A", "\x11"), ("\x1b[B", "\x12")):
            text = text.replace(sequence, name)
        names = {"\x11": "up", "\x12": "down", "\n": "enter", "\r": "enter", "\x7f": "delete", "\x1b": "escape"}
        return [names.get(character, character) for character in text]
