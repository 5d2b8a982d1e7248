"""Memory that is free goes back to the host. In a process of its own: the test runner's heap has a history."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
BLOCKS, SIZE = 20_000, 2_000

BURST = f"""
from serfmp.agent.memory import Spare, resident
spare = Spare()
start = resident()
blocks = [bytearray({SIZE}) for _ in range({BLOCKS})]
lasts = blocks[-1:], blocks[:: {BLOCKS} // 2]
print(resident() - start)
spare.look()
print(resident() - start)
del blocks
print(resident() - start)
spare.look()
print(resident() - start)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library is not glibc")
def test_what_a_burst_has_left_is_given_back_also_if_it_was_looked_at_before_its_end() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BURST], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    full, looked, freed, given_back = map(int, done.stdout.split())
    assert min(full, looked, freed) > 0.8 * BLOCKS * SIZE
    assert given_back < 0.2 * BLOCKS * SIZE
