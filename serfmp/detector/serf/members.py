"""Members as users see them: statuses moved by SWIM's notices and by intents (spec serf.md 5 and 6.3).

Rules:

* SWIM says who is there and who is gone; intents say whether somebody meant to go. An intent counts only if its Lamport
  time is above the member's last one.
* A node that SWIM saw declare itself gone has left, even if its leave intent is missing or late (fix 20.3).
* A member is pruned only when it is gone. Who shall be pruned while it is there is pruned when it goes, and not at all
  when it contradicts (fix 20.6). What was pruned is remembered, so that the same intent, coming again, is no news.
* Every change of a row is told to the replicas before the event about it; rows that change without an event are
  recorded once a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from enum import IntEnum
from typing import Final

from serfmp.detector.effects import EventKind, Member, MemberChanged, MemberForgotten, MemberStatus
from serfmp.detector.records import SavedMember, member_of
from serfmp.detector.serf.clock import LamportClock
from serfmp.detector.serf.coalescing import Coalescing
from serfmp.detector.serf.intents import RecentIntents
from serfmp.detector.swim.context import Context
from serfmp.detector.swim.table import NodeRecord, NodeState, shared
from serfmp.wire.address import to_text

_THERE: Final = frozenset({MemberStatus.ALIVE, MemberStatus.LEAVING})


class Prune(IntEnum):
    """What happens to a leaving member once it is gone."""

    NO = 0
    FORGET = 1
    """It is forgotten here; others know that they shall do the same."""
    TELL = 2
    """It is forgotten, and others are told."""


class MemberRow:
    """One member. `left_at`: when it left or failed, 0 otherwise."""

    __slots__ = ("address", "left_at", "meta", "name", "port", "prune", "status", "status_ltime", "versions")

    def __init__(self, name: str) -> None:
        self.name = name
        self.address = b""
        self.port = 0
        self.meta = b""
        self.versions = bytes(6)
        self.status = MemberStatus.ALIVE
        self.status_ltime = 0
        self.left_at = 0.0
        self.prune = Prune.NO

    @classmethod
    def restored(cls, saved: SavedMember) -> MemberRow:
        """A row out of the journal."""
        row = cls(saved.name)
        row.address, row.port = saved.address, shared(saved.port)
        row.meta, row.versions = shared(saved.meta), shared(saved.versions)
        row.status, row.status_ltime, row.left_at = MemberStatus(saved.status), saved.status_ltime, saved.left_at
        row.prune = Prune(saved.prune)
        return row

    def take(self, record: NodeRecord) -> None:
        """Copy what SWIM knows."""
        self.address, self.port, self.meta, self.versions = record.address, record.port, record.meta, record.versions

    def differs(self, record: NodeRecord) -> bool:
        """Whether SWIM knows something else that users see."""
        return (self.address, self.port, self.meta) != (record.address, record.port, record.meta)

    def saved(self) -> SavedMember:
        """The row for the journal."""
        return SavedMember(
            self.name,
            self.address,
            self.port,
            self.meta,
            self.versions,
            int(self.status),
            self.status_ltime,
            self.left_at,
            int(self.prune),
        )


class Members:
    """The member table. See the module."""

    __slots__ = (
        "_clock",
        "_coalescing",
        "_context",
        "_intents",
        "_own",
        "_pruned",
        "_refute",
        "_rows",
        "_tell_prune",
        "changed",
        "counts",
    )

    def __init__(
        self,
        context: Context,
        clock: LamportClock,
        intents: RecentIntents,
        coalescing: Coalescing,
        refute: Callable[[], bool],
        tell_prune: Callable[[str], int],
        saved: Iterable[SavedMember] = (),
    ) -> None:
        """Make the table.

        `refute` is called for a leave intent about the local node; True if the node does not mean to leave.
        `tell_prune(name)` tells the cluster to forget a member, and gives the Lamport time of that.
        """
        self._context = context
        self._clock = clock
        self._intents = intents
        self._coalescing = coalescing
        self._refute = refute
        self._tell_prune = tell_prune
        self._pruned: dict[str, int] = {}
        """Members that were pruned, with the Lamport time of that."""
        self._own = context.config.node
        self._rows: dict[str, MemberRow] = {row.name: MemberRow.restored(row) for row in saved}
        self.counts = dict.fromkeys(MemberStatus, 0)
        """Members by status."""
        for row in self._rows.values():
            self.counts[row.status] += 1
        self.changed: dict[str, None] = {}
        """Names of rows that changed in this batch without an event about it."""

    def __iter__(self) -> Iterator[MemberRow]:
        """All rows, in the order in which they became known."""
        return iter(self._rows.values())

    def size(self) -> int:
        """All members, whatever their status: what the retransmit limits of Serf's queues count."""
        return len(self._rows)

    def get(self, name: str) -> MemberRow | None:
        """The row of this name."""
        return self._rows.get(name)

    def views(self) -> list[Member]:
        """All rows as users see them."""
        return [member_of(row.saved()) for row in self._rows.values()]

    def others_alive(self) -> bool:
        """Whether any other member has the status alive."""
        own = self._rows.get(self._own)
        return self.counts[MemberStatus.ALIVE] > (own is not None and own.status is MemberStatus.ALIVE)

    def is_there(self, name: str) -> bool:
        """Whether SWIM holds this node for alive: its status is alive or leaving."""
        row = self._rows.get(name)
        return row is not None and row.status in _THERE

    # --- notices of SWIM ----------------------------------------------------------------------------------------------

    def joined(self, record: NodeRecord) -> None:
        """Spec serf.md 5.1."""
        row = self._rows.get(record.name)
        before = None if row is None else row.saved()
        if row is None:
            self._pruned.pop(record.name, None)
            row = self._rows[record.name] = MemberRow(record.name)
            intent = self._intents.get(record.name)
            if intent is not None:
                row.status_ltime = intent.ltime
                row.status = MemberStatus.LEAVING if intent.leaving else MemberStatus.ALIVE
            self.counts[row.status] += 1
        else:
            recently = self._context.now - row.left_at < self._context.config.flap_timeout
            if row.status is MemberStatus.FAILED and recently:
                self._context.count("serf.member.flap")
            self._set_status(row, MemberStatus.ALIVE)
            row.left_at = 0.0
            row.prune = Prune.NO
        row.take(record)
        self._context.count("serf.member.join")
        self._tell(row, before, EventKind.MEMBER_JOIN, f"EventMemberJoin: {row.name} {to_text(row.address)}")

    def gone(self, record: NodeRecord) -> None:
        """Spec serf.md 5.2, with fix 20.3."""
        row = self._rows.get(record.name)
        if row is None:
            return
        before = row.saved()
        if row.status is MemberStatus.LEAVING or (row.status is MemberStatus.ALIVE and record.state is NodeState.LEFT):
            self._set_status(row, MemberStatus.LEFT)
            kind, title, counter = EventKind.MEMBER_LEAVE, "EventMemberLeave", "serf.member.left"
        elif row.status is MemberStatus.ALIVE:
            self._set_status(row, MemberStatus.FAILED)
            kind, title, counter = EventKind.MEMBER_FAILED, "EventMemberFailed", "serf.member.failed"
        else:
            self._context.log("WARN", "serf", f"Bad state when leave: {int(row.status)}")
            return
        row.left_at = self._context.now
        self._context.count(counter)
        self._tell(row, before, kind, f"{title}: {row.name} {to_text(row.address)}")
        if row.prune is not Prune.NO and kind is EventKind.MEMBER_LEAVE:
            if row.prune is Prune.TELL:
                row.status_ltime = self._tell_prune(row.name)
            self._forget(row)

    def updated(self, record: NodeRecord) -> None:
        """Spec serf.md 5.3."""
        row = self._rows.get(record.name)
        if row is not None:
            before = row.saved()
            row.take(record)
            self._context.count("serf.member.update")
            self._tell(row, before, EventKind.MEMBER_UPDATE, f"EventMemberUpdate: {row.name}")

    def reconcile(self, record: NodeRecord) -> None:
        """Make up for a notice that a killed detector did not come to handle."""
        row = self._rows.get(record.name)
        if row is None:
            if not record.gone:
                self.joined(record)
            return
        there = row.status in _THERE
        if there and record.gone:
            self.gone(record)
        elif not there and not record.gone:
            self.joined(record)
        elif there and row.differs(record):
            self.updated(record)

    # --- intents ------------------------------------------------------------------------------------------------------

    def join_intent(self, ltime: int, node: str) -> bool:
        """Spec serf.md 5.4. Whether it is news, to be gossiped on."""
        self._clock.witness(ltime)
        row = self._rows.get(node)
        if row is None:
            return self._intents.upsert(node, leaving=False, ltime=ltime)
        if ltime <= row.status_ltime:
            return False
        row.status_ltime = ltime
        if row.prune is not Prune.NO:
            row.prune = Prune.NO
            self._context.log("WARN", "serf", f"{node} is alive and says that it has not left: it is not pruned")
        if row.status is MemberStatus.LEAVING:
            self._set_status(row, MemberStatus.ALIVE)
            self._context.effects.append(MemberChanged(member_of(row.saved())))
        self.changed[node] = None
        return True

    def leave_intent(self, ltime: int, node: str, prune: bool) -> bool:
        """Spec serf.md 5.5. Whether it is news, to be gossiped on."""
        self._clock.witness(ltime)
        row = self._rows.get(node)
        if row is None:
            if ltime <= self._pruned.get(node, 0):
                return False
            return self._intents.upsert(node, leaving=True, ltime=ltime)
        if ltime <= row.status_ltime:
            if ltime == row.status_ltime and node == self._own:
                # Whoever heard of this leave before the join of the same time holds us for leaving, for good (20.4).
                self._refute()
            return False
        if node == self._own and self._refute():
            return False
        before = row.saved()
        row.status_ltime = ltime
        if row.status is MemberStatus.ALIVE:
            self._set_status(row, MemberStatus.LEAVING)
            self._context.effects.append(MemberChanged(member_of(row.saved())))
            self.changed[node] = None
        elif row.status is MemberStatus.FAILED:
            self._set_status(row, MemberStatus.LEFT)
            text = f"EventMemberLeave (forced): {node} {to_text(row.address)}"
            self._tell(row, before, EventKind.MEMBER_LEAVE, text)
        else:
            self.changed[node] = None
        if prune:
            self._prune(row)
        return True

    def left_elsewhere(self, ltime: int, node: str) -> None:
        """A push/pull lists this node as left, with this status time (spec serf.md 12 step 3; fixes 20.4, 20.5).

        The reference applies a leave of the next Lamport time to every row. That makes the times of members that left
        grow without end, and a member that is back "leaving" for good when somebody has not heard of its return. Here
        the time is taken as it is; it need not be newer only to turn failed into left, and for the local node, which
        contradicts.
        """
        row = self._rows.get(node)
        same_counts = node == self._own or (row is not None and row.status is MemberStatus.FAILED)
        if same_counts and row is not None and ltime == row.status_ltime:
            ltime += 1
        self.leave_intent(ltime, node, prune=False)

    # --- forgetting ---------------------------------------------------------------------------------------------------

    def prune_when_gone(self, name: str) -> None:
        """Forget a leaving member once it is gone, and tell others then; nothing if it contradicts before."""
        row = self._rows.get(name)
        if row is not None and row.status is MemberStatus.LEAVING and name != self._own:
            row.prune = Prune.TELL
            self.changed[name] = None

    def _prune(self, row: MemberRow) -> None:
        if row.status is not MemberStatus.LEAVING:
            self._forget(row)
        elif row.name != self._own:
            row.prune = max(row.prune, Prune.FORGET)

    def reap(self, row: MemberRow) -> None:
        """The time of a member that is gone is up (spec serf.md 6.5)."""
        self._forget(row, f"EventMemberReap: {row.name}")

    def _forget(self, row: MemberRow, told: str = "") -> None:
        """Erase a member (spec serf.md 6.3 and 6.4)."""
        del self._rows[row.name]
        self._pruned.pop(row.name, None)
        while len(self._pruned) >= self._context.config.intent_limit:
            del self._pruned[next(iter(self._pruned))]
        self._pruned[row.name] = row.status_ltime
        self.counts[row.status] -= 1
        self.changed.pop(row.name, None)
        told = told or f"EventMemberReap (forced): {row.name} {to_text(row.address)}"
        self._context.log("INFO", "serf", told)
        self._context.effects.append(MemberForgotten(row.name))
        saved = row.saved()
        self._coalescing.member(EventKind.MEMBER_REAP, saved, saved)

    # --- telling ------------------------------------------------------------------------------------------------------

    def _set_status(self, row: MemberRow, status: MemberStatus) -> None:
        self.counts[row.status] -= 1
        self.counts[status] += 1
        row.status = status

    def _tell(self, row: MemberRow, before: SavedMember | None, kind: EventKind, text: str) -> None:
        self._context.log("INFO", "serf", text)
        saved = row.saved()
        self._context.effects.append(MemberChanged(member_of(saved)))
        self._coalescing.member(kind, before, saved)
        self.changed.pop(row.name, None)
