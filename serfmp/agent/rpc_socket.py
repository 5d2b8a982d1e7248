"""The RPC's listening socket: TCP on `host:port`, or a unix socket on `unix:///path`.

Rules for a unix socket:

* Its mode is 0660 from its first moment: whoever may write to it may command the agent. Its group is the agent's; a
  directory with the setgid bit gives it another one.
* A socket on which nobody listens is what a killed agent left behind, and is replaced. One on which somebody listens,
  or a file that is no socket, is an error: nothing of anybody else's is removed.
* At its end the agent removes the path, if it is still its own.
"""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import Final

from serfmp.agent.sockets import bind_rpc
from serfmp.bus.endpoints import PATH_LIMIT
from serfmp.errors import UserError
from serfmp.wire.host_port import join_host_port, unix_path

BACKLOG: Final = 512
"""Connections that wait to be accepted."""

_NOT_0660: Final = 0o117
"""The umask that leaves 0660 of a new socket."""

LOOK_S: Final = 1.0
"""For finding out whether somebody listens."""


class RpcSocket:
    """See the module. Raises `UserError`."""

    def __init__(self, address: str) -> None:
        try:
            self._path = unix_path(address)
        except UserError as error:
            raise UserError(f"Error starting RPC listener: listen unix: {error}") from None
        self._inode = 0
        if self._path is None:
            self.socket = bind_rpc(address)
            host, port = self.socket.getsockname()[:2]
            self.address = join_host_port(host, port) if address.endswith(":0") else address
            """As users name it, with the real port."""
        else:
            self.socket = _bind(self._path)
            self._inode = Path(self._path).stat().st_ino
            self.address = address

    def close(self) -> None:
        """Close it, and remove its path, unless it is another's by now."""
        self.socket.close()
        if self._path is not None:
            path = Path(self._path)
            try:
                if path.stat().st_ino == self._inode:
                    path.unlink()
            except OSError:
                return  # removed already, or not ours to remove any more


def _bind(path: str) -> socket.socket:
    if len(os.fsencode(path)) > PATH_LIMIT:
        raise UserError(
            f"Error starting RPC listener: listen unix {path}: the path is longer than {PATH_LIMIT} bytes; "
            "choose a shorter one"
        )
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_what_a_dead_agent_left(path)
        # A process with one thread: nothing else makes files meanwhile.
        before = os.umask(_NOT_0660)
        try:
            listener.bind(path)
        finally:
            os.umask(before)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        reason = os.strerror(error.errno or 0).lower()
        if error.errno == errno.EADDRINUSE:
            reason += "; another agent listens there, or it is no socket"
        raise UserError(f"Error starting RPC listener: listen unix {path}: bind: {reason}") from error
    return listener


def _remove_what_a_dead_agent_left(path: str) -> None:
    if not Path(path).is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(LOOK_S)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink(missing_ok=True)
        except OSError:
            return  # a full queue, or no right to look: somebody's, and bind says so
