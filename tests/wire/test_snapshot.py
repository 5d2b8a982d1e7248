"""Lines of the snapshot: what Serf's own files add up to, whatever the order, and however torn (P23 to P26)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serfmp.wire.snapshot import (
    LEAVE,
    SnapshotState,
    alive_line,
    clock_line,
    event_clock_line,
    not_alive_line,
    query_clock_line,
    replay,
    whole_lines,
)

GOLDEN = b"alive: a b 1.2.3.4:5\nclock: 7\nevent-clock: 3\nclock: 6\nnot-alive: zz\nalive: x y\nalive: q 9"
NAMES = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), min_size=1, max_size=5)
LINES = st.one_of(
    st.builds(alive_line, NAMES, st.sampled_from(["1.2.3.4:5", "[::1]:7946"])),
    st.builds(not_alive_line, NAMES),
    st.builds(clock_line, st.integers(0, 99)),
    st.builds(event_clock_line, st.integers(0, 99)),
    st.builds(query_clock_line, st.integers(0, 99)),
    st.just(LEAVE),
)


def test_the_golden_file_adds_up_but_clocks_never_go_back() -> None:
    lines, end = whole_lines(GOLDEN)
    state, warnings = replay(lines)
    assert end == len(GOLDEN) - len(b"alive: q 9")
    assert warnings == []
    assert state.alive == {"a b": "1.2.3.4:5", "x": "y"}
    assert (state.clock, state.event_clock, state.query_clock) == (7, 3, 0)


def test_a_leave_forgets_members_and_event_times_unless_the_node_is_to_rejoin() -> None:
    lines = [*whole_lines(GOLDEN)[0], LEAVE, "clock: 9"]
    left, _ = replay(lines)
    assert (left.alive, left.clock, left.event_clock) == ({}, 9, 0)
    rejoining, _ = replay(lines, rejoin=True)
    assert (rejoining.alive, rejoining.event_clock) == ({"a b": "1.2.3.4:5", "x": "y"}, 3)


def test_what_nobody_understands_is_told_and_changes_nothing() -> None:
    state, warnings = replay(["alive:x", "alive: x", "clock: -1", "clock: x", f"clock: {2**64}", "", "bogus", "# no"])
    assert state == SnapshotState()
    assert [warning.partition(":")[0] for warning in warnings] == [
        "Unrecognized snapshot line",
        "Failed to parse address",
        "Failed to convert clock time",
        "Failed to convert clock time",
        "Failed to convert clock time",
        "Unrecognized snapshot line",
        "Unrecognized snapshot line",
    ]


@given(st.lists(LINES, max_size=40))
def test_a_compacted_file_adds_up_to_the_same(lines: list[str]) -> None:
    state, warnings = replay(lines)
    assert warnings == []
    assert replay(state.lines())[0] == state


@given(st.lists(LINES, max_size=20), st.integers(0, 400))
def test_any_prefix_adds_up_to_some_whole_number_of_lines(lines: list[str], cut: int) -> None:
    data = "".join(f"{line}\n" for line in lines).encode()[:cut]
    found, end = whole_lines(data)
    assert found == lines[: len(found)]
    # What is appended behind the cut-off tail is a line of its own.
    assert whole_lines(data[:end] + b"clock: 1\n")[0] == [*found, "clock: 1"]


@given(st.lists(LINES, max_size=20), LINES)
def test_what_is_no_news_changes_nothing(lines: list[str], line: str) -> None:
    state, _ = replay(lines)
    before = (dict(state.alive), state.clock, state.event_clock, state.query_clock)
    news = state.is_news(line)
    state.apply(line)
    after = (dict(state.alive), state.clock, state.event_clock, state.query_clock)
    assert news or before == after
