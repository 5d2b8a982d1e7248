"""What commands write: results and errors alike on stdout, as Serf does (spec agent.md 3.1); formats of both.

Rules: text of the cluster (names, tags) may hold bytes that are not UTF-8 and control characters. JSON carries them by
its own rules; tables show control characters escaped, so that nobody in the cluster can write to the operator's
terminal. Most commands write plain text: what only JSON takes is imported and compiled when it is asked for.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_CONTROL: Final = r"[\x00-\x1f\x7f-\x9f]"
_JSON_HIDDEN: Final = "[<>&\u2028\u2029\ud800-\udfff]"
_JSON_ESCAPE: Final = r"\\(u[0-9a-f]{4}|.)"
_JSON_LONG: Final = {"b": "\\u0008", "f": "\\u000c"}


def say(text: str = "") -> None:
    """Write a line to stdout."""
    sys.stdout.write(text + "\n")


def complain(text: str) -> None:
    """Write a line to stderr."""
    sys.stderr.write(text + "\n")


def visible(text: str) -> str:
    """The text with control characters written as hexadecimal escapes."""
    if text.isprintable():
        return text
    return re.sub(_CONTROL, lambda found: f"\\x{ord(found[0]):02x}", text)


def table(rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, two blanks between; the last cell of a row is not padded.

    A `|` in a cell begins another column, as in Serf.
    """
    cells = [[cell.strip() for cell in "|".join(row).split("|")] for row in rows]
    widths: dict[int, int] = {}
    for row in cells:
        for column, cell in enumerate(row):
            widths[column] = max(widths.get(column, 0), len(cell))
    lines = [
        "  ".join([*(f"{cell:{widths[column]}}" for column, cell in enumerate(row[:-1])), row[-1]]) for row in cells
    ]
    return "\n".join(lines).strip()


def go_json(value: Any) -> str:
    """JSON as Serf writes it: two blanks of indent; `<`, `>`, `&` escaped; U+FFFD for bytes that are not text."""
    import json

    text = json.dumps(value, indent=2, ensure_ascii=False)
    text = re.sub(_JSON_ESCAPE, lambda found: _JSON_LONG.get(found[1], found[0]), text)
    return re.sub(_JSON_HIDDEN, _escaped, text)


def _escaped(found: re.Match[str]) -> str:
    number = ord(found[0])
    return "\ufffd" if 0xD800 <= number <= 0xDFFF else f"\\u{number:04x}"
