"""The table: random places, fair choices, passes over everybody."""

from __future__ import annotations

import random
from collections import Counter

from serfmp.detector.swim.table import NodeRecord, NodeState, NodeTable


def table_of(size: int, seed: int = 1) -> NodeTable:
    table = NodeTable(random.Random(seed))
    for number in range(size):
        record = NodeRecord(f"n{number}", bytes((127, 0, 0, number % 250 + 1)), 7946, b"", bytes(6))
        record.state = NodeState.ALIVE
        table.insert(record)
    return table


def test_a_choice_finds_the_only_acceptable_node_in_tables_of_any_size() -> None:
    for size in (1, 2, 3, 9, 50, 500):
        table = table_of(size)
        chosen = table.choose(3, lambda record: record.name == "n0")
        assert [record.name for record in chosen] == ["n0"]


def test_a_choice_is_uniform_and_without_repeats() -> None:
    for size in (5, 40):
        table = table_of(size)
        counts: Counter[str] = Counter()
        for _ in range(6000):
            chosen = [record.name for record in table.choose(3, lambda record: record.name != "n0")]
            assert len(set(chosen)) == 3
            counts.update(chosen)
        expected = 18000 / (size - 1)
        assert set(counts) == {f"n{number}" for number in range(1, size)}
        assert all(0.7 * expected < count < 1.3 * expected for count in counts.values())


def test_each_pass_probes_everybody_once_and_wraps_cost_no_turn() -> None:
    table = table_of(5)
    wraps: list[int] = []

    def wrap() -> None:
        wraps.append(1)
        table.reap_and_shuffle(float("-inf"))

    for _ in range(20):
        targets = [table.next_target(lambda record: record.name == "n0", wrap) for _ in range(4)]
        assert {target.name for target in targets if target is not None} == {"n1", "n2", "n3", "n4"}
    assert len(wraps) in {19, 20}


def test_nothing_to_probe_is_no_target() -> None:
    assert table_of(3).next_target(lambda _: True, lambda: None) is None
    assert table_of(0).next_target(lambda _: False, lambda: None) is None


def test_reaping_drops_dead_and_left_alike_once_they_are_old() -> None:
    table = table_of(4)
    for name, state, changed in (
        ("n0", NodeState.DEAD, 1.0),
        ("n1", NodeState.LEFT, 1.0),
        ("n2", NodeState.DEAD, 9.0),
        ("n3", NodeState.ALIVE, 1.0),
    ):
        record = table.get(name)
        assert record is not None
        record.state, record.changed = state, changed
    assert {record.name for record in table.reap_and_shuffle(5.0)} == {"n0", "n1"}
    assert {record.name for record in table} == {"n2", "n3"}
    assert table.get("n0") is None


def test_equal_descriptions_of_different_nodes_are_kept_once() -> None:
    first, second = (
        NodeRecord(name, bytes((127, 0, 0, 1)), 70_000 - 3, bytes(bytearray(b"tags")), bytes(bytearray(b"123456")))
        for name in ("a", "b")
    )
    assert first.meta is second.meta
    assert first.versions is second.versions
    assert first.port is second.port
    second.describe(b"other", second.versions)
    second.move(bytes((127, 0, 0, 2)), second.port)
    assert (first.meta, second.meta) == (b"tags", b"other")
    assert (first.endpoint, second.endpoint) == (("127.0.0.1", 69_997), ("127.0.0.2", 69_997))
