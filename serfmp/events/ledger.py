"""What the dispatcher owes: every invocation that is not finished, kept in a journal in shared memory.

Rules:

* An event is in the ledger, with all its invocations, before it is acknowledged to the detector; one record set, all or
  nothing. So a killed dispatcher loses none and repeats none.
* What became of invocations is written once a turn, in few records: a record costs more than a number in it.
* Each invocation names the handler that it was made for, as it was then: a reload changes what follows, never what
  waits. Handlers are written once and stay as long as an invocation names them.
* An invocation is marked *sent*, with worker and generation, before its frame leaves; that it is finished is written
  before the worker is told to forget it.
* Numbers of invocations rise for the life of the agent and are never used again: workers know them by number.

Records: `handler`, `event` (last sequence, next number), `queued`, `sent`, `returned`, `grown`, `retried`, `rests`,
`finished`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from serfmp.agent.journal import JournalOverflowError
from serfmp.errors import InternalError
from serfmp.events.invocation import Invocation, order_keys
from serfmp.events.specs import HandlerSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from serfmp.agent.journal import Journal
    from serfmp.detector.effects import Event
    from serfmp.events.invocation import ScriptInput

_NOBODY: Final = -1


@dataclass(slots=True)
class Debt:
    """An invocation that is not finished, and how far it has come."""

    invocation: Invocation
    spec: HandlerSpec
    """Its handler, as it was when the event came."""
    worker: int = _NOBODY
    """Index of the worker that it was sent to; -1: it waits."""
    generation: int = 0
    """Of that worker."""
    rests_until: float = 0.0
    """It is tried again, not before this time of the monotonic clock, in seconds; 0: it does not rest."""

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
        self._specs: dict[str, HandlerSpec] = {}
        """By identity: the latest of each that was written."""
        self.debts: dict[int, Debt] = {}
        """By number of the invocation, oldest first."""
        self._done: list[int] = []
        """Finished, which is not written yet."""
        self._passed = False
        """Whether there was an event without handlers that is not written yet."""
        apply: dict[str, Callable[..., None]] = {
            "handler": self._apply_handler,
            "event": self._apply_event,
            "queued": self._apply_queued,
            "sent": self._apply_sent,
            "returned": self._apply_returned,
            "grown": self._apply_grown,
            "retried": self._apply_retried,
            "rests": self._apply_rests,
            "finished": self._apply_finished,
        }
        for kind, *fields in journal.replay():
            if kind not in apply:
                raise InternalError(f"the ledger has a record of unknown kind '{kind}'")
            apply[kind](*fields)

    def event(
        self,
        event: Event,
        label: str,
        given: ScriptInput,
        specs: Iterable[HandlerSpec],
        deadline: float = 0.0,
        query: tuple[int, int] | None = None,
    ) -> list[Debt]:
        """Write an event down with one invocation for each of these handlers, in order. Returns them.

        One without handlers is written with the next record or `flush`.
        """
        debts = []
        records: list[tuple[Any, ...]] = []
        for number, spec in enumerate(specs, self._next):
            lane, group = order_keys(spec, event, number)
            invocation = Invocation(
                number,
                event.sequence,
                spec.identity,
                lane,
                group,
                label,
                given.environment,
                given.stdin,
                deadline,
                query,
                input_size=given.size,
            )
            known = self._specs.get(spec.identity)
            if known is not spec and known != spec:
                records.append(("handler", spec.identity, spec.to_plain()))
                self._specs[spec.identity] = spec
            debts.append(Debt(invocation, spec))
        following = self._next + len(debts)
        if debts:
            records.append(_queued([debt.invocation for debt in debts]))
            self._write([*records, ("event", event.sequence, following)])
        else:
            self._passed = True
        self._apply_event(event.sequence, following)
        for debt in debts:
            self.debts[debt.invocation.number] = debt
        return debts

    def sent(self, taken: list[tuple[Invocation, int, int]]) -> None:
        """These invocations are about to go to these workers: index and generation."""
        rows: dict[tuple[int, int], list[int]] = {}
        for invocation, *place in taken:
            rows.setdefault((place[0], place[1]), []).append(invocation.number)
        self._write(("sent", *place, *numbers) for place, numbers in rows.items())
        for (worker, generation), numbers in rows.items():
            self._apply_sent(worker, generation, *numbers)

    def returned(self, numbers: list[int]) -> None:
        """No worker has run these: they wait again."""
        self._write(("returned", number) for number in numbers)
        for number in numbers:
            self._apply_returned(number)

    def grown(self, number: int, by: int, stdin: bytes) -> Invocation:
        """A waiting invocation takes over the input of another one, `by`, which is done. Returns it as it is now."""
        self._write([("grown", number, stdin), ("finished", by)])
        self._apply_grown(number, stdin)
        self._apply_finished(by)
        return self.debts[number].invocation

    def retried(self, number: int, until: float) -> Invocation:
        """An invocation has failed and rests until it is tried again, under a new number. Returns it as it is now."""
        again = self._next
        self._write([("retried", number, again), ("rests", again, until)])
        self._apply_retried(number, again)
        self._apply_rests(again, until)
        return self.debts[again].invocation

    def finished(self, numbers: list[int]) -> None:
        """These are done, or given up: nothing is owed for them any more. Written with the next record or `flush`."""
        self._apply_finished(*numbers)
        self._done += numbers

    def flush(self) -> None:
        """Write what became of invocations."""
        if self._done or self._passed:
            self._write(())

    # --- inner part ---------------------------------------------------------------------------------------------------

    def _write(self, records: Iterable[tuple[Any, ...]]) -> None:
        rows = list(records)
        if self._journal.full:
            self._compact()
        before: list[tuple[Any, ...]] = []
        if self._passed:
            before.append(("event", self.last, self._next))
        if self._done:
            before.append(("finished", *self._done))
        try:
            self._journal.extend([*before, *rows])
        except JournalOverflowError:
            # Compacted, what the lanes' bounds allow always leaves room.
            self._compact()
            self._journal.extend(rows)
        self._done.clear()
        self._passed = False

    def _compact(self) -> None:
        self._journal.compact(self._state())
        self._done.clear()  # the state knows these as they are now
        self._passed = False

    def _state(self) -> Iterator[tuple[Any, ...]]:
        yield "event", self.last, self._next
        written: dict[str, HandlerSpec] = {}
        for number, debt in self.debts.items():
            name = debt.invocation.handler
            if written.get(name) != debt.spec:
                written[name] = debt.spec
                yield "handler", name, debt.spec.to_plain()
            yield _queued([debt.invocation])
            if debt.rests_until:
                yield "rests", number, debt.rests_until
            if debt.sent:
                yield "sent", debt.worker, debt.generation, number
        for name, spec in self._specs.items():
            if written.get(name) != spec:
                yield "handler", name, spec.to_plain()

    def forget_handlers(self, present: set[str]) -> None:
        """Handlers that were taken out of the configuration need not be kept for what follows."""
        self._specs = {name: spec for name, spec in self._specs.items() if name in present}

    def _apply_handler(self, identity: str, plain: dict[str, Any]) -> None:
        self._specs[identity] = HandlerSpec.from_plain(plain)

    def _apply_event(self, sequence: int, following: int) -> None:
        self.last = sequence
        self._next = following

    def _apply_queued(self, sequence: int, event: str, *fields: Any) -> None:
        environment, stdin, deadline, query, rows = fields
        asked = None if query is None else (query[0], query[1])
        for number, handler, lane, group, attempt in rows:
            invocation = Invocation(
                number, sequence, handler, lane, group, event, environment, stdin, deadline, asked, attempt
            )
            self.debts[number] = Debt(invocation, self._specs[handler])

    def _apply_sent(self, worker: int, generation: int, *numbers: int) -> None:
        for number in numbers:
            debt = self.debts[number]
            debt.worker, debt.generation = worker, generation

    def _apply_returned(self, number: int) -> None:
        debt = self.debts[number]
        debt.worker, debt.generation = _NOBODY, 0

    def _apply_grown(self, number: int, stdin: bytes) -> None:
        debt = self.debts[number]
        debt.invocation = replace(debt.invocation, stdin=debt.invocation.stdin + stdin, input_size=0)

    def _apply_retried(self, number: int, again: int) -> None:
        debt = self.debts.pop(number)
        old = debt.invocation
        self.debts[again] = Debt(replace(old, number=again, attempt=old.attempt + 1), debt.spec)
        self._next = again + 1

    def _apply_rests(self, number: int, until: float) -> None:
        self.debts[number].rests_until = until

    def _apply_finished(self, *numbers: int) -> None:
        for number in numbers:
            del self.debts[number]


def _queued(invocations: list[Invocation]) -> tuple[Any, ...]:
    """One record for the invocations of an event, which differ only in what belongs to their handlers."""
    first = invocations[0]
    return (
        "queued",
        first.sequence,
        first.event,
        first.environment,
        first.stdin,
        first.deadline,
        None if first.query is None else list(first.query),
        [[one.number, one.handler, one.lane, one.group, one.attempt] for one in invocations],
    )
