"""Where the sockets of the bus live, and with which options every one of them is made.

Rules: the paths stand in one private directory (0700) and are short enough for a unix socket (107 bytes); the detector
and the dispatcher bind, everybody else connects, so that each path has one owner, which the agent's lock makes unique.
The detector's paths end in its generation: who connects to a new detector makes new sockets, and nothing can be sent
into the dying connection to the old one. No socket lingers, queues to a peer that is not there, or takes a message
larger than the stated size; sends never block.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import zmq

from serfmp.errors import UserError

PATH_LIMIT: Final = 107
"""Longest path of a unix socket, in bytes (sun_path without its terminator)."""

MESSAGE_LIMIT: Final = 48 * 1024 * 1024
"""Largest message of the bus in bytes: a push/pull of 40 MiB (spec wire.md 12) and its frame."""

RECONNECT_MS: Final = 5
"""How soon a connection is tried again, in milliseconds: a restarted peer is found this fast."""

RECONNECT_LIMIT_MS: Final = 40
"""The longest pause between two tries, in milliseconds."""

PACKET_HWM: Final = 4096
"""Messages that wait in a PUSH or PULL socket."""

CHANNEL_HWM: Final = 8192
"""Messages that wait in a DEALER or ROUTER socket."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The ZeroMQ addresses of one agent, all below `directory`."""

    directory: str

    def __post_init__(self) -> None:
        if len(self._path("consumers.4294967295").encode()) > PATH_LIMIT:
            raise UserError(
                f"the runtime directory '{self.directory}' is too long for unix sockets ({PATH_LIMIT} bytes in all); "
                "choose a shorter one with -runtime-dir"
            )

    def _path(self, name: str) -> str:
        return f"{self.directory}/{name}"

    def packets(self, generation: int) -> str:
        """PULL of this generation of the detector: what the network brought."""
        return f"ipc://{self._path('packets')}.{generation}"

    def network(self, generation: int) -> str:
        """PUSH of this generation of the detector: what the network shall carry."""
        return f"ipc://{self._path('network')}.{generation}"

    def consumers(self, generation: int) -> str:
        """ROUTER of this generation of the detector for rpc and dispatcher."""
        return f"ipc://{self._path('consumers')}.{generation}"

    def bound_by(self, role: str, generation: int) -> tuple[Path, ...]:
        """The sockets below `directory` that a process of this role and generation binds."""
        addresses: tuple[str, ...] = ()
        if role == "detector":
            addresses = self.packets(generation), self.network(generation), self.consumers(generation)
        elif role == "dispatcher":
            addresses = (self.workers,)
        return tuple(Path(address.removeprefix("ipc://")) for address in addresses)

    def remove_older(self, generation: int) -> None:
        """Take away what a killed detector left behind."""
        for name in ("packets", "network", "consumers"):
            for path in Path(self.directory).glob(f"{name}.*"):
                if path.suffix != f".{generation}":
                    path.unlink(missing_ok=True)

    @property
    def workers(self) -> str:
        """ROUTER of the dispatcher for the workers."""
        return f"ipc://{self._path('workers')}"


PUBLIC_EVENTS: Final = "events"
"""PUB of the rpc process in the public directory."""

PUBLIC_SNAPSHOT: Final = "snapshot"
"""ROUTER of the rpc process in the public directory."""


def make_public_socket(
    context: zmq.Context[zmq.Socket[bytes]], kind: int, *, hwm: int, size_limit: int
) -> zmq.Socket[bytes]:
    """A socket for monitors, whom nobody waits for.

    `hwm` messages wait for each of them, and none of theirs is larger than `size_limit` bytes.
    """
    socket = context.socket(kind)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, hwm)
    socket.setsockopt(zmq.RCVHWM, hwm)
    socket.setsockopt(zmq.MAXMSGSIZE, size_limit)
    socket.setsockopt(zmq.SNDTIMEO, 0)
    if kind == zmq.ROUTER:
        # Who is gone or does not read is an error at once, not a message that is lost unseen.
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    return socket


def make_socket(context: zmq.Context[zmq.Socket[bytes]], kind: int, *, hwm: int) -> zmq.Socket[bytes]:
    """A socket with the options that every socket of the bus has, set on purpose."""
    socket = context.socket(kind)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, hwm)
    socket.setsockopt(zmq.RCVHWM, hwm)
    socket.setsockopt(zmq.MAXMSGSIZE, MESSAGE_LIMIT)
    socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_LIMIT_MS)
    if kind in {zmq.PUSH, zmq.DEALER}:
        # Messages wait in the sender, who knows what to do with them, not in a socket to nobody.
        socket.setsockopt(zmq.IMMEDIATE, 1)
    if kind == zmq.ROUTER:
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        # A restarted peer has the same identity and takes the place of the dead one.
        socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
    return socket
