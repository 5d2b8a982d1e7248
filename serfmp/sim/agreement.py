"""What must be true of a healed cluster in the end, and how soon: L8 and I12 of swim.md, P7, P11, P14, P16 of serf.md.

Rules:

* Everybody shows who runs as alive, and those that are gone as the same.
* A host has every user event that was asked of a host that still runs and took it, since either began from nothing.
"""

from __future__ import annotations

from typing import Final

from serfmp.detector.config import Profile
from serfmp.detector.effects import Lifecycle, MemberStatus
from serfmp.detector.swim.push_pull import interval_factor
from serfmp.detector.swim.suspicion import SuspicionWindow
from serfmp.sim.cluster import Cluster
from serfmp.sim.host import Host
from serfmp.sim.invariants import BrokenError

LEFTOVER: Final = 64
"""Acks, queued messages that may be open in a calm cluster: that is, none that grow with its history."""

SHOWN: Final = 8
"""Differences that are told; the first ones say it all."""


def patience(nodes: int, profile: Profile) -> float:
    """How long agreement may take: anti-entropy three times, and the longest suspicion of those that are gone."""
    window = SuspicionWindow.for_cluster(nodes, profile)
    rounds = 2 * nodes * profile.probe_interval
    return 3 * profile.push_pull_interval * interval_factor(nodes) + window.longest + rounds


class Agreement:
    """See the module."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._sent: dict[int, Host] = {}
        """User events by number, with who was asked to send them."""
        self._begun_anew: dict[str, int] = {}
        """How many user events were asked for when a host last began from nothing."""

    def asked(self, host: Host) -> int:
        """A host is asked to send a user event; the number of it is what the payload must be."""
        number = len(self._sent)
        self._sent[number] = host
        return number

    def begun_anew(self, name: str) -> None:
        """A host begins from nothing."""
        self._begun_anew[name] = len(self._sent)

    def holds(self) -> bool:
        """Whether all is as it must be."""
        return not self._misjudged() and not any(self._missing(host) for host in self._cluster.running)

    def differences(self) -> str:
        """What is not as it must be."""
        found = self._misjudged()
        for host in self._cluster.running:
            if missing := self._missing(host):
                found.append(f"{host.name} misses the events {sorted(missing)}")
        return "; ".join(found[:SHOWN])

    def check_leftovers(self) -> None:
        """Nothing of a history is left in a calm cluster (swim.md I12, serf.md P7). Raises `BrokenError`."""
        for host in self._cluster.running:
            swim = host.alive.swim
            queued = {queue.name: queue.size for queue in swim.gossip.queues if queue.size}
            if swim.outstanding > LEFTOVER or sum(queued.values()) > LEFTOVER:
                raise BrokenError(f"I12 broken at {host.name}: {swim.outstanding} acks, queues {queued}")
            coalescing = host.alive.serf.coalescing
            waiting = [member.row.name for member in coalescing.untold()] + [event.name for event in coalescing.held()]
            if waiting:
                raise BrokenError(f"P16 broken at {host.name}: {waiting} are still to be told")

    def _missing(self, host: Host) -> set[bytes]:
        """Events that a host must have, and has not."""
        wanted = {
            str(number).encode()
            for number, sender in self._sent.items()
            if sender.core is not None
            and number >= self._begun_anew.get(sender.name, 0)
            and number >= self._begun_anew.get(host.name, 0)
            and any(payload == str(number).encode() for _, payload in sender.user_events())
        }
        return wanted - {payload for _, payload in host.user_events()}

    def _misjudged(self) -> list[str]:
        """Who shows whom as what it is not."""
        running = {host.name: host for host in self._cluster.running}
        found: list[str] = []
        gone: dict[str, tuple[str, MemberStatus]] = {}
        for host in running.values():
            statuses = host.statuses()
            found += [
                f"{host.name} shows {name} as {statuses[name].label if name in statuses else 'unknown'}"
                for name in running
                if statuses.get(name) is not MemberStatus.ALIVE
            ]
            for name, status in statuses.items():
                if name not in running:
                    first, before = gone.setdefault(name, (host.name, status))
                    if status in {MemberStatus.ALIVE, MemberStatus.LEAVING} or before is not status:
                        found.append(f"{host.name} shows {name} as {status.label}, {first} as {before.label}")
            if host.core is not None and host.core.lifecycle is not Lifecycle.ALIVE:
                found.append(f"{host.name} is {host.core.lifecycle.value}")
        return found
