"""The snapshot file and the thread that writes it: the only one of the detector that touches a disk.

Rules:

* The core says which lines; here they reach the file `FLUSH` after the first of them at the latest, and the disk itself
  (fsync) every `SYNC`, at a leave, at a compaction, and at the end.
* The writer folds the file into a state of its own. A line that changes nothing is not written, so a detector that is
  started again may tell everything once more. A file that has grown far beyond its state is written anew, beside the
  old one, and takes its place at once (rename, and fsync of the directory).
* A torn last line is cut off before anything is appended. A complete `.compact` without its file is taken for it.
* When the disk fails, that is logged, and the whole state is written anew every `REPAIR` until it works: nothing is
  lost but what a crash before that takes.
* Nothing waits for the disk: a full queue (`QUEUE` batches) drops, counts, and asks the core for everything again.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from serfmp.wire.snapshot import SnapshotState, replay, whole_lines

FLUSH: Final = 0.1
"""Seconds from a line to the file."""
SYNC: Final = 5.0
"""Seconds between two fsyncs while there is something new."""
REPAIR: Final = 5.0
"""Seconds between two tries to write to a disk that failed."""
QUEUE: Final = 4096
"""Batches of lines that wait for the disk."""
IDLE: Final = 1.0
"""Seconds after which the thread looks at the time though nothing came."""
LOGS: Final = 256
"""Log lines that wait for the main loop."""
TIMES: Final = 256
"""Durations of writes that wait for the main loop; the oldest are forgotten."""
COMPACT_MIN: Final = 128 * 1024
"""Bytes from which a file may be compacted (spec serf.md 14)."""
COMPACT_PER_MEMBER: Final = 256
"""Bytes of a file for each living member, below which it is not compacted (spec serf.md 14)."""
COMPACT_GROWTH: Final = 2
"""How many times larger than after its last compaction a file is before the next one, however long its lines. Ours."""
MODE: Final = 0o644
LARGEST: Final = 256 * 1024 * 1024
"""Bytes of a snapshot that is read."""


def load(path: str, rejoin: bool) -> tuple[SnapshotState, list[str]]:
    """What a file adds up to, and warnings; nothing if there is none. Raises OSError."""
    return replay(_read(os.path.realpath(path))[0], rejoin)


def _read(path: str) -> tuple[list[str], int]:
    """Complete lines, and the bytes that they take."""
    place = Path(path)
    if not place.exists() and Path(f"{path}.compact").exists():
        # A crash between removing and renaming; the new file was complete, or ends in a torn line.
        Path(f"{path}.compact").replace(place)
    try:
        with place.open("rb") as file:
            return whole_lines(file.read(LARGEST))
    except FileNotFoundError:
        return [], 0


class SnapshotFile:
    """The open file, used from one thread. Every call may raise OSError. `found` is what it adds up to at first."""

    def __init__(self, path: str, rejoin: bool = False) -> None:
        # A link stays one: the file that it names is replaced.
        self._path = os.path.realpath(path)
        lines, size = _read(self._path)
        self.found = replay(lines, rejoin)[0]
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, MODE)
        try:
            if os.fstat(self._descriptor).st_size > size:
                os.ftruncate(self._descriptor, size)
        except OSError:
            self.close()
            raise
        self.size = size
        self.compacted = 0
        """Its size after the last compaction; 0: there was none."""
        self.dirty = False
        """Something was written that may not be on the disk yet."""

    def append(self, lines: list[str]) -> None:
        """Write lines."""
        data = _encoded(lines)
        while data:
            written = os.write(self._descriptor, data)
            self.size += written
            self.dirty = True
            data = data[written:]

    def sync(self) -> None:
        """Let all that was written reach the disk."""
        os.fsync(self._descriptor)
        self.dirty = False

    def rewrite(self, state: SnapshotState) -> None:
        """Write a state anew, and let it take the file's place at once."""
        beside = f"{self._path}.compact"
        data = _encoded(state.lines())
        descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, MODE)
        try:
            left = data
            while left:
                left = left[os.write(descriptor, left) :]
            os.fsync(descriptor)
            Path(beside).replace(self._path)
        except OSError:
            os.close(descriptor)
            # Half a file would only take the room that the disk lacks.
            with contextlib.suppress(OSError):
                Path(beside).unlink()
            raise
        os.close(self._descriptor)
        self._descriptor, self.dirty = descriptor, False
        self.size = self.compacted = len(data)
        directory = os.open(Path(self._path).parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def close(self) -> None:
        """End it."""
        with contextlib.suppress(OSError):
            os.close(self._descriptor)


def _encoded(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")


class SnapshotWriter:
    """The thread. `write` never waits; `take_logs` gives what it wants to say."""

    def __init__(self, path: str, rejoin: bool = False) -> None:
        """`rejoin`: the members are kept over a leave."""
        self._path = path
        self._rejoin = rejoin
        self._queue: queue.Queue[tuple[list[str], bool] | None] = queue.Queue(QUEUE)
        self._logs: deque[tuple[str, str]] = deque(maxlen=LOGS)
        self.dropped = 0
        """Batches that the full queue did not take."""
        self.behind = False
        """Something was dropped: the writer needs everything again once it can take it."""
        self._state = SnapshotState()
        """What the file should add up to."""
        self._file: SnapshotFile | None = None
        self._told = False
        """The present trouble was logged."""
        self._times: deque[tuple[str, float]] = deque(maxlen=TIMES)
        self._thread = threading.Thread(target=self._run, name="snapshot", daemon=True)
        self._thread.start()

    def write(self, lines: list[str], *, sync: bool = False) -> None:
        """Hand lines over; `sync`: they shall be on the disk soon."""
        try:
            self._queue.put_nowait((lines, sync))
        except queue.Full:
            self.dropped += 1
            self.behind = True

    @property
    def idle(self) -> bool:
        """Whether nothing waits."""
        return self._queue.empty()

    def take_logs(self) -> list[tuple[str, str]]:
        """Level and text of what happened since the last call."""
        taken = []
        while self._logs:
            taken.append(self._logs.popleft())
        return taken

    def take_times(self) -> list[tuple[str, float]]:
        """How long writes took since the last call: Serf's names of metrics (spec serf.md 17), and milliseconds."""
        taken = []
        while self._times:
            taken.append(self._times.popleft())
        return taken

    def close(self, seconds: float) -> None:
        """Write and sync what there is, within so many seconds."""
        deadline = time.monotonic() + seconds
        try:
            self._queue.put(None, timeout=seconds)
        except queue.Full:
            return
        self._thread.join(max(0.0, deadline - time.monotonic()))

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._file = SnapshotFile(self._path, self._rejoin)
            self._state = self._file.found
        except OSError as error:
            self._failed(error)
        synced_at = repaired_at = time.monotonic()
        ending = False
        while not ending:
            lines, sync, ending = self._collect()
            news = [line for line in lines if self._take(line)]
            now = time.monotonic()
            try:
                if self._file is not None:
                    self._keep(self._file, news)
                elif ending or now - repaired_at >= REPAIR:
                    repaired_at = now
                    self._repair()
                if self._file is not None and self._file.dirty and (sync or ending or now - synced_at >= SYNC):
                    synced_at = now
                    self._file.sync()
            except OSError as error:
                self._failed(error)
        if self._file is not None:
            self._file.close()

    def _take(self, line: str) -> bool:
        """Fold a line; whether it was news."""
        news = self._state.is_news(line)
        self._state.apply(line, self._rejoin)
        return news

    def _keep(self, file: SnapshotFile, news: list[str]) -> None:
        begun = time.perf_counter()
        if news:
            file.append(news)
            self._times.append(("serf.snapshot.appendLine", (time.perf_counter() - begun) * 1000))
        if file.size > max(COMPACT_MIN, len(self._state.alive) * COMPACT_PER_MEMBER, COMPACT_GROWTH * file.compacted):
            begun = time.perf_counter()
            file.rewrite(self._state)
            self._times.append(("serf.snapshot.compact", (time.perf_counter() - begun) * 1000))

    def _repair(self) -> None:
        """Open the file again and write anew all that is known; its clocks may be ahead."""
        file = SnapshotFile(self._path, self._rejoin)
        try:
            for line in file.found.lines():
                if not line.startswith("alive: "):
                    self._state.apply(line)
            file.rewrite(self._state)
        except OSError:
            file.close()
            raise
        self._file, self._told = file, False
        self._logs.append(("INFO", f"The snapshot {self._path} is written again"))

    def _collect(self) -> tuple[list[str], bool, bool]:
        """What comes within `FLUSH` of the first batch: lines, whether to sync, whether that was all."""
        lines: list[str] = []
        until = time.monotonic() + IDLE
        while True:
            try:
                item = self._queue.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                return lines, False, False
            if item is None:
                return lines, True, True
            if not lines:
                until = time.monotonic() + FLUSH
            lines += item[0]
            if item[1]:
                return lines, True, False

    def _failed(self, error: OSError) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        if not self._told:
            reason = (error.strerror or str(error)).lower()
            text = f"Failed to update snapshot: {self._path}: {reason}; all of it is written anew once that works"
            self._logs.append(("ERR", text))
        self._told = True
