"""The state that the rpc process answers from: a copy of the member table and of the core's figures.

Rules:

* No read reaches the detector. The copy changes in the order in which the detector changed, together with events and
  answers, so a client that has the answer to a request sees what it caused.
* A new snapshot is collected beside the copy that clients see and takes its place when it is complete.
* A member is encoded when it changes; the list of all is kept until something changes, and is shared by all clients.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import re2

from serfmp.bus import frames, plain
from serfmp.detector.effects import Member, MemberStatus
from serfmp.errors import UserError
from serfmp.io import rpc_records

if TYPE_CHECKING:
    from collections.abc import Iterable

    from serfmp.io.rpc_protocol import MembersFiltered

_STATUS_STATS: Final = {"failed": MemberStatus.FAILED, "left": MemberStatus.LEFT}


class Replica:
    """See the module."""

    def __init__(self) -> None:
        self.complete = False
        """Whether a whole snapshot has come."""
        self.lifecycle = ""
        self._stats: dict[str, str] = {}
        self._rows: dict[str, tuple[Member, bytes]] = {}
        self._coming: dict[str, tuple[Member, bytes]] | None = None
        self._all: bytes | None = None
        self._counts: Counter[MemberStatus] | None = None
        """Members in each state; like the list of all, made when it is asked for."""

    def take(self, frame: Any) -> None:
        """A frame of the detector's stream."""
        match frame:
            case frames.MemberRows(first, last, rows):
                if first or self._coming is None:
                    self._coming = {}
                self._put(self._coming, rows)
                if last:
                    self._rows, self._coming = self._coming, None
                    self._all = self._counts = None
                    self.complete = True
            case frames.MemberRow(row):
                self._put(self._rows, [row])
                self._all = self._counts = None
            case frames.MemberGone(name):
                self._rows.pop(name, None)
                self._all = self._counts = None
            case frames.DetectorState(lifecycle, stats):
                self.lifecycle = lifecycle
                self._stats = dict(stats)

    def member(self, name: str) -> Member | None:
        """A member by its name."""
        found = self._rows.get(name)
        return found[0] if found is not None else None

    def members(self) -> list[Member]:
        """All members, in the order in which they came to be known."""
        return [member for member, _ in self._rows.values()]

    def names(self) -> list[str]:
        """Names of all members."""
        return list(self._rows)

    def members_body(self) -> bytes:
        """The body of `members`."""
        if self._all is None:
            self._all = rpc_records.members([encoded for _, encoded in self._rows.values()])
        return self._all

    def filtered_body(self, wanted: MembersFiltered) -> bytes:
        """The body of `members-filtered`. Raises `UserError` for what is no regular expression."""
        name = _matcher(wanted.name)
        status = _matcher(wanted.status)
        tags = [(key, _matcher(expression, always=True)) for key, expression in wanted.tags]
        if name is None and status is None and not tags:
            return self.members_body()
        return rpc_records.members(
            [
                encoded
                for row, encoded in self._rows.values()
                if (name is None or name.search(_raw(row.name)))
                and (status is None or status.search(_raw(row.status.label)))
                and all(matcher is None or matcher.search(_raw(row.tags.get(key, ""))) for key, matcher in tags)
            ]
        )

    def serf_stats(self) -> dict[str, str]:
        """The section `serf` of `stats`; what the table says is counted here, so that it agrees with `members`."""
        if self._counts is None:
            self._counts = Counter(row.status for row, _ in self._rows.values())
        counts = self._counts
        return {
            **self._stats,
            "members": str(len(self._rows)),
            **{name: str(counts[status]) for name, status in _STATUS_STATS.items()},
        }

    @staticmethod
    def _put(table: dict[str, tuple[Member, bytes]], rows: Iterable[Any]) -> None:
        for row in rows:
            member = plain.member_from_plain(row)
            table[member.name] = (member, rpc_records.member(member))


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _matcher(expression: str, *, always: bool = False) -> Any:
    """Serf's anchoring: `^` and `$` are put around the text as it stands (spec agent.md 3.4). None: no filter."""
    if not expression and not always:
        return None
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(b"^" + _raw(expression) + b"$", options)
    except re2.error as error:
        reason = error.args[0] if error.args else "unknown"
        text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise UserError(f"Failed to compile regex '{expression}': {text}") from None
