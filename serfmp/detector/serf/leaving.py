"""The graceful leave, step by step (spec serf.md 6.1, with B16).

Rules:

* First the leave intent spreads, then SWIM's notice that the node is gone, then the node stays for a while and answers
  probes.
* Both messages go to several live nodes directly, besides gossip. A step ends when gossip has sent its message often
  enough, or after some gossip periods: by then the news has reached everybody whom gossip reaches. Large and busy
  clusters do not delay a leave.
* A leave is journaled before anybody hears of it. A detector that is started again takes it up with the same Lamport
  time; the node never comes back to life by accident.
* Whoever asks for a leave while one runs waits for it; afterwards it is answered at once.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from serfmp.detector.effects import Answer, Lifecycle, RequestId
from serfmp.detector.serf.layer import Serf
from serfmp.detector.swim.context import Context
from serfmp.detector.swim.swim import Swim
from serfmp.wire.serf_messages import LeaveIntent

SPREAD_PERIODS: Final = 5
"""Gossip periods after which a step ends at the latest. Ours: 1000 nodes are reached in five (spec swim.md 14.2 L6)."""
HANDED_AT_LEAST: Final = 3
"""Live nodes that get each message directly, or as many as the retransmit limit says if that is more (B16)."""


class _Step(Enum):
    IDLE = auto()
    INTENT = auto()
    DECLARED = auto()
    LINGERING = auto()


class Leaving:
    """Carries the leave out. See the module."""

    __slots__ = ("_context", "_serf", "_step", "_swim", "_waiting")

    def __init__(self, context: Context, swim: Swim, serf: Serf) -> None:
        self._context = context
        self._swim = swim
        self._serf = serf
        self._step = _Step.IDLE
        self._waiting: list[RequestId] = []

    def request(self, id: RequestId) -> None:
        """Somebody asks for a leave."""
        if self._serf.lifecycle is Lifecycle.LEFT:
            self._context.effects.append(Answer(id, None))
        elif self._serf.lifecycle is Lifecycle.SHUTDOWN:
            self._context.effects.append(Answer(id, None, "Leave called after Shutdown"))
        else:
            self._waiting.append(id)
            if self._serf.lifecycle is Lifecycle.ALIVE:
                self._serf.leave_ltime = self._serf.clock.increment()
                self._serf.set_lifecycle(Lifecycle.LEAVING)
                self._serf.persisting.leave()
                self._announce()

    def resume(self) -> None:
        """Go on with the leave of a dead detector."""
        if self._swim.membership.left:
            self._declare()
        else:
            self._announce()

    def _announce(self) -> None:
        self._step = _Step.INTENT
        self._serf.members.leave_intent(self._serf.leave_ltime, self._context.config.node, prune=False)
        if not self._serf.members.others_alive():
            self._declare()
            return
        intent = LeaveIntent(self._serf.leave_ltime, self._context.config.node)
        self._hand_on(self._serf.broadcast_leave(intent, lambda: self._later(_Step.INTENT)))
        self._context.after(self._patience(), lambda: self._advance(_Step.INTENT))

    def _declare(self) -> None:
        self._step = _Step.DECLARED
        message = self._swim.membership.leave(lambda: self._later(_Step.DECLARED))
        own = self._context.config.node
        if all(record.gone or record.name == own for record in self._swim.table):
            self._linger()
            return
        self._hand_on(message)
        self._context.after(self._patience(), lambda: self._advance(_Step.DECLARED))

    def _linger(self) -> None:
        self._step = _Step.LINGERING
        self._context.after(self._context.config.leave_propagate_delay, self._left)

    def _left(self) -> None:
        self._serf.set_lifecycle(Lifecycle.LEFT)
        waiting, self._waiting = self._waiting, []
        self._context.effects.extend(Answer(asked, None) for asked in waiting)

    # --- helpers ------------------------------------------------------------------------------------------------------

    def _later(self, step: _Step) -> None:
        """A queue says that a step is done: act outside of the queue's own work."""
        self._context.after(0.0, lambda: self._advance(step))

    def _advance(self, done: _Step) -> None:
        if self._step is not done:
            return
        if done is _Step.INTENT:
            self._declare()
        else:
            self._linger()

    def _patience(self) -> float:
        spread = SPREAD_PERIODS * self._context.profile.gossip_interval
        return min(self._context.config.broadcast_timeout, spread)

    def _hand_on(self, message: bytes) -> None:
        own = self._context.config.node
        wanted = max(HANDED_AT_LEAST, self._swim.gossip.membership.transmit_limit)
        for record in self._swim.table.choose(wanted, lambda record: not record.gone and record.name != own):
            self._swim.gossip.direct(record.endpoint, message)
