"""Gives back to the host what a burst has left in the C library's heap.

Rules:

* glibc keeps what was freed between blocks that are in use, whole pages of it. Where ten thousand members had joined,
  all processes together kept 12 MB in that way for good.
* A process looks at its resident memory every `PERIOD`. If that has grown by `GROWN`, its free pages are given back,
  and at the next looks again until there are few: a burst may just have begun. It takes 1 ms for some ten megabytes,
  and nothing of it happens in an idle agent.
* Where the C library cannot do it (`malloc_trim` is glibc's), nothing is done.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any, Final

PERIOD: Final = 10.0
"""Seconds between two looks."""

GROWN: Final = 2 * 1024 * 1024
"""Bytes of growth from which on it is worth while."""

_STATM: Final = Path("/proc/self/statm")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class Spare:
    """The free pages of this process' heap. `look` is to be called every `PERIOD`."""

    def __init__(self) -> None:
        self._give_back: Any = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._resident = resident()
        """Bytes at the last look, or after something was given back."""
        self._again = False

    def look(self) -> None:
        """Give back what is free, if there is a reason."""
        before = resident()
        has_grown = before >= self._resident + GROWN
        if self._give_back is None or not (has_grown or self._again):
            self._resident = min(before, self._resident)
            return
        self._give_back(0)
        self._resident = resident()
        self._again = has_grown or before - self._resident >= GROWN


def resident() -> int:
    """Bytes of this process' memory that the host holds; 0 where it does not tell."""
    try:
        return int(_STATM.read_text(encoding="ascii").split()[1]) * _PAGE
    except OSError:
        return 0
