"""The command line of a proof: the options that all have, and how it ends.

Rules:

* A proof ends what it started, also when it is told to end.
* Its exit code is 0 when every bar was met and 1 otherwise.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from scripts.proofs.cluster import Workplace, workplace
from scripts.proofs.report import Report


def parser(description: str) -> argparse.ArgumentParser:
    """An argument parser with the options that every proof has."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("--short", action="store_true", help="a form of it that takes less than a minute")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    made.add_argument("--keep", action="store_true", help="keep the agents' logs, and say where")
    made.add_argument(
        "--rehearse", action="store_true", help="real agents in all places and no harm done: checks the measuring"
    )
    return made


def end_on_terminate() -> None:
    """Let SIGTERM end the program as Ctrl-C does, so that it ends what it started."""
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))


def conclude(report: Report, json_file: Path | None) -> int:
    """Print the table, write the file; the exit code."""
    print(report.table(), flush=True)
    if json_file is not None:
        report.write_json(json_file)
    return 1 if report.missed else 0


def carry_out(given: argparse.Namespace, work: Callable[[Workplace], Report]) -> int:
    """Do the work and tell what it found, as the options of every proof say; the exit code."""
    end_on_terminate()
    with workplace(given.keep) as place:
        report = work(place)
    return conclude(report, given.json)
