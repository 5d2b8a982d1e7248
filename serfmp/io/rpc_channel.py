"""What a connection of the RPC needs of its socket, whether or not there is TLS around it (`serfmp.io.rpc_tls`).

Rules: nothing blocks: BlockingIOError says that nothing has come, or that nothing more can go. A channel may have taken
bytes that have not all gone to the kernel yet (`unsent`); whoever uses it sends again, with nothing if there is nothing
new, once the descriptor can be written. A reader is given everything that has come in so far, so that nothing waits of
which no descriptor tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import socket


class Channel(Protocol):
    """See the module."""

    @property
    def unsent(self) -> bool:
        """Whether bytes that were taken have still to be sent."""
        ...

    def fileno(self) -> int:
        """The descriptor."""
        ...

    def receive(self, size: int) -> bytes:
        """What has come, about `size` bytes at most; empty at the end. Raises OSError."""
        ...

    def send(self, parts: Sequence[memoryview]) -> int:
        """Take as much as can be sent soon; how many bytes that is. Raises OSError."""
        ...

    def close(self) -> None:
        """End it at once."""
        ...


class PlainChannel:
    """A socket as it is."""

    unsent = False

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.fileno = sock.fileno
        self.receive = sock.recv
        self.send = sock.sendmsg
        self.close = sock.close
