"""Probe order: whoever is there for a whole pass is probed in it, and once more at most for each insertion (I13)."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from serfmp.detector.swim.table import NodeRecord, NodeState, NodeTable

steps = st.lists(st.sampled_from(("probe", "probe", "probe", "insert")), max_size=80)


@given(st.integers(0, 1000), st.integers(1, 8), steps)
def test_nobody_is_left_out_of_a_pass(seed: int, size: int, steps: list[str]) -> None:
    table = NodeTable(random.Random(seed))
    here: set[str] = set()

    def insert() -> None:
        name = f"n{len(here)}"
        record = NodeRecord(name, bytes(4), 1, b"", bytes(6))
        record.state = NodeState.ALIVE
        table.insert(record)
        here.add(name)

    for _ in range(size):
        insert()
    there_from_the_start, probed, inserted = set(here), Counter[str](), 0

    def wrap() -> None:
        nonlocal there_from_the_start, probed, inserted
        assert there_from_the_start <= probed.keys()
        assert max(probed.values(), default=1) <= 1 + inserted
        table.reap_and_shuffle(float("-inf"))
        there_from_the_start, probed, inserted = set(here), Counter(), 0

    for step in steps:
        if step == "insert":
            insert()
            inserted += 1
        else:
            target = table.next_target(lambda _: False, wrap)
            assert target is not None
            probed[target.name] += 1
