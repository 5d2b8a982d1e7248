"""Signals as input of the supervisor's loop: a handler does nothing but wake it, and the loop acts."""

from __future__ import annotations

import signal
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from serfmp.bus.loop import Loop

TAKEN: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1)
"""What a supervisor acts on."""


class SignalInbox:
    """From now on `on_signal(number)` is called on the loop for each signal, in order. One a process."""

    def __init__(self, loop: Loop, on_signal: Callable[[int], None]) -> None:
        self._on_signal = on_signal
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        for number in TAKEN:
            signal.signal(number, lambda _number, _frame: None)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        loop.add(self._reader, lambda _events: self._read())

    def _read(self) -> None:
        try:
            numbers = self._reader.recv(4096)
        except BlockingIOError:
            return
        for number in numbers:
            self._on_signal(number)
