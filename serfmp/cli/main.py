"""The entry point: which command is meant, and what happens to its errors (spec agent.md 3.1).

Rules:

* A command's module is imported when the command is run, so that `serfmp members` does not load the agent.
* `-v` or `--version` anywhere, also behind `--`, prints the version; `-h`, `-help` or `--help` anywhere before `--`
  prints help on stderr with exit code 0.
* No command or an unknown one: the list of commands on stderr, exit code 127.
* Python's collector of cycles, if it rests, begins its work when the command's module is there, and without all that.
* Everything else ends with 0 or 1. A reader that closed the pipe is no error worth a traceback.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from typing import TYPE_CHECKING, Final

from serfmp.cli.output import complain, say
from serfmp.errors import UserError

if TYPE_CHECKING:
    from types import ModuleType

COMMANDS: Final = {
    "agent": "Runs an agent: one node of a cluster",
    "bus": "Tells where programs can watch the agent, and shows what they see",
    "config": "Shows the configuration that the agent runs with",
    "completion": "Prints a script with which the shell completes commands and flags",
    "doctor": "Looks for what keeps an agent from its cluster",
    "event": "Sends a user event to all nodes",
    "force-leave": "Makes the cluster take a failed node for one that left",
    "handlers": "Shows the agent's handlers, what runs, and how the last runs ended",
    "info": "Shows what the agent tells of itself",
    "join": "Makes the agent join a cluster",
    "keygen": "Makes a new key for encrypting gossip",
    "keys": "Lists, installs, uses and removes keys of the whole cluster",
    "leave": "Makes the agent leave the cluster and end",
    "members": "Lists the members of the cluster",
    "monitor": "Shows the agent's log and the events that reach it, as they come",
    "query": "Asks the nodes of the cluster, and shows their answers",
    "reachability": "Tests whether gossip reaches all nodes and they this one",
    "reload": "Makes the agent read its flags and files again",
    "rtt": "Estimates the round trip between two nodes",
    "tags": "Changes the tags of the agent's node",
    "top": "Shows what an agent does, live",
    "version": "Prints the version",
    "why": "Tells why a node is held for what it is: the evidence",
}
"""Names of commands, which are the modules of this package (with `_` for `-`), with what the list says about them."""

EXIT_NO_COMMAND: Final = 127
_VERSION_FLAGS: Final = frozenset({"-v", "--version"})
_HELP_FLAGS: Final = frozenset({"-h", "-help", "--help"})


def main(argv: list[str] | None = None) -> int:
    """Run the command line, by default of this process. Returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")
    try:
        code = _dispatch(words)
        if sys.stdout is not None:  # started with descriptor 1 closed
            sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes once more at its end; there is nobody left to read.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except KeyboardInterrupt:
        return 1
    return code


def command_list() -> str:
    """The list of commands."""
    width = max(map(len, COMMANDS))
    rows = [f"    {name:{width}}    {text}" for name, text in sorted(COMMANDS.items())]
    return "\n".join(["Usage: serfmp [--version] [--help] <command> [<args>]", "", "Available commands are:", *rows])


def _dispatch(words: list[str]) -> int:
    before = words[: words.index("--")] if "--" in words else words
    wants_help = any(word in _HELP_FLAGS for word in before)
    name, flags, rest = _find_command(words)
    if any(word in _VERSION_FLAGS for word in words):
        name, flags = "version", []
    if name not in COMMANDS:
        complain(command_list() + "\n")
        return 0 if wants_help and not name else EXIT_NO_COMMAND
    module = importlib.import_module(f"serfmp.cli.{name.replace('-', '_')}")
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
    if wants_help and name != "version":
        complain(module.COMMAND.help_text())
        return 0
    if wants_help:
        complain("")
        return 0
    if flags:
        complain("Invalid flags before the subcommand. If these flags are for")
        complain("the subcommand, please put them after the subcommand.\n")
        complain(module.COMMAND.help_text())
        return 1
    return _run(module, rest)


def _find_command(words: list[str]) -> tuple[str, list[str], list[str]]:
    """The first word that is no flag, the flags before it that are not help, and the words behind it."""
    for number, word in enumerate(words):
        if not word.startswith("-") or word == "-":
            return word, [flag for flag in words[:number] if flag not in _HELP_FLAGS], words[number + 1 :]
    return "", [], []


def _run(module: ModuleType, words: list[str]) -> int:
    from serfmp.cli.flags import FlagError

    try:
        values, rest = module.COMMAND.values(words)
    except FlagError as error:
        complain(str(error))
        say(getattr(module, "HELP_PREFIX", "") + module.COMMAND.help_text())
        return 1
    try:
        code: int = module.run(values, rest)
    except UserError as error:
        say(str(error))
        return 1
    return code
