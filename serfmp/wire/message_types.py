"""What the messages of the gossip layer below Serf are made of; `messages` writes and reads them.

Fields are in range when a message exists: whatever decodes one has checked types and widths. Addresses, metadata and
versions are the bytes of the wire, because peers compare them so.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

META_MAX: Final = 512
"""Most bytes of metadata that a member may carry (wire.md 3.6)."""

VERSIONS_LENGTH: Final = 6
"""Bytes of a version vector: protocol min, max, current, then Serf's min, max, current (wire.md 7)."""


class MessageType(IntEnum):
    """The first byte of every message and layer (wire.md 1)."""

    PING = 0
    INDIRECT_PING = 1
    ACK = 2
    SUSPECT = 3
    ALIVE = 4
    DEAD = 5
    PUSH_PULL = 6
    COMPOUND = 7
    USER = 8
    COMPRESS = 9
    ENCRYPT = 10
    NACK = 11
    CHECKSUM = 12
    ERROR = 13
    LABEL = 244


@dataclass(frozen=True, slots=True)
class Ping:
    """Are you there? The ack goes to the source fields if they are filled, else to where the packet came from."""

    sequence: int
    node: str
    source_address: bytes = b""
    source_port: int = 0
    source_node: str = ""


@dataclass(frozen=True, slots=True)
class IndirectPing:
    """Ask a third node to ping `target` for us; with `nack` it says so when no answer came in time."""

    sequence: int
    target: bytes
    port: int
    node: str
    nack: bool
    source_address: bytes = b""
    source_port: int = 0
    source_node: str = ""


@dataclass(frozen=True, slots=True)
class Ack:
    """The answer to a ping. The payload of a direct UDP answer is a network coordinate."""

    sequence: int
    payload: bytes = b""


@dataclass(frozen=True, slots=True)
class Nack:
    """An intermediary says that it is there, but had no answer from the target."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Suspect:
    """`sender` suspects `node` at this incarnation."""

    incarnation: int
    node: str
    sender: str


@dataclass(frozen=True, slots=True)
class Dead:
    """`sender` declares `node` dead; `sender` equal to `node` is a graceful leave."""

    incarnation: int
    node: str
    sender: str


@dataclass(frozen=True, slots=True)
class Alive:
    """A node is there: its address (4 or 16 bytes), its metadata and its six version bytes."""

    incarnation: int
    node: str
    address: bytes
    port: int
    meta: bytes
    versions: bytes


@dataclass(frozen=True, slots=True)
class User:
    """A message of the layer above, which for Serf is never empty."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """The acceptor of a stream could not open what it was sent."""

    text: str


@dataclass(frozen=True, slots=True)
class PushPullNode:
    """One row of the member list that a push/pull carries. `state`: 0 alive, 1 suspect, 2 dead, 3 left."""

    name: str
    address: bytes
    port: int
    meta: bytes
    incarnation: int
    state: int
    versions: bytes


Message = Ping | IndirectPing | Ack | Nack | Suspect | Dead | Alive | User | ErrorReply
