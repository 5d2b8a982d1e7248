"""How much the host lets this process down, for Lifeguard's health score: read outside the core, and told to it.

Rules:

* The evidence is lateness: by how much the detector's loop was late, and how long a fence took through the gossip
  process, which sends and receives for it. What counts is the second worst second of the last ten: a single slow turn
  is no pressure.
* Where the kernel tells how long work waits for processors (PSI), lateness counts only while it says so: on an idle
  host it is our own matter, and a busy host that does not make us late is nobody's.
* The level is 0 (none) to 3. It concerns this node's own judgement alone: nothing of it is sent to anybody.
* The file is read once a second while something was late, and for the metrics, `pread` of an open descriptor: 35 µs, no
  disk.
"""

from __future__ import annotations

import os
from collections import deque
from typing import Final

STEPS: Final = (0.1, 0.2, 0.4)
"""Lateness in seconds from which on the level is 1, 2, 3: one, two and four fifths of Serf's probe timeout."""

WINDOW: Final = 10
"""Seconds for which lateness counts; also the kernel's shortest average."""

WAITING_SHARE: Final = 10.0
"""Percent of the last ten seconds in which some work waited for a processor, from which on lateness counts."""

PLACES: Final = ("/sys/fs/cgroup/cpu.pressure", "/proc/pressure/cpu")
"""Where the kernel tells it: for the own cgroup of a container, for the host."""


class Pressure:
    """See the module. Times in seconds of the loop's clock."""

    def __init__(self, places: tuple[str, ...] = PLACES) -> None:
        self._late: deque[tuple[int, float]] = deque(maxlen=WINDOW + 1)
        """Seconds of the clock in which something was late, and the greatest lateness of each."""
        self._descriptor = _open(places)
        self.waiting: float | None = None
        """Percent of the last ten seconds in which work waited, as last read; None where the kernel does not tell."""

    def late(self, now: float, seconds: float) -> None:
        """Something was late by so many seconds."""
        if seconds < STEPS[0]:
            return
        second, late = int(now), self._late
        if late and late[-1][0] == second:
            late[-1] = (second, max(seconds, late[-1][1]))
        else:
            late.append((second, seconds))

    def level(self, now: float) -> int:
        """The level at this time; reads what the kernel tells, if that matters."""
        worst = self.worst(now)
        if worst < STEPS[0]:
            return 0
        waiting = self.look()
        if waiting is not None and waiting < WAITING_SHARE:
            return 0
        return sum(worst >= step for step in STEPS)

    def worst(self, now: float) -> float:
        """The lateness that counts, in seconds."""
        while self._late and now - self._late[0][0] > WINDOW:
            self._late.popleft()
        return sorted((late for _, late in self._late), reverse=True)[1] if len(self._late) > 1 else 0.0

    def look(self) -> float | None:
        """Read what the kernel tells, into `waiting`."""
        self.waiting = None
        if self._descriptor >= 0:
            try:
                text = os.pread(self._descriptor, 256, 0)
                self.waiting = float(text.split(b"avg10=", 1)[1].split(b" ", 1)[0])
            except (OSError, IndexError, ValueError):
                pass
        return self.waiting


def _open(places: tuple[str, ...]) -> int:
    for place in places:
        try:
            return os.open(place, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
    return -1
