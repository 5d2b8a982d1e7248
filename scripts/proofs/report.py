"""What a proof found: figures, and the bars that they must meet.

Rules:

* Figures are told as measured. A bar is a figure with a verdict; a proof has passed when every bar was met.
* Progress goes to standard error, the table to standard output: a report can be piped.
* A proof that could not measure something says so as a bar that was missed, never by leaving it out.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

PROGRESS_S = 5.0
"""Between two lines of progress."""

Figure = int | float | str


@dataclass(frozen=True, slots=True)
class Row:
    """A line of a report; `bar` is empty and `met` true for a figure without a bar."""

    what: str
    figure: Figure
    bar: str = ""
    met: bool = True


class Report:
    """Rows in the order in which they were told."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.rows: list[Row] = []

    def tell(self, what: str, figure: Figure) -> None:
        """A figure without a bar."""
        self.rows.append(Row(what, figure))

    def require(self, what: str, figure: Figure, bar: str, met: bool) -> None:
        """A figure with its bar, and whether it was met."""
        self.rows.append(Row(what, figure, bar, met))

    def require_none(self, what: str, figure: int) -> None:
        """A count that must be zero."""
        self.require(what, figure, "0", figure == 0)

    @property
    def missed(self) -> list[Row]:
        """The bars that were not met."""
        return [row for row in self.rows if not row.met]

    def table(self) -> str:
        """All rows as text in columns."""
        verdict = {True: "met", False: "MISSED"}
        cells = [(row.what, shown(row.figure), row.bar, verdict[row.met] if row.bar else "") for row in self.rows]
        widths = [max(len(line[column]) for line in [*cells, ("", "", "bar", "")]) for column in range(4)]
        lines = [self.title, ""]
        for what, figure, bar, met in [("", "measured", "bar", ""), *cells]:
            lines.append(f"{what:<{widths[0]}}  {figure:>{widths[1]}}  {bar:<{widths[2]}}  {met}".rstrip())
        lines += ["", "passed" if not self.missed else f"FAILED: {len(self.missed)} bars were missed"]
        return "\n".join(lines)

    def write_json(self, path: Path) -> None:
        """The same rows, for machines."""
        rows = [asdict(row) | {"figure": finite(row.figure)} for row in self.rows]
        content = {"title": self.title, "passed": not self.missed, "rows": rows}
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


class Progress:
    """Lines on standard error, at most one every `PROGRESS_S`."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._began = time.monotonic()
        self._last = -math.inf

    def say(self, text: str) -> None:
        """A line at once."""
        self._last = time.monotonic()
        if not self._quiet:
            print(f"{self._last - self._began:7.1f} s  {text}", file=sys.stderr, flush=True)

    def tick(self, text: Callable[[], str]) -> None:
        """A line if the last one is long enough ago."""
        if time.monotonic() - self._last >= PROGRESS_S:
            self.say(text())


def shown(figure: Figure) -> str:
    """A figure as text, with three digits that mean something."""
    if isinstance(figure, float):
        return f"{figure:.0f}" if abs(figure) >= 1000 else f"{figure:.3g}"
    return str(figure)


def finite(figure: Figure) -> Figure | None:
    """The figure, or None for what JSON has no number for."""
    return None if isinstance(figure, float) and not math.isfinite(figure) else figure


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed; nan for none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def spread(values: Sequence[float], scale: float = 1.0) -> str:
    """Median, smallest and largest, as text; of none, that there is none."""
    if not values:
        return "none"
    low, middle, high = min(values) * scale, statistics.median(values) * scale, max(values) * scale
    digits = 0 if middle >= 100 else 1 if middle >= 10 else 2
    return f"{middle:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"
