"""Two nodes with one name: the cluster votes on which of them stays (spec serf.md 7, with 20.14).

Rules:

* The local node asks everybody who they take the name for. It stays if more than half of those who answer mean its
  address; on a tie the lower address stays, so that exactly one of two equals does. The loser shuts itself down. It
  sends no leave: that would be a leave of the other one, too.
* Without a vote nothing is decided (Serf gives up itself): it warns, and asks again at the next report.
* One vote runs at a time, and the next one waits, longer each time until there was peace for `LONGEST_PAUSE`.
* Asked by others, the local node answers with what it holds, never for its own name, and not from a member that is
  gone: an old address is no vote.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from serfmp.detector.effects import MemberStatus, QueryRequest
from serfmp.detector.records import member_of
from serfmp.detector.serf.asking import Asking
from serfmp.detector.serf.internal import Respond
from serfmp.detector.serf.members import Members
from serfmp.detector.swim.context import Context
from serfmp.errors import RemoteError, UserError
from serfmp.wire.address import MAPPED_PREFIX, V4_LENGTH
from serfmp.wire.internal_queries import INTERNAL, decode_conflict_response
from serfmp.wire.serf_messages import ConflictResponse, Query, SerfType, encode_serf

NAME: Final = "conflict"
PAUSE: Final = 5.0
"""Seconds before the second vote, doubled for each further one. Ours."""
LONGEST_PAUSE: Final = 300.0
"""Ours."""
_GONE: Final = frozenset({MemberStatus.LEFT, MemberStatus.FAILED})


class Conflicts:
    """See the module. `give_up()` is called when the local node has lost."""

    __slots__ = ("_asking", "_context", "_give_up", "_matching", "_members", "_next", "_other", "_pause", "_responses")

    def __init__(self, context: Context, members: Members, asking: Asking, give_up: Callable[[], None]) -> None:
        self._context = context
        self._members = members
        self._asking = asking
        self._give_up = give_up
        self._other: tuple[bytes, int] | None = None
        """Who else claims the name, while a vote runs."""
        self._matching = self._responses = 0
        self._next = float("-inf")
        self._pause = PAUSE

    # --- asking -------------------------------------------------------------------------------------------------------

    def begin(self, address: bytes, port: int) -> None:
        """Somebody at this address claims the local node's name."""
        if self._other is not None or self._context.now < self._next:
            return
        if self._context.now - self._next > LONGEST_PAUSE:
            self._pause = PAUSE
        self._other = address, port
        self._matching = self._responses = 0
        name = self._context.config.node.encode("utf-8", "surrogateescape")
        request = QueryRequest(INTERNAL + NAME, name, (), {}, ack=False, relay_factor=0, timeout=0.0)
        try:
            self._asking.begin(request, self)
        except UserError as error:
            self._other = None
            self._context.log("ERR", "serf", f"failed to start name conflict resolution: {error}")

    def acked(self, node: str, /) -> None:
        """Nobody was asked for acks."""

    def responded(self, node: str, payload: bytes, /) -> None:
        """A vote, or what was meant to be one."""
        if payload[:1] != bytes((SerfType.CONFLICT_RESPONSE,)):
            self._context.log("ERR", "serf", f"Invalid conflict query response type of {node}: {payload[:16].hex()}")
            return
        try:
            vote = decode_conflict_response(payload)
        except RemoteError as fault:
            self._context.log("ERR", "serf", f"Failed to decode conflict query response of {node}: {fault}")
            return
        self._responses += 1
        config = self._context.config
        self._matching += _same(vote.address, config.address) and vote.port == config.port

    def done(self) -> None:
        """All votes are in."""
        other, self._other = self._other, None
        self._next, self._pause = self._context.now + self._pause, min(2 * self._pause, LONGEST_PAUSE)
        count = f"[{self._matching} / {self._responses}]"
        if not self._responses:
            self._context.log("WARN", "serf", "nobody answered in name conflict resolution, staying; it goes on")
        elif self._matching > self._responses // 2 or (2 * self._matching == self._responses and self._is_lower(other)):
            self._context.log("INFO", "serf", f"majority in name conflict resolution {count}")
        else:
            self._context.log("WARN", "serf", f"minority in name conflict resolution, quitting {count}")
            self._give_up()

    def _is_lower(self, other: tuple[bytes, int] | None) -> bool:
        config = self._context.config
        return other is None or (_wide(config.address), config.port) < (_wide(other[0]), other[1])

    # --- answering ----------------------------------------------------------------------------------------------------

    def answer(self, query: Query, respond: Respond) -> None:
        """Another node asks whom this one takes a name for."""
        name = query.payload.decode("utf-8", "surrogateescape")
        context = self._context
        if name == context.config.node:
            return
        context.log("DEBUG", "serf", f"Got conflict resolution query for '{name}'")
        row = self._members.get(name)
        vote = ConflictResponse()
        if row is not None:
            if row.status in _GONE:
                return
            held = member_of(row.saved())
            vote = ConflictResponse(name, held.address, held.port, held.tags, int(held.status), held.versions)
        try:
            respond(encode_serf(vote))
        except UserError as error:
            context.log("ERR", "serf", f"Failed to respond to conflict query: {error}")


def _wide(address: bytes) -> bytes:
    """An address in its 16 byte form; IPv4 as mapped."""
    return MAPPED_PREFIX + address if len(address) == V4_LENGTH else address


def _same(one: bytes, other: bytes) -> bool:
    return _wide(one) == _wide(other)
