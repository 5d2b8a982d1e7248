"""Which commands need a shell, and which program one that does not need it means.

Rules: a line is executed without a shell if it is only words that no shell changes, the first of which names a program
that can be executed and nothing that a shell does itself. (`make` does the same.) In doubt the shell decides: what is
wrong with a line is told in its words, and a script without `#!` is interpreted by it.
"""

from __future__ import annotations

import errno
import os
import re
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_PLAIN_WORDS: Final = re.compile(
    r"[ \t]*[A-Za-z0-9_@%+:,./-][A-Za-z0-9_@%+:,./=-]*([ \t]+[A-Za-z0-9_@%+:,./=-]+)*[ \t]*"
)

_LANGUAGE: Final = "case coproc do done elif else esac fi for function if in select then time until while"
"""What commands of dash, bash and busybox begin with."""

_BUILT_IN: Final = """
    . : alias bg bind break builtin caller cd chdir command compgen complete compopt continue declare dirs disown echo
    enable eval exec exit export fc fg getopts hash help history jobs kill let local logout mapfile popd printf pushd
    pwd read readarray readonly return set shift shopt source suspend test times trap type typeset ulimit umask unalias
    unset wait
"""
"""What they do themselves, maybe otherwise than programs of that name. (`true` and `false` do the same as programs.)"""

OF_SHELLS: Final = frozenset(_LANGUAGE.split()) | frozenset(_BUILT_IN.split())
"""First words for which no program is looked for."""

_LINES: Final = 256
"""Lines whose words are remembered, and programs whose places are."""

REMEMBERED: Final = 1.0
"""Seconds: to look along a path takes ten microseconds."""

DEFAULT_PATH: Final = os.fsencode(os.defpath)


@lru_cache(_LINES)
def plain_words(line: str) -> tuple[str, ...] | None:
    """The program and the arguments that a shell would make of this line; None if it may do anything else with it."""
    if not _PLAIN_WORDS.fullmatch(line):
        return None
    words = tuple(line.split())
    return None if words[0] in OF_SHELLS or "=" in words[0] else words


class Programs:
    """Where programs are, as seen from here and by a path; what was found is good for `REMEMBERED` seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._found: dict[tuple[str, bytes], str] = {}
        self._forget_at = 0.0

    def find(self, program: str, environment: Mapping[bytes, bytes]) -> str:
        """As `find_program`."""
        path = environment.get(b"PATH", b"")
        now = self._clock()
        if now >= self._forget_at or len(self._found) >= _LINES:
            self._found.clear()
            self._forget_at = now + REMEMBERED
        found = self._found.get((program, path))
        if found is None:
            found = self._found[program, path] = find_program(program, path)
        return found


def find_program(program: str, path: bytes = b"", directory: str = "") -> str:
    """Where this program is: itself if it has a slash, else the first of that name along the path.

    `directory`: from where it is looked for; empty: from where we are. Raises `OSError` if there is none, or none that
    may be executed.
    """
    if "/" in program:
        places = [program]
    else:
        places = [f"{entry}/{program}" if entry else program for entry in os.fsdecode(path or DEFAULT_PATH).split(":")]
    # An absolute place stays as it is; `pathlib` would take longer for that than the start of a small script.
    seen = [os.path.join(directory, place) for place in places] if directory else places  # noqa: PTH118
    for place, there in zip(places, seen, strict=True):
        if os.access(there, os.X_OK) and os.path.isfile(there):  # noqa: PTH113
            return place
    number = errno.EACCES if any(map(os.path.isfile, seen)) else errno.ENOENT
    raise OSError(number, os.strerror(number), program)
