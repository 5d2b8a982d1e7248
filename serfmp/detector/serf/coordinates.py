"""Network coordinates: where this agent stands in the space of round-trip times (spec serf.md 15).

Rules:

* The arithmetic follows the golden cases to the bit. So sums go from left to right in a loop (`sum` compensates), and a
  distance inside the algorithm is whole nanoseconds turned back into seconds.
* A refused sample changes nothing and is counted: another dimension, a number that is not finite, one that is out of
  range, a negative error or height, an impossible round trip.
* If our own coordinate is lost to an infinity all the same, it starts anew together with its window of samples: one
  reset, not one for each sample that the window still holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import Final

from serfmp.wire.coordinate import DIMENSIONS, Coordinate, distance_ns, length_of, raw_distance, total

LONGEST_ROUND_TRIP: Final = 10.0
"""Seconds; a longer round trip says nothing about a network."""

FARTHEST: Final = 3600.0
"""Seconds; a peer whose coordinate has a larger number in it is not believed."""

_ZERO: Final = 1e-6
_NANOSECONDS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class CoordinateTuning:
    """The constants of the algorithm. Everybody in a cluster should use the same."""

    dimensions: int = DIMENSIONS
    error_max: float = 1.5
    ce: float = 0.25
    cc: float = 0.25
    adjustment_window: int = 20
    height_min: float = 1e-5
    latency_filter: int = 3
    gravity_rho: float = 150.0

    def __post_init__(self) -> None:
        """Refuse what would crash later."""
        if self.dimensions < 1:
            raise ValueError("dimensionality must be >0")
        if self.latency_filter < 1:
            raise ValueError("the latency filter must keep at least 1 sample")

    def fresh(self) -> Coordinate:
        """The coordinate of somebody who knows nothing yet."""
        return Coordinate((0.0,) * self.dimensions, self.error_max, 0.0, self.height_min)


@dataclass(slots=True)
class CoordinateCounters:
    """What happened to the samples."""

    taken: int = 0
    zero_round_trips: int = 0
    rejected: int = 0
    resets: int = 0


def apply_force(
    tuning: CoordinateTuning, random: Callable[[], float], start: Coordinate, force: float, other: Coordinate
) -> Coordinate:
    """`start`, pushed away from `other` by `force` seconds (pulled to it, if negative)."""
    unit, magnitude = _direction(start.vec, other.vec, random)
    height = start.height
    if magnitude > _ZERO:
        height = max((height + other.height) * force / magnitude + height, tuning.height_min)
    vec = tuple(x + u * force for x, u in zip(start.vec, unit, strict=True))
    return replace(start, vec=vec, height=height)


@dataclass(slots=True)
class CoordinateClient:
    """Our own coordinate, and what it is computed from. `random` gives numbers from 0 up to 1.

    Memory is bounded by the members: whoever erases a member calls `forget`.
    """

    random: Callable[[], float]
    tuning: CoordinateTuning = field(default_factory=CoordinateTuning)
    counters: CoordinateCounters = field(default_factory=CoordinateCounters)
    coordinate: Coordinate = field(init=False)
    _latencies: dict[str, list[float]] = field(init=False, default_factory=dict)
    _samples: list[float] = field(init=False)
    _next_sample: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        """Begin at the origin."""
        self._start_anew()

    def set(self, coordinate: Coordinate) -> str:
        """Stand there from now on; or why not."""
        fault = coordinate_fault(coordinate, self.tuning.dimensions)
        if not fault:
            self.coordinate = coordinate
        return fault

    def forget(self, node: str) -> None:
        """Drop the round trips of this node."""
        self._latencies.pop(node, None)

    def update(self, node: str, other: Coordinate, round_trip: float) -> str:
        """Learn from a round trip of so many seconds to a node that stands there. Returns why it was refused, or ""."""
        fault = coordinate_fault(other, self.tuning.dimensions)
        if not fault and not 0.0 <= round_trip <= LONGEST_ROUND_TRIP:
            fault = (
                f"round trip time not in valid range, duration {round_trip:g}s is not a positive value less than 10s "
            )
        if fault:
            self.counters.rejected += 1
            return fault
        self.counters.taken += 1
        self.counters.zero_round_trips += round_trip == 0.0
        latency = self._filtered(node, round_trip)
        if not self.coordinate.fault(self.tuning.dimensions):
            self._move(other, latency)
        if self.coordinate.fault(self.tuning.dimensions):
            self.counters.resets += 1
            self._start_anew()
        return ""

    def _start_anew(self) -> None:
        self.coordinate = self.tuning.fresh()
        self._samples = [0.0] * self.tuning.adjustment_window
        self._next_sample = 0

    def _filtered(self, node: str, round_trip: float) -> float:
        """The median of the last round trips to this node."""
        latencies = self._latencies.setdefault(node, [])
        latencies.append(round_trip)
        del latencies[: -self.tuning.latency_filter]
        return sorted(latencies)[len(latencies) // 2]

    def _move(self, other: Coordinate, latency: float) -> None:
        tuning, mine = self.tuning, self.coordinate
        expected = _seconds(distance_ns(mine, other))
        measured = max(latency, _ZERO)
        wrong = abs(expected - measured) / measured
        weight = mine.error / max(mine.error + other.error, _ZERO)
        error = min(tuning.error_max, tuning.ce * weight * wrong + mine.error * (1.0 - tuning.ce * weight))
        force = tuning.cc * weight * (measured - expected)
        mine = apply_force(tuning, self.random, replace(mine, error=error), force, other)
        if self._samples:
            self._samples[self._next_sample] = latency - raw_distance(mine, other)
            self._next_sample = (self._next_sample + 1) % len(self._samples)
            mine = replace(mine, adjustment=total(self._samples) / (2.0 * len(self._samples)))
        self.coordinate = mine
        if not mine.fault(tuning.dimensions):
            origin = tuning.fresh()
            pull = _seconds(distance_ns(origin, mine)) / tuning.gravity_rho
            self.coordinate = apply_force(tuning, self.random, mine, -(pull * pull), origin)


def coordinate_fault(coordinate: Coordinate, dimensions: int) -> str:
    """Why nothing is learned from this coordinate of a peer; empty if it may be used."""
    if len(coordinate.vec) != dimensions:
        return "dimensions aren't compatible"
    numbers = (*coordinate.vec, coordinate.error, coordinate.adjustment, coordinate.height)
    if not all(map(isfinite, numbers)):
        return "coordinate is invalid"
    if coordinate.error < 0.0 or coordinate.height < 0.0:
        return "coordinate is invalid: a negative error or height"
    if any(abs(number) > FARTHEST for number in numbers):
        return f"coordinate is invalid: a number beyond {FARTHEST:g}"
    return ""


def _seconds(nanoseconds: int) -> float:
    whole, rest = divmod(nanoseconds, _NANOSECONDS)
    return whole + rest / 1e9


def _direction(
    at: tuple[float, ...], source: tuple[float, ...], random: Callable[[], float]
) -> tuple[tuple[float, ...], float]:
    """The unit vector at one place away from another, and their distance; any direction if they are the same."""
    away = tuple(x - y for x, y in zip(at, source, strict=True))
    length = length_of(away)
    if length > _ZERO:
        return tuple(x * (1.0 / length) for x in away), length
    away = tuple(random() - 0.5 for _ in at)
    length = length_of(away)
    if length > _ZERO:
        return tuple(x * (1.0 / length) for x in away), 0.0
    return (1.0,) + (0.0,) * (len(at) - 1), 0.0
