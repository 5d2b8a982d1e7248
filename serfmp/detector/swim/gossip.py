"""Dissemination: what is queued, how soon and to whom it goes (spec swim.md 7).

Rules:

* The queues are drawn in a fixed order: membership first, then those that Serf registered (intents, queries, events).
  Where several packets follow each other, every second one is drawn in the opposite order: no queue starves another.
* **At once**: what is new in a queue leaves with the turn, or `prompt_delay` after the last such packets, to a few
  random nodes, one draw for all of them. The periodic gossip tick carries the repetitions, with a draw for each target:
  each message about once to each; what does not fit one packet follows in slices, `prompt_delay` apart. While nothing
  is queued the tick rests.
* What is urgent and the first packet of a tick to each node wait for nothing; all others wait when the budget of bytes
  is used up.
* Own refutations and the own leave do not even wait for the delay: `urgent` sends them in the same turn.
* What goes to nodes that are gone does not count as transmitted, unless nobody else is there (B7).
* A packet never exceeds the profile's packet size. A message that fits no packet is not queued but counted. (The wire
  layer splits compounds of more than 255 messages; at this size there are none.)
* Pings, indirect pings, acks and nacks carry along what still fits.
* While nobody is there to send (`hold`), all that is queued stays queued: what is not sent does not count as sent.

An empty queue costs a ping or an ack a few attribute lookups.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from serfmp.detector.effects import Endpoint, SendPacket
from serfmp.detector.swim.budget import ByteBudget
from serfmp.detector.swim.context import Context
from serfmp.detector.swim.queue import TransmitQueue
from serfmp.detector.swim.table import NodeRecord, NodeState, NodeTable
from serfmp.detector.swim.timers import Ticker, Timer

COMPOUND_HEADER: Final = 2
"""Bytes: the compound's type and its count (spec swim.md 7.9)."""
PART_OVERHEAD: Final = 2
"""Bytes: the length of a compound's part (spec swim.md 7.9)."""
CHECKSUM_OVERHEAD: Final = 5
"""Bytes: type and CRC; counted always, though only some peers get it (B19)."""
BUDGET_WARNING_INTERVAL: Final = 60.0
"""Seconds between two warnings that the budget is used up. Ours."""


