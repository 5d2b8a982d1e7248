"""`serfmp completion`: scripts with which shells complete commands, flags, values and names of members.

Rules: the scripts are made from the commands as they are, so they cannot be out of date with the version that printed
them. Names of members are asked of the agent when they are wanted, for a second at most.
"""

from __future__ import annotations

import importlib
import shlex
from typing import TYPE_CHECKING, Any, Final

from serfmp.cli.flags import BOOLEAN, FORMATS, GoCommand
from serfmp.cli.output import say

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import click

COMMAND: Final = GoCommand(
    "completion",
    "completion bash|zsh|fish",
    'Prints a script for the shell. For this session: eval "$(serfmp completion bash)", the same for zsh, and serfmp '
    "completion fish | source. For good: put it where the shell looks, such as "
    "/etc/bash_completion.d/serfmp, _serfmp in a directory of $fpath, or ~/.config/fish/completions/serfmp.fish.",
    [],
)

LEVELS: Final = ("trace", "debug", "info", "warn", "err")
VALUES: Final = {
    "format": FORMATS,
    "log-level": LEVELS,
    "profile": ("lan", "wan", "local"),
    "start-method": ("fork", "exec"),
    "status": ("alive", "leaving", "left", "failed"),
}
"""Values of flags, whatever the command."""
PATHS: Final = frozenset(
    {
        *("config-dir", "config-file", "keyring-file", "log-file", "rpc-tls-ca", "rpc-tls-cert", "rpc-tls-key"),
        *("runtime-dir", "snapshot", "tags-file"),
    }
)
"""Flags whose value is a path."""
WORDS: Final = {"completion": ("bash", "zsh", "fish"), "config": ("show",)}
"""Words of commands."""
OF_MEMBERS: Final = frozenset({"force-leave", "rtt", "why"})
"""Commands whose words are names of members."""
MEMBER_FLAGS: Final = frozenset({"node"})

_ASK: Final = "serfmp members -rpc-timeout=1s -format=csv 2>/dev/null | sed -n '2,$s/,.*//p'"


def run(_values: dict[str, Any], words: list[str]) -> int:
    """Print it. Returns the exit code."""
    makers = {"bash": bash, "zsh": zsh, "fish": fish}
    if len(words) != 1 or words[0] not in makers:
        say(f"The shell must be given: bash, zsh or fish.\n\n{COMMAND.help_text()}")
        return 1
    say(makers[words[0]]())
    return 0


def commands() -> Iterator[tuple[str, str, list[click.Option]]]:
    """All commands: name, what the list says about it, flags."""
    from serfmp.cli.main import COMMANDS

    for name, text in sorted(COMMANDS.items()):
        module = importlib.import_module(f"serfmp.cli.{name.replace('-', '_')}")
        yield name, text, module.COMMAND.params


def flags(options: Sequence[click.Option]) -> Iterator[tuple[str, str, bool, bool]]:
    """Flags of a command: name without dash, help, whether it takes a value, whether it may be repeated."""
    for option in options:
        for name in option.opts:
            if name.startswith("-"):
                yield name[1:], " ".join((option.help or "").split()), option.type is not BOOLEAN, option.multiple
    yield "help", "Shows the command's help.", False, False


