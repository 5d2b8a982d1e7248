"""Starting the process of a handler: what it inherits, what it does not, and under which limits it begins.

Rules:

* `posix_spawn` (vfork inside): nothing of ours runs between fork and exec. The process leads a group of its own in the
  agent's session. (A session of its own would cancel the nice value where the kernel groups sessions.)
* A list is executed as it is, and so is a line that is only a program and its arguments (`serfmp.events.command`): a
  script is started in half the time if there is no shell that would only wait for it. Whatever cannot be executed so
  after all is given to the shell, whose words for that are known.
* No signal is blocked or ignored in it, whatever the agent inherited; no descriptor but 0, 1 and 2 is open in it: every
  other one of ours is closed by exec.
* Badness when memory runs out is inherited: the process that starts scripts has it itself from the first start of a
  turn until `rest`. (That costs 2 µs, where a word of the shell costs 80 µs.) Where it may not be set, it stays.
* What else must hold before the first word of the script is set by the shell that runs it, in a prelude of builtins on
  the script's own first line: resource limits and directory. So nothing can begin without them, no process is started
  for them, and `$0`, `$$` and line numbers stay what they are. (A launcher that executes the script costs 570 µs.) An
  argument list, or a line that is one, is executed by such a shell in its own place.
* A limit above what the agent itself is allowed is lowered to that.
"""

from __future__ import annotations

import errno
import os
import resource
import shlex
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from serfmp.events.command import Programs, find_program, plain_words

if TYPE_CHECKING:
    from collections.abc import Sequence

SHELL: Final = "/bin/sh"
_SHELL: Final = os.fsencode(SHELL)

SCRIPT_OOM_SCORE: Final = 500
"""Added badness of scripts when memory runs out: they go before the agent does."""

OOM_SCORE_MAX: Final = 1000

SHORTAGES: Final = frozenset({errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""What a start may fail of that says nothing about the script."""

NOT_EXECUTED: Final = 126
"""Exit code of a shell that cannot set a limit or enter a directory after all, as of one that may not execute."""

CPU_MARGIN_S: Final = 1
"""Between the signal XCPU, which tells what happened, and KILL, which cannot be ignored."""

_KIB: Final = 1024
_ALL_SIGNALS: Final = frozenset(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a process may use; 0: as much as the agent."""

    address_space: int = 0
    """Bytes, rounded down to whole KiB."""
    cpu_seconds: int = 0
    open_files: int = 0


NO_LIMITS: Final = Limits()


class Spawner:
    """Starts commands. Belongs to the process that made it: a fork needs one of its own."""

    def __init__(self) -> None:
        try:
            self._badness = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            self._badness = -1
        self._programs = Programs()
        self._own = b""
        """The own badness, while this process has that of scripts."""
        self.nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        """A descriptor to read from that has nothing."""

    def spawn(
        self,
        command: str | Sequence[str],
        environment: dict[bytes, bytes],
        descriptors: tuple[int, int, int],
        *,
        limits: Limits = NO_LIMITS,
        directory: str = "",
    ) -> int:
        """Start a command with these descriptors as 0, 1 and 2. Returns its process id, which is its group's.

        `directory`: where it starts; empty: where the agent is. `rest` has to follow. Raises `OSError`, whose
        `filename` is what could not be executed or entered, or `ValueError` for text with a NUL byte.
        """
        if directory and not Path(directory).is_dir():
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), directory)
        self._worsen()
        prelude = _prelude(limits, directory) if directory or limits is not NO_LIMITS else b""
        found = self._without_shell(command, environment, directory)
        if found is None:
            return _start(SHELL, [_SHELL, b"-c", prelude + _encoded(str(command))], environment, descriptors)
        program, arguments = found
        if not prelude:
            try:
                return _start(program, arguments, environment, descriptors)
            except OSError as error:
                if error.errno in SHORTAGES:
                    raise
        return _start(SHELL, [_SHELL, b"-c", prelude + b'exec "$@"', b"sh", *arguments], environment, descriptors)

    def rest(self) -> None:
        """No start follows soon: have the own badness again."""
        if self._own:
            try:
                os.pwrite(self._badness, self._own, 0)
            except OSError:  # then it stays, and is not added to once more
                os.close(self._badness)
                self._badness = -1
            self._own = b""

    def close(self) -> None:
        """It starts nothing more."""
        for descriptor in (self._badness, self.nothing):
            if descriptor >= 0:
                os.close(descriptor)
        self._badness = self.nothing = -1

    def _without_shell(
        self, command: str | Sequence[str], environment: dict[bytes, bytes], directory: str
    ) -> tuple[str, list[bytes]] | None:
        """Where the program of this command is, and all its words; None if a shell has to see to it."""
        words = plain_words(command) if isinstance(command, str) else command
        if words is None:
            return None
        try:
            if directory:
                place = find_program(words[0], environment.get(b"PATH", b""), directory)
            else:
                place = self._programs.find(words[0], environment)
        except OSError:
            if isinstance(command, str):
                return None
            raise
        return place, [_encoded(word) for word in words]

    def _worsen(self) -> None:
        """Have the badness of scripts from now on."""
        if self._badness < 0 or self._own:
            return
        try:
            own = os.pread(self._badness, 16, 0)
            os.pwrite(self._badness, b"%d" % min(int(own) + SCRIPT_OOM_SCORE, OOM_SCORE_MAX), 0)
        except (OSError, ValueError):  # a container may forbid it
            return
        self._own = own


def _start(
    program: str, arguments: list[bytes], environment: dict[bytes, bytes], descriptors: tuple[int, int, int]
) -> int:
    stdin, stdout, stderr = descriptors
    return os.posix_spawn(
        program,
        arguments,
        environment,
        file_actions=(
            (os.POSIX_SPAWN_DUP2, stdin, 0),
            (os.POSIX_SPAWN_DUP2, stdout, 1),
            (os.POSIX_SPAWN_DUP2, stderr, 2),
        ),
        setpgroup=0,
        setsigmask=(),
        setsigdef=_ALL_SIGNALS,
    )


def _prelude(limits: Limits, directory: str) -> bytes:
    steps = []
    if directory:
        steps.append(f"cd {_word(directory)}")
    if limits.open_files:
        steps.append(f"ulimit -n {_allowed(limits.open_files, resource.RLIMIT_NOFILE)}")
    if limits.cpu_seconds:
        steps.append(f"ulimit -S -t {_allowed(limits.cpu_seconds, resource.RLIMIT_CPU)}")
        steps.append(f"ulimit -H -t {_allowed(limits.cpu_seconds + CPU_MARGIN_S, resource.RLIMIT_CPU)}")
    if limits.address_space:
        steps.append(f"ulimit -v {max(1, _allowed(limits.address_space, resource.RLIMIT_AS) // _KIB)}")
    return _encoded(f"{{ {' && '.join(steps)}; }} || exit {NOT_EXECUTED};" if steps else "")


def _word(directory: str) -> str:
    """A directory as one word of the shell that `cd` takes for a directory, whatever it begins with."""
    return shlex.quote(directory if directory.startswith("/") else f"./{directory}")


def _allowed(value: int, kind: int) -> int:
    hard = resource.getrlimit(kind)[1]
    return value if hard == resource.RLIM_INFINITY else min(value, hard)


def _encoded(text: str) -> bytes:
    return text.encode(errors="surrogateescape")