class Gossip:
    """The queues and what empties them. See the module."""

    __slots__ = (
        "_budget",
        "_context",
        "_flush_timer",
        "_flushed",
        "_held",
        "_owed",
        "_own",
        "_repeat_timer",
        "_room",
        "_table",
        "_ticker",
        "_turned",
        "_urgent",
        "membership",
        "queues",
    )

    def __init__(self, context: Context, table: NodeTable) -> None:
        self._context = context
        self._table = table
        self._own = context.config.node
        self._room = context.config.packet_budget - COMPOUND_HEADER
        self._flush_timer: Timer | None = None
        self._flushed = -math.inf
        """When something was last sent at once."""
        self._repeat_timer: Timer | None = None
        self._owed = 0
        """Messages that the present tick has still to send, counted per target."""
        self._budget = ByteBudget(context.config.gossip_budget, context.now)
        self._urgent = False
        self._turned = False
        self._held = False
        self.membership = TransmitQueue("Membership", context.profile.retransmit_mult, table.size)
        self.queues: list[TransmitQueue] = [self.membership]
        self._ticker = Ticker(context.timers, context.time, context.rng, context.profile.gossip_interval, self._tick)

    def add_queue(self, name: str, population: Callable[[], int], depth_limit: int) -> TransmitQueue:
        """A further queue, drawn after those that are there. `population`: nodes, for the retransmit limit."""
        queue = TransmitQueue(name, self._context.profile.retransmit_mult, population, depth_limit)
        self.queues.append(queue)
        return queue

    def enqueue(
        self,
        queue: TransmitQueue,
        message: bytes,
        name: str | None = None,
        finished: Callable[[], None] | None = None,
        urgent: bool = False,
    ) -> None:
        """Queue a complete message. `finished` is called once it was sent often enough, was replaced or dropped."""
        if len(message) + PART_OVERHEAD + CHECKSUM_OVERHEAD > self._room:
            self._context.count(f"serfmp.queue.oversize.{queue.name}")
            self._context.log(
                "WARN", "serf", f"A message of {len(message)} bytes fits no packet: it spreads by push/pull only"
            )
            if finished is not None:
                finished()
            return
        dropped = queue.push(message, name, finished)
        self._ticker.wake()
        if dropped:
            self._context.count(f"serfmp.queue.dropped.{queue.name}", dropped)
            if not self._context.quiet(f"dropped {queue.name}"):
                text = f"{queue.name} queue is full ({queue.depth_limit}), dropping messages!"
                self._context.log("WARN", "serf", text)
        if urgent:
            self._urgent = True
        elif self._flush_timer is None:
            self._plan_flush()

    def broadcast(
        self, message: bytes, name: str, finished: Callable[[], None] | None = None, urgent: bool = False
    ) -> None:
        """Queue a membership message under the name of the node that it is about."""
        self.enqueue(self.membership, message, name, finished, urgent)

    def hold(self) -> None:
        """From now on packets reach nobody: keep what is queued."""
        self._held = True

    def release(self) -> None:
        """Packets reach others again."""
        self._held = False
        if self._flush_timer is None and self._has_fresh():
            self._plan_flush()

    def _plan_flush(self) -> None:
        """At the next turn, if it is quiet: what comes together in this one shares packets."""
        due = max(self._context.now, self._flushed + self._context.config.prompt_delay)
        self._flush_timer = self._context.timers.at(due, self._flush)

    # --- with other packets -------------------------------------------------------------------------------------------

    def piggyback(self, message: bytes, first: bytes = b"") -> tuple[bytes, ...]:
        """The parts of a packet that carries `message`, then `first` if given, then what is queued and fits."""
        for queue in self.queues:
            if queue.size and not self._held:
                break
        else:
            return (message, first) if first else (message,)
        parts = [message]
        free = self._room - PART_OVERHEAD - len(message)
        if first:
            parts.append(first)
            free -= PART_OVERHEAD + len(first)
        self._fill(parts, free)
        if first and first in parts[2:]:
            del parts[parts.index(first, 2)]
        self._settle()
        return tuple(parts)

    def _fill(
        self, parts: list[bytes], free: int, copies: int = 1, fresh_only: bool = False, turned: bool = False
    ) -> None:
        for queue in reversed(self.queues) if turned else self.queues:
            if queue.size:
                before = len(parts)
                free -= queue.draw(parts, PART_OVERHEAD, free, copies, fresh_only)
                if queue is not self.membership and len(parts) > before:
                    # Without the byte that says that it is Serf's.
                    self._context.sample_all("serf.msgs.sent", [len(part) - 1 for part in parts[before:]])

    def _settle(self) -> None:
        for queue in self.queues:
            queue.settle()

    # --- packets of its own -------------------------------------------------------------------------------------------

    def settle_turn(self) -> None:
        """Send what may not wait for the next turn."""
        if self._urgent and not self._held:
            self._flush()

    def _flush(self) -> None:
        """Send what was never sent to a few nodes, each of them the same."""
        context = self._context
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        if self._held:
            return
        urgent, self._urgent = self._urgent, False
        limits = [queue.transmit_limit for queue in self.queues if queue.has_fresh]
        if not limits:
            return
        targets = self._targets(min(context.profile.gossip_nodes, max(1, min(limits))))
        if not targets:
            return
        self._flushed = context.now
        for _ in range(context.config.prompt_packets):
            if not urgent and self._must_save():
                break
            parts: list[bytes] = []
            self._fill(parts, self._room - CHECKSUM_OVERHEAD, _copies(targets), fresh_only=True, turned=self._turn())
            if not parts:
                break
            self._send_to_all(targets, parts)
            if not self._has_fresh():
                break
        self._settle()
        if self._has_fresh():
            self._flush_timer = context.after(context.config.prompt_delay, self._flush)

    def _has_fresh(self) -> bool:
        return any(queue.has_fresh for queue in self.queues)

    def _tick(self) -> None:
        """Send what is queued, each message to each of a few nodes; a deep queue goes on between the ticks."""
        begun = self._context.stopwatch()
        self._begin_repetitions()
        self._context.sample("memberlist.gossip", (self._context.stopwatch() - begun) * 1000)

    def _begin_repetitions(self) -> None:
        if self._repeat_timer is not None:
            self._repeat_timer.cancel()
        queued = sum(queue.size for queue in self.queues)
        if queued and not self._held:
            targets = self._targets(self._context.profile.gossip_nodes)
            self._owed = queued * len(targets)
            self._repeat(targets, free=1)
        if not any(queue.size for queue in self.queues):
            self._ticker.rest()

    def _go_on(self) -> None:
        self._repeat(self._targets(self._context.profile.gossip_nodes), free=0)

    def _repeat(self, targets: list[NodeRecord], free: int) -> None:
        """`free`: packets to each target that the budget does not hold up."""
        self._repeat_timer = None
        if self._held:
            return
        only_gone = all(target.gone for target in targets)
        for target in targets:
            copies = 1 if only_gone or not target.gone else 0
            if self._owed <= 0 or not self._send_repetitions(target, copies, free):
                break
        if self._owed > 0 and targets and any(queue.size for queue in self.queues):
            self._repeat_timer = self._context.after(self._context.config.prompt_delay, self._go_on)

    def _send_repetitions(self, target: NodeRecord, copies: int, free: int) -> bool:
        """A draw of its own for this target; whether anything was sent."""
        sent = False
        for number in range(self._context.config.tick_packets):
            if number >= free and (self._owed <= 0 or self._must_save()):
                break
            parts: list[bytes] = []
            self._fill(parts, self._room - CHECKSUM_OVERHEAD, copies, turned=number > 0 and self._turn())
            if not parts:
                break
            self._send_to_all((target,), parts)
            self._owed -= len(parts)
            sent = True
        self._settle()
        return sent

    def _turn(self) -> bool:
        """Every second time True."""
        self._turned = not self._turned
        return self._turned

    def _must_save(self) -> bool:
        """Whether further packets have to wait: the budget is used up."""
        context = self._context
        if self._budget.left(context.now):
            return False
        context.count("serfmp.gossip.budget")
        if not context.quiet("gossip budget", BUDGET_WARNING_INTERVAL):
            text = f"Gossip reached its budget of {context.config.gossip_budget} bytes/s: what is queued takes longer"
            context.log("WARN", "serf", text)
        return True

    def _send_to_all(self, targets: Sequence[NodeRecord], parts: list[bytes]) -> None:
        size = sum(map(len, parts)) + PART_OVERHEAD * len(parts) + CHECKSUM_OVERHEAD
        content, effects = tuple(parts), self._context.effects
        for target in targets:
            self._budget.spend(size)
            effects.append(SendPacket(target.endpoint, content, target.checksum))

    def _targets(self, wanted: int) -> list[NodeRecord]:
        recently = self._context.now - self._context.profile.gossip_to_the_dead_time
        own = self._own

        def accept(record: NodeRecord) -> bool:
            state = record.state
            return record.name != own and (
                state < NodeState.DEAD or (state is NodeState.DEAD and record.changed >= recently)
            )

        return self._table.choose(wanted, accept)

    def live_nodes(self) -> int:
        """How many nodes are alive or suspect, the local one included."""
        return sum(not record.gone for record in self._table)

    def direct(self, endpoint: Endpoint, message: bytes) -> None:
        """Send one message to one node, without anything else."""
        self._context.effects.append(SendPacket(endpoint, (message,), checksum=False))


def _copies(targets: list[NodeRecord]) -> int:
    """How many transmissions a packet to all of these counts."""
    return sum(not target.gone for target in targets) or len(targets)
