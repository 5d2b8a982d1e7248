"""Push/pull: two nodes exchange all they know, and merge it in slices (spec swim.md 8 and 3.6).

Rules:

* A merge is work, not an event: `work` carries it out entry by entry, between probes.
* All entries are checked for compatible protocol versions before the first is merged. Records that are gone, or carry
  no versions, take no part in that check (B8).
* The responder merges and refutes first and answers then, so that one exchange heals a partition (B14); an initiator
  that had to refute sends its own alive to the partner directly.
* A remote opinion "dead" or "suspect" is a local suspicion without a counted accuser; it never kills directly (B13).
* The number of inbound exchanges at a time is bounded; one too many is closed without an answer.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from serfmp.detector.effects import AnswerStream, CloseStream, Endpoint, OpenStream
from serfmp.detector.swim.context import Context
from serfmp.detector.swim.delegate import Delegate
from serfmp.detector.swim.gossip import Gossip
from serfmp.detector.swim.membership import Membership
from serfmp.detector.swim.table import NodeRecord, NodeState, NodeTable
from serfmp.errors import RemoteError
from serfmp.wire.messages import Alive, Dead, ErrorReply, PushPullNode, Suspect
from serfmp.wire.stream import PushPullReader, decode_stream_message, encode_push_pull

INBOUND_LIMIT: Final = 127
"""Inbound exchanges at once (spec swim.md 8.3)."""
SLICE: Final = 16
"""Entries decoded at a time. Ours."""
SCALE_THRESHOLD: Final = 32
"""Nodes up to which the interval is not stretched (spec swim.md 8.1)."""

Done = Callable[[str], None]
"""Told how an exchange ended: an error text, empty for success."""


def interval_factor(size: int) -> int:
    """By how much a cluster of `size` nodes stretches the interval (spec swim.md 8.1)."""
    if size <= SCALE_THRESHOLD:
        return 1
    return math.ceil(math.log2(size) - math.log2(SCALE_THRESHOLD)) + 1


class _Bounds:
    """The protocol versions that all can speak: the highest of all minima, the lowest of all maxima."""

    __slots__ = ("high", "low", "serf_high", "serf_low")

    def __init__(self) -> None:
        self.low, self.high, self.serf_low, self.serf_high = 0, 255, 0, 255

    def add(self, versions: bytes) -> None:
        """A node takes part."""
        self.low, self.high = max(self.low, versions[0]), min(self.high, versions[1])
        self.serf_low, self.serf_high = max(self.serf_low, versions[3]), min(self.serf_high, versions[4])

    def fault(self, name: str, versions: bytes) -> str:
        """Why a node cannot be part of it, or nothing."""
        if not self.low <= versions[2] <= self.high:
            return f"Node '{name}' protocol version ({versions[2]}) is incompatible: [{self.low}, {self.high}]"
        if not self.serf_low <= versions[5] <= self.serf_high:
            bounds = f"[{self.serf_low}, {self.serf_high}]"
            return f"Node '{name}' delegate protocol version ({versions[5]}) is incompatible: {bounds}"
        return ""


class PushPull:
    """Schedules, starts and answers exchanges. See the module."""

    __slots__ = ("_context", "_delegate", "_gossip", "_inbound", "_membership", "_open", "_own", "_table", "_work")

    def __init__(
        self, context: Context, table: NodeTable, gossip: Gossip, membership: Membership, delegate: Delegate
    ) -> None:
        self._context = context
        self._table = table
        self._gossip = gossip
        self._membership = membership
        self._delegate = delegate
        self._own = context.config.node
        self._work: deque[Iterator[int]] = deque()
        self._open: dict[int, tuple[Endpoint, Done, bool]] = {}
        self._inbound = 0
        context.after(context.rng.random() * context.profile.push_pull_interval, self._rearm)

    # --- schedule -----------------------------------------------------------------------------------------------------

    def _rearm(self) -> None:
        interval = self._context.profile.push_pull_interval * interval_factor(len(self._table))
        self._context.after(interval, self._tick)

    def _tick(self) -> None:
        partners = self._partners(1)
        if not partners:
            self._rearm()
        for partner in partners:
            self._sync(partner, lambda _: self._rearm())

    def refresh(self, partners: int) -> None:
        """Exchange state with up to so many random live nodes at once: something may have been missed."""
        for partner in self._partners(partners):
            self._sync(partner, lambda _: None)

    def _partners(self, wanted: int) -> list[NodeRecord]:
        return self._table.choose(wanted, lambda record: record.state is NodeState.ALIVE and record.name != self._own)

    def _sync(self, partner: NodeRecord, done: Done) -> None:
        host, port = partner.endpoint
        self._context.log("DEBUG", "memberlist", f"Initiating push/pull sync with: {partner.name} {host}:{port}")

        def ended(error: str) -> None:
            if error:
                self._context.log("ERR", "memberlist", f"Push/Pull with {partner.name} failed: {error}")
            done(error)

        self.exchange(partner.endpoint, ended, join=False)

    # --- initiator ----------------------------------------------------------------------------------------------------

    def exchange(self, endpoint: Endpoint, done: Done, join: bool) -> None:
        """Exchange state with the node at this address."""
        context, begun = self._context, self._context.now
        token = context.next_token()
        context.count("memberlist.tcp.connect")

        def over(error: str) -> None:
            context.sample("memberlist.pushPullNode", (context.now - begun) * 1000)
            done(error)

        self._open[token] = (endpoint, done, join)

        def answered(message: bytes | None, error: str, _remote: bool) -> None:
            del self._open[token]
            self._answered(message, error, endpoint, join, over)

        context.streams[token] = answered
        context.effects.append(OpenStream(token, endpoint, self._local(join), context.profile.stream_timeout))

    def _answered(self, message: bytes | None, error: str, endpoint: Endpoint, join: bool, done: Done) -> None:
        if message is None:
            done(error)
            return
        self._context.sample("memberlist.size.remote", len(message))
        try:
            answer = decode_stream_message(message)
        except RemoteError as fault:
            done(str(fault))
            return
        if isinstance(answer, ErrorReply):
            done(f"remote error: {answer.text}")
        elif not isinstance(answer, PushPullReader):
            done("the answer is no push/pull")
        else:
            refutations = self._membership.refutations

            def merged(error: str) -> None:
                if self._membership.refutations != refutations:
                    self._gossip.direct(endpoint, self._membership.own_alive())
                done(error)

            self._work.append(self._merge(answer, join, merged, endpoint))

    def cancel(self) -> None:
        """Exchanges that wait for an answer lost their connection: joins are begun again, others given up."""
        lost, self._open = self._open, {}
        for token, (endpoint, done, join) in lost.items():
            del self._context.streams[token]
            if join:
                self.exchange(endpoint, done, join)
            else:
                done("the connection was lost")

    # --- responder ----------------------------------------------------------------------------------------------------

    def answer(self, stream: int, reader: PushPullReader, source: Endpoint) -> None:
        """A node asks for an exchange."""
        context = self._context
        if self._inbound >= INBOUND_LIMIT:
            context.count("serfmp.push_pull.refused")
            context.log("ERR", "memberlist", "Too many pending push/pull requests")
            context.effects.append(CloseStream(stream))
            return
        self._inbound += 1

        def merged(error: str) -> None:
            self._inbound -= 1
            if error:
                text = f"Failed push/pull merge: {error} from={source[0]}:{source[1]}"
                context.log("ERR", "memberlist", text)
                context.effects.append(CloseStream(stream))
            else:
                context.effects.append(AnswerStream(stream, self._local(reader.join)))

        self._work.append(self._merge(reader, reader.join, merged, source))

    # --- both ---------------------------------------------------------------------------------------------------------

    def _local(self, join: bool) -> bytes:
        states = Counter(record.state for record in self._table)
        for state in NodeState:
            self._context.gauge(f"memberlist.node.instances.{state.name.lower()}", states[state])
        nodes = (
            PushPullNode(
                record.name,
                record.address,
                record.port,
                record.meta,
                record.incarnation,
                int(record.state),
                record.versions,
            )
            for record in self._table
        )
        encoded = encode_push_pull(join, nodes, self._delegate.local_state())
        self._context.gauge("memberlist.size.local", len(encoded))
        return encoded

    def work(self, budget: int) -> bool:
        """Merge about `budget` entries. True while something is left."""
        while budget > 0 and self._work:
            try:
                budget -= next(self._work[0])
            except StopIteration:
                self._work.popleft()
        return bool(self._work)

    def _merge(self, reader: PushPullReader, join: bool, done: Done, source: Endpoint) -> Iterator[int]:
        entries: list[PushPullNode] = []
        bounds = _Bounds()
        try:
            while reader.remaining:
                taken = reader.take(SLICE)
                for entry in taken:
                    if entry.state < NodeState.DEAD:
                        bounds.add(entry.versions)
                entries += taken
                yield SLICE
        except RemoteError as fault:
            done(str(fault))
            return
        if reader.skipped:
            self._context.count("serfmp.push_pull.skipped", reader.skipped)
        fault_text = self._verify(entries, bounds)
        if fault_text:
            done(fault_text)
            return
        yield from self._merge_entries(entries, source)
        if reader.user_state:
            yield from self._delegate.merge_state(reader.user_state, join)
        done("")

    def _verify(self, entries: Iterable[PushPullNode], bounds: _Bounds) -> str:
        """Spec swim.md 8.4, without those that are gone (B8)."""
        local = [record for record in self._table if not record.gone and record.protocol_max]
        for record in local:
            bounds.add(record.versions)
        for entry in entries:
            if entry.state < NodeState.DEAD:
                fault = bounds.fault(entry.name, entry.versions)
                if fault:
                    return fault
        for record in local:
            fault = bounds.fault(record.name, record.versions)
            if fault:
                return fault
        return ""

    def _merge_entries(self, entries: Iterable[PushPullNode], source: Endpoint) -> Iterator[int]:
        membership = self._membership
        for entry in entries:
            self._context.source = source
            match entry.state:
                case NodeState.ALIVE:
                    membership.alive(
                        Alive(entry.incarnation, entry.name, entry.address, entry.port, entry.meta, entry.versions)
                    )
                case NodeState.LEFT:
                    membership.dead(Dead(entry.incarnation, entry.name, entry.name))
                case NodeState.SUSPECT | NodeState.DEAD:
                    membership.suspect(Suspect(entry.incarnation, entry.name, self._own), merged=True)
                case _:
                    self._context.count("serfmp.push_pull.skipped")
            yield 1
