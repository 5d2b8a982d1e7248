"""The state that the rpc process answers from: a copy of the member table and of the core's figures.

Rules:

* No read reaches the detector. The copy changes in the order in which the detector changed, together with events and
  answers, so a client that has the answer to a request sees what it caused.
* A new snapshot is collected beside the copy that clients see and takes its place when it is complete.
* A member is encoded when it changes, and kept in that form: as objects it would take several times as much. The list
  of all is kept until something changes, and is shared by all clients.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import re2

from serfmp.bus import frames, plain
from serfmp.detector.effects import Member, MemberStatus
from serfmp.errors import UserError
from serfmp.io import rpc_records

if TYPE_CHECKING:
    from collections.abc import Iterable

    from serfmp.io.rpc_protocol import MembersFiltered

_SHARED: Final = 512
"""Different tags that are looked for among equals."""

_STATUS_STATS: Final = {"failed": MemberStatus.FAILED, "left": MemberStatus.LEFT}


class Replica:
    """See the module."""

    def __init__(self) -> None:
        self.complete = False
        """Whether a whole snapshot has come."""
        self.lifecycle = ""
        self._stats: dict[str, str] = {}
        self._table = _Table()
        self._coming: _Table | None = None
        self._all: bytes | None = None
        self._counts: Counter[MemberStatus] | None = None
        """Members in each state; like the list of all, made when it is asked for."""

    def take(self, frame: Any) -> None:
        """A frame of the detector's stream."""
        match frame:
            case frames.MemberRows(first, last, rows):
                if first or self._coming is None:
                    self._coming = _Table()
                self._coming.put(rows)
                if last:
                    self._table, self._coming = self._coming, None
                    self._all = self._counts = None
                    self.complete = True
            case frames.MemberRow(row):
                self._table.put([row])
                self._all = self._counts = None
            case frames.MemberGone(name):
                self._table.drop(name)
                self._all = self._counts = None
            case frames.DetectorState(lifecycle, stats):
                self.lifecycle = lifecycle
                self._stats = dict(stats)

    def member(self, name: str) -> Member | None:
        """A member by its name."""
        found = self._table.encoded.get(name)
        return None if found is None else rpc_records.member_of(found)

    def counts(self) -> Counter[MemberStatus]:
        """Members in each state."""
        if self._counts is None:
            self._counts = Counter(self._table.statuses.values())
        return self._counts

    def names(self) -> list[str]:
        """Names of all members, in the order in which they came to be known."""
        return list(self._table.encoded)

    def members_body(self) -> bytes:
        """The body of `members`."""
        if self._all is None:
            table = self._table.encoded
            self._all = rpc_records.members(table.values(), len(table))
        return self._all

    def filtered_body(self, wanted: MembersFiltered) -> bytes:
        """The body of `members-filtered`. Raises `UserError` for what is no regular expression."""
        name = _matcher(wanted.name)
        status = _matcher(wanted.status)
        tags = [(key, _matcher(expression, always=True)) for key, expression in wanted.tags]
        if name is None and status is None and not tags:
            return self.members_body()
        table = self._table
        statuses = {each for each in MemberStatus if status is None or status.search(_raw(each.label))}
        fitting = {each for each in set(table.tags.values()) if not tags or _match(rpc_records.tags_of(each), tags)}
        found = [
            encoded
            for (node, encoded), its_status, its_tags in zip(
                table.encoded.items(), table.statuses.values(), table.tags.values(), strict=True
            )
            if its_status in statuses and its_tags in fitting and (name is None or name.search(_raw(node)))
        ]
        return rpc_records.members(found, len(found))

    def serf_stats(self) -> dict[str, str]:
        """The section `serf` of `stats`; what the table says is counted here, so that it agrees with `members`."""
        counts = self.counts()
        return {
            **self._stats,
            "members": str(len(self._table.encoded)),
            **{name: str(counts[status]) for name, status in _STATUS_STATS.items()},
        }


class _Table:
    """Encoded members, and what filters look at, by name; all in the order in which the members came to be known."""

    __slots__ = ("encoded", "statuses", "tags")

    def __init__(self) -> None:
        self.encoded: dict[str, bytes] = {}
        self.statuses: dict[str, MemberStatus] = {}
        self.tags: dict[str, bytes] = {}
        """Encoded. Many members have equal ones, which are kept once, and looked at once by a filter."""

    def put(self, rows: Iterable[Any]) -> None:
        """New rows, or changed ones."""
        for row in rows:
            member = plain.member_from_plain(row)
            self.encoded[member.name] = rpc_records.member(member)
            self.statuses[member.name] = member.status
            self.tags[member.name] = _shared(rpc_records.tags(member))

    def drop(self, name: str) -> None:
        """Forget a member."""
        self.encoded.pop(name, None)
        self.statuses.pop(name, None)
        self.tags.pop(name, None)


@lru_cache(maxsize=_SHARED)
def _shared(encoded: bytes) -> bytes:
    """The same bytes, as the object that others hold already if they got it from here lately."""
    return encoded


def _match(tags: dict[str, str], wanted: list[tuple[str, Any]]) -> bool:
    return all(matcher is None or matcher.search(_raw(tags.get(key, ""))) for key, matcher in wanted)


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
