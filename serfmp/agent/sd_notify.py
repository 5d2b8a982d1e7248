"""Telling the service manager how the agent is (`sd_notify(3)`), without ever waiting.

Rules:

* The variables of the service manager are taken out of the environment: neither children nor scripts speak to it.
* `READY=1` when the start is complete, joins included, and after a reload; `RELOADING=1` when one begins; `STOPPING=1`
  when a leave or a stop begins.
* `WATCHDOG=1` comes from the supervisor's loop, twice in each period, and only while the main loop of every process
  turns, or the supervisor is busy mending that. So it stops when the agent is stuck and cannot mend that itself.
* A message that the socket does not take waits, `WAITING` at most.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from serfmp.bus.loop import Loop

WAITING: Final = 16
"""Messages that wait for the service manager; beyond that the oldest goes."""

RETRY: Final = 0.1
"""Seconds before a socket that was full is tried again."""


class ServiceManager:
    """See the module. Without one it does nothing. `log(level, text)` is told once of a socket that does not work."""

    def __init__(self, loop: Loop, environment: MutableMapping[str, str], log: Callable[[str, str], None]) -> None:
        self._loop = loop
        self._log = log
        path = environment.pop("NOTIFY_SOCKET", "")
        self._address = f"\0{path[1:]}" if path.startswith("@") else path
        period = environment.pop("WATCHDOG_USEC", "")
        owner = environment.pop("WATCHDOG_PID", "")
        ours = not owner or owner == str(os.getpid())
        self.watchdog_period = int(period) / 1e6 if self._address and ours and period.isdecimal() else 0.0
        """Seconds within which the service manager wants to hear; 0.0 if it does not."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if self._address else None
        if self._socket is not None:
            self._socket.setblocking(False)
        self._waiting: deque[str] = deque(maxlen=WAITING)
        self._retries = False
        self._told = False

    def ready(self, status: str) -> None:
        """The agent serves, or serves again after a reload."""
        self._send(f"READY=1\nSTATUS={status}")

    def reloading(self) -> None:
        """A reload begins; `ready` follows."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str) -> None:
        """The agent ends."""
        self._send(f"STOPPING=1\nSTATUS={status}")

    def watch(self, alive: Callable[[], bool]) -> None:
        """From now on say that the agent lives, as long as `alive()` says so."""
        if self.watchdog_period:

            def beat() -> None:
                if alive():
                    self._send("WATCHDOG=1")

            beat()
            self._loop.call_every(self.watchdog_period / 2, beat)

    def close(self) -> None:
        """Say nothing any more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, text: str) -> None:
        if self._socket is not None:
            self._waiting.append(text)
            self._flush()

    def _flush(self) -> None:
        while self._waiting and self._socket is not None:
            try:
                self._socket.sendto(self._waiting[0].encode(errors="surrogateescape"), self._address)
            except BlockingIOError:
                if not self._retries:
                    self._retries = True
                    self._loop.call_later(RETRY, self._again)
                return
            except OSError as error:
                if not self._told:
                    self._told = True
                    self._log("WARN", f"The service manager cannot be told: {(error.strerror or str(error)).lower()}")
            self._waiting.popleft()

    def _again(self) -> None:
        self._retries = False
        self._flush()
