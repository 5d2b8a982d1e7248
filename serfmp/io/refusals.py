"""Log lines about packets and streams that were refused: clear, and few.

Rules:

* What a peer will go on doing until somebody changes a setting (keys, label) is told once for each peer and kind, again
  after `SETTING_PERIOD` with the number of refusals in between.
* Anything else that cannot be read is told once in `PERIOD`; a second line then counts the rest.
* Addresses of packets can be forged: at most `PEER_LIMIT` peers are remembered, then all are forgotten.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from serfmp.wire.errors import WireError

PERIOD: Final = 1.0
"""Seconds between two lines about packets that cannot be read."""

SETTING_PERIOD: Final = 60.0
"""Seconds between two lines about one peer whose key or label is not ours."""

PEER_LIMIT: Final = 256
"""Peers and kinds remembered."""

SETTINGS: Final = frozenset({"encrypt", "label"})
"""Kinds of errors that a wrong setting causes."""


class _Told:
    __slots__ = ("since", "until")

    def __init__(self, until: float) -> None:
        self.until = until
        self.since = 0
        """Refusals since the line."""


class Refusals:
    """See the module. `log(level, text)` writes a line, `clock()` gives monotonic seconds."""

    def __init__(self, log: Callable[[str, str], None], clock: Callable[[], float]) -> None:
        self._log = log
        self._clock = clock
        self._peers: dict[tuple[str, str], _Told] = {}
        self._bad = 0

    def packet(self, error: WireError, where: str) -> None:
        """A packet from this address (`host:port`) was dropped."""
        if error.kind in SETTINGS:
            self._peer((where, error.kind), f"dropped a packet from={where}: {error}")
            return
        if not self._bad:
            self._log("ERR", f"dropped a packet from={where}: {error}")
        self._bad += 1

    def stream(self, error: WireError, host: str, where: str) -> None:
        """A stream of this host was refused; `where` also has its port, another one each time."""
        text = f"failed to receive: {error} from={where}"
        if error.kind in SETTINGS:
            self._peer((host, f"stream {error.kind}"), text)
        else:
            self._log("ERR", text)

    def summarise(self) -> None:
        """To be called every `PERIOD`: count what was dropped without a line."""
        if self._bad > 1:
            self._log("ERR", f"dropped {self._bad - 1} more bad packets within {PERIOD:.0f} s")
        self._bad = 0

    def _peer(self, key: tuple[str, str], text: str) -> None:
        now = self._clock()
        told = self._peers.get(key)
        if told is not None and now < told.until:
            told.since += 1
            return
        if told is not None and told.since:
            text += f" ({told.since} more since the last line)"
        elif told is None and len(self._peers) >= PEER_LIMIT:
            self._peers.clear()
        self._peers[key] = _Told(now + SETTING_PERIOD)
        self._log("ERR", text)
