"""How a handler runs: what its configuration object may say, as values (see `serfmp.events.specs` for its form).

Times in seconds, sizes in bytes; 0 means no limit unless something else is said. `RunPolicy` is all that a worker
needs; the rest is the dispatcher's.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from serfmp.events.spawn import NO_LIMITS, Limits

OUTPUT_LIMIT: Final = 8192
"""Bytes of output that are kept, the last ones (spec agent.md 4.3)."""
SCRIPT_NICE: Final = 10
"""By how much scripts are nicer than the agent: they must not delay the answer to a ping."""
GRACE: Final = 5.0
"""Seconds between TERM and KILL for a script whose time is over."""
OBJECT_TIMEOUT: Final = 300.0
"""Seconds that a handler of the object form may run by default."""
QUEUE_LIMIT: Final = 8192
"""Invocations of one handler that wait."""
BACKOFF: Final = 1.0
"""Seconds before the first retry, doubled for each further one."""
BACKOFF_LIMIT: Final = 300.0
"""Longest pause before a retry."""


class Order(StrEnum):
    """Which invocations run one after another, in the order of their events."""

    HANDLER = "handler"
    """Those of one handler."""
    AGENT = "agent"
    """All of the agent that say so, as with Serf."""
    EVENT = "event"
    """Those of one handler for events of one name."""
    NODE = "node"
    """Those of one handler for one member."""
    NONE = "none"
    """None."""


class Overflow(StrEnum):
    """What happens when the queue of a handler is full."""

    DROP_OLDEST = "drop-oldest"
    DROP_NEWEST = "drop-newest"
    COALESCE = "coalesce"
    """Member events join one of their kind that still waits; beyond that as `drop-oldest`."""


@dataclass(frozen=True, slots=True)
class RunPolicy:
    """How a worker runs a command."""

    timeout: float = 0.0
    """TERM to the process group after so many seconds."""
    grace: float = GRACE
    """KILL so many seconds after TERM."""
    nice: int = SCRIPT_NICE
    """Added to the agent's nice value."""
    address_space: int = 0
    cpu_seconds: int = 0
    open_files: int = 0
    environment: tuple[str, ...] | None = None
    """Variables of the agent's environment that it sees; None: all but secrets. `SERF_…` additions always."""
    directory: str = ""
    """Where it starts; empty: where the agent is."""
    output_limit: int = OUTPUT_LIMIT
    separate: bool = False
    """Standard error is kept apart: only standard output answers a query."""

    @property
    def limits(self) -> Limits:
        """What its processes may use."""
        if self.address_space or self.cpu_seconds or self.open_files:
            return Limits(self.address_space, self.cpu_seconds, self.open_files)
        return NO_LIMITS

    def to_plain(self) -> dict[str, Any]:
        """What differs from the defaults, as a map that msgpack and JSON carry."""
        if self is DEFAULT or self == DEFAULT:
            return {}
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value != getattr(DEFAULT, name)
        }

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> RunPolicy:
        """The inverse of `to_plain`."""
        if not plain:
            return DEFAULT
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()
        }
        return cls(**values)


DEFAULT: Final = RunPolicy()


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """How a handler's invocations wait and are tried again."""

    order: Order = Order.HANDLER
    concurrency: int = 1
    """Invocations of the handler that run at once at most."""
    limit: int = QUEUE_LIMIT
    overflow: Overflow = Overflow.DROP_OLDEST
    retries: int = 0
    """How often an invocation that failed is tried again."""
    backoff: float = BACKOFF
