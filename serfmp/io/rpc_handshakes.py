"""Clients of the RPC that have not finished their TLS handshake: nobody else waits for them, and they do not stay.

Rules:

* A handshake has `HANDSHAKE_LIMIT_S`. At most `UNDER_WAY` are under way; when another client comes one gives way: the
  oldest that was refused, else the oldest that has not said enough to be answered, else the oldest. An honest client
  begins at once and needs a round trip or two.
* The arithmetic of at most `STEPS_PER_TURN` handshakes is done in one turn of the loop; the others are left in their
  sockets until the next.
* Who is refused is told why: by an alert of TLS, or, a client without TLS, by an answer of the RPC. Then the connection
  is closed once the client has closed it, or after `FAREWELL_S`: closing it at once could destroy what it was told.
* A refusal is counted by its kind, and told in the log once in `TELL_PERIOD_S` for each kind; the next line counts the
  rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgpack

from serfmp.bus.loop import READ, WRITE
from serfmp.io import rpc_records
from serfmp.io.rpc_tls import TlsChannel, TlsError

if TYPE_CHECKING:
    import socket
    import ssl

    from serfmp.bus.loop import Loop, Timer

UNDER_WAY: Final = 128
"""Handshakes, and refused clients that have not closed their connection."""

HANDSHAKE_LIMIT_S: Final = 10.0
"""Seconds for a handshake."""

STEPS_PER_TURN: Final = 4
"""Handshakes that are gone on with in one turn: one of RSA takes a millisecond or more."""

FAREWELL_S: Final = 1.0
"""Seconds for a refused client to close its connection."""

TELL_PERIOD_S: Final = 10.0
"""Seconds between two log lines about refused clients, for each kind of refusal."""

READ_SIZE: Final = 64 * 1024
"""Bytes read at once."""

NEEDS_TLS: Final = "this agent's RPC needs TLS: use -rpc-tls, or a client that speaks it"
"""What a client without TLS is answered."""


class Handshakes:
    """See the module.

    `done(channel, name)` gets the clients that are through; `count(kind)` and `log(level, text)` hear of the others.
    """

    def __init__(
        self,
        loop: Loop,
        done: Callable[[TlsChannel, str], None],
        count: Callable[[str], None],
        log: Callable[[str, str], None],
    ) -> None:
        self._loop = loop
        self._done = done
        self._count = count
        self._log = log
        self._under_way: dict[_Handshake, None] = {}
        """The oldest first."""
        self._steps = STEPS_PER_TURN
        self._quiet_until: dict[str, float] = {}
        self._untold: Counter[str] = Counter()
        loop.before_wait.append(self._turn_ends)

    def __len__(self) -> int:
        return len(self._under_way)

    def begin(self, sock: socket.socket, name: str, context: ssl.SSLContext) -> None:
        """Take a client that has just connected."""
        if len(self._under_way) >= UNDER_WAY:
            idlest = min(self._under_way, key=lambda handshake: handshake.progress)  # of equal ones the oldest
            if not idlest.refused:
                self.refused(idlest, "crowd", f"{UNDER_WAY} TLS handshakes are under way, and it is slow")
            idlest.close()
        self._under_way[_Handshake(self._loop, self, TlsChannel(sock, context), name)] = None

    def close(self) -> None:
        """End all that are under way."""
        for handshake in list(self._under_way):
            handshake.close()

    # --- for handshakes -----------------------------------------------------------------------------------------------

    def may_step(self) -> bool:
        """Whether there is time in this turn."""
        self._steps -= 1
        return self._steps >= 0

    def through(self, handshake: _Handshake) -> None:
        """It is done; what comes now are requests."""
        self._under_way.pop(handshake, None)
        self._done(handshake.channel, handshake.name)

    def closed(self, handshake: _Handshake) -> None:
        """It is over."""
        self._under_way.pop(handshake, None)

    def refused(self, handshake: _Handshake, kind: str, why: str) -> None:
        """Count it, and tell it unless that kind was told just now."""
        self._count(kind)
        now = self._loop.clock()
        if now < self._quiet_until.get(kind, now):
            self._untold[kind] += 1
            return
        self._quiet_until[kind] = now + TELL_PERIOD_S
        untold = self._untold.pop(kind, 0)
        more = f" ({untold} more of this kind since the last line)" if untold else ""
        self._log("WARN", f"Refused client: {handshake.name}: {why}{more}")

    def _turn_ends(self) -> None:
        self._steps = STEPS_PER_TURN


class _Handshake:
    """One client, until it is through, or has been refused and is gone."""

    def __init__(self, loop: Loop, owner: Handshakes, channel: TlsChannel, name: str) -> None:
        self.channel = channel
        self.name = name
        self.refused = False
        self._loop = loop
        self._owner = owner
        self._interest = READ
        self._timer: Timer = loop.call_later(HANDSHAKE_LIMIT_S, self._late)
        loop.add(channel, self._handle, READ)

    @property
    def progress(self) -> int:
        """How far it is: refused, not answered yet, answered."""
        return 0 if self.refused else 1 + self.channel.answered

    def close(self) -> None:
        """End it at once."""
        self._forget()
        self.channel.abort()
        self._owner.closed(self)

    def _forget(self) -> None:
        self._timer.cancel()
        self._loop.remove(self.channel)

    def _handle(self, events: int) -> None:
        through = False
        try:
            if events & WRITE:
                self.channel.push()
            if self.refused:
                self.channel.discard(READ_SIZE)
            elif events != WRITE and self._owner.may_step():
                through = self.channel.handshake(READ_SIZE)
        except BlockingIOError:
            pass
        except EOFError:
            self._gone("it ended the connection")
            return
        except OSError as error:
            self._gone((error.strerror or str(error)).lower())
            return
        except TlsError as error:
            self._refuse(error)
            return
        if through:
            self._forget()
            self._owner.through(self)
        else:
            self._watch()

    def _watch(self) -> None:
        wanted = READ | (WRITE if self.channel.unsent else 0)
        if wanted != self._interest:
            self._interest = wanted
            self._loop.change(self.channel, wanted)

    def _gone(self, why: str) -> None:
        if not self.refused:
            self._owner.refused(self, "gone", f"during the TLS handshake: {why}")
        self.close()

    def _late(self) -> None:
        self._owner.refused(self, "late", f"no TLS handshake within {HANDSHAKE_LIMIT_S:g} s")
        self.close()

    def _refuse(self, error: TlsError) -> None:
        self.refused = True
        self._owner.refused(self, error.kind, str(error))
        self._timer.cancel()
        self._timer = self._loop.call_later(FAREWELL_S, self.close)
        self.channel.refuse(plain_answer(error.received) if error.kind == "plain" else b"")


def plain_answer(received: bytes) -> bytes:
    """What a client without TLS is answered: an error of the RPC under its number, nothing if it speaks no RPC."""
    unpacker = msgpack.Unpacker(raw=False, max_buffer_size=READ_SIZE, strict_map_key=False)
    try:
        unpacker.feed(received)
        request: Any = unpacker.unpack()
        sequence = request["Seq"]
    except (ValueError, KeyError, TypeError, msgpack.UnpackException):
        return b""
    if isinstance(sequence, bool) or not isinstance(sequence, int) or not 0 <= sequence < 1 << 64:
        return b""
    return rpc_records.header(sequence, NEEDS_TLS)
