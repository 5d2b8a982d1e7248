"""The page on which every main loop shows that it lives.

One memfd, mapped by the supervisor and all children. A slot of 64 bytes (a cache line) per process holds the monotonic
time of the last look for input, with which a turn begins, the number of turns, and the processor time that the main
thread had had by then. Only the main loop stamps it, never a thread: a page that is fresh means a loop that turns. The
last slot is the agent's own: the phase of what is periodic in all its processes, and until when somebody watches it.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from typing import Final, NamedTuple

_SLOT: Final = struct.Struct("<dQd")
_TIME: Final = struct.Struct("<d")
SLOT_SIZE: Final = 64
SLOTS: Final = 64
"""Processes of one agent at most, and the agent's own slot."""

_PHASE: Final = (SLOTS - 1) * SLOT_SIZE
_WATCHED: Final = _PHASE + _TIME.size


class Stamp(NamedTuple):
    """What a process wrote last: monotonic time (0.0: nothing yet), number of turns, seconds of processor time."""

    when: float
    turns: int
    ran: float


def create() -> int:
    """A new page, whose phase is the time at which it is made. Returns its descriptor, which children inherit."""
    descriptor = os.memfd_create("serfmp-heartbeat", 0)
    os.ftruncate(descriptor, SLOT_SIZE * SLOTS)
    os.pwrite(descriptor, _TIME.pack(time.monotonic()), _PHASE)
    return descriptor


class HeartbeatPage:
    """The mapped page."""

    def __init__(self, descriptor: int) -> None:
        self._page = mmap.mmap(descriptor, SLOT_SIZE * SLOTS)

    @property
    def phase(self) -> float:
        """A monotonic time: what is periodic in the agent's processes is counted from it."""
        return float(_TIME.unpack_from(self._page, _PHASE)[0])

    @property
    def watched(self) -> float:
        """The monotonic time until which somebody watches the agent; 0.0: nobody has."""
        return float(_TIME.unpack_from(self._page, _WATCHED)[0])

    def watch(self, until: float) -> None:
        """Somebody watches the agent until this monotonic time. Said by one process: the one with the monitor bus."""
        _TIME.pack_into(self._page, _WATCHED, until)

    def stamp(self, slot: int, now: float, turns: int, ran: float) -> None:
        """Write the monotonic time, the number of turns of a process, and its processor time in seconds."""
        _SLOT.pack_into(self._page, slot * SLOT_SIZE, now, turns, ran)

    def read(self, slot: int) -> Stamp:
        """The last stamp."""
        return Stamp._make(_SLOT.unpack_from(self._page, slot * SLOT_SIZE))

    def clear(self, slot: int) -> None:
        """Forget what the last process of this slot wrote."""
        _SLOT.pack_into(self._page, slot * SLOT_SIZE, 0.0, 0, 0.0)
