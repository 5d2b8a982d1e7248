"""How quiet the machine is: what the start of an interpreter that does nothing takes, and the kernel's load."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path


def bare_starts(count: int) -> list[float]:
    """Seconds that an interpreter takes which does nothing, each time anew."""
    found = []
    for _ in range(count):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", ""], stdout=subprocess.DEVNULL, check=True)
        found.append(time.perf_counter() - began)
    return found


def load() -> str:
    """The load of the last 1, 5 and 15 minutes."""
    return " ".join(f"{value:.1f}" for value in os.getloadavg())


def compiled(directory: Path) -> dict[str, str]:
    """An environment in which Python keeps what it has compiled, as an installation does."""
    return {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(directory / "compiled")}
