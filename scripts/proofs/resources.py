"""What an agent's processes hold, looked at again and again, and by how much it grows.

Rules:

* A sample is of one moment: memory (PSS: pages that processes share are counted once), descriptors, threads of every
  process, and the depths of the agent's queues as it tells them itself.
* Growth is the slope of a straight line through the samples (least squares), in units an hour. Samples of the time in
  which an agent warms up (buffers fill to their bounds) are for whoever calls to leave out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from serfmp.client import Client
from tests.harness import Agent

KIB = 1024

QUEUES = ("intent_queue", "event_queue", "query_queue")
"""What `info` tells of broadcasts that wait to be sent."""


@dataclass(frozen=True, slots=True)
class ProcessFigures:
    """Of one process: proportional set size in MiB, open descriptors, threads."""

    pss: float
    descriptors: int
    threads: int


@dataclass(frozen=True, slots=True)
class Sample:
    """Of one agent: seconds of the monotonic clock, processes by name, lengths of queues by name."""

    at: float
    processes: dict[str, ProcessFigures]
    queues: dict[str, int]

    @property
    def total(self) -> ProcessFigures:
        """All processes together."""
        found = self.processes.values()
        return ProcessFigures(
            sum(p.pss for p in found), sum(p.descriptors for p in found), sum(p.threads for p in found)
        )


def look(agent: Agent, client: Client, now: float) -> Sample:
    """A sample. Handler scripts that run at this moment are no processes of the agent. Raises what `client` raises."""
    processes = {}
    for role, pids in agent.pids_by_role().items():
        if role == "other":
            continue
        for index, pid in enumerate(pids):
            # A script that is just being started has its worker's title still, and may be gone already.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                processes[role if len(pids) == 1 else f"{role}-{index}"] = of_process(pid)
    serf = client.stats()["serf"]
    queues = {name: int(serf[name]) for name in QUEUES}
    handlers = client.handlers()
    queues["handlers"] = sum(handler.queued + handler.running for handler in handlers)
    return Sample(now, processes, queues)


def of_process(pid: int) -> ProcessFigures:
    """The figures of a process. Raises OSError when it is gone."""
    place = Path(f"/proc/{pid}")
    rollup = dict(
        line.split(":", 1) for line in (place / "smaps_rollup").read_text(encoding="ascii").splitlines() if ":" in line
    )
    status = dict(
        line.split(":", 1) for line in (place / "status").read_text(errors="replace").splitlines() if ":" in line
    )
    return ProcessFigures(
        pss=int(rollup["Pss"].split()[0]) / KIB,
        descriptors=sum(1 for _ in (place / "fd").iterdir()),
        threads=int(status["Threads"]),
    )


def trees(roots: Iterable[int]) -> dict[int, list[int]]:
    """The processes below each of these, itself the first, by one look at the process table."""
    children: dict[int, list[int]] = {}
    for process in psutil.process_iter(["ppid"]):
        children.setdefault(process.info["ppid"], []).append(process.pid)
    found = {}
    for root in roots:
        tree = [root]
        for pid in tree:
            tree += children.get(pid, [])
        found[root] = tree
    return found


def computed(pids: Iterable[int]) -> float:
    """Seconds that these processes have computed, user and system; those that are gone count nothing."""
    total = 0.0
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(psutil.Process(pid).cpu_times()[:2])
    return total


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Growth of the second value for each hour (3600 units) of the first; 0.0 for fewer than two points."""
    if len(points) < 2:
        return 0.0
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    if not spread:
        return 0.0
    return 3600.0 * sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
