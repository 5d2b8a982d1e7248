"""Serf's flag syntax (spec agent.md 1.1), and commands as values.

Rules:

* `-x v`, `-x=v`, `--x v` and `--x=v` are the same. A boolean takes a value only with `=`.
* Parsing stops at the first word that is no flag, or behind `--`; the rest are the command's words, whatever they look
  like. A lone `-` is a word.
* A flag that takes one value and is given twice keeps the last one.
* The first mistake in the order of the command line is the one that is told.
* A flag that is not given has the value of its environment variable, if that is set and not empty, else its default.

No library of command lines: none has this syntax, and the one that held the options took half of the time of `members`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from serfmp.durations import parse_duration
from serfmp.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

HELP_WIDTH: Final = 79
HELP_INDENT: Final = 28
"""Column at which the explanations of options begin."""

TRUE_TEXTS: Final = frozenset({"1", "t", "T", "true", "TRUE", "True"})
FALSE_TEXTS: Final = frozenset({"0", "f", "F", "false", "FALSE", "False"})


class FlagError(UserError):
    """A flag that cannot be read: told on stderr, with the command's help on stdout."""


def to_boolean(text: str, name: str) -> bool:
    """`true` and `false` in the spellings of spec agent.md 1.1; `FlagError` for any other text."""
    if text in TRUE_TEXTS:
        return True
    if text in FALSE_TEXTS:
        return False
    raise FlagError(f'invalid boolean value "{text}" for {name}: parse error')


def to_integer(text: str, name: str) -> int:
    """A whole number; `FlagError` for a text that is none."""
    try:
        return int(text, 0)
    except ValueError:
        raise FlagError(f'invalid value "{text}" for flag {name}: parse error') from None


def to_duration(text: str, name: str) -> float:
    """A duration in seconds; `FlagError` for a text that is none."""
    try:
        return parse_duration(text)
    except UserError:
        raise FlagError(f'invalid value "{text}" for flag {name}: parse error') from None


def to_text(text: str, _name: str) -> str:
    """The text as it is."""
    return text


Kind = Callable[[str, str], Any]
"""Makes a value of a text; it is told the flag's name with its dash."""

BOOLEAN: Final[Kind] = to_boolean
INTEGER: Final[Kind] = to_integer
DURATION: Final[Kind] = to_duration
TEXT: Final[Kind] = to_text

FORMATS: Final = ("text", "json", "jsonl", "csv", "table")
"""Values of `-format`; see `serfmp.cli.formats`."""
ROW_FORMATS: Final = frozenset(FORMATS[2:])
"""Those that `serfmp.cli.formats` writes."""


class Option:
    """A flag. `name`: of its value; `opts`: how it is written, with one dash; `shown`: how the help writes it."""

    __slots__ = ("default", "env", "help", "kind", "multiple", "name", "opts", "shown")

    def __init__(
        self, name: str, kind: Kind, default: Any, *, multiple: bool, env: str | None, text: str, shown: str
    ) -> None:
        self.name = name.replace("-", "_")
        self.opts = [f"-{name}"]
        self.kind = kind
        self.default = default
        self.multiple = multiple
        self.env = env
        self.help = text
        self.shown = shown

    def absent(self) -> Any:
        """The value where the flag is not given. Raises `FlagError` for what the environment says wrongly."""
        text = os.environ.get(self.env) if self.env is not None else None
        if text:
            return self.kind(text, self.opts[0])
        return () if self.multiple else self.default


def format_flag() -> Option:
    """`-format`, the same for all commands that have it."""
    text = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}. Default: text."
    return flag("format", text, default="text", shown="format=text")


def flag(
    name: str,
    text: str,
    *,
    kind: Kind = TEXT,
    default: Any = "",
    many: bool = False,
    env: str | None = None,
    shown: str | None = None,
) -> Option:
    """A flag `-name` whose value comes as the parameter `name` with `-` for `_`.

    `kind`: BOOLEAN, INTEGER, DURATION or TEXT. `many`: it may be repeated, and its value is a tuple. `shown` is how
    the help writes it, without the dash; `text` is what the help says about it.
    """
    return Option(name, kind, default, multiple=many, env=env, text=text, shown=name if shown is None else shown)


class GoCommand:
    """A command that reads its flags by the rules above."""

    def __init__(self, name: str, usage: str, text: str, options: Sequence[Option]) -> None:
        self.name = name
        self.params = list(options)
        self._usage = usage
        self._text = text

    def values(self, args: list[str]) -> tuple[dict[str, Any], list[str]]:
        """The values of all flags by parameter name, and the words. Raises `FlagError`."""
        given, words = self._split(args)
        for option in self.params:
            if option.name not in given:
                given[option.name] = option.absent()
            elif option.multiple:
                given[option.name] = tuple(given[option.name])
        return given, words

    def help_text(self) -> str:
        """What `-h` prints, without the last newline."""
        import textwrap

        lines = [f"Usage: serfmp {self._usage}".rstrip(), ""]
        for paragraph in self._text.split("\n\n"):
            filled = textwrap.fill(" ".join(paragraph.split()), HELP_WIDTH, initial_indent="  ", subsequent_indent="  ")
            lines += [filled, ""]
        if self.params:
            lines += ["Options:", ""]
        for option in self.params:
            start = f"  -{option.shown}"
            body = textwrap.wrap(option.help, HELP_WIDTH - HELP_INDENT, break_on_hyphens=False)
            if len(start) + 2 > HELP_INDENT:
                lines.append(start)
                start = ""
            lines += [f"{start if number == 0 else '':{HELP_INDENT}}{line}" for number, line in enumerate(body)]
        return "\n".join(lines).rstrip()

    def _split(self, args: list[str]) -> tuple[dict[str, Any], list[str]]:
        options = {name[1:]: option for option in self.params for name in option.opts}
        given: dict[str, Any] = {}
        position = 0
        while position < len(args):
            word = args[position]
            if len(word) < 2 or not word.startswith("-"):
                break
            position += 1
            if word == "--":
                break
            name, equals, value = word.removeprefix("-").removeprefix("-").partition("=")
            if not name or name.startswith("-"):
                raise FlagError(f"bad flag syntax: {word}")
            option = options.get(name)
            if option is None:
                raise FlagError(f"flag provided but not defined: -{name}")
            if not equals:
                if option.kind is BOOLEAN:
                    value = "true"
                elif position < len(args):
                    value = args[position]
                    position += 1
                else:
                    raise FlagError(f"flag needs an argument: -{name}")
            converted = option.kind(value, option.opts[0])
            if option.multiple:
                given.setdefault(option.name, []).append(converted)
            else:
                given[option.name] = converted
        return given, args[position:]


def parse_tag(text: str) -> tuple[str, str]:
    """Key and value of `key=value`; `UserError` without an `=` or a key (spec agent.md 1.6)."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"Invalid tag: '{text}'")
    return key, value
