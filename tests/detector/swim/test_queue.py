"""The queue against a plain model of the spec's words (spec swim.md 7.1 to 7.4)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serfmp.detector.swim.queue import TransmitQueue


@dataclass
class ModelItem:
    message: bytes
    name: str | None
    number: int
    transmits: int = 0


class Model:
    """The same queue, as one list that is sorted for each item taken."""

    def __init__(self, mult: int, population: int, depth: int) -> None:
        self.items: list[ModelItem] = []
        reference = mult * math.ceil(math.log10(population + 1))
        self.limit = max(reference, math.ceil(mult * math.log10(population + 1)) + 4) if population else 0
        self.depth = depth
        self.number = 0
        self.finished: list[bytes] = []

    def order(self) -> list[ModelItem]:
        return sorted(self.items, key=lambda item: (item.transmits, -len(item.message), -item.number))

    def finish(self, item: ModelItem) -> None:
        self.items.remove(item)
        self.finished.append(item.message)

    def push(self, message: bytes, name: str | None) -> None:
        if name is not None:
            for item in [item for item in self.items if item.name == name]:
                self.finish(item)
        self.number += 1
        self.items.append(ModelItem(message, name, self.number))
        self.prune(self.depth)

    def prune(self, keep: int) -> None:
        while len(self.items) > keep:
            self.finish(self.order()[-1])

    def draw(self, overhead: int, limit: int, fresh_only: bool) -> list[bytes]:
        used, taken = 0, []
        order = [item for item in self.items if not item.transmits] if fresh_only else self.order()
        for item in order:
            if fresh_only and len(item.message) > limit - used - overhead:
                break
            if len(item.message) <= limit - used - overhead:
                used += overhead + len(item.message)
                taken.append(item)
        for item in taken:
            if item.transmits + 1 >= self.limit:
                self.finish(item)
            else:
                item.transmits += 1
        return [item.message for item in taken]


names = st.one_of(st.none(), st.sampled_from("abcd"))
pushes = st.tuples(st.just("push"), st.binary(min_size=1, max_size=12), names)
draws = st.tuples(st.just("draw"), st.integers(0, 60), st.booleans())
prunes = st.tuples(st.just("prune"), st.integers(0, 6), st.none())


@given(st.lists(st.one_of(pushes, pushes, draws, prunes), max_size=60), st.integers(0, 12), st.integers(1, 12))
def test_the_queue_draws_drops_and_finishes_as_the_model_does(
    steps: list[tuple[str, object, object]], population: int, depth: int
) -> None:
    model = Model(2, population, depth)
    queue = TransmitQueue("Test", 2, lambda: population, depth)
    finished: list[bytes] = []
    for step, first, second in steps:
        match step, first, second:
            case "push", bytes() as message, (str() | None) as name:
                model.push(message, name)
                queue.push(message, name, lambda message=message: finished.append(message))  # type: ignore[misc]
            case "draw", int() as limit, bool() as fresh_only:
                parts: list[bytes] = []
                used = queue.draw(parts, 2, limit, fresh_only=fresh_only)
                queue.settle()
                assert parts == model.draw(2, limit, fresh_only)
                assert used == sum(len(part) + 2 for part in parts) <= max(limit, 0)
            case "prune", int() as keep, _:
                model.prune(keep)
                queue.prune(keep)
        assert queue.size == len(model.items)
        assert sorted(finished) == sorted(model.finished)


@pytest.mark.parametrize(
    ("population", "limit"),
    [(0, 0), (1, 6), (3, 7), (9, 8), (10, 9), (32, 11), (99, 12), (100, 13), (999, 16), (1000, 17), (9999, 20)],
)
def test_the_retransmit_limit_grows_smoothly_and_is_never_below_the_reference(population: int, limit: int) -> None:
    assert TransmitQueue("Test", 4, lambda: population).transmit_limit == limit
    assert limit >= 4 * math.ceil(math.log10(population + 1))


def test_a_queue_without_population_still_transmits_once() -> None:
    queue = TransmitQueue("Test", 4, lambda: 0)
    queue.push(b"message")
    parts: list[bytes] = []
    queue.draw(parts, 2, 100)
    queue.settle()
    assert parts == [b"message"]
    assert queue.size == 0


def test_packets_drawn_before_settling_never_hold_an_item_twice() -> None:
    queue = TransmitQueue("Test", 4, lambda: 5)
    for number in range(10):
        queue.push(bytes([number]) * 40)
    packets: list[list[bytes]] = [[], [], [], []]
    for packet in packets:
        queue.draw(packet, 2, 130)
    queue.settle()
    assert sorted(part for packet in packets for part in packet) == sorted(bytes([n]) * 40 for n in range(10))


def test_copies_count_as_so_many_transmissions() -> None:
    queue = TransmitQueue("Test", 4, lambda: 5)
    queue.push(b"message")
    queue.draw([], 2, 100, copies=0)
    queue.settle()
    assert queue.has_fresh
    queue.draw([], 2, 100, copies=queue.transmit_limit - 1)
    queue.settle()
    assert queue.size == 1
    assert not queue.has_fresh
    queue.draw([], 2, 100)
    queue.settle()
    assert queue.size == 0


def test_an_item_replaced_while_set_aside_leaves_only_once() -> None:
    queue = TransmitQueue("Test", 4, lambda: 5)
    finished: list[int] = []
    queue.push(b"old", "name", lambda: finished.append(1))
    queue.draw([], 2, 100)
    queue.push(b"new", "name", lambda: finished.append(2))
    parts: list[bytes] = []
    queue.settle()
    queue.draw(parts, 2, 100)
    assert parts == [b"new"]
    assert finished == [1]
