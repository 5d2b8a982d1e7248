"""The keys of the cluster: this node's ring, and changing everybody's (spec serf.md 11, 20.16).

Rules:

* The ring is journaled: a detector that is started again has the keys that the cluster agreed on, not those of the
  configuration. Without a key at the start there is no ring, ever.
* **File first.** Where a keyring file is configured, a change is written there before it holds in memory; if that fails
  nothing has changed. The writing is an effect, its end comes back by a token. Changes wait for each other.
* Asking: one change at a time, lists at any time. A round ends when every live node has answered, or with the query.
  Who did not answer is named.
* **No key is taken from somebody who needs it.** Before a removal all live nodes are asked for their rings: if one does
  not answer, or still seals with that key while others do not, the removal is refused and they are named; `force` skips
  this.
"""

from __future__ import annotations

import base64
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from serfmp.detector.effects import (
    Answer,
    KeysChanged,
    KeysRequest,
    MemberStatus,
    Plain,
    QueryRequest,
    Record,
    RequestId,
    StoreKeys,
)
from serfmp.detector.records import RecordKind
from serfmp.detector.serf.asking import Asked, Asking
from serfmp.detector.serf.internal import InternalQueries, Respond
from serfmp.detector.serf.members import Members
from serfmp.detector.swim.context import Context
from serfmp.detector.swim.gossip import Gossip
from serfmp.errors import RemoteError, UserError
from serfmp.wire.internal_queries import INTERNAL, KeyRequest, KeyResponse, decode_key_request, decode_key_response
from serfmp.wire.serf_messages import Query, QueryResponse, SerfType, encode_serf

OPERATIONS: Final = ("install", "use", "remove", "list")
KEY_LENGTHS: Final = frozenset({16, 24, 32})
ROOM_PER_KEY: Final = 25
"""Bytes of a response for each key, at least (spec serf.md 11)."""
WAITING: Final = 64
"""Changes of this node's ring, and rounds, that wait. Ours."""
NO_ANSWER: Final = "did not answer"

_TITLES: Final = {"install": "installation", "use": "primary key change", "remove": "removal", "list": "listing"}


@dataclass(frozen=True, slots=True)
class _Change:
    operation: str
    key: bytes
    respond: Callable[[KeyResponse], None]


