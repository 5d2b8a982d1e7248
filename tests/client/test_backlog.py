"""What waits for whoever reads a subscription."""

import pytest

from serfmp.client import backlog
from serfmp.client.backlog import Backlog


def test_what_came_before_the_end_is_taken_in_order_and_what_comes_after_it_is_not_kept() -> None:
    waiting: Backlog[int] = Backlog()
    waiting.put(1)
    waiting.put(2)
    waiting.ended = True
    waiting.put(3)
    assert (waiting.oldest, len(waiting), waiting.done) == (1, 2, False)
    assert [waiting.take(), waiting.take(), waiting.take()] == [1, 2, None]
    assert waiting.done
    assert waiting.oldest is None


def test_beyond_the_bound_the_oldest_go_and_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "QUEUE_LIMIT", 3)
    waiting: Backlog[int] = Backlog()
    for number in range(5):
        waiting.put(number)
    assert waiting.dropped == 2
    assert [waiting.take() for _ in range(3)] == [2, 3, 4]
