"""When a process that ended is started again, and when it is not.

Rules: one that ends is started again at once; one that ends soon after its start waits a little longer each time. After
`JOURNAL_TRIES` such ends in a row by its own fault the state in shared memory is suspected and left out; after
`RESTART_BUDGET` the agent ends. Somebody's SIGKILL is nobody's fault.
"""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from serfmp.agent.process import Process

QUICK_CRASH: Final = 0.5
"""A child that ends within so many seconds of serving has not proved that it can work. (One that is killed about once a
second works.)"""

JOURNAL_TRIES: Final = 3
"""Quick crashes of its own in a row after which a child starts without the state that its predecessors left."""

RESTART_BUDGET: Final = 8
"""Quick crashes in a row after which the agent ends."""

RESTART_DELAY: Final = 0.1
"""Seconds before the second quick restart, doubled for each further one."""

RESTART_DELAY_LIMIT: Final = 2.0
"""Longest pause before a restart, in seconds."""


def failed_by_itself(process: Process, status: int) -> bool:
    """Whether this wait status is the process' own fault, which includes being ended by us because it was stuck."""
    return os.waitstatus_to_exitcode(status) != -signal.SIGKILL or bool(process.kill_reason)


def note_end(process: Process, *, failed: bool) -> None:
    """Count an end."""
    quick = not process.serving_since or time.monotonic() - process.serving_since < QUICK_CRASH
    process.quick_crashes = process.quick_crashes + 1 if quick else 0
    process.quick_failures = process.quick_failures + 1 if quick and failed else 0
    process.restarts += 1


def may_recover(process: Process) -> bool:
    """Whether the next generation may use the state that its predecessors left."""
    return process.quick_failures < JOURNAL_TRIES


def is_spent(process: Process) -> bool:
    """Whether the budget of restarts is used up."""
    return process.quick_crashes > RESTART_BUDGET


def pause_before(process: Process) -> float:
    """Seconds before the next generation starts."""
    if process.quick_crashes <= 1:
        return 0.0
    return float(min(RESTART_DELAY * 2 ** (process.quick_crashes - 2), RESTART_DELAY_LIMIT))
