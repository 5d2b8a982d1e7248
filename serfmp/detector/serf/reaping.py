"""Forgetting members that are gone for long, and looking for those that may be back (spec serf.md 6.5, 6.6, 20.13).

Rules:

* A failed member is kept for the reconnect timeout, one that left for the tombstone timeout; a node may have a limit of
  its own. At each reap interval those beyond it are forgotten, and a reap event tells it.
* At each reconnect interval one failed member is tried, less often the fewer have failed: in a large cluster somebody
  else will.
* A partition that outlives these timeouts leaves two halves that do not know each other any more. So addresses that
  once belonged to the cluster, the seeds of the configuration and those of members that were reaped as failed, are
  tried for ever, one of them at each heal interval. Names are resolved anew each time. At most `SEEDS` are kept.
* Nothing is tried while the node leaves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from serfmp.detector.effects import Lifecycle, MemberStatus, Record
from serfmp.detector.records import RecordKind
from serfmp.detector.serf.layer import Serf
from serfmp.detector.serf.members import MemberRow
from serfmp.detector.swim.context import Context
from serfmp.detector.swim.swim import Swim
from serfmp.detector.swim.timers import Ticker
from serfmp.wire.address import to_text
from serfmp.wire.host_port import join_host_port

SEEDS: Final = 64
"""Addresses of lost members that are tried again. Ours."""


class Reaping:
    """See the module."""

    __slots__ = ("_context", "_lost", "_serf", "_swim")

    def __init__(self, context: Context, swim: Swim, serf: Serf, lost: Iterable[str] = ()) -> None:
        """`lost`: addresses of members that an earlier detector had reaped."""
        self._context = context
        self._swim = swim
        self._serf = serf
        self._lost: dict[str, None] = dict.fromkeys(lost)
        config = context.config
        for period, step in (
            (config.reap_interval, self._reap),
            (config.reconnect_interval, self._reconnect),
            (config.heal_interval, self._heal),
        ):
            Ticker(context.timers, context.time, context.rng, period, step)

    # --- reaping ------------------------------------------------------------------------------------------------------

    def _reap(self) -> None:
        config, now = self._context.config, self._context.now
        limits = {MemberStatus.FAILED: config.reconnect_timeout, MemberStatus.LEFT: config.tombstone_timeout}
        counts = self._serf.members.counts
        if not counts[MemberStatus.FAILED] and not counts[MemberStatus.LEFT]:
            return
        for row in list(self._serf.members):
            limit = limits.get(row.status)
            if limit is None or now - row.left_at <= config.reap_limits.get(row.name, limit):
                continue
            if row.status is MemberStatus.FAILED:
                self._remember(_address(row))
            self._context.count("serfmp.member.reaped")
            self._serf.members.reap(row)

    def _remember(self, address: str) -> None:
        if address in self._lost:
            return
        if len(self._lost) >= SEEDS:
            del self._lost[next(iter(self._lost))]
            self._context.count("serfmp.seeds.forgotten")
        self._lost[address] = None
        self._context.effects.append(Record((RecordKind.LOST.value, address)))

    # --- looking for others -------------------------------------------------------------------------------------------

    def _reconnect(self) -> None:
        """Spec serf.md 6.6."""
        members, context = self._serf.members, self._context
        failed = [row for row in members if row.status is MemberStatus.FAILED]
        if not failed or self._serf.lifecycle is not Lifecycle.ALIVE:
            return
        alive = members.size() - len(failed) - members.counts[MemberStatus.LEFT]
        if context.rng.random() > len(failed) / max(1, alive):
            context.log("DEBUG", "serf", "forgoing reconnect for random throttling")
            return
        row = context.rng.choice(failed)
        endpoint = to_text(row.address), row.port
        context.log("INFO", "serf", f"attempting reconnect to {row.name} {join_host_port(*endpoint)}")
        self._swim.push_pull.exchange(endpoint, lambda _error: None, join=True)

    def _heal(self) -> None:
        if self._serf.lifecycle is not Lifecycle.ALIVE:
            return
        context, config = self._context, self._context.config
        there = {
            _address(row)
            for row in self._serf.members
            if row.status is MemberStatus.ALIVE or row.status is MemberStatus.LEAVING
        }
        for address in [address for address in self._lost if address in there]:
            del self._lost[address]
        candidates = [address for address in (*config.seeds, *self._lost) if address not in there]
        if not candidates:
            return
        address = context.rng.choice(candidates)
        context.count("serfmp.seeds.tried")
        context.log("DEBUG", "serf", f"looking for a lost part of the cluster at {address}")
        self._swim.joiner.join((address,), lambda: None, self._healed)

    def _healed(self, contacted: int, _error: str) -> None:
        if contacted and self._serf.lifecycle is Lifecycle.ALIVE:
            self._serf.broadcast_join()

    def saved(self) -> Iterator[str]:
        """Addresses of reaped members."""
        return iter(self._lost)


def _address(row: MemberRow) -> str:
    return join_host_port(to_text(row.address), row.port)
