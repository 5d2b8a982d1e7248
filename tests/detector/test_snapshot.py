"""The snapshot's file and its thread: torn tails, compaction, a disk that fails and comes back, nothing that waits."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serfmp.detector import snapshot
from serfmp.detector.snapshot import SnapshotFile, SnapshotWriter, load
from serfmp.wire.snapshot import alive_line, clock_line, not_alive_line
from tests.harness import eventually
from tests.harness.files import lines

DEADLINE_S = 30.0


def test_lines_reach_the_file_soon_and_only_news_do(tmp_path: Path) -> None:
    path = tmp_path / "s"
    writer = SnapshotWriter(str(path))
    writer.write([alive_line("a", "1.2.3.4:5"), clock_line(3)])
    writer.write([alive_line("a", "1.2.3.4:5"), clock_line(2), not_alive_line("b")])
    eventually(lambda: lines(path) == ["alive: a 1.2.3.4:5", "clock: 3"], DEADLINE_S, "they are there")
    writer.close(5)
    assert lines(path) == ["alive: a 1.2.3.4:5", "clock: 3"]
    assert writer.take_logs() == []


def test_a_torn_line_is_cut_off_before_anything_is_appended(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_bytes(b"alive: a 1.2.3.4:5\nalive: b 127.0")
    writer = SnapshotWriter(str(path))
    writer.write([alive_line("c", "1.2.3.4:6")])
    writer.close(5)
    assert lines(path) == ["alive: a 1.2.3.4:5", "alive: c 1.2.3.4:6"]


def test_a_long_file_is_written_anew_and_adds_up_to_the_same(tmp_path: Path) -> None:
    path = tmp_path / "s"
    writer = SnapshotWriter(str(path))
    for number in range(20):
        writer.write([line for step in range(500) for line in (alive_line("n", f"1.2.3.4:{number * 500 + step}"),)])
    writer.write([clock_line(9)], sync=True)
    writer.close(10)
    state, warnings = load(str(path), rejoin=False)
    assert (state.alive, state.clock, warnings) == ({"n": "1.2.3.4:9999"}, 9, [])
    assert path.stat().st_size < snapshot.COMPACT_MIN
    assert path.stat().st_mode & 0o777 == snapshot.MODE
    assert not (tmp_path / "s.compact").exists()


def test_members_are_kept_over_a_leave_where_the_node_is_to_rejoin(tmp_path: Path) -> None:
    path = tmp_path / "s"
    writer = SnapshotWriter(str(path), rejoin=True)
    writer.write([alive_line("a", "1.2.3.4:5"), "leave"])
    for number in range(5000):
        writer.write([alive_line("n", f"1.2.3.4:{number}"), alive_line("m", f"1.2.3.4:{number}")])
    writer.close(10)
    assert path.stat().st_size < snapshot.COMPACT_MIN
    assert "a" in load(str(path), rejoin=True)[0].alive


def test_a_complete_new_file_without_the_old_one_is_taken(tmp_path: Path) -> None:
    (tmp_path / "s.compact").write_text("alive: a 1.2.3.4:5\nclock: 4\n")
    state, _ = load(str(tmp_path / "s"), rejoin=False)
    assert (state.alive, state.clock) == ({"a": "1.2.3.4:5"}, 4)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may become longer, as on a disk that is full."""
    import signal

    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_told_once_and_nothing_is_lost_when_it_has_room_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "REPAIR", 0.1)
    monkeypatch.setattr(snapshot, "IDLE", 0.05)
    path = tmp_path / "s"
    writer = SnapshotWriter(str(path))
    writer.write([alive_line("a", "1.2.3.4:5")])
    eventually(lambda: lines(path), DEADLINE_S, "it works")
    logs: list[tuple[str, str]] = []

    def told() -> bool:
        logs.extend(writer.take_logs())
        return bool(logs)

    with largest_file(20):
        writer.write([alive_line(f"n{number}", "1.2.3.4:5") for number in range(50)])
        eventually(told, DEADLINE_S, "the trouble is told")
        writer.write([not_alive_line("a"), clock_line(8)])
        until = time.monotonic() + 0.5
        eventually(lambda: time.monotonic() > until, DEADLINE_S, "some more tries")
        told()
        assert [level for level, _ in logs] == ["ERR"]
        assert "file too large; all of it is written anew once that works" in logs[0][1]
    eventually(lambda: len(load(str(path), rejoin=False)[0].alive) == 50, DEADLINE_S, "all of it is there")
    writer.close(5)
    state, warnings = load(str(path), rejoin=False)
    assert ("a" in state.alive, state.clock, warnings) == (False, 8, [])
    told()
    assert [level for level, _ in logs] == ["ERR", "INFO"]


def test_a_full_queue_drops_and_asks_for_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "QUEUE", 2)
    monkeypatch.setattr(SnapshotWriter, "_run", lambda _self: None)
    writer = SnapshotWriter(str(tmp_path / "s"))
    for _ in range(5):
        writer.write(["clock: 1"])
    assert (writer.dropped, writer.behind, writer.idle) == (3, True, False)


def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        SnapshotFile(str(tmp_path / "no" / "s"))
