"""Members as users see them: statuses moved by SWIM's notices and by intents (spec serf.md 5 and 6.3).

Rules:

* SWIM says who is there and who is gone; intents say whether somebody meant to go. An intent counts only if its Lamport
  time is above the member's last one.
* A node that SWIM saw declare itself gone has left, even if its leave intent is missing or late (fix 20.3).
* Every change of a row is told to the replicas before the event about it; rows that change without an event are
  recorded once a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from serfmp.detector.effects import EventKind, Member, MemberChanged, MemberForgotten, MemberStatus
from serfmp.detector.records import SavedMember, member_of
from serfmp.detector.serf.clock import LamportClock
from serfmp.detector.serf.intents import RecentIntents
from serfmp.detector.serf.outbox import Outbox
from serfmp.detector.swim.context import Context
from serfmp.detector.swim.table import NodeRecord, NodeState
from serfmp.wire.address import to_text


class MemberRow:
    """One member. `left_at`: when it left or failed, 0 otherwise."""

    __slots__ = ("address", "left_at", "meta", "name", "port", "status", "status_ltime", "versions")

    def __init__(self, name: str) -> None:
        self.name = name
        self.address = b""
        self.port = 0
        self.meta = b""
        self.versions = bytes(6)
        self.status = MemberStatus.ALIVE
        self.status_ltime = 0
        self.left_at = 0.0

    @classmethod
    def restored(cls, saved: SavedMember) -> MemberRow:
        """A row out of the journal."""
        row = cls(saved.name)
        row.address, row.port, row.meta, row.versions = saved.address, saved.port, saved.meta, saved.versions
        row.status, row.status_ltime, row.left_at = MemberStatus(saved.status), saved.status_ltime, saved.left_at
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
        )


class Members:
    """The member table. See the module."""

    __slots__ = ("_clock", "_context", "_intents", "_outbox", "_own", "_refute", "_rows", "changed", "counts")

    def __init__(
        self,
        context: Context,
        clock: LamportClock,
        intents: RecentIntents,
        outbox: Outbox,
        refute: Callable[[], bool],
        saved: Iterable[SavedMember] = (),
    ) -> None:
        """`refute`: called for a leave intent about the local node; True if the node does not mean to leave."""
        self._context = context
        self._clock = clock
        self._intents = intents
        self._outbox = outbox
        self._refute = refute
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

    # --- notices of SWIM ----------------------------------------------------------------------------------------------

    def joined(self, record: NodeRecord) -> None:
        """Spec serf.md 5.1."""
        row = self._rows.get(record.name)
        if row is None:
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
        row.take(record)
        self._context.count("serf.member.join")
        self._tell(row, EventKind.MEMBER_JOIN, f"EventMemberJoin: {row.name} {to_text(row.address)}")

    def gone(self, record: NodeRecord) -> None:
        """Spec serf.md 5.2, with fix 20.3."""
        row = self._rows.get(record.name)
        if row is None:
            return
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
        self._tell(row, kind, f"{title}: {row.name} {to_text(row.address)}")

    def updated(self, record: NodeRecord) -> None:
        """Spec serf.md 5.3."""
        row = self._rows.get(record.name)
        if row is not None:
            row.take(record)
            self._context.count("serf.member.update")
            self._tell(row, EventKind.MEMBER_UPDATE, f"EventMemberUpdate: {row.name}")

    def reconcile(self, record: NodeRecord) -> None:
        """Make up for a notice that a killed detector did not come to handle."""
        row = self._rows.get(record.name)
        if row is None:
            if not record.gone:
                self.joined(record)
            return
        there = row.status in {MemberStatus.ALIVE, MemberStatus.LEAVING}
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
            return self._intents.upsert(node, leaving=True, ltime=ltime)
        if ltime <= row.status_ltime:
            return False
        if node == self._own and self._refute():
            return False
        row.status_ltime = ltime
        if row.status is MemberStatus.ALIVE:
            self._set_status(row, MemberStatus.LEAVING)
            self._context.effects.append(MemberChanged(member_of(row.saved())))
            self.changed[node] = None
        elif row.status is MemberStatus.FAILED:
            self._set_status(row, MemberStatus.LEFT)
            text = f"EventMemberLeave (forced): {node} {to_text(row.address)}"
            self._tell(row, EventKind.MEMBER_LEAVE, text)
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

    def _prune(self, row: MemberRow) -> None:
        if row.status is not MemberStatus.LEAVING:
            self._forget(row)
            return
        config = self._context.config

        def forget() -> None:
            if self._rows.get(row.name) is row and row.status is not MemberStatus.ALIVE:
                self._forget(row)

        self._context.after(config.broadcast_timeout + config.leave_propagate_delay, forget)

    def _forget(self, row: MemberRow) -> None:
        """Erase a member (spec serf.md 6.3 and 6.4)."""
        del self._rows[row.name]
        self.counts[row.status] -= 1
        self.changed.pop(row.name, None)
        self._context.log("INFO", "serf", f"EventMemberReap (forced): {row.name} {to_text(row.address)}")
        self._context.effects.append(MemberForgotten(row.name))
        self._outbox.member_event(EventKind.MEMBER_REAP, (row.saved(),))

    # --- telling ------------------------------------------------------------------------------------------------------

    def _set_status(self, row: MemberRow, status: MemberStatus) -> None:
        self.counts[row.status] -= 1
        self.counts[status] += 1
        row.status = status

    def _tell(self, row: MemberRow, kind: EventKind, text: str) -> None:
        self._context.log("INFO", "serf", text)
        saved = row.saved()
        self._context.effects.append(MemberChanged(member_of(saved)))
        self._outbox.member_event(kind, (saved,))
        self.changed.pop(row.name, None)
