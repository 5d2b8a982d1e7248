"""A mixed cluster on loopback addresses: s1 and s2 are ours, r1 and r2 the real serf.

Rules: agents log at INFO, so that logging does not load what is measured; everything that was started is ended with the
launcher. In a rehearsal all four are real.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.harness import Agent, ConnectionLost, Launcher, LoopbackAllocator, RpcError

OURS = ("s1", "s2")
REAL = ("r1", "r2")

JOINED_S = 30.0
"""For everybody to see everybody alive."""

FAILURE_LINES = ("EventMemberFailed", " has failed, no acks received", "Marking ")
"""What agents of both kinds log about members that they hold for dead: accusation, suspicion, its end."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Running agents by name, in the order s1, s2, r1, r2."""

    agents: Mapping[str, Agent]

    def __getitem__(self, name: str) -> Agent:
        return self.agents[name]

    @property
    def alive(self) -> dict[str, str]:
        """What every agent should see."""
        return dict.fromkeys(self.agents, "alive")

    def wait_alive(self, deadline_s: float = JOINED_S) -> None:
        """Wait until everybody sees everybody alive."""
        for agent in self.agents.values():
            agent.wait_statuses(self.alive, deadline_s)

    def unhealthy(self) -> list[str]:
        """Who sees whom in another state than alive, as texts."""
        found = []
        for name, agent in self.agents.items():
            try:
                statuses = agent.statuses()
            except (OSError, ConnectionLost, RpcError) as error:
                # An agent that is gone is a finding, not the end of the proof.
                found.append(f"{name} does not answer: {error}")
                continue
            found += [f"{name} sees {node} {status}" for node, status in statuses.items() if status != "alive"]
            found += [f"{name} does not see {node}" for node in self.agents if node not in statuses]
        return found

    def failure_lines(self) -> dict[str, list[str]]:
        """The lines of each agent's log that tell of failed members."""
        return {
            name: [line for line in agent.log().splitlines() if any(text in line for text in FAILURE_LINES)]
            for name, agent in self.agents.items()
        }


def start(
    launch: Launcher,
    *,
    rehearse: bool = False,
    profile: str = "lan",
    handlers: Mapping[str, Sequence[str]] | None = None,
) -> Cluster:
    """Start the four and wait until they know each other. `handlers`: of some of them, by name."""
    agents: dict[str, Agent] = {}
    for name in (*OURS, *REAL):
        begin = launch.serfmp if name in OURS and not rehearse else launch.serf
        agents[name] = begin(
            name,
            join=[agents[OURS[0]]] if agents else [],
            profile=profile,
            log_level="INFO",
            handlers=(handlers or {}).get(name, ()),
        )
    cluster = Cluster(agents)
    cluster.wait_alive()
    return cluster


@dataclass(frozen=True, slots=True)
class Workplace:
    """Where a script works: agents are started by `launch`, files go below `directory`."""

    launch: Launcher
    directory: Path


@contextmanager
def workplace(keep: bool) -> Iterator[Workplace]:
    """A workplace for scripts, with a directory that goes away unless it is to be kept."""
    directory = Path(tempfile.mkdtemp(prefix="serfmp-proof-"))
    try:
        with LoopbackAllocator() as loopback, Launcher(directory, loopback) as launch:
            yield Workplace(launch, directory)
    finally:
        if keep:
            print(f"the agents' logs are in {directory}", file=sys.stderr)
        else:
            shutil.rmtree(directory, ignore_errors=True)
