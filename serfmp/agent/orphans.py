"""Ending the scripts that a dead worker left behind.

The supervisor is a sub-reaper: when a worker dies, its children become the supervisor's. Those that still share the
agent's session are handler scripts (each the leader, or in the group of a leader); their process groups are ended
before anything runs again. A daemon that a handler started on purpose has a session of its own and is left alone.
"""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Final

import psutil

_PR_SET_CHILD_SUBREAPER: Final = 36


def become_subreaper() -> None:
    """From now on orphaned descendants become children of this process."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_orphans(known: set[int]) -> int:
    """SIGKILL the process groups of all children that are not in `known` and share our session.

    Returns how many groups. Raises OSError if the host does not let us look for them.
    """
    own_session, own_group = os.getsid(0), os.getpgid(0)
    groups: set[int] = set()
    for found in psutil.Process().children():
        if found.pid in known:
            continue
        try:
            if found.status() == psutil.STATUS_ZOMBIE:
                continue
            group = os.getpgid(found.pid)
            if os.getsid(found.pid) == own_session and group != own_group:
                groups.add(group)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    for group in groups:
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return len(groups)


def reap_orphans(known: set[int]) -> None:
    """Collect children that ended and are not in `known`; those are collected by whoever started them."""
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None or ended.si_pid in known:
            return
        os.waitpid(ended.si_pid, os.WNOHANG)
