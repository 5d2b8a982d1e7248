"""The lines of Serf's snapshot file: what each says, and what they add up to (spec serf.md 14).

    alive: NAME ADDRESS:PORT      a member is there; the name ends at the last blank
    not-alive: NAME               it left or failed
    clock: N                      the last member time seen; `event-clock` and `query-clock` likewise
    leave                         the node left on purpose
    coordinate: …, # …            ignored

Rules: a file is folded line by line; a last line without its end is torn and does not count. Clocks never go back,
whatever the order of the lines. A line that nobody understands changes nothing and is told. `leave` forgets members and
event and query times, unless the node is to rejoin even then. Names with a line break cannot be carried; nobody has one
here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

LTIME_MAX: Final = 2**64 - 2
"""Highest Lamport time that is believed (spec wire.md 12.7)."""

_ALIVE: Final = "alive: "
_NOT_ALIVE: Final = "not-alive: "
_CLOCKS: Final = {"clock: ": "clock", "event-clock: ": "event_clock", "query-clock: ": "query_clock"}
_FAULTS: Final = {"clock: ": "clock time", "event-clock: ": "event clock time", "query-clock: ": "query clock time"}
_IGNORED: Final = ("coordinate: ", "#")
LEAVE: Final = "leave"


def alive_line(name: str, address: str) -> str:
    """A member is there; `address` is `host:port`."""
    return f"{_ALIVE}{name} {address}"


def not_alive_line(name: str) -> str:
    """A member is gone."""
    return f"{_NOT_ALIVE}{name}"


def clock_line(ltime: int) -> str:
    """The last member time seen."""
    return f"clock: {ltime}"


def event_clock_line(ltime: int) -> str:
    """The last time of a user event."""
    return f"event-clock: {ltime}"


def query_clock_line(ltime: int) -> str:
    """The last time of a query."""
    return f"query-clock: {ltime}"


@dataclass(slots=True)
class SnapshotState:
    """What the lines so far add up to. `alive`: addresses by name, in the order in which they came."""

    alive: dict[str, str] = field(default_factory=dict)
    clock: int = 0
    event_clock: int = 0
    query_clock: int = 0

    def apply(self, line: str, rejoin: bool = False) -> str:
        """Take one line over. Returns a warning if it cannot be understood. `rejoin`: a `leave` forgets nothing."""
        if line.startswith(_ALIVE):
            name, blank, address = line.removeprefix(_ALIVE).rpartition(" ")
            if not blank:
                return f"Failed to parse address: {line}"
            self.alive[name] = address
            return ""
        if line.startswith(_NOT_ALIVE):
            self.alive.pop(line.removeprefix(_NOT_ALIVE), None)
            return ""
        for prefix, name in _CLOCKS.items():
            if line.startswith(prefix):
                return self._set_clock(name, line.removeprefix(prefix), _FAULTS[prefix])
        if line == LEAVE:
            if not rejoin:
                self.alive.clear()
                self.event_clock = self.query_clock = 0
            return ""
        return "" if line.startswith(_IGNORED) else f"Unrecognized snapshot line: {line}"

    def _set_clock(self, name: str, text: str, what: str) -> str:
        if not (text.isascii() and text.isdigit()) or int(text) > LTIME_MAX:
            return f"Failed to convert {what}: '{text}' is no such number"
        setattr(self, name, max(getattr(self, name), int(text)))
        return ""

    def is_news(self, line: str) -> bool:
        """Whether a line would change anything."""
        if line == LEAVE:
            return True
        if line.startswith(_ALIVE):
            name, _, address = line.removeprefix(_ALIVE).rpartition(" ")
            return self.alive.get(name) != address
        if line.startswith(_NOT_ALIVE):
            return line.removeprefix(_NOT_ALIVE) in self.alive
        clocks = self.clock, self.event_clock, self.query_clock
        after = SnapshotState({}, *clocks)
        after.apply(line)
        return (after.clock, after.event_clock, after.query_clock) != clocks

    def lines(self) -> Iterator[str]:
        """The shortest file that adds up to this."""
        for name, address in self.alive.items():
            yield alive_line(name, address)
        yield clock_line(self.clock)
        yield event_clock_line(self.event_clock)
        yield query_clock_line(self.query_clock)


def whole_lines(data: bytes) -> tuple[list[str], int]:
    """The complete lines of a file, and how many bytes they take: what is behind them is torn."""
    end = data.rfind(b"\n") + 1
    text = data[:end].decode("utf-8", "surrogateescape")
    return text.split("\n")[:-1], end


def replay(lines: Iterable[str], rejoin: bool = False) -> tuple[SnapshotState, list[str]]:
    """What these lines add up to, and the warnings about those that cannot be understood."""
    state = SnapshotState()
    warnings = [warning for line in lines if (warning := state.apply(line, rejoin))]
    return state, warnings
