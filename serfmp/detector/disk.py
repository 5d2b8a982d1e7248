"""The detector's thread for small jobs on a disk: the main loop hands a job over and hears of its end, and never waits.

Rules: jobs run one after another, in order. At most `WAITING` wait; beyond that a job fails at once, with a text. A job
that hangs holds up those behind it and nobody else.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from serfmp.bus.loop import Loop

WAITING: Final = 64
"""Jobs that wait."""


class Disk:
    """See the module. Its thread begins with the first job."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._jobs: queue.Queue[tuple[Callable[[], None], Callable[[str], None]]] = queue.Queue(WAITING)
        self._ended: deque[tuple[Callable[[str], None], str]] = deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread: threading.Thread | None = None
        loop.add(self._wake, lambda _events: self._tell())

    def submit(self, job: Callable[[], None], ended: Callable[[str], None]) -> None:
        """Run a job that may raise OSError; `ended(error)` is called on the main loop, an empty text if all is well."""
        try:
            self._jobs.put_nowait((job, ended))
        except queue.Full:
            ended(f"{WAITING} jobs wait for the disk already")
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="disk", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            job, ended = self._jobs.get()
            error = ""
            try:
                job()
            except OSError as fault:
                error = (fault.strerror or str(fault)).lower()
            self._ended.append((ended, error))
            os.eventfd_write(self._wake, 1)

    def _tell(self) -> None:
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            return
        while self._ended:
            ended, error = self._ended.popleft()
            ended(error)


def replace_file(path: str, content: bytes, mode: int) -> None:
    """Let a file have this content, all or nothing, on the disk when this returns. Raises OSError."""
    place = Path(path)
    if place.is_symlink():
        place = place.resolve()
    beside = place.with_name(f".{place.name}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        os.fchmod(descriptor, mode)
        left = content
        while left:
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
        beside.replace(place)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
    finally:
        os.close(descriptor)
    directory = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
