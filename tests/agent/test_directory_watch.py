"""Removals in a directory are told, whatever is removed, and again after it was made anew."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from serfmp.agent.directory_watch import DirectoryWatch
from serfmp.bus.loop import Loop
from tests.harness import eventually

DEADLINE_S = 30.0


class Stage:
    """A watched directory with two files."""

    def __init__(self, place: Path) -> None:
        self.loop = Loop()
        self.told = 0
        self.place = place / "watched"
        self.fill()
        self.watch = DirectoryWatch(self.loop, self.place, self._removed)

    def fill(self) -> None:
        self.place.mkdir()
        (self.place / "one").touch()
        (self.place / "two").touch()

    def _removed(self) -> None:
        self.told += 1

    def wait_told(self) -> None:
        def look() -> bool:
            self.loop.call_soon(lambda: None)
            self.loop.turn()
            return self.told > 0

        eventually(look, DEADLINE_S, "it is told")
        self.told = 0


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_a_file_and_the_directory_are_told(stage: Stage) -> None:
    assert stage.watch.works
    (stage.place / "one").unlink()
    stage.wait_told()
    (stage.place / "two").rename(stage.place.parent / "two")
    stage.wait_told()
    shutil.rmtree(stage.place)
    stage.wait_told()
    stage.watch.close()


def test_a_directory_that_was_made_anew_is_watched_again(stage: Stage) -> None:
    shutil.rmtree(stage.place)
    stage.wait_told()
    stage.fill()
    stage.watch.begin()
    (stage.place / "one").unlink()
    stage.wait_told()
    stage.watch.close()


def test_what_cannot_be_watched_is_said(stage: Stage) -> None:
    watch = DirectoryWatch(stage.loop, stage.place / "missing", lambda: None)
    assert not watch.works
    watch.close()
    stage.watch.close()
    assert not stage.watch.works
