"""Network coordinates: the golden cases to the bit, and what holds for any sample (spec serf.md 15, P30)."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf, nan, sqrt
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serfmp.detector.serf.coordinates import (
    FARTHEST,
    LONGEST_ROUND_TRIP,
    CoordinateClient,
    CoordinateTuning,
    apply_force,
)
from serfmp.wire.coordinate import Coordinate, distance_ns

GOLDEN: Final = json.loads((Path(__file__).parents[2] / "data/vectors/coordinates.json").read_text())["cases"]
FAULTS: Final = {"dimensions": "dimensions aren't", "invalid": "coordinate is invalid", "rtt_range": "round trip time"}


def of_kind(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", [pytest.param(c, id=c["name"]) for c in GOLDEN if c["kind"] in kinds])


def coordinate(plain: dict[str, Any]) -> Coordinate:
    return Coordinate(tuple(map(float, plain["vec"])), plain["error"], plain["adjustment"], plain["height"])


def tuning(case: dict[str, Any]) -> CoordinateTuning:
    names = {"dimensionality": "dimensions", "latency_filter_size": "latency_filter"}
    return CoordinateTuning(**{names.get(key, key): value for key, value in case.get("config", {}).items()})


def client_of(case: dict[str, Any]) -> CoordinateClient:
    client = CoordinateClient(Random(1).random, tuning(case))
    if "start" in case:
        assert not client.set(coordinate(case["start"]))
    return client


def take(client: CoordinateClient, step: dict[str, Any]) -> str:
    return client.update(step["node"], coordinate(step["other"]), step["rtt_ns"] / 1e9)


def test_no_golden_case_is_left_out() -> None:
    kinds = [case["kind"] for case in GOLDEN]
    assert len(kinds) == 25
    assert set(kinds) == {"distance", "apply_force", "client", "client_random_direction", "client_poisoned"}


@of_kind("distance")
def test_distance(case: dict[str, Any]) -> None:
    assert distance_ns(coordinate(case["start"]), coordinate(case["other"])) == case["want_distance_ns"]


@of_kind("apply_force")
def test_force(case: dict[str, Any]) -> None:
    start, other = coordinate(case["start"]), coordinate(case["other"])
    assert apply_force(tuning(case), Random(1).random, start, case["force"], other) == coordinate(case["want"])


@of_kind("client")
def test_client(case: dict[str, Any]) -> None:
    client = client_of(case)
    for index, step in enumerate(case["steps"]):
        if index in case.get("forget_before_step", ()):
            client.forget(step["node"])
        fault = take(client, step)
        assert fault.startswith(FAULTS[step["error"]]) if "error" in step else not fault
        assert client.coordinate == coordinate(step["after"])
        assert client.counters.resets == step["resets"]
        if len(step["other"]["vec"]) == client.tuning.dimensions:
            assert distance_ns(client.coordinate, coordinate(step["other"])) == step["distance_to_other_after_ns"]
    assert client.counters.rejected == sum("error" in step for step in case["steps"])


@of_kind("client_random_direction")
def test_two_at_one_place_part_in_any_direction(case: dict[str, Any]) -> None:
    client = client_of(case)
    for step in case["steps"]:
        assert not take(client, step)
    mine = client.coordinate
    assert sqrt(sum(x * x for x in mine.vec)) == pytest.approx(case["want_vec_magnitude"], rel=1e-9)
    assert (mine.error, mine.height) == (case["want_error"], case["want_height"])
    assert mine.adjustment == pytest.approx(case["want_adjustment"], rel=1e-9)


@of_kind("client_poisoned")
def test_one_poisoned_number_costs_one_reset(case: dict[str, Any]) -> None:
    client = client_of(case)
    (step,) = case["steps"]
    take(client, step)
    client.coordinate = replace(client.coordinate, vec=(nan, *client.coordinate.vec[1:]))
    for _ in range(case["repeat_after_poison"]):
        take(client, step)
    assert client.counters.resets == case["improved_resets"]
    assert not client.coordinate.fault()


FRESH: Final = CoordinateTuning().fresh()


@pytest.mark.parametrize(
    "bad",
    [
        replace(FRESH, vec=(0.0,) * 7),
        replace(FRESH, vec=(nan,) + (0.0,) * 7),
        replace(FRESH, adjustment=inf),
        replace(FRESH, error=-3.0),
        replace(FRESH, height=-5.0),
        replace(FRESH, height=FARTHEST * 2),
    ],
)
def test_a_bad_coordinate_changes_nothing_and_is_counted(bad: Coordinate) -> None:
    client = CoordinateClient(Random(1).random)
    assert client.update("b", bad, 0.01)
    assert client.set(bad)
    assert client.coordinate == FRESH
    assert (client.counters.rejected, client.counters.taken) == (1, 0)


@pytest.mark.parametrize("wrong", [{"dimensions": 0}, {"latency_filter": 0}])
def test_impossible_tuning_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must"):
        CoordinateTuning(**wrong)


def any_number(low: float) -> st.SearchStrategy[float]:
    return st.floats(low, FARTHEST)


PEERS: Final = st.builds(
    Coordinate, st.tuples(*[any_number(-FARTHEST)] * 8), any_number(0.0), any_number(-FARTHEST), any_number(0.0)
)


@given(st.lists(st.tuples(st.sampled_from("abc"), PEERS, st.floats(0.0, LONGEST_ROUND_TRIP)), max_size=30))
def test_our_coordinate_stays_usable_whatever_peers_say(samples: list[tuple[str, Coordinate, float]]) -> None:
    client = CoordinateClient(Random(1).random)
    for node, peer, round_trip in samples:
        assert not client.update(node, peer, round_trip)
        mine = client.coordinate
        assert not mine.fault()
        assert 0.0 <= mine.error <= client.tuning.error_max
        assert mine.height >= client.tuning.height_min
        assert distance_ns(mine, peer) >= 0


# A double holds nanoseconds up to some thousand seconds only; an ordinary network is far below.
NEAR: Final = st.builds(
    Coordinate, st.tuples(*[st.floats(-10, 10)] * 8), st.floats(0, 1.5), st.floats(-1, 1), st.floats(0, 10)
)


@given(NEAR, NEAR)
def test_distance_is_symmetric_unless_the_sum_with_adjustments_is_at_zero(a: Coordinate, b: Coordinate) -> None:
    a, b = replace(a, adjustment=abs(a.adjustment)), replace(b, adjustment=abs(b.adjustment))
    assert abs(distance_ns(a, b) - distance_ns(b, a)) <= 1


def test_a_still_network_is_learned() -> None:
    random = Random(7)
    places = [(random.uniform(0, 0.1), random.uniform(0, 0.1)) for _ in range(8)]
    clients = [CoordinateClient(random.random) for _ in places]

    def truth(i: int, j: int) -> float:
        (ax, ay), (bx, by) = places[i], places[j]
        return 0.002 + sqrt((ax - bx) ** 2 + (ay - by) ** 2)

    def mean_error() -> float:
        pairs = [(i, j) for i in range(8) for j in range(i)]
        wrong = (
            abs(distance_ns(clients[i].coordinate, clients[j].coordinate) / 1e9 - truth(i, j)) / truth(i, j)
            for i, j in pairs
        )
        return sum(wrong) / len(pairs)

    before = mean_error()
    for _ in range(4000):
        i, j = random.sample(range(8), 2)
        clients[i].update(str(j), clients[j].coordinate, truth(i, j))
    assert mean_error() < min(0.1, before / 4)
