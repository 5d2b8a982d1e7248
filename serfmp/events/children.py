"""The ends of all children of a process, its own and those that became its own when their parents died.

A descriptor for each child would say which one has ended, at the price of six system calls for each. So the signal of a
child's end wakes the loop, which collects what has ended, whatever it is; many ends at once need one wake-up.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from serfmp.bus.loop import Loop

ENDS_PER_TURN: Final = 64
"""Ends collected in one turn."""


class Children:
    """From now on `on_end(pid, status)` is called on the loop for each child that ends. One a process."""

    def __init__(self, loop: Loop, on_end: Callable[[int, int], None]) -> None:
        self._loop = loop
        self._on_end = on_end
        self._reader, self._writer = os.pipe()
        for descriptor in (self._reader, self._writer):
            os.set_blocking(descriptor, False)
        signal.signal(signal.SIGCHLD, _nothing)
        signal.siginterrupt(signal.SIGCHLD, False)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        loop.add(self._reader, self._on_signal)

    def look(self) -> None:
        """Collect what has ended."""
        for _ in range(ENDS_PER_TURN):
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            self._on_end(pid, status)
        self._loop.call_soon(self.look)

    def close(self) -> None:
        """Leave children alone again."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._loop.remove(self._reader)
        os.close(self._reader)
        os.close(self._writer)

    def _on_signal(self, _events: int) -> None:
        with suppress(BlockingIOError):
            os.read(self._reader, 4096)
        self.look()


def _nothing(_number: int, _frame: object) -> None:
    """Handle the signal by doing nothing: it was told by then."""
