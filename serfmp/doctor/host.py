"""Checks of the agent's host: clock, limits, the runtime directory, the programs of handlers."""

from __future__ import annotations

import ctypes
import os
import resource
import shlex
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from serfmp.agent.config import AgentConfig
from serfmp.agent.limits import DESCRIPTORS
from serfmp.agent.runtime import base_directory
from serfmp.bus.endpoints import PATH_LIMIT
from serfmp.doctor.finding import Finding, Status
from serfmp.errors import UserError
from serfmp.events.specs import HandlerSpec, parse_handlers

UDP_BUFFER: Final = 2 * 1024 * 1024
"""Bytes of receive buffer that an agent asks for."""

LONGEST_NAME: Final = len("/" + "x" * 12 + "/bus/consumers.4294967295")
"""Behind the runtime directory's base, at the shortest."""

_TIME_ERROR: Final = 5
_TIMEX_SIZE: Final = 512
_SHELL_WORDS: Final = frozenset("|&;<>()$`{}*?[]#~!\n")
_BUILTINS: Final = frozenset(
    {"exec", "echo", "test", "true", "false", "cd", "exit", "set", "export", "trap", "read", ":", "."}
)


def look(settings: Mapping[str, Any]) -> list[Finding]:
    """All checks of this module; what the settings do not say is looked at with the defaults."""
    return [
        clock(),
        files(),
        udp_buffer(),
        runtime(settings.get("runtime_dir") or ""),
        *certificates(settings),
        *handlers(settings),
    ]


def certificates(settings: Mapping[str, Any]) -> list[Finding]:
    """Whether the RPC's certificate can serve, and for how long; nothing without one."""
    cert, key, ca = (settings.get(f"rpc_tls_{name}") or "" for name in ("cert", "key", "ca"))
    if not cert:
        return []
    from serfmp.agent.certificates import days_left, read_certificates

    tried = f"read the RPC's certificate '{cert}'"
    hidden = [path for path in (cert, key, ca) if path and not os.access(path, os.R_OK)]
    if hidden and (hidden[0] == cert or not Path(hidden[0]).is_absolute()):
        advice = "run the doctor as the agent's user, in its directory"
        return [Finding("rpc-tls", Status.SKIPPED, tried, f"'{hidden[0]}' cannot be read from here", advice)]
    odd: list[str] = []
    try:
        seen = f"valid for {days_left(cert)} more days"
        if hidden:
            seen += f"; '{hidden[0]}' cannot be read by this user, and was not looked at"
        else:
            read_certificates(cert, key, ca, odd.append)
    except UserError as error:
        return [Finding("rpc-tls", Status.ERROR, tried, str(error), "the agent cannot be started or reloaded so")]
    if odd:
        advice = "; ".join(text.removeprefix("==> Warning: ") for text in odd)
        return [Finding("rpc-tls", Status.WARNING, tried, seen, advice)]
    return [Finding("rpc-tls", Status.OK, tried, seen)]


def clock() -> Finding:
    """Whether the kernel holds its clock for synchronised."""
    tried = "asked the kernel whether its clock is synchronised"
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(_TIMEX_SIZE))
    except (OSError, AttributeError) as error:
        return Finding("clock", Status.SKIPPED, tried, str(error))
    if state < 0:
        return Finding("clock", Status.SKIPPED, tried, os.strerror(ctypes.get_errno()).lower())
    if state == _TIME_ERROR:
        return Finding(
            "clock",
            Status.WARNING,
            tried,
            "it is not",
            "gossip does not need it, but logs of several hosts can only be compared with one: run a time daemon",
        )
    return Finding("clock", Status.OK, tried, "it is")


