"""The simulator's command line: one seed with its story, many seeds with a verdict, or the table of figures.

Exit code 0: no rule was broken. 1: one was; the output has the command that repeats it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial

from serfmp.sim.figures import MEASUREMENTS, Figure
from serfmp.sim.invariants import BrokenError
from serfmp.sim.scenario import NODES, History, Outcome


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m serfmp.sim", description="Simulate clusters of the shipping core.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("-seed", "--seed", type=int, help="run this seed and tell its story")
    what.add_argument("-seeds", "--seeds", type=int, help="run so many seeds")
    what.add_argument("-table", "--table", action="store_true", help="measure the figures of the specification")
    parser.add_argument("-first", "--first", type=int, default=0, help="the first of many seeds (default: 0)")
    parser.add_argument("-nodes", "--nodes", type=int, help="nodes of the cluster (default: drawn from the seed)")
    parser.add_argument("-quiet", "--quiet", action="store_true", help="only the outcome")
    parser.add_argument("-scale", "--scale", type=int, default=1, help="multiplies the runs of each figure")
    parser.add_argument("-json", "--json", action="store_true", help="figures and outcomes as JSON, one a line")
    parser.add_argument("-jobs", "--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")
    chosen = parser.parse_args(arguments)
    if chosen.nodes is not None and chosen.nodes < NODES[0]:
        parser.error(f"a history needs at least {NODES[0]} nodes, not {chosen.nodes}")
    return chosen


def say(text: str) -> None:
    """One line of output."""
    sys.stdout.write(f"{text}\n")


def describe(outcome: Outcome) -> str:
    """An outcome as a line."""
    return (
        f"seed {outcome.seed}: {outcome.nodes} nodes, {outcome.profile}, {outcome.faults} faults, "
        f"{outcome.lasted:.0f} s, {outcome.packets} packets, {outcome.checks} checks, "
        f"agreed after {outcome.converged:.1f} s, trace {outcome.trace_hash}"
    )


def attempt(seed: int, nodes: int | None) -> Outcome | str:
    """Run one seed: what came of it, or what was broken."""
    try:
        return History(seed, nodes).run()
    except BrokenError as fault:
        return str(fault)


def one(chosen: argparse.Namespace) -> int:
    """Run one seed with its story."""
    try:
        outcome = History(chosen.seed, chosen.nodes, None if chosen.quiet else say).run()
    except BrokenError as fault:
        say(str(fault))
        return 1
    say(json.dumps(asdict(outcome)) if chosen.json else describe(outcome))
    return 0


def many(chosen: argparse.Namespace) -> int:
    """Run many seeds on all cores."""
    begun = time.monotonic()
    seeds = range(chosen.first, chosen.first + chosen.seeds)
    broken = checks = packets = 0
    with ProcessPoolExecutor(chosen.jobs) as pool:
        for result in pool.map(partial(attempt, nodes=chosen.nodes), seeds, chunksize=4):
            if isinstance(result, str):
                broken += 1
                say(result)
            else:
                checks += result.checks
                packets += result.packets
                if not chosen.quiet:
                    say(json.dumps(asdict(result)) if chosen.json else describe(result))
    took = time.monotonic() - begun
    if not chosen.json:
        say(f"{len(seeds)} clusters, {packets} packets, {checks} checks: {broken} broken ({took:.0f} s)")
    return 1 if broken else 0


def measure(number: int, scale: int) -> list[Figure]:
    """One of the measurements."""
    return list(MEASUREMENTS[number](scale))


def figures(chosen: argparse.Namespace) -> Iterator[Figure]:
    """All figures, measured on all cores."""
    with ProcessPoolExecutor(chosen.jobs) as pool:
        for found in pool.map(partial(measure, scale=chosen.scale), range(len(MEASUREMENTS))):
            yield from found


def print_table(chosen: argparse.Namespace) -> int:
    """Print the figures. A target that is missed is no error: it is marked."""
    if chosen.json:
        for figure in figures(chosen):
            say(json.dumps(asdict(figure)))
        return 0
    say(f"{'':4} {'what':52} {'runs':>4}  {'target':20} {'measured'}")
    for figure in figures(chosen):
        measured = ", ".join(f"{name} {value:.3g}" for name, value in figure.measured.items())
        verdict = "" if figure.kept else "  (missed)"
        say(f"{figure.id:4} {figure.what:52} {figure.runs:4}  {figure.target:20} {measured}{verdict}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line asks for; returns the exit code."""
    chosen = options(arguments)
    if chosen.table:
        return print_table(chosen)
    return one(chosen) if chosen.seed is not None else many(chosen)


if __name__ == "__main__":
    sys.exit(main())
