"""What may happen to one process of an agent, done to it from outside or, where that cannot be, from inside.

Rules:

* An agent that shall fail from inside is started with `environment(directory)`; the product has no door for it.
* A fault is done to one process by its id. `SIGSTOP` is followed by `SIGCONT` after a time: what was stopped and not
  replaced goes on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
INJECTED = Path(__file__).resolve().parent / "injected"

STOPPED_S = 10.0
"""How long a stopped process stays stopped, if it lives so long."""


class Fault(Enum):
    """Kinds of faults, by the names that the command line takes."""

    KILL = "kill"
    """SIGKILL."""
    STOP = "stop"
    """SIGSTOP for `STOPPED_S`."""
    RAISE = "raise"
    """An exception that nobody expects, in the main loop."""
    SPIN = "spin"
    """The main loop never turns again."""
    MEMORY = "memory"
    """No more memory can be had."""


def environment(directory: Path) -> Mapping[str, str]:
    """Additions to an agent's environment that let its processes fail from inside."""
    return {
        "SERFMP_FAULT": str(directory / "fault"),
        "PYTHONPATH": os.pathsep.join([str(INJECTED), str(ROOT)]),
    }


def step_clock(seconds: float, pids: Iterable[int], directory: Path) -> None:
    """Shift what these processes take for the wall clock, by so many seconds from the true one."""
    (directory / "fault").write_text(f"clock {seconds}", encoding="ascii")
    for pid in pids:
        os.kill(pid, signal.SIGUSR2)


def inject(fault: Fault, pid: int, directory: Path) -> None:
    """Do it to this process. Raises ProcessLookupError."""
    match fault:
        case Fault.KILL:
            os.kill(pid, signal.SIGKILL)
        case Fault.STOP:
            stopped = os.pidfd_open(pid)
            signal.pidfd_send_signal(stopped, signal.SIGSTOP)
            timer = threading.Timer(STOPPED_S, _go_on, [stopped])
            timer.daemon = True
            timer.start()
        case _:
            (directory / "fault").write_text(fault.value, encoding="ascii")
            os.kill(pid, signal.SIGUSR2)


def _go_on(process: int) -> None:
    """Continue a process by its descriptor: the id may be somebody else's by now."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(process, signal.SIGCONT)
    os.close(process)
