"""`serfmp version`: the version of the program and the protocols that its agent speaks (spec agent.md 3.1)."""

from __future__ import annotations

from typing import Any, Final

import serfmp
from serfmp.cli.flags import GoCommand
from serfmp.cli.output import say

PROTOCOL: Final = 5
OLDEST_PROTOCOL: Final = 2


class _AnyWords(GoCommand):
    """Takes whatever follows, flags too."""

    def values(self, args: list[str]) -> tuple[dict[str, Any], list[str]]:
        """No values; all are words."""
        return {}, args


COMMAND: Final = _AnyWords("version", "version", "Prints the version.", [])


def run(_values: dict[str, Any], _words: list[str]) -> int:
    """Print two lines."""
    say(serfmp.__version__)
    say(f"Agent Protocol: {PROTOCOL} (Understands back to: {OLDEST_PROTOCOL})")
    return 0
