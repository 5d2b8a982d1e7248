"""The page on which every main loop shows that it lives.

One memfd, mapped by the supervisor and all children. A slot of 64 bytes (a cache line) per process holds the monotonic
time of the last turn and the number of turns. Only the main loop stamps it, never a thread: a page that is fresh means
a loop that turns.
"""

from __future__ import annotations

import mmap
import os
import struct
from typing import Final

_SLOT: Final = struct.Struct("<dQ")
SLOT_SIZE: Final = 64
SLOTS: Final = 64
"""Processes of one agent at most."""


def create() -> int:
    """A new page. Returns its descriptor, which children inherit."""
    descriptor = os.memfd_create("serfmp-heartbeat", 0)
    os.ftruncate(descriptor, SLOT_SIZE * SLOTS)
    return descriptor


class HeartbeatPage:
    """The mapped page."""

    def __init__(self, descriptor: int) -> None:
        self._page = mmap.mmap(descriptor, SLOT_SIZE * SLOTS)

    def stamp(self, slot: int, now: float, turns: int) -> None:
        """Write the monotonic time and the number of turns of a process."""
        _SLOT.pack_into(self._page, slot * SLOT_SIZE, now, turns)

    def read(self, slot: int) -> tuple[float, int]:
        """Monotonic time of the last turn (0.0: none yet) and number of turns."""
        when, turns = _SLOT.unpack_from(self._page, slot * SLOT_SIZE)
        return when, turns

    def clear(self, slot: int) -> None:
        """Forget what the last process of this slot wrote."""
        _SLOT.pack_into(self._page, slot * SLOT_SIZE, 0.0, 0)
