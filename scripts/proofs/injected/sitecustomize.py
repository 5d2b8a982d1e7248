"""Makes a Python process fail from inside when it gets SIGUSR2: found by the interpreter where PYTHONPATH names this.

What happens stands in the file that SERFMP_FAULT names: `raise` raises an exception wherever the main thread is, `spin`
never returns to it, `memory` uses up the address space that the process may have, then goes on, `clock SECONDS` shifts
what the process takes for the wall clock. The product knows nothing of it: agents of the crash matrix are started with
this directory on their path.
"""

import os
import resource
import signal
import time
from pathlib import Path
from types import FrameType

CHUNK = 1 << 20
HELD: list[bytearray] = []
"""What `memory` took and never gives back."""


WALL_CLOCK = time.time


class InjectedError(RuntimeError):
    """An error that no code expects."""


def _address_space() -> int:
    """Bytes of address space that this process has now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return pages * resource.getpagesize()


def _fail(_number: int, _frame: FrameType | None) -> None:
    kind = Path(os.environ["SERFMP_FAULT"]).read_text(encoding="ascii").strip()
    if kind == "raise":
        message = "injected by the crash matrix"
        raise InjectedError(message)
    while kind == "spin":
        pass
    if kind.startswith("clock "):
        step = float(kind.split()[1])
        time.time = lambda: WALL_CLOCK() + step
    if kind == "memory":
        _soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (_address_space() + CHUNK, hard))
        while True:  # until MemoryError, in whatever the main thread was doing
            HELD.append(bytearray(CHUNK))


if "SERFMP_FAULT" in os.environ:
    signal.signal(signal.SIGUSR2, _fail)
