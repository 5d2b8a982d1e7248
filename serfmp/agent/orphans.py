"""Ending the scripts that a dead worker left behind.

The supervisor is a sub-reaper: when a worker dies, its children become the supervisor's. Those that still share the
agent's session are handler scripts (each the leader, or in the group of a leader); their process groups are ended
before anything runs again. A daemon that a handler started on purpose has a session of its own and is left alone.

Not psutil, which takes 1.6 MB in a process that needs nothing else of it.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_PR_SET_CHILD_SUBREAPER: Final = 36

_ZOMBIE: Final = b"Z"


def become_subreaper() -> None:
    """From now on orphaned descendants become children of this process."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_orphans(known: set[int]) -> int:
    """SIGKILL the process groups of all children that are not in `known` and share our session.

    Returns how many groups. Raises OSError if the host does not let us look for them.
    """
    own_session, own_group = os.getsid(0), os.getpgid(0)
    groups: set[int] = set()
    for pid, state in _children():
        if pid in known or state == _ZOMBIE:
            continue
        try:
            group = os.getpgid(pid)
            if os.getsid(pid) == own_session and group != own_group:
                groups.add(group)
        except ProcessLookupError:
            continue
    for group in groups:
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return len(groups)


def _children() -> Iterator[tuple[int, bytes]]:
    """Pids of our children, and the letters of their states, as in /proc/PID/stat."""
    own = os.getpid()
    for entry in os.listdir("/proc"):  # noqa: PTH208  names, not paths
        if not entry.isdecimal():
            continue
        try:
            # The second field, the name, is in brackets and may hold anything.
            state, parent = Path(f"/proc/{entry}/stat").read_bytes().rpartition(b")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError, PermissionError):  # gone, or not ours to see
            continue
        if int(parent) == own:
            yield int(entry), state


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
