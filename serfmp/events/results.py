"""What became of the last invocations of each handler: for people who ask, kept in memory, within bounds.

Rules: `RESULTS` ends of each handler, with the last `TAIL` bytes of output; handlers that are not configured any more
go at the next one beyond `HANDLERS`. Counts are since the start of this process.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from serfmp.bus.frames import Finished
    from serfmp.events.lanes import Lanes
    from serfmp.events.ledger import Debt
    from serfmp.events.specs import HandlerSpec

RESULTS: Final = 10
"""Ends kept of one handler."""
TAIL: Final = 512
"""Bytes of output kept of each."""
HANDLERS: Final = 1024
"""Handlers of which ends are kept."""


class _End(NamedTuple):
    at: float
    event: str
    attempt: int
    code: int | None
    signal: int
    error: str
    seconds: float
    output: bytes
    output_size: int


@dataclass(slots=True)
class _History:
    ended: int = 0
    failed: int = 0
    dropped: int = 0
    last: deque[_End] = field(default_factory=lambda: deque(maxlen=RESULTS))


class Results:
    """See the module."""

    def __init__(self) -> None:
        self._histories: OrderedDict[str, _History] = OrderedDict()

    def _of(self, identity: str) -> _History:
        history = self._histories.get(identity)
        if history is None:
            if len(self._histories) >= HANDLERS:
                self._histories.popitem(last=False)
            history = self._histories[identity] = _History()
        return history

    def dropped(self, identity: str) -> None:
        """An invocation of this handler was dropped."""
        self._of(identity).dropped += 1

    def ended(self, debt: Debt, end: Finished, reason: str) -> None:
        """An invocation has ended; `reason` says why it failed, if it did."""
        history = self._of(debt.spec.identity)
        history.ended += 1
        history.failed += bool(reason)
        output = end.output + end.errors if end.errors else end.output
        history.last.append(
            _End(
                time.time(),
                debt.invocation.event,
                debt.invocation.attempt,
                end.code,
                end.signal,
                reason,
                end.seconds,
                output[-TAIL:],
                end.output_size,
            )
        )

    def table(self, specs: Iterable[HandlerSpec], lanes: Lanes) -> list[dict[str, Any]]:
        """A row for each handler, in the order of the configuration."""
        rows = []
        for spec in specs:
            history = self._histories.get(spec.identity, _History())
            counts = [lanes.counts(f"{kind} {spec.identity}") for kind in ("event", "query")]
            rows.append(
                {
                    "name": spec.title,
                    "on": [str(pattern) for pattern in spec.patterns],
                    "command": spec.shown_command,
                    "queued": sum(waiting for waiting, _ in counts),
                    "running": sum(running for _, running in counts),
                    "ended": history.ended,
                    "failed": history.failed,
                    "dropped": history.dropped,
                    "last": [end._asdict() for end in history.last],
                }
            )
        return rows
