"""The process tree of an agent: finding it, stopping and resuming it, ending all of it.

Rules:

* Only processes found below the agent's own process, or carrying its mark, are touched, each by its id.
* psutil remembers when a process began, so a process id that was used again is not mistaken for ours.
* A tree changes while one looks at it. What must catch all of it stops the root first (a stopped supervisor forks
  nothing) and looks again until nothing new is found.
"""

import contextlib
import os
import re
import signal
from collections.abc import Iterable
from pathlib import Path

import psutil

MARK = "SERFMP_TEST_AGENT"
"""Environment variable with the agent's mark: finds what outlived its parents, handlers' daemons above all."""

ROLES = ("supervisor", "gossip", "rpc", "detector", "dispatcher", "worker", "logger", "mdns")

_ROLE_IN_TITLE = re.compile(rf"serfmp: ({'|'.join(ROLES)})")


def tree(root: psutil.Process) -> list[psutil.Process]:
    """The process and all below it, parents first; empty when it is gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [root, *root.children(recursive=True)]
    return []


def is_running(process: psutil.Process) -> bool:
    """Whether a process exists and is more than a zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def send(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    """Send a signal to each process that is still there."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def stop_tree(root: psutil.Process) -> list[psutil.Process]:
    """Send SIGSTOP to the whole tree, the root first; what was stopped."""
    stopped: dict[int, psutil.Process] = {}
    while fresh := [process for process in tree(root) if process.pid not in stopped]:
        send(fresh, signal.SIGSTOP)
        stopped.update((process.pid, process) for process in fresh)
    return list(stopped.values())


def kill_tree(root: psutil.Process) -> list[psutil.Process]:
    """Send SIGKILL to the whole tree; what was killed. The root is for its parent to wait for."""
    doomed = stop_tree(root)
    send(doomed, signal.SIGKILL)
    return doomed


def marked(mark: str) -> list[psutil.Process]:
    """All processes whose environment carries the mark. One that rewrote its environment (a title) is not found."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError, psutil.NoSuchProcess):
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(psutil.Process(int(entry.name)))
    return [process for process in found if is_running(process)]


def role_of(process: psutil.Process) -> str | None:
    """The role that a process's title names, `serfmp: gossip (NODE)`; None for any other process."""
    with contextlib.suppress(psutil.Error):
        # A title replaces the whole command line, which psutil may or may not split at its blanks.
        named = _ROLE_IN_TITLE.match(" ".join(process.cmdline()))
        return named[1] if named else None
    return None
