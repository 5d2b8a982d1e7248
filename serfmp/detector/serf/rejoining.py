"""Finding the cluster again after a restart, from the members of the snapshot (spec serf.md 6.7, 20.13).

Rules: the members are tried in random order, `AT_ONCE` at a time; the first that answers ends it. When nobody did, that
is told, and it is tried again while the node is alone, after a pause that doubles from `PAUSE` to `LONGEST`. No join
intent is sent, and no event older than the snapshot is delivered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from serfmp.detector.effects import Endpoint, Lifecycle
from serfmp.detector.serf.layer import Serf
from serfmp.detector.swim.context import Context
from serfmp.detector.swim.join import parse_join_address
from serfmp.detector.swim.swim import Swim
from serfmp.errors import UserError

AT_ONCE: Final = 3
"""Members that are tried at the same time. Ours."""
PAUSE: Final = 5.0
"""Seconds before the second round. Ours."""
LONGEST: Final = 300.0
"""Longest pause between two rounds, in seconds. Ours."""


class Rejoining:
    """See the module. `alive`: addresses by name."""

    __slots__ = ("_alive", "_context", "_found", "_left", "_pause", "_running", "_serf", "_swim")

    def __init__(self, context: Context, swim: Swim, serf: Serf, alive: Mapping[str, str]) -> None:
        self._context = context
        self._swim = swim
        self._serf = serf
        self._alive = {name: address for name, address in alive.items() if name != context.config.node}
        self._left: list[tuple[str, str]] = []
        self._running = 0
        self._found = False
        self._pause = PAUSE
        if alive:
            context.after(0.0, self._begin)

    def _begin(self) -> None:
        if self._serf.lifecycle is not Lifecycle.ALIVE or self._serf.members.others_alive():
            return
        self._left = list(self._alive.items())
        self._context.rng.shuffle(self._left)
        for _ in range(AT_ONCE):
            self._next()
        self._end_if_done()

    def _next(self) -> None:
        while self._left and not self._found:
            name, address = self._left.pop()
            try:
                parsed = parse_join_address(address, self._context.config.port)
            except UserError as error:
                self._context.log("WARN", "serf", f"Failed to re-join '{name}': {error}")
                continue
            if not parsed.literal:
                continue
            self._context.log("INFO", "serf", f"Attempting re-join to previously known node: {name}: {address}")
            self._running += 1
            self._try(name, address, (parsed.host, parsed.port))
            return

    def _try(self, name: str, address: str, endpoint: Endpoint) -> None:
        def done(error: str) -> None:
            self._running -= 1
            if error:
                self._next()
            elif not self._found:
                self._found = True
                text = f"Re-joined to previously known node: {name}: {address}"
                self._context.log("INFO", "serf", text)
            self._end_if_done()

        self._swim.push_pull.exchange(endpoint, done, join=True)

    def _end_if_done(self) -> None:
        if self._running or self._left or self._found:
            return
        self._context.log("WARN", "serf", "Failed to re-join any previously known node")
        if self._alive:
            self._context.after(self._pause, self._begin)
            self._pause = min(2 * self._pause, LONGEST)