def files() -> Finding:
    """How many files processes of this user may open."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    tried = "looked at the limit of open files of this user"
    if hard != resource.RLIM_INFINITY and hard < DESCRIPTORS:
        return Finding(
            "open files",
            Status.WARNING,
            tried,
            f"{hard}, and a busy agent may need {DESCRIPTORS}",
            "raise it: ulimit -n, or LimitNOFILE= of the agent's service",
        )
    return Finding("open files", Status.OK, tried, "unlimited" if hard == resource.RLIM_INFINITY else str(hard))


def udp_buffer() -> Finding:
    """How large the receive buffer of the gossip socket may be."""
    path = Path("/proc/sys/net/core/rmem_max")
    tried = f"read {path}"
    try:
        allowed = int(path.read_text())
    except (OSError, ValueError) as error:
        return Finding("udp buffer", Status.SKIPPED, tried, str(error))
    if allowed < UDP_BUFFER:
        return Finding(
            "udp buffer",
            Status.WARNING,
            tried,
            f"{allowed} bytes, and {UDP_BUFFER} are asked for",
            f"in large clusters bursts of gossip may be lost: sysctl -w net.core.rmem_max={UDP_BUFFER}",
        )
    return Finding("udp buffer", Status.OK, tried, f"{allowed} bytes")


def runtime(directory: str) -> Finding:
    """Length, owner and mode of the place of the sockets between the agent's processes."""
    base = base_directory(AgentConfig("", runtime_directory=directory))
    tried = f"looked at the runtime directory {base}"
    room = PATH_LIMIT - len(os.fsencode(base)) - LONGEST_NAME
    if room < 0:
        return Finding(
            "runtime directory",
            Status.ERROR,
            tried,
            f"its path is {-room} bytes too long for unix sockets",
            "choose a shorter one with -runtime-dir",
        )
    try:
        status = base.stat()
    except FileNotFoundError:
        return Finding("runtime directory", Status.OK, tried, "not there yet; an agent makes it")
    except OSError as error:
        return Finding("runtime directory", Status.SKIPPED, tried, os.strerror(error.errno or 0).lower())
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISDIR(status.st_mode):
        return Finding("runtime directory", Status.ERROR, tried, "it is no directory", "choose another: -runtime-dir")
    if mode & 0o022 and not mode & stat.S_ISVTX:
        return Finding(
            "runtime directory",
            Status.ERROR,
            tried,
            f"others may write to it (mode {mode:04o})",
            f"chmod go-w '{base}': who writes there can take the agent's place",
        )
    if status.st_uid not in {os.geteuid(), 0}:
        return Finding(
            "runtime directory",
            Status.WARNING,
            tried,
            f"it belongs to another user (uid {status.st_uid})",
            "right if the agent runs as that user",
        )
    return Finding("runtime directory", Status.OK, tried, f"mode {mode:04o}, {room} bytes of its path to spare")


def handlers(settings: Mapping[str, Any]) -> list[Finding]:
    """Whether the programs of the handlers can be run."""
    entries = settings.get("event_handlers") or ()
    try:
        specs = parse_handlers(entries)
    except UserError as error:
        return [Finding("handlers", Status.ERROR, "read the handlers", str(error), "correct the configuration")]
    if not specs:
        return [Finding("handlers", Status.OK, "looked at the handlers", "there are none")]
    return [handler(spec) for spec in specs]


def handler(spec: HandlerSpec) -> Finding:
    """Whether the first program of a command can be found and run."""
    program = first_program(spec.command)
    shown = spec.command if isinstance(spec.command, str) else shlex.join(spec.command)
    tried = f"looked for the program of the handler '{shown[:80]}'"
    if not program:
        return Finding("handler", Status.SKIPPED, tried, "the shell decides what it runs")
    if "/" in program and not program.startswith("/"):
        return Finding(
            "handler",
            Status.SKIPPED,
            tried,
            f"{program} is relative to the agent's directory",
            "an absolute path works wherever the agent is started",
        )
    if shutil.which(program) is not None:
        return Finding("handler", Status.OK, tried, program)
    if Path(program).is_file():
        advice = f"chmod +x '{program}'"
        return Finding("handler", Status.ERROR, tried, f"{program} may not be executed", advice)
    return Finding("handler", Status.ERROR, tried, f"{program} is not there", "correct the path, or install it")


def first_program(command: str | tuple[str, ...]) -> str:
    """The program that a command begins with; empty where that cannot be told without a shell."""
    if not isinstance(command, str):
        return command[0] if command else ""
    try:
        words = shlex.split(command, comments=True)
    except ValueError:
        return ""
    while words and (words[0] in {"exec", "command", "nice", "nohup"} or _is_assignment(words[0])):
        words.pop(0)
    if not words or words[0] in _BUILTINS or set(words[0]) & _SHELL_WORDS:
        return ""
    return words[0]


def _is_assignment(word: str) -> bool:
    name, equals, _ = word.partition("=")
    return bool(equals) and name.isidentifier()
