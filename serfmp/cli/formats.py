"""The formats of results: Serf's `text` and `json`, which each command writes itself, and `jsonl`, `csv` and `table`.

Rules:

* A result is rows under columns, and one object for each row. `jsonl` is one object a line; `csv` is RFC 4180 with a
  line of column names; a `table` has as much width as the terminal has, the widest cells are cut and end in `…`.
* Colour only where stdout is a terminal that knows it, and $NO_COLOR is empty or not set. Elsewhere a table is as wide
  as it needs.
* Control characters are shown escaped in cells, and bytes that are no UTF-8 as U+FFFD; JSON carries both by its rules.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from serfmp.cli.output import say, visible

_GAP: Final = "  "
_LEAST_WIDTH: Final = 6
"""Cells are not cut shorter, whatever the terminal."""
_NOT_TEXT: Final = re.compile("[\ud800-\udfff]")
_BOLD: Final = "1"
_COLOURS: Final = {
    "alive": "32",
    "ok": "32",
    "true": "32",
    "answered": "32",
    "leaving": "33",
    "left": "33",
    "warning": "33",
    "failed": "31",
    "missing": "31",
    "surplus": "31",
    "error": "31",
}
"""Of cells that are just one of these words."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A result. Cells are texts, numbers, booleans, None, lists or maps.

    `objects` are the rows for JSON, where these are not the columns with their cells.
    """

    columns: tuple[str, ...]
    cells: Sequence[Sequence[Any]]
    objects: Sequence[Mapping[str, Any]] | None = None


def show(name: str, rows: Rows) -> None:
    """Write rows as `jsonl`, `csv` or `table`."""
    match name:
        case "jsonl":
            objects = rows.objects or [dict(zip(rows.columns, cells, strict=True)) for cells in rows.cells]
            for value in objects:
                say(json_line(value))
        case "csv":
            sys.stdout.write(csv_text([rows.columns, *rows.cells]))
        case _:
            say(table_text(rows, terminal_width(), coloured=has_colour()))


def json_line(value: Any) -> str:
    """A value as JSON on one line."""
    return _NOT_TEXT.sub("\ufffd", json.dumps(value, ensure_ascii=False))


def csv_text(rows: Sequence[Sequence[Any]]) -> str:
    """Rows as CSV; lines end in a line feed."""
    target = io.StringIO()
    csv.writer(target, lineterminator="\n").writerows([[cell_text(cell) for cell in row] for row in rows])
    return target.getvalue()


def cell_text(cell: Any) -> str:
    """One cell for people: `true`, `a,b`, `key=value,…`; empty for None."""
    match cell:
        case None:
            return ""
        case bool():
            return "true" if cell else "false"
        case Mapping():
            text = ",".join(f"{key}={cell_text(value)}" for key, value in sorted(cell.items()))
        case list() | tuple():
            text = ",".join(map(cell_text, cell))
        case _:
            text = str(cell)
    return _NOT_TEXT.sub("\ufffd", visible(text))


def table_text(rows: Rows, width: int | None, *, coloured: bool) -> str:
    """A table of at most this many columns of the terminal (None: any number), where its cells can be cut so far."""
    texts = [[cell_text(cell) for cell in row] for row in [rows.columns, *rows.cells]]
    widths = [max(display_width(row[column]) for row in texts) for column in range(len(rows.columns))]
    while width is not None and sum(widths) + len(_GAP) * (len(widths) - 1) > width:
        widest = max(range(len(widths)), key=widths.__getitem__)
        if widths[widest] <= _LEAST_WIDTH:
            break
        widths[widest] -= 1
    lines = []
    for number, row in enumerate(texts):
        cells = []
        for text, space in zip(row, widths, strict=True):
            shown = cut(text, space)
            colour = _BOLD if number == 0 else _COLOURS.get(text)
            painted = f"\x1b[{colour}m{shown}\x1b[0m" if coloured and colour and shown else shown
            cells.append(painted + " " * (space - display_width(shown)))
        lines.append(_GAP.join(cells).rstrip(" "))
    return "\n".join(lines)


def cut(text: str, space: int) -> str:
    """The text, or its beginning and `…`, in this many columns of the terminal."""
    if display_width(text) <= space:
        return text
    shown, used = "", 0
    for character in text:
        used += display_width(character)
        if used > space - 1:
            break
        shown += character
    return shown + "…"


def display_width(text: str) -> int:
    """How many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in {"W", "F"} else 1
        for character in text
    )


def terminal_width() -> int | None:
    """Columns of the terminal that stdout is; None where it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def has_colour() -> bool:
    """Whether colours are seen and wanted (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") not in {None, "", "dumb"}
