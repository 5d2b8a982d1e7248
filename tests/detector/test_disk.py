"""Small jobs on a disk: done on a thread, told on the loop, and files replaced whole or not at all."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from serfmp.bus.loop import Loop
from serfmp.detector.disk import WAITING, Disk, replace_file


def test_a_file_is_replaced_with_its_mode_and_a_link_stays_one(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("old, and longer")
    link.symlink_to(file)
    replace_file(str(link), b"new", 0o600)
    assert link.is_symlink()
    assert file.read_bytes() == b"new"
    assert file.stat().st_mode & 0o777 == 0o600
    assert sorted(tmp_path.iterdir()) == [file, link]


def test_a_replacement_that_fails_leaves_everything_as_it_was(tmp_path: Path) -> None:
    place = tmp_path / "place"
    (place / "in the way").mkdir(parents=True)
    with pytest.raises(IsADirectoryError):
        replace_file(str(place), b"new", 0o600)
    assert list(tmp_path.iterdir()) == [place]
    assert list(place.iterdir()) == [place / "in the way"]


def test_jobs_run_in_order_and_too_many_are_refused_at_once() -> None:
    loop = Loop()
    disk = Disk(loop)
    begun, gate = threading.Event(), threading.Event()
    ended: list[tuple[int, str]] = []

    def first() -> None:
        begun.set()
        gate.wait(30)

    def fails() -> None:
        raise PermissionError(13, "Permission denied")

    def nothing() -> None:
        pass

    disk.submit(first, lambda error: ended.append((0, error)))
    assert begun.wait(30)
    for number in range(1, WAITING + 1):
        disk.submit(fails if number == 1 else nothing, lambda error, number=number: ended.append((number, error)))  # type: ignore[misc]
    assert ended == []
    disk.submit(nothing, lambda error: ended.append((-1, error)))
    assert ended == [(-1, f"{WAITING} jobs wait for the disk already")]
    gate.set()
    loop.call_later(30, loop.stop)

    def look() -> None:
        if len(ended) == WAITING + 2:
            loop.stop()

    loop.call_every(0.01, look)
    loop.run()
    assert ended[1:] == [(0, ""), (1, "permission denied"), *((number, "") for number in range(2, WAITING + 1))]
