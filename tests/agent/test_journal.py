"""The journal keeps whole records over a kill at any instant, and compacts without a moment of loss."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from serfmp.agent import journal
from serfmp.agent.journal import Journal, JournalOverflowError

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def descriptor() -> Iterator[int]:
    number = journal.create("test")
    yield number
    os.close(number)


def test_records_come_back_in_order_in_another_mapping(descriptor: int) -> None:
    writer = Journal(descriptor)
    for number in range(100):
        writer.append(("event", number, b"\xff\x00", "n\udc80me", {"a": 1}, None))
    assert Journal(descriptor).replay() == [["event", n, b"\xff\x00", "n\udc80me", {"a": 1}, None] for n in range(100)]


def test_compaction_replaces_everything_and_appending_goes_on(descriptor: int) -> None:
    writer = Journal(descriptor)
    for number in range(50):
        writer.append((number,))
    writer.compact(iter([("state", 1)]))
    writer.append(("more",))
    assert Journal(descriptor).replay() == [["state", 1], ["more"]]
    writer.compact([("again",)])
    assert Journal(descriptor).replay() == [["again"]]


def test_it_asks_for_compaction_and_is_content_after_it(descriptor: int) -> None:
    writer = Journal(descriptor)
    while not writer.full:
        writer.append((b"x" * 1000,))
    writer.compact([(b"x",)])
    assert not writer.full
    assert writer.size < 100


def test_writers_that_are_killed_often_do_not_put_compaction_off(descriptor: int) -> None:
    Journal(descriptor).compact([(b"x",)])
    for _ in range(1000):
        writer = Journal(descriptor)
        if writer.full:
            break
        writer.append((b"x" * 1000,))
    assert Journal(descriptor).full


def test_memory_of_an_old_bank_is_given_back(descriptor: int) -> None:
    writer = Journal(descriptor)
    for _ in range(4000):
        writer.append((b"x" * 1000,))
    writer.compact([(b"x",)])
    assert os.fstat(descriptor).st_blocks * 512 < 1_000_000


def test_a_state_that_is_too_large_is_refused_and_the_old_one_stays(descriptor: int) -> None:
    writer = Journal(descriptor)
    writer.append(("old",))
    big = b"x" * (8 * 1024 * 1024)
    with pytest.raises(JournalOverflowError):
        writer.compact((big,) for _ in range(13))
    assert Journal(descriptor).replay() == [["old"]]
    writer.append(("on",))
    assert Journal(descriptor).replay() == [["old"], ["on"]]


def test_erased_it_is_empty(descriptor: int) -> None:
    Journal(descriptor).append(("x",))
    journal.erase(descriptor)
    assert Journal(descriptor).replay() == []


@pytest.mark.parametrize("round_number", range(5))
def test_a_writer_killed_while_it_writes_leaves_whole_records_only(descriptor: int, round_number: int) -> None:
    """Appends and compactions of a child that is killed without warning.

    What is read is a gapless row up to what it had reported.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        book = Journal(descriptor)
        kept: list[tuple[int, bytes]] = []
        for number in range(10_000_000):
            record = (number, bytes([number % 256]) * (number % 700))
            book.append(record)
            kept = [*kept[-9:], record]
            if number % 37 == 36:
                book.compact(kept)
            os.write(writer, b"." if number % 50 == 0 else b"")
    for _ in range(3 + 7 * round_number):
        os.read(reader, 1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(reader)
    os.close(writer)
    numbers = [record[0] for record in Journal(descriptor).replay()]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert numbers[-1] >= 50 * (2 + 7 * round_number)
    assert all(record[1] == bytes([record[0] % 256]) * (record[0] % 700) for record in Journal(descriptor).replay())
