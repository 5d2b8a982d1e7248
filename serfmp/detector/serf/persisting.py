"""What of the core's state belongs into the snapshot file, and when (spec serf.md 14, 20.11).

Rules: a line follows each change at once, in the order of the changes; clocks once a turn. An address that changed is
told, too. After a leave nothing but the leave is told, so that what others do then is not taken for the cluster's last
state. A detector that is started again tells everything once more: the file's writer drops what it knows.
"""

from __future__ import annotations

from collections.abc import Iterable

from serfmp.detector.effects import EventKind, MemberStatus, SnapshotLines
from serfmp.detector.records import SavedMember
from serfmp.detector.swim.context import Context
from serfmp.wire.address import to_text
from serfmp.wire.host_port import join_host_port
from serfmp.wire.snapshot import (
    LEAVE,
    alive_line,
    clock_line,
    event_clock_line,
    not_alive_line,
    query_clock_line,
)

_THERE = frozenset({int(MemberStatus.ALIVE), int(MemberStatus.LEAVING)})
_GONE_KINDS = frozenset({EventKind.MEMBER_LEAVE, EventKind.MEMBER_FAILED, EventKind.MEMBER_REAP})


class Persisting:
    """See the module. Does nothing unless the configuration asks for it."""

    __slots__ = ("_clocks", "_context", "_enabled", "_left", "_lines")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._enabled = context.config.snapshot
        self._lines: list[str] = []
        self._clocks = (0, 0, 0)
        self._left = False

    def member_event(self, kind: EventKind, rows: Iterable[SavedMember]) -> None:
        """Members came, changed, or went."""
        if self._enabled and not self._left:
            for row in rows:
                self._lines.append(not_alive_line(row.name) if kind in _GONE_KINDS else _alive(row))

    def leave(self) -> None:
        """The node leaves on purpose: on disk before anything else follows."""
        if self._enabled and not self._left:
            self._left = True
            self._context.effects.append(SnapshotLines((*self._lines, LEAVE), sync=True))
            self._lines = []

    def everything(self, rows: Iterable[SavedMember]) -> None:
        """Tell the whole state: a writer that is new, or missed something."""
        if self._enabled and self._left:
            self._lines = [LEAVE]
        elif self._enabled:
            self._lines += [_alive(row) if row.status in _THERE else not_alive_line(row.name) for row in rows]
            self._clocks = (0, 0, 0)

    def settle(self, clocks: tuple[int, int, int]) -> None:
        """The turn is over, and the clocks are these: the next times to be issued."""
        if not self._enabled:
            return
        if clocks != self._clocks:
            for now, before, line in zip(
                clocks, self._clocks, (clock_line, event_clock_line, query_clock_line), strict=True
            ):
                if now > before and now > 1:
                    self._lines.append(line(now - 1))
            self._clocks = clocks
        if self._lines:
            self._context.effects.append(SnapshotLines(tuple(self._lines)))
            self._lines = []


def _alive(row: SavedMember) -> str:
    return alive_line(row.name, join_host_port(to_text(row.address), row.port))
