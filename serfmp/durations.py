"""Durations as Serf's flags and files write them: `300ms`, `1.5h`, `2h45m`, `-3s`, `0` (spec agent.md 1.1).

Rules: one or more decimal numbers, each with its unit; an optional sign in front; only the bare text `0` needs no unit.
What does not fit into 64 bits of nanoseconds is refused, because no other program could read it.
"""

from __future__ import annotations

import re
from typing import Final

from serfmp.errors import UserError

_NANOSECONDS: Final = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,  # U+00B5
    "μs": 1_000,  # U+03BC
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_LIMIT: Final = 2**63
_PART: Final = r"(?P<number>[0-9]+\.?[0-9]*|\.[0-9]+)(?P<unit>[^0-9.]*)"
"""Compiled when it is needed: most commands read no duration."""


def parse_duration(text: str) -> float:
    """The duration in seconds. Raises `UserError` that names the text and what is wrong with it."""
    rest = text[1:] if text[:1] in {"+", "-"} else text
    if rest == "0":
        return 0.0
    if not rest:
        raise UserError(f'time: invalid duration "{text}"')
    from fractions import Fraction  # for the same reason

    part_of = re.compile(_PART)
    total = Fraction(0)
    position = 0
    while position < len(rest):
        part = part_of.match(rest, position)
        if part is None:
            raise UserError(f'time: invalid duration "{text}"')
        unit = part["unit"]
        if not unit:
            raise UserError(f'time: missing unit in duration "{text}"')
        if unit not in _NANOSECONDS:
            raise UserError(f'time: unknown unit "{unit}" in duration "{text}"')
        total += Fraction(part["number"].rstrip(".")) * _NANOSECONDS[unit]
        position = part.end()
    if total >= _LIMIT:
        raise UserError(f'time: invalid duration "{text}"')
    seconds = float(total / 1_000_000_000)
    return -seconds if text.startswith("-") else seconds
