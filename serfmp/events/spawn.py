"""Starting the process of a handler: what it inherits, what it does not, and under which limits it begins.

Rules:

* `posix_spawn` (vfork inside): nothing of ours runs between fork and exec. The process leads a group of its own in the
  agent's session. (A session of its own would cancel the nice value where the kernel groups sessions.)
* No signal is blocked or ignored in it, whatever the agent inherited; no descriptor but 0, 1 and 2 is open in it: every
  other one of ours is closed by exec.
* Badness when memory runs out is inherited: the process that starts a script has it itself for as long as the start
  takes. (That costs 2 µs, where a word of the shell costs 80 µs.) Where it may not be set, it stays as it is.
* What else must hold before the first word of the script is set by the shell that runs it, in a prelude of builtins on
  the script's own first line: resource limits and directory. So nothing can begin without them, no process is started
  for them, and `$0`, `$$` and line numbers stay what they are. (A launcher that executes the script costs 570 µs.) An
  argument list is executed by such a shell in its own place.
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

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SHELL: Final = "/bin/sh"
_SHELL: Final = os.fsencode(SHELL)

SCRIPT_OOM_SCORE: Final = 500
"""Added badness of scripts when memory runs out: they go before the agent does."""

OOM_SCORE_MAX: Final = 1000

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

        `directory`: where it starts; empty: where the agent is. Raises `OSError`, whose `filename` is what could not
        be executed or entered, or `ValueError` for text with a NUL byte.
        """
        if directory and not Path(directory).is_dir():
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), directory)
        before = _prelude(limits, directory) if directory or limits is not NO_LIMITS else b""
        if isinstance(command, str):
            arguments = [_SHELL, b"-c", before + _encoded(command)]
        else:
            _find(command[0], environment, directory)
            arguments = [_SHELL, b"-c", before + b'exec "$@"', b"sh", *map(_encoded, command)]
        stdin, stdout, stderr = descriptors
        own = self._worsen()
        try:
            return os.posix_spawn(
                SHELL,
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
        finally:
            if own:
                self._recover(own)

    def close(self) -> None:
        """It starts nothing more."""
        if self._badness >= 0:
            os.close(self._badness)
            self._badness = -1

    def _worsen(self) -> bytes:
        """Have the badness of scripts from now on. Returns the own one, empty if nothing was changed."""
        if self._badness < 0:
            return b""
        try:
            own = os.pread(self._badness, 16, 0)
            os.pwrite(self._badness, b"%d" % min(int(own) + SCRIPT_OOM_SCORE, OOM_SCORE_MAX), 0)
        except (OSError, ValueError):  # a container may forbid it
            return b""
        return own

    def _recover(self, own: bytes) -> None:
        try:
            os.pwrite(self._badness, own, 0)
        except OSError:  # then it stays, and is not added to once more
            self.close()


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


def _find(program: str, environment: Mapping[bytes, bytes], directory: str) -> None:
    """Raise the error that executing this program would meet, as far as can be seen before."""
    if "/" in program:
        places = [os.path.join(directory, program)]  # noqa: PTH118  an absolute program stays as it is
    else:
        path = environment.get(b"PATH", os.fsencode(os.defpath))
        places = [os.path.join(os.fsdecode(entry), program) for entry in path.split(b":")]  # noqa: PTH118
    found = [place for place in places if Path(place).is_file()]
    if any(os.access(place, os.X_OK) for place in found):
        return
    number = errno.EACCES if found else errno.ENOENT
    raise OSError(number, os.strerror(number), program)


def _encoded(text: str) -> bytes:
    return text.encode(errors="surrogateescape")
