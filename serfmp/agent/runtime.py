"""The runtime directory of an agent, and the lock that makes it the only one in it.

    BASE/NAME/            0711   one agent
      agent.pid                  its pid, locked as long as it lives
      bus/                0700   sockets between its processes
      public/             0750   sockets for monitors, of the group `monitor_group`

BASE is `-runtime-dir`, else `/run/serfmp` for root, else `$XDG_RUNTIME_DIR/serfmp`, else `~/.local/state/serfmp/run`;
never a directory that others may write to. NAME comes from node name and bind address, so that several agents live on
one host; it is only a hash where the path would be too long for a unix socket. The lock is `lockf`'s, which a forked
child does not inherit: it ends with the supervisor.
"""

from __future__ import annotations

import contextlib
import fcntl
import grp
import os
import re
import stat
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from serfmp.bus.endpoints import PATH_LIMIT, Endpoints
from serfmp.digest import short_name
from serfmp.errors import UserError

if TYPE_CHECKING:
    from serfmp.agent.config import AgentConfig

BASE_MODE: Final = 0o711
"""Others may pass through to `public`, and see nothing."""
BUS_MODE: Final = 0o700
PUBLIC_MODE: Final = 0o750

_LONGEST_SOCKET: Final = len("/bus/consumers.4294967295")


def base_directory(config: AgentConfig) -> Path:
    """Where the agents of this user live."""
    if config.runtime_directory:
        return Path(config.runtime_directory).absolute()
    if os.geteuid() == 0:
        return Path("/run/serfmp")
    if "XDG_RUNTIME_DIR" in os.environ:
        return Path(os.environ["XDG_RUNTIME_DIR"]) / "serfmp"
    return Path.home() / ".local/state/serfmp/run"


class RuntimeDirectory:
    """The directory of one running agent; made, cleaned and locked by the constructor. Raises `UserError`."""

    def __init__(self, config: AgentConfig) -> None:
        base = base_directory(config)
        identity = f"{config.node}\n{config.bind_host}\n{config.bind_port}"
        digest = short_name(identity.encode(errors="surrogateescape"))
        name = f"{re.sub('[^A-Za-z0-9.-]', '_', config.node)[:24]}-{digest}"
        if len(os.fsencode(base / name)) + _LONGEST_SOCKET > PATH_LIMIT:
            name = digest
        self.path = base / name
        self.bus = self.path / "bus"
        self.public = self.path / "public"
        self._group = config.monitor_group
        self._endpoints = Endpoints(str(self.bus))  # refuses a path that is too long
        try:
            self._make()
            self._empty()
        except OSError as error:
            raise UserError(
                f"cannot use the runtime directory '{self.path}': {error.strerror}; choose another with -runtime-dir"
            ) from error

    def _make(self) -> None:
        self.path.parent.mkdir(mode=BASE_MODE, parents=True, exist_ok=True)
        for directory, mode in ((self.path, BASE_MODE), (self.bus, BUS_MODE), (self.public, PUBLIC_MODE)):
            directory.mkdir(mode=mode, exist_ok=True)
            _make_ours(directory, mode)
        self._lock = self._acquire()
        _give_to_group(self.public, self._group)

    @property
    def is_whole(self) -> bool:
        """Whether nobody has removed its directories."""
        return self.bus.is_dir() and self.public.is_dir()

    def holds_sockets_of(self, role: str, generation: int) -> bool:
        """Whether nobody has removed what a process of this role and generation, which serves, has bound in `bus`."""
        return all(path.exists() for path in self._endpoints.bound_by(role, generation))

    def restore(self) -> None:
        """Make it again where somebody has removed it. Raises OSError or `UserError`."""
        self._lock.close()
        self._make()

    def _acquire(self) -> IO[str]:
        path = self.path / "agent.pid"
        lock = path.open("a+")
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            lock.close()
            raise UserError(
                f"an agent with this name and address runs already (pid {owner}, runtime directory '{self.path}')"
            ) from error
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        return lock

    def release(self) -> None:
        """Give the directory up when the agent ends.

        The locked file stays: removing it would race with the next agent's lock.
        """
        with contextlib.suppress(OSError):  # what stays is removed by the next agent of this name
            self._empty()
            self._lock.truncate(0)
        self._lock.close()

    def _empty(self) -> None:
        for directory in (self.bus, self.public):
            for entry in directory.iterdir():
                entry.unlink(missing_ok=True)


def _make_ours(path: Path, mode: int) -> None:
    """Refuse what belongs to somebody else; what is ours gets its mode, whatever the umask was."""
    status = path.stat()
    if status.st_uid != os.geteuid():
        raise UserError(f"the runtime directory '{path}' belongs to another user (uid {status.st_uid})")
    if stat.S_IMODE(status.st_mode) != mode:
        path.chmod(mode)


def _give_to_group(path: Path, group: str) -> None:
    """Raises `UserError` for a group that is not there or not the agent's to give to."""
    if not group:
        return
    try:
        os.chown(path, -1, grp.getgrnam(group).gr_gid)
    except KeyError:
        raise UserError(f"there is no group '{group}' on this host; name another with monitor_group") from None
    except OSError as error:
        raise UserError(f"cannot give '{path}' to the group '{group}': {error.strerror}") from error


def lock_snapshot(path: str) -> IO[str]:
    """Make sure that a snapshot can be written, and by this agent alone. Raises `UserError`.

    The lock is on a file beside it, because the snapshot itself is replaced; it ends with the supervisor. For the same
    reason a device or a pipe is none.
    """
    place = Path(path).resolve()
    prefix = "Failed to start the Serf agent: Error creating Serf: Failed to setup snapshot"
    if place.exists() and not place.is_file() and not place.is_dir():
        raise UserError(f"{prefix}: {path} is not a file; name one that may be replaced")
    try:
        with place.open("ab"):
            lock = Path(f"{place}.lock").open("a+")  # noqa: SIM115  held as long as the agent lives
    except OSError as error:
        raise UserError(f"{prefix}: open {path}: {(error.strerror or str(error)).lower()}") from None
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise UserError(f"{prefix}: another agent uses {path}; give each agent a snapshot of its own") from None
    return lock
