"""Claims: what a killed worker had begun and ended is read by others."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from serfmp.events.claims import SLOTS, Claims, read_claims, remove_claims


def test_what_was_begun_and_ended_is_read_and_what_is_forgotten_is_not(tmp_path: Path) -> None:
    claims = Claims(str(tmp_path), "worker-0", 3)
    for number in (7, 8, 9, 1 << 40):
        claims.begin(number)
    claims.end(8, 3)
    claims.end(9, -9)
    claims.forget(7)
    assert read_claims(str(tmp_path), "worker-0", 3) == {8: 3, 9: -9, 1 << 40: None}
    assert read_claims(str(tmp_path), "worker-0", 2) == {}
    assert read_claims(str(tmp_path), "worker-1", 3) == {}


def test_slots_are_used_again_and_more_than_there_are_harm_nothing(tmp_path: Path) -> None:
    claims = Claims(str(tmp_path), "worker-0", 1)
    for number in range(1, 5 * SLOTS):
        claims.begin(number)
        claims.end(number, 0)
        claims.forget(number)
    for number in range(1, SLOTS + 10):
        claims.begin(number)
        claims.end(number, 1)
    assert read_claims(str(tmp_path), "worker-0", 1) == dict.fromkeys(range(1, SLOTS + 1), 1)


def test_they_outlive_a_kill(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        claims = Claims(str(tmp_path), "worker-0", 1)
        claims.begin(5)
        claims.begin(6)
        claims.end(6, 0)
        os.write(writer, b".")
        signal.pause()
    os.read(reader, 1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(reader)
    os.close(writer)
    assert read_claims(str(tmp_path), "worker-0", 1) == {5: None, 6: 0}


def test_older_generations_are_taken_away_and_no_others(tmp_path: Path) -> None:
    for worker, generation in (("worker-1", 1), ("worker-1", 2), ("worker-1", 10), ("worker-10", 1)):
        Claims(str(tmp_path), worker, generation)
    remove_claims(str(tmp_path), "worker-1", 10)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["claims.worker-1.10", "claims.worker-10.1"]
