"""What the dispatcher owes: every invocation that is not finished, kept in a journal in shared memory.

Rules:

* An event is in the ledger, with all its invocations, before it is acknowledged to the detector; one record set, all or
  nothing. So a killed dispatcher loses none and repeats none.
* An invocation is marked *sent*, with worker and generation, before its frame leaves; it is taken out when its end is
  known, before the worker is told to forget it.
* Numbers of invocations rise for the life of the agent and are never used again: workers know them by number.

Records: `event` (last sequence, next number), `queued`, `sent`, `returned`, `finished`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from serfmp.agent.journal import JournalOverflowError
from serfmp.errors import InternalError
from serfmp.events.invocation import Invocation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from serfmp.agent.journal import Journal
    from serfmp.events.invocation import ScriptInput
    from serfmp.events.specs import HandlerSpec

_NOBODY: Final = -1


@dataclass(slots=True)
class Debt:
    """An invocation that is not finished, and how far it has come."""

    invocation: Invocation
    worker: int = _NOBODY
    """Index of the worker that it was sent to; -1: it waits."""
    generation: int = 0
    """Of that worker."""

    @property
    def sent(self) -> bool:
        """Whether some worker has it, or had it."""
        return self.worker != _NOBODY


class Ledger:
    """See the module. The constructor takes up what an earlier dispatcher left.

    `first` is the first number of an empty ledger: above all that earlier dispatchers may have used.
    """

    def __init__(self, journal: Journal, first: int = 1) -> None:
        self._journal = journal
        self.last = -1
        """Sequence of the last event that is in the ledger; -1: none ever was."""
        self._next = first
        self.debts: dict[int, Debt] = {}
        """By number of the invocation, oldest first."""
        apply: dict[str, Callable[..., None]] = {
            "event": self._apply_event,
            "queued": self._apply_queued,
            "sent": self._apply_sent,
            "returned": self._apply_returned,
            "finished": self._apply_finished,
        }
        for kind, *fields in journal.replay():
            if kind not in apply:
                raise InternalError(f"the ledger has a record of unknown kind '{kind}'")
            apply[kind](*fields)

    def event(self, sequence: int, label: str, given: ScriptInput, specs: Iterable[HandlerSpec]) -> list[Invocation]:
        """Write an event down with one invocation for each of these handlers, in order. Returns them."""
        invocations = [
            Invocation(number, sequence, spec.index, label, spec.script, given.environment, given.stdin)
            for number, spec in enumerate(specs, self._next)
        ]
        following = self._next + len(invocations)
        self._write([*map(_queued, invocations), ("event", sequence, following)])
        self._apply_event(sequence, following)
        for invocation in invocations:
            self.debts[invocation.number] = Debt(invocation)
        return invocations

    def sent(self, taken: list[tuple[Invocation, int, int]]) -> None:
        """These invocations are about to go to these workers: index and generation."""
        rows = [(invocation.number, worker, generation) for invocation, worker, generation in taken]
        self._write(("sent", *row) for row in rows)
        for row in rows:
            self._apply_sent(*row)

    def returned(self, numbers: list[int]) -> None:
        """No worker has run these: they wait again."""
        self._write(("returned", number) for number in numbers)
        for number in numbers:
            self._apply_returned(number)

    def finished(self, numbers: list[int]) -> None:
        """These are done, or given up: nothing is owed for them any more."""
        self._write(("finished", number) for number in numbers)
        for number in numbers:
            self._apply_finished(number)

    # --- inner part ---------------------------------------------------------------------------------------------------

    def _write(self, records: Iterable[tuple[Any, ...]]) -> None:
        rows = list(records)
        try:
            if self._journal.full:
                self._journal.compact(self._state())
            self._journal.extend(rows)
        except JournalOverflowError:
            # Compacted, what the lanes' bounds allow always leaves room.
            self._journal.compact(self._state())
            self._journal.extend(rows)

    def _state(self) -> Iterator[tuple[Any, ...]]:
        yield "event", self.last, self._next
        for number, debt in self.debts.items():
            yield _queued(debt.invocation)
            if debt.sent:
                yield "sent", number, debt.worker, debt.generation

    def _apply_event(self, sequence: int, following: int) -> None:
        self.last = sequence
        self._next = following

    def _apply_queued(self, *fields: Any) -> None:
        invocation = Invocation(*fields)
        self.debts[invocation.number] = Debt(invocation)

    def _apply_sent(self, number: int, worker: int, generation: int) -> None:
        debt = self.debts[number]
        debt.worker, debt.generation = worker, generation

    def _apply_returned(self, number: int) -> None:
        debt = self.debts[number]
        debt.worker, debt.generation = _NOBODY, 0

    def _apply_finished(self, number: int) -> None:
        del self.debts[number]


def _queued(invocation: Invocation) -> tuple[Any, ...]:
    return (
        "queued",
        invocation.number,
        invocation.sequence,
        invocation.handler,
        invocation.event,
        invocation.script,
        invocation.environment,
        invocation.stdin,
    )