class KeyRing:
    """The local node's ring, and its answers to others. See the module."""

    __slots__ = ("_context", "_token", "_waiting", "keys")

    def __init__(self, context: Context, internal: InternalQueries, saved: tuple[bytes, ...] | None) -> None:
        """`saved`: the ring of a dead detector, if there was one."""
        self._context = context
        self.keys: tuple[bytes, ...] = context.config.keys if saved is None else saved
        """The primary first; empty: nothing is encrypted."""
        self._waiting: deque[_Change] = deque()
        self._token = 0
        for operation in ("install", "use", "remove"):
            internal.add(f"{operation}-key", self._changer(operation))
        internal.add("list-keys", self._list)

    # --- changing -----------------------------------------------------------------------------------------------------

    def _changer(self, operation: str) -> Callable[[Query, Respond], None]:
        def handle(query: Query, respond: Respond) -> None:
            self._context.log("INFO", "serf", f"Received {operation}-key query")

            def answer(response: KeyResponse) -> None:
                self._send(respond, response)

            key = self._requested(query)
            if key is None:
                answer(KeyResponse(result=False))
            elif not self.keys:
                answer(KeyResponse(False, "No keyring to modify (encryption not enabled)"))
            elif len(self._waiting) >= WAITING:
                self._context.count("serfmp.keys.refused")
                answer(KeyResponse(False, f"{WAITING} changes of keys wait already"))
            else:
                self._waiting.append(_Change(operation, key, answer))
                if len(self._waiting) == 1:
                    self._begin()

        return handle

    def _requested(self, query: Query) -> bytes | None:
        if query.payload[:1] != bytes((SerfType.KEY_REQUEST,)):
            self._context.log("ERR", "serf", f"Failed to decode key request of {query.source_node}")
            return None
        try:
            return decode_key_request(query.payload).key
        except RemoteError as fault:
            self._context.log("ERR", "serf", f"Failed to decode key request of {query.source_node}: {fault}")
            return None

    def _begin(self) -> None:
        while self._waiting:
            change = self._waiting[0]
            try:
                changed = self._after(change)
            except UserError as error:
                self._context.log("ERR", "serf", f"Failed to {change.operation} key: {error}")
                self._waiting.popleft().respond(KeyResponse(False, str(error)))
                continue
            if changed != self.keys and self._context.config.keyring_file:
                self._token = self._context.next_token()
                self._context.effects.append(StoreKeys(self._token, changed))
                return
            self._take(changed)
            self._waiting.popleft().respond(KeyResponse(result=True))

    def _after(self, change: _Change) -> tuple[bytes, ...]:
        """The ring after a change. Raises `UserError` in Serf's words."""
        key = change.key
        match change.operation:
            case "install":
                if len(key) not in KEY_LENGTHS:
                    raise UserError("key size must be 16, 24 or 32 bytes")
                return self.keys if key in self.keys else (*self.keys, key)
            case "use":
                if key not in self.keys:
                    raise UserError("Requested key is not in the keyring")
                return (key, *(other for other in self.keys if other != key))
            case _:
                if key == self.keys[0]:
                    raise UserError("Removing the primary key is not allowed")
                return tuple(other for other in self.keys if other != key)

    def _take(self, keys: tuple[bytes, ...]) -> None:
        if keys != self.keys:
            self.keys = keys
            self._context.effects.append(Record((RecordKind.KEYS.value, list(keys))))
            self._context.effects.append(KeysChanged(keys))

    def stored(self, token: int, error: str) -> None:
        """The file was written, or not."""
        if token != self._token or not self._waiting:
            return
        self._token = 0
        change = self._waiting.popleft()
        if error:
            text = f"Failed to write keyring file: {error}"
            self._context.log("ERR", "serf", text)
            change.respond(KeyResponse(False, text))
        else:
            self._take(self._after(change))
            change.respond(KeyResponse(result=True))
        self._begin()

    # --- telling ------------------------------------------------------------------------------------------------------

    def _list(self, query: Query, respond: Respond) -> None:
        self._context.log("INFO", "serf", "Received list-keys query")
        if not self.keys:
            self._send(respond, KeyResponse(False, "Keyring is empty (encryption not enabled)"))
            return
        texts = [_text(key) for key in self.keys]
        config = self._context.config
        response = KeyResponse(True, "", tuple(texts), texts[0])
        for count in range(min(config.query_response_size_limit // ROOM_PER_KEY, len(texts)), -1, -1):
            whole = QueryResponse(query.ltime, query.id, config.node, 0, encode_serf(response))
            if len(encode_serf(whole)) <= config.query_response_size_limit:
                self._send(respond, response)
                return
            message = f"truncated key list response, showing first {count} of {len(texts)} keys"
            response = KeyResponse(True, message, tuple(texts[:count]), texts[0])
        self._context.log("ERR", "serf", "Failed to truncate response so that it fits into message")

    def _send(self, respond: Respond, response: KeyResponse) -> None:
        try:
            respond(encode_serf(response))
        except UserError as error:
            self._context.log("ERR", "serf", f"Failed to respond to key query: {error}")


@dataclass(slots=True)
class _Round:
    """One question to all, and what came back. `ended(round)` is called once."""

    operation: str
    live: set[str]
    nodes: int
    ended: Callable[[_Round], None]
    answered: set[str] = field(default_factory=set)
    messages: dict[str, str] = field(default_factory=dict)
    errors: int = 0
    keys: Counter[str] = field(default_factory=Counter)
    primaries: dict[str, str] = field(default_factory=dict)

    @property
    def fault(self) -> str:
        """What Serf says of its outcome; empty if all is well."""
        if self.errors:
            return f"{self.errors}/{self.nodes} nodes reported failure"
        if len(self.answered) != self.nodes:
            return f"{len(self.answered)}/{self.nodes} nodes reported success"
        return ""


class KeyManager:
    """Asks all nodes for a change, or for their keys. See the module."""

    __slots__ = ("_asking", "_changing", "_context", "_gossip", "_members")

    def __init__(self, context: Context, gossip: Gossip, members: Members, asking: Asking) -> None:
        self._context = context
        self._gossip = gossip
        self._members = members
        self._asking = asking
        self._changing: deque[tuple[RequestId, KeysRequest]] = deque()
        """Changes that were asked for; the first is under way."""

    def request(self, id: RequestId, request: KeysRequest) -> None:
        """Somebody asks; the `Answer` has the figures of spec serf.md 11, beside an error too."""
        if request.operation == "list":
            self._round("list", b"", request.relay_factor, lambda done: self._answer(id, done))
            return
        if len(self._changing) >= WAITING:
            self._context.effects.append(Answer(id, _figures(None), f"{WAITING} changes of keys wait already"))
            return
        self._changing.append((id, request))
        if len(self._changing) == 1:
            self._next()

    def _next(self) -> None:
        asked, request = self._changing[0]
        key = base64.b64decode(request.key)

        def change(_listed: _Round | None = None) -> None:
            self._round(request.operation, key, request.relay_factor, ended)

        def ended(done: _Round) -> None:
            self._answer(asked, done)
            self._changing.popleft()
            if self._changing:
                self._next()

        def listed(done: _Round) -> None:
            reason = _needed(done, _text(key))
            if reason:
                done.messages |= reason
                names = ", ".join(sorted(reason))
                error = f"the key is not removed, because of {names}; see there, or force it"
                self._context.effects.append(Answer(asked, _figures(done), error))
                self._changing.popleft()
                if self._changing:
                    self._next()
            else:
                change()

        if request.operation == "remove" and not request.force:
            self._round("list", b"", request.relay_factor, listed)
        else:
            change()

    def _answer(self, id: RequestId, done: _Round) -> None:
        self._context.effects.append(Answer(id, _figures(done), done.fault))

    def _round(self, operation: str, key: bytes, relay_factor: int, ended: Callable[[_Round], None]) -> None:
        self._context.log("INFO", "agent", f"Initiating key {_TITLES[operation]}")
        live = {
            row.name for row in self._members if row.status is MemberStatus.ALIVE or row.status is MemberStatus.LEAVING
        }
        asker = _RoundAsker(self._context, self._asking, _Round(operation, live, self._gossip.live_nodes(), ended))
        name = f"{INTERNAL}list-keys" if operation == "list" else f"{INTERNAL}{operation}-key"
        payload = encode_serf(KeyRequest(key))
        request = QueryRequest(name, payload, (), {}, ack=False, relay_factor=relay_factor, timeout=0.0)
        try:
            self._asking.begin(request, asker, begun=asker.began)
        except UserError as error:
            asker.round.messages[self._context.config.node] = str(error)
            asker.round.errors += 1
            asker.done()


class _RoundAsker:
    """Collects the answers of one round (spec serf.md 11)."""

    __slots__ = ("_asked", "_asking", "_context", "round")

    def __init__(self, context: Context, asking: Asking, round_: _Round) -> None:
        self._context = context
        self._asking = asking
        self._asked: Asked | None = None
        self.round = round_

    def began(self, asked: Asked) -> None:
        """The query is on its way."""
        self._asked = asked

    def acked(self, node: str, /) -> None:
        """Nobody was asked for acks."""

    def responded(self, node: str, payload: bytes, /) -> None:
        """See `Asker`."""
        done = self.round
        done.answered.add(node)
        response: KeyResponse | None = None
        if payload[:1] != bytes((SerfType.KEY_RESPONSE,)):
            done.messages[node] = f"Invalid key query response type: {payload[:16].hex()}"
        else:
            try:
                response = decode_key_response(payload)
            except RemoteError as fault:
                done.messages[node] = f"Failed to decode key query response: {fault}"
        if response is None:
            done.errors += 1
        else:
            if not response.result:
                done.errors += 1
            if not response.result or response.message:
                done.messages[node] = response.message
                self._context.log("WARN", "serf", f"{node}: {response.message}")
            done.keys.update(response.keys)
            if response.primary_key:
                done.primaries[node] = response.primary_key
        if len(done.answered) == done.nodes and self._asked is not None:
            # Not from within the answer that is being handled.
            self._context.after(0.0, lambda: None if self._asked is None else self._asking.stop(self._asked))

    def done(self) -> None:
        """See `Asker`."""
        silent = sorted(self.round.live - self.round.answered)
        if silent and not self.round.errors:
            self._context.log("WARN", "serf", f"No answer about keys from: {', '.join(silent)}")
        self.round.ended(self.round)


def _needed(done: _Round, key: str) -> dict[str, str]:
    """Who may still need a key, with the reason."""
    if done.errors:
        return {}  # no ring there: the operation itself tells it in Serf's words
    reasons = dict.fromkeys(done.live - done.answered, NO_ANSWER)
    users = [node for node, primary in done.primaries.items() if primary == key]
    if len(users) < len(done.primaries):
        reasons.update(dict.fromkeys(users, "still uses it"))
    return reasons


def _figures(done: _Round | None) -> dict[str, Plain]:
    if done is None:
        return {"messages": {}, "nodes": 0, "responses": 0, "errors": 0, "keys": {}}
    keys: dict[str, Plain] = dict(done.keys)
    messages: dict[str, Plain] = dict(done.messages)
    return {
        "messages": messages,
        "nodes": done.nodes,
        "responses": len(done.answered),
        "errors": done.errors,
        "keys": keys,
    }


def _text(key: bytes) -> str:
    return base64.b64encode(key).decode("ascii")
