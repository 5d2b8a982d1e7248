"""Force-leave: telling the cluster that a node has left which cannot say so itself (spec serf.md 6.2 and 6.3).

Rules:

* Whether there is anybody to tell is looked at before the leave is applied here, and a living target is told directly:
  so it always learns of it and can contradict, also in a cluster of two (fix 20.4).
* A member that is still there is never pruned. Its leave intent goes out without the prune flag, because others may
  take that flag for an order; if the node then really goes, the prune follows by itself (fix 20.6).
* Nobody has to know the node: the intent spreads all the same.
"""

from __future__ import annotations

from typing import Final

from serfmp.detector.effects import Answer, RequestId
from serfmp.detector.serf.layer import Serf
from serfmp.detector.serf.spreading import answer_when_spread
from serfmp.detector.swim.context import Context
from serfmp.detector.swim.swim import Swim
from serfmp.wire.serf_messages import LeaveIntent

TIMED_OUT: Final = "timed out broadcasting node removal"


class Removal:
    """Carries requests for a force-leave out. See the module."""

    __slots__ = ("_context", "_serf", "_swim")

    def __init__(self, context: Context, swim: Swim, serf: Serf) -> None:
        self._context = context
        self._swim = swim
        self._serf = serf

    def request(self, id: RequestId, node: str, prune: bool) -> None:
        """Somebody asks for it; the `Answer` follows when gossip has sent the intent often enough."""
        context, serf = self._context, self._serf
        somebody = serf.members.others_alive()
        there = serf.members.is_there(node)
        intent = LeaveIntent(serf.clock.increment(), node, prune and not there)
        serf.members.leave_intent(intent.ltime, node, intent.prune)
        if prune and there:
            serf.members.prune_when_gone(node)
        if not somebody:
            context.effects.append(Answer(id, None))
            return
        message = serf.broadcast_leave(intent, answer_when_spread(context, id, TIMED_OUT))
        target = self._swim.table.get(node)
        if target is not None and not target.gone and node != context.config.node:
            self._swim.gossip.direct(target.endpoint, message)
