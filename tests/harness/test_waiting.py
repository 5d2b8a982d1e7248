import itertools

import pytest

from tests.harness import NeverHeld, StoppedHolding, eventually, holds_throughout


def test_the_first_true_value_is_given() -> None:
    values = iter([0, None, "", "now", "later"])
    assert eventually(lambda: next(values), 10, "a value", interval_s=0) == "now"


def test_the_error_tells_what_was_waited_for_and_seen_last() -> None:
    with pytest.raises(NeverHeld, match=r"not within 0 s: spring; last seen: 0"):
        eventually(lambda: 0, 0, "spring")


def test_ignored_errors_mean_not_yet_and_others_come_through() -> None:
    empty: dict[str, int] = {}
    with pytest.raises(NeverHeld, match="KeyError"):
        eventually(lambda: empty["key"], 0, "a key", ignoring=(KeyError,))
    with pytest.raises(KeyError):
        eventually(lambda: empty["key"], 10, "a key", ignoring=(ValueError,))


def test_a_condition_that_stops_holding_is_told() -> None:
    values = itertools.chain([True, True, False], itertools.repeat(True))
    with pytest.raises(StoppedHolding, match="the weather"):
        holds_throughout(lambda: next(values), 10, "the weather", interval_s=0)
