"""Processor time and memory of the agent's processes, from /proc.

Rules: looked at from the rpc process, never from the detector, and only while somebody wants to know. Processor time of
all is read once a look (30 µs each); memory (PSS, which walks the page tables: about a millisecond) of one process a
look, in turn, and of all when nobody has looked for long. A figure that the kernel does not give is None.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PSS: Final = re.compile(rb"^Pss: +(\d+) kB", re.MULTILINE)


OLD: Final = 10.0
"""Seconds after which all memory is read again."""


@dataclass(frozen=True, slots=True)
class Figures:
    """`cpu`: share of one processor since the look before; `cpu_seconds`: in all; `pss`: bytes."""

    cpu: float | None = None
    cpu_seconds: float | None = None
    pss: int | None = None


class ProcessFigures:
    """Call `look` with the pids that there are and the monotonic time, about once a second while somebody watches."""

    def __init__(self) -> None:
        self._known: dict[int, Figures] = {}
        self.looked_at = 0.0
        """The time of the last look."""
        self._turn = 0

    def look(self, pids: Sequence[int], now: float) -> None:
        """Read what there is to read."""
        elapsed, self.looked_at = now - self.looked_at, now
        self._turn += 1
        chosen = pids[self._turn % len(pids)] if pids else 0
        known, self._known = self._known, {}
        for pid in pids:
            before = known.get(pid, Figures())
            spent = _processor_seconds(pid)
            share = None
            if spent is not None and before.cpu_seconds is not None and elapsed > 0:
                share = max(0.0, spent - before.cpu_seconds) / elapsed
            pss = _pss(pid) if pid == chosen or before.pss is None or elapsed > OLD else before.pss
            self._known[pid] = Figures(share, spent, pss)

    def of(self, pid: int) -> Figures:
        """What is known of a process."""
        return self._known.get(pid, Figures())


def _processor_seconds(pid: int) -> float | None:
    try:
        # The second field, the name, is in brackets and may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS
    except (OSError, IndexError, ValueError):
        return None


def _pss(pid: int) -> int | None:
    try:
        found = _PSS.search(Path(f"/proc/{pid}/smaps_rollup").read_bytes())
    except OSError:
        return None
    return None if found is None else int(found[1]) * 1024
