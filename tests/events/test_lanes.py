"""Lanes: order and exclusion for each key, credits for each worker, bounds with the oldest dropped."""

from __future__ import annotations

from collections import defaultdict, deque
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serfmp.errors import InternalError
from serfmp.events.invocation import Invocation
from serfmp.events.lanes import Lanes, worker_of

if TYPE_CHECKING:
    from collections.abc import Iterable


def invocation(number: int, handler: int = 0, size: int = 0) -> Invocation:
    return Invocation(number, number, handler, "user", "x", {}, b"x" * size)


def numbers(taken: Iterable[tuple[int, Invocation]]) -> list[int]:
    return [one.number for _worker, one in taken]


def lanes_with_credits(workers: int = 1, credits: int = 100, **bounds: int) -> Lanes:
    lanes = Lanes(workers, **bounds)
    for worker in range(workers):
        lanes.set_credits(worker, credits)
    return lanes


def test_one_of_a_lane_runs_at_a_time_and_in_order() -> None:
    lanes = lanes_with_credits()
    for number in (1, 2, 3):
        lanes.push(invocation(number))
    assert numbers(lanes.take()) == [1]
    assert numbers(lanes.take()) == []
    assert lanes.finished(1) == invocation(1)
    assert numbers(lanes.take()) == [2]


def test_a_hung_lane_holds_up_no_other() -> None:
    lanes = lanes_with_credits()
    lanes.push(invocation(1, handler=0))
    assert numbers(lanes.take()) == [1]
    lanes.push(invocation(2, handler=0))
    lanes.push(invocation(3, handler=1))
    assert numbers(lanes.take()) == [3]


def test_credits_bound_what_runs_and_lanes_take_turns() -> None:
    lanes = lanes_with_credits(credits=1)
    for number in range(6):
        lanes.push(invocation(number, handler=number % 3))
    order = []
    while taken := numbers(lanes.take()):
        assert len(taken) == 1
        order += taken
        lanes.finished(taken[0])
    assert order == [0, 1, 2, 3, 4, 5]


def test_a_worker_without_credits_gets_nothing_and_the_other_goes_on() -> None:
    lanes = Lanes(2)
    keys = [next(key for key in range(100) if worker_of(key, 2) == worker) for worker in (0, 1)]
    for number, key in enumerate(keys):
        lanes.push(invocation(number, handler=key))
    assert lanes.take() == []
    lanes.set_credits(1, 1)
    assert lanes.take() == [(1, invocation(1, handler=keys[1]))]


def test_what_was_not_run_is_the_next_of_its_lane() -> None:
    lanes = lanes_with_credits()
    for number in (1, 2):
        lanes.push(invocation(number))
    lanes.take()
    lanes.put_back(1)
    assert numbers(lanes.take()) == [1]
    with pytest.raises(InternalError):
        lanes.put_back(2)


def test_what_is_adopted_blocks_its_lane_until_it_has_finished() -> None:
    lanes = lanes_with_credits()
    lanes.adopt(invocation(1))
    lanes.push(invocation(2))
    assert lanes.take() == []
    lanes.finished(1)
    assert numbers(lanes.take()) == [2]


def test_beyond_the_bound_the_oldest_of_the_same_lane_goes() -> None:
    lanes = lanes_with_credits(queue_limit=2)
    lanes.push(invocation(1))
    lanes.take()
    assert [lanes.push(invocation(number)) for number in (2, 3)] == [[], []]
    assert lanes.push(invocation(4)) == [invocation(2)]
    assert lanes.push(invocation(5, handler=1)) == []
    assert (lanes.waiting, lanes.under_way) == (3, 1)


def test_beyond_the_bytes_the_oldest_of_the_largest_lane_goes() -> None:
    lanes = lanes_with_credits(size_limit=10_000)
    assert lanes.push(invocation(1, handler=1, size=100)) == []
    assert lanes.push(invocation(2, handler=0, size=5000)) == []
    assert [one.number for one in lanes.push(invocation(3, handler=0, size=5000))] == [2]
    assert [one.number for one in lanes.push(invocation(4, handler=1, size=20_000))] == [1, 4]
    assert numbers(lanes.take()) == [3]


class Model:
    """The plainest thing that keeps the rules: a list a key, one under way a key, no bounds."""

    def __init__(self, workers: int, credits: int) -> None:
        self.workers, self.credits = workers, credits
        self.waiting: dict[int, deque[int]] = defaultdict(deque)
        self.under_way: dict[int, int] = {}

    def check(self, taken: list[tuple[int, Invocation]]) -> None:
        for worker, one in taken:
            assert worker == worker_of(one.handler, self.workers)
            assert one.handler not in self.under_way, "two of a lane"
            assert self.waiting[one.handler].popleft() == one.number, "out of order"
            self.under_way[one.handler] = one.number
        for worker in range(self.workers):
            used = sum(worker_of(key, self.workers) == worker for key in self.under_way)
            could = [
                key
                for key, queue in self.waiting.items()
                if queue and key not in self.under_way and worker_of(key, self.workers) == worker
            ]
            assert used <= self.credits
            assert used == self.credits or not could, "a lane was forgotten"


STEPS = st.lists(
    st.tuples(st.sampled_from(["push", "push", "take", "finish", "put_back"]), st.integers(0, 5)), max_size=150
)


@given(steps=STEPS, workers=st.integers(1, 3), credits=st.integers(1, 3))
def test_any_run_keeps_order_and_exclusion_and_forgets_nothing(
    steps: list[tuple[str, int]], workers: int, credits: int
) -> None:
    lanes, model = lanes_with_credits(workers, credits), Model(workers, credits)
    for number, (step, key) in enumerate(steps):
        if step == "push":
            assert lanes.push(invocation(number, key)) == []
            model.waiting[key].append(number)
        elif step == "take":
            model.check(lanes.take())
        elif key in model.under_way:
            ended = model.under_way.pop(key)
            if step == "finish":
                assert lanes.finished(ended) == invocation(ended, key)
            else:
                lanes.put_back(ended)
                model.waiting[key].appendleft(ended)
        assert lanes.waiting == sum(map(len, model.waiting.values()))
        assert lanes.under_way == len(model.under_way)


@given(
    pushes=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 400)), max_size=60),
    queue_limit=st.integers(1, 6),
    size_limit=st.integers(200, 3000),
)
def test_what_is_pushed_is_dropped_or_waits_within_the_bounds(
    pushes: list[tuple[int, int]], queue_limit: int, size_limit: int
) -> None:
    lanes = lanes_with_credits(queue_limit=queue_limit, size_limit=size_limit)
    waiting: dict[int, Invocation] = {}
    for number, (key, size) in enumerate(pushes):
        waiting[number] = invocation(number, key, size)
        for one in lanes.push(waiting[number]):
            assert one.number == min(other for other, held in waiting.items() if held.handler == one.handler)
            del waiting[one.number]
        assert lanes.waiting == len(waiting)
        assert sum(one.size for one in waiting.values()) <= size_limit
        assert all(sum(one.handler == key for one in waiting.values()) <= queue_limit for key in range(4))
    seen = []
    while taken := numbers(lanes.take()):
        seen += taken
        for ended in taken:
            lanes.finished(ended)
    assert sorted(seen) == sorted(waiting)


def test_an_end_of_something_unknown_changes_nothing() -> None:
    lanes = lanes_with_credits()
    assert lanes.finished(7) is None
