"""On which lines the keys of a TOML file stand: the standard library's parser does not tell.

Rules: a statement is as many lines as it takes until they can be parsed by themselves, so texts and lists over several
lines are no trouble. Keys of tables are called `table.key`; of a key that comes several times the first line counts.
Beyond `WORK_LIMIT` no more is looked for.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, Final

WORK_LIMIT: Final = 1024 * 1024
"""Characters that are parsed at most: what stands on many lines is parsed again with each that may be its last."""

_CLOSERS: Final = ("]", '"""', "'''")
"""One of these is on the last line of whatever stands on several."""


def toml_lines(text: str) -> dict[str, int]:
    """The lines of the keys of this text, which is known to be TOML."""
    lines: dict[str, int] = {}
    table = ""
    for number, header, values in _statements(text):
        prefix = "" if header or not table else f"{table}."
        names = list(_names(values))
        for name in names:
            lines.setdefault(f"{prefix}{name}", number)
        if header:
            table = names[-1]
    return lines


def _statements(text: str) -> Iterator[tuple[int, bool, Mapping[str, Any]]]:
    """Line, whether it is the header of a table, and what it holds by itself."""
    work = 0
    begun: list[str] = []
    for number, line in enumerate(text.split("\n"), 1):
        begun.append(line)
        if len(begun) > 1 and not any(closer in line for closer in _CLOSERS):
            continue
        statement = "\n".join(begun)
        work += len(statement)
        if work > WORK_LIMIT:
            return
        try:
            values = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue
        if values:
            yield number - len(begun) + 1, statement.lstrip().startswith("["), values
        begun.clear()


def _names(values: Mapping[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        yield name
        if isinstance(value, dict):
            yield from (f"{name}.{inner}" for inner in value)