def bash() -> str:
    """The script for bash (4 and later)."""
    cases, words = [], []
    for name, _, options in commands():
        shown = " ".join(f"-{flag}{'=' if valued else ''}" for flag, _, valued, _ in flags(options))
        cases.append(f"    {name}) flags={shlex.quote(shown)} ;;")
        if name in WORDS:
            words.append(f"    {name}) words={shlex.quote(' '.join(WORDS[name]))} ;;")
        elif name in OF_MEMBERS:
            words.append(f'    {name}) words="$(_serfmp_members)" ;;')
    values = [
        f"    {'|'.join(['-' + name])}) words={shlex.quote(' '.join(found))} ;;" for name, found in VALUES.items()
    ]
    paths = "|".join(f"-{name}" for name in sorted(PATHS))
    members = "|".join(f"-{name}" for name in sorted(MEMBER_FLAGS))
    return "\n".join(
        [
            "# bash completion for serfmp",
            f"_serfmp_members() {{ {_ASK}; }}",
            "_serfmp() {",
            '  local current="${COMP_WORDS[COMP_CWORD]}" flag="" flags="" words="" command="${COMP_WORDS[1]}"',
            "  COMPREPLY=()",
            '  if [ "$COMP_CWORD" -eq 1 ]; then',
            f'    COMPREPLY=($(compgen -W {shlex.quote(" ".join(name for name, _, _ in commands()))} -- "$current"))',
            "    return",
            "  fi",
            # The shell cuts words at '=' where that is in COMP_WORDBREAKS.
            '  if [ "$current" = = ]; then flag="${COMP_WORDS[COMP_CWORD-1]}"; current=""',
            '  elif [ "${COMP_WORDS[COMP_CWORD-1]}" = = ]; then flag="${COMP_WORDS[COMP_CWORD-2]}"',
            '  elif [[ "$current" == -*=* ]]; then flag="${current%%=*}"; current="${current#*=}"; fi',
            '  if [ -n "$flag" ]; then',
            '    case "$flag" in',
            *values,
            f'    {members}) words="$(_serfmp_members)" ;;',
            f'    {paths}) compopt -o filenames; COMPREPLY=($(compgen -f -- "$current")); return ;;',
            "    esac",
            '    COMPREPLY=($(compgen -W "$words" -- "$current"))',
            "    return",
            "  fi",
            '  case "$command" in',
            *cases,
            "  esac",
            '  if [[ "$current" == -* ]]; then',
            '    COMPREPLY=($(compgen -W "$flags" -- "$current"))',
            "    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace",
            "    return",
            "  fi",
            '  case "$command" in',
            *words,
            "  esac",
            '  COMPREPLY=($(compgen -W "$words" -- "$current"))',
            "}",
            "complete -F _serfmp serfmp",
        ]
    )


def zsh() -> str:
    """The script for zsh."""
    lines = [
        "#compdef serfmp",
        "_serfmp_members() {",
        f'  local -a names; names=("${{(@f)$({_ASK})}}"); compadd -a names',
        "}",
        "_serfmp() {",
        "  local -a commands",
        "  if (( CURRENT == 2 )); then",
        "    commands=(",
        *(f"      {shlex.quote(f'{name}:{text}')}" for name, text, _ in commands()),
        "    )",
        "    _describe command commands",
        "    return",
        "  fi",
        "  local command=$words[2]",
        "  shift words; (( CURRENT-- ))",
        "  case $command in",
    ]
    for name, _, options in commands():
        specs = [shlex.quote(_zsh_flag(*given)) for given in flags(options)]
        if name in WORDS:
            specs.append(shlex.quote(f"1:word:({' '.join(WORDS[name])})"))
        elif name in OF_MEMBERS:
            specs.append(shlex.quote("*:member:_serfmp_members"))
        lines.append(f"    {name}) _arguments {' '.join(specs)} ;;")
    return "\n".join(
        [*lines, "  esac", "}", 'if [ "$funcstack[1]" = _serfmp ]; then _serfmp "$@"; else compdef _serfmp serfmp; fi']
    )


def _zsh_flag(name: str, text: str, valued: bool, many: bool) -> str:
    told = text.replace("[", "(").replace("]", ")").replace(":", "\\:")
    start = f"{'*' if many else ''}-{name}"
    if not valued:
        return f"{start}[{told}]"
    if name in VALUES:
        action = f"({' '.join(VALUES[name])})"
    elif name in PATHS:
        action = "_files"
    else:
        action = "_serfmp_members" if name in MEMBER_FLAGS else " "
    return f"{start}=[{told}]:{name}:{action}"


def fish() -> str:
    """The script for fish."""
    lines = [
        "# fish completion for serfmp",
        f"function __serfmp_members; {_ASK}; end",
        "complete -c serfmp -f",
    ]
    for name, text, options in commands():
        lines.append(f"complete -c serfmp -n __fish_use_subcommand -a {name} -d {_fish(text)}")
        when = f"-n {_fish(f'__fish_seen_subcommand_from {name}')}"
        for flag, told, valued, _ in flags(options):
            action = ""
            if flag in VALUES and valued:
                action = f" -x -a {_fish(' '.join(VALUES[flag]))}"
            elif flag in PATHS:
                action = " -r -F"
            elif flag in MEMBER_FLAGS and valued:
                action = " -x -a '(__serfmp_members)'"
            elif valued:
                action = " -x"
            lines.append(f"complete -c serfmp {when} -o {flag}{action} -d {_fish(told)}")
        if name in WORDS:
            lines.append(f"complete -c serfmp {when} -a {_fish(' '.join(WORDS[name]))}")
        elif name in OF_MEMBERS:
            lines.append(f"complete -c serfmp {when} -a '(__serfmp_members)'")
    return "\n".join(lines)


def _fish(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
