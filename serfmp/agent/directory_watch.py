"""Being told when something in a directory is removed, so that nobody has to look at it again and again.

Rules: the kernel tells (inotify(7)); what it tells is not read, only that it did. Where it does not (no such call, no
watch left for this user), `works` is False, and whoever needs to know looks for himself. The parents of the directory
are not watched: one that is renamed with all that it holds is not noticed here.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from serfmp.bus.loop import Loop

_DELETE: Final = 0x200
_MOVED_FROM: Final = 0x40
_DELETE_SELF: Final = 0x400
_MOVE_SELF: Final = 0x800
_ONLYDIR: Final = 0x1000000
_MASK: Final = _DELETE | _MOVED_FROM | _DELETE_SELF | _MOVE_SELF | _ONLYDIR

READ_SIZE: Final = 64 * 1024
"""Bytes of news taken in one turn."""


class DirectoryWatch:
    """Calls `removed()` after something in the directory, or itself, was removed or moved away."""

    def __init__(self, loop: Loop, directory: Path, removed: Callable[[], None]) -> None:
        self._loop = loop
        self._directory = directory
        self._removed = removed
        self._descriptor = -1
        self.begin()

    @property
    def works(self) -> bool:
        """Whether removals are told."""
        return self._descriptor >= 0

    def begin(self) -> None:
        """Watch the directory that has this name now."""
        self.close()
        libc = ctypes.CDLL(None)
        try:
            descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        except AttributeError:
            return
        if descriptor < 0:
            return
        if libc.inotify_add_watch(descriptor, os.fsencode(self._directory), _MASK) < 0:
            os.close(descriptor)
            return
        self._descriptor = descriptor
        self._loop.add(descriptor, lambda _events: self._read())

    def close(self) -> None:
        """Watch nothing any more."""
        if self._descriptor >= 0:
            self._loop.remove(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _read(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._descriptor, READ_SIZE)
        self._removed()
