"""Serf's flag syntax (spec agent.md 1.1) for commands that are described with click.

Rules:

* `-x v`, `-x=v`, `--x v` and `--x=v` are the same. A boolean takes a value only with `=`.
* Parsing stops at the first word that is no flag, or behind `--`; the rest are the command's words, whatever they look
  like. A lone `-` is a word.
* A flag that takes one value and is given twice keeps the last one.
* The first mistake in the order of the command line is the one that is told.

click holds the options, their defaults and environment variables; only the way of reading the words is ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from serfmp.durations import parse_duration
from serfmp.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    BooleanBase = click.ParamType[bool]
    IntegerBase = click.ParamType[int]
    DurationBase = click.ParamType[float]
    AnyType = click.ParamType[Any]
else:
    # Not every version of click that may be installed has generic types.
    BooleanBase = IntegerBase = DurationBase = click.ParamType

HELP_WIDTH: Final = 79
HELP_INDENT: Final = 28
"""Column at which the explanations of options begin."""

TRUE_TEXTS: Final = frozenset({"1", "t", "T", "true", "TRUE", "True"})
FALSE_TEXTS: Final = frozenset({"0", "f", "F", "false", "FALSE", "False"})


class FlagError(UserError):
    """A flag that cannot be read: told on stderr, with the command's help on stdout."""


class Boolean(BooleanBase):
    """`true` and `false` in the spellings of spec agent.md 1.1."""

    name = "boolean"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bool:
        """The value; `FlagError` for any other text."""
        del ctx
        if isinstance(value, bool):
            return value
        if value in TRUE_TEXTS:
            return True
        if value in FALSE_TEXTS:
            return False
        raise FlagError(f'invalid boolean value "{value}" for {_name(param)}: parse error')


class Integer(IntegerBase):
    """A whole number."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The value; `FlagError` for a text that is no number."""
        del ctx
        try:
            return int(value, 0) if isinstance(value, str) else int(value)
        except ValueError:
            raise FlagError(f'invalid value "{value}" for flag {_name(param)}: parse error') from None


class Duration(DurationBase):
    """A duration in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The value; `FlagError` for a text that is no duration."""
        del ctx
        if isinstance(value, float | int):
            return float(value)
        try:
            return parse_duration(value)
        except UserError:
            raise FlagError(f'invalid value "{value}" for flag {_name(param)}: parse error') from None


BOOLEAN: Final = Boolean()
INTEGER: Final = Integer()
DURATION: Final = Duration()


FORMATS: Final = ("text", "json", "jsonl", "csv", "table")
"""Values of `-format`; see `serfmp.cli.formats`."""
ROW_FORMATS: Final = frozenset(FORMATS[2:])
"""Those that `serfmp.cli.formats` writes."""


def format_flag() -> click.Option:
    """`-format`, the same for all commands that have it."""
    text = f"{', '.join(FORMATS[:-1])} or {FORMATS[-1]}. Default: text."
    return flag("format", text, default="text", shown="format=text")


def flag(
    name: str,
    text: str,
    *,
    kind: AnyType | None = None,
    default: Any = "",
    many: bool = False,
    env: str | None = None,
    shown: str | None = None,
) -> click.Option:
    """A flag `-name` whose value comes as the parameter `name` with `-` for `_`.

    `kind`: BOOLEAN, INTEGER, DURATION, or text. `many`: it may be repeated, and its value is a tuple. `shown` is how
    the help writes it, without the dash; `text` is what the help says about it.
    """
    option = click.Option(
        [f"-{name}", name.replace("-", "_")],
        type=kind or click.STRING,
        default=None if many else default,
        multiple=many,
        envvar=env,
        help=text,
        metavar=shown if shown is not None else name,
    )
    # click would take a hyphen in a repeated option's name, or a default of False, as hints of its own.
    option.is_flag = False
    return option


class GoCommand(click.Command):
    """A command that reads its flags by the rules above. Its words are in `ctx.args`."""

    def __init__(self, name: str, usage: str, text: str, options: Sequence[click.Option]) -> None:
        super().__init__(name, params=list(options), add_help_option=False)
        self.allow_extra_args = True
        self._usage = usage
        self._text = text

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Fill `ctx.params` and `ctx.args`. Raises `FlagError`."""
        given, words = self._split(args)
        for param in self.params:
            param.handle_parse_result(ctx, given, [])
        ctx.args = words
        return words

    def values(self, args: list[str]) -> tuple[dict[str, Any], list[str]]:
        """The values of all flags by parameter name, and the words."""
        context = click.Context(self)
        words = self.parse_args(context, args)
        return dict(context.params), words

    def help_text(self) -> str:
        """What `-h` prints, without the last newline."""
        import textwrap

        lines = [f"Usage: serfmp {self._usage}".rstrip(), ""]
        for paragraph in self._text.split("\n\n"):
            filled = textwrap.fill(" ".join(paragraph.split()), HELP_WIDTH, initial_indent="  ", subsequent_indent="  ")
            lines += [filled, ""]
        options = [param for param in self.params if isinstance(param, click.Option)]
        if options:
            lines += ["Options:", ""]
        for option in options:
            start = f"  -{option.metavar}"
            body = textwrap.wrap(option.help or "", HELP_WIDTH - HELP_INDENT, break_on_hyphens=False)
            if len(start) + 2 > HELP_INDENT:
                lines.append(start)
                start = ""
            lines += [f"{start if number == 0 else '':{HELP_INDENT}}{line}" for number, line in enumerate(body)]
        return "\n".join(lines).rstrip()

    def _split(self, args: list[str]) -> tuple[dict[str, Any], list[str]]:
        options = {
            name[1:]: option for option in self.params if isinstance(option, click.Option) for name in option.opts
        }
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
                if isinstance(option.type, Boolean):
                    value = "true"
                elif position < len(args):
                    value = args[position]
                    position += 1
                else:
                    raise FlagError(f"flag needs an argument: -{name}")
            converted = option.type.convert(value, option, None)
            if option.multiple:
                given.setdefault(option.name or name, []).append(converted)
            else:
                given[option.name or name] = converted
        return given, args[position:]


def parse_tag(text: str) -> tuple[str, str]:
    """Key and value of `key=value`; `UserError` without an `=` or a key (spec agent.md 1.6)."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"Invalid tag: '{text}'")
    return key, value


def _name(param: click.Parameter | None) -> str:
    return param.opts[0] if param is not None else "a flag"
