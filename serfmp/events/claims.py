"""What a worker has begun, in shared memory that outlives it: how its death is told from what it did.

A frame may be lost with the process that sent it; a word in shared memory is not. So a worker claims an invocation here
before it starts the script, and writes the end here as soon as it sees it. When it has died, the dispatcher reads which
scripts had begun and which of them had ended. Everything else was never begun, and is run by the worker's successor.

One file for each generation of each worker, in the agent's private directory, mapped by the worker: a row of slots,
each the invocation's number (0: free) and the end. Every field is written by one aligned store of eight bytes.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from typing import Final

_WORD: Final = struct.Struct("<q")
_SLOT: Final = struct.Struct("<qq")
SLOTS: Final = 1024
"""Invocations that a worker may hold at once: more than its credits."""

RUNS: Final = 1 << 32
"""End of an invocation that has not ended; outside the range of exit codes and signals."""


class Claims:
    """The worker's view. The constructor makes the file."""

    def __init__(self, directory: str, worker: str, generation: int) -> None:
        descriptor = os.open(_path(directory, worker, generation), os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, _SLOT.size * SLOTS)
            self._page = mmap.mmap(descriptor, _SLOT.size * SLOTS)
        finally:
            os.close(descriptor)
        self._free = list(range(SLOTS))
        self._slots: dict[int, int] = {}

    def begin(self, invocation: int) -> None:
        """Its script is about to start."""
        if self._free:
            slot = self._slots[invocation] = self._free.pop()
            _WORD.pack_into(self._page, slot * _SLOT.size + _WORD.size, RUNS)
            _WORD.pack_into(self._page, slot * _SLOT.size, invocation)

    def end(self, invocation: int, status: int) -> None:
        """Its script has ended: with an exit code, or with a signal as a negative number."""
        slot = self._slots.get(invocation)
        if slot is not None:
            _WORD.pack_into(self._page, slot * _SLOT.size + _WORD.size, status)

    def forget(self, invocation: int) -> None:
        """Its end is recorded by the dispatcher, or it was not started after all."""
        slot = self._slots.pop(invocation, None)
        if slot is not None:
            _WORD.pack_into(self._page, slot * _SLOT.size, 0)
            self._free.append(slot)


def read_claims(directory: str, worker: str, generation: int) -> dict[int, int | None]:
    """What a dead worker had begun: exit code, negative signal, or None if it had not ended, by invocation."""
    try:
        data = _path(directory, worker, generation).read_bytes()
    except FileNotFoundError:
        return {}
    whole = data[: len(data) - len(data) % _SLOT.size]
    return {number: None if end == RUNS else end for number, end in _SLOT.iter_unpack(whole) if number}


def remove_claims(directory: str, worker: str, below: int) -> None:
    """Take away the files of all generations of a worker below this one."""
    for path in Path(directory).glob(f"claims.{worker}.*"):
        if int(path.suffix[1:]) < below:
            path.unlink(missing_ok=True)


def _path(directory: str, worker: str, generation: int) -> Path:
    return Path(directory) / f"claims.{worker}.{generation}"
