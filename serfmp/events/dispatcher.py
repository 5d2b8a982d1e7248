"""The dispatcher process: events come in, invocations of handlers go out to the workers, and nothing is lost between.

Rules:

* An event is acknowledged to the detector when it stands in the ledger with all its invocations. The ledger is shared
  memory of the supervisor; a killed dispatcher's successor reads it and goes on behind the last event.
* An invocation that a live worker has keeps running when the dispatcher is killed; its end is told to the successor.
* An invocation that a dead worker had is looked up in what the worker had claimed: one that was never begun is run by
  its successor; one that had ended has ended; one that ran is cut short, which is logged and counted, and by
  `RERUN_CUT_SHORT` not run again, since half of it may have been done.
* The output of a script that ends well answers the query that it ran for. Scripts that fail are tried again as their
  handler says, not before their pause is over, whoever is the dispatcher then.
* A change of the configuration concerns the events that follow: what waits runs as it was configured when its event
  came.
* One process logs what scripts did, so that the log tells it in the order in which it happened.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from serfmp.agent.child import process_name
from serfmp.agent.journal import Journal
from serfmp.bus import frames
from serfmp.bus.consumer import DetectorLink
from serfmp.detector.effects import Event, MemberEvent, QueryReceived, RespondRequest, UserEventReceived
from serfmp.errors import UserError
from serfmp.events.claims import read_claims, remove_claims
from serfmp.events.invocation import NO_INPUT, Invocation, event_label, script_input
from serfmp.events.lanes import SIZE_LIMIT, Lanes
from serfmp.events.ledger import Debt, Ledger
from serfmp.events.policy import BACKOFF_LIMIT, Overflow
from serfmp.events.pool import Pool
from serfmp.events.report import end_reason, lost_lines, report_lines
from serfmp.events.results import Results
from serfmp.events.specs import HandlerSpec, parse_handlers

if TYPE_CHECKING:
    from serfmp.agent.child import Child
    from serfmp.agent.config import AgentConfig

RERUN_CUT_SHORT: Final = False
"""Whether a script that ran at a worker that died is run again. Serf's handlers are not written for being repeated."""

INPUT_LIMIT: Final = 2 * 1024 * 1024
"""Bytes that one event may give a handler: more than ten thousand members in one event; the ledger has to hold it."""

QUICK: Final = 0.05
"""Seconds: a handler whose last run took less is quick. Its worker gets more of its invocations ahead."""

DROP_REPORT_PERIOD: Final = 1.0
"""Seconds over which dropped invocations are counted for one log line."""

TABLE_ROWS: Final = 256
"""Handlers of which watchers are told."""

TABLE_PERIOD: Final = 5.0
"""Seconds after which they are told again though nothing has changed."""

STOP_POLL: Final = 0.02
"""Seconds between two looks whether everything under way has ended."""


class Dispatcher:
    """See the module."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._specs = parse_handlers(child.config.handlers)
        self.counters = child.metrics.counters
        self._dropped: Counter[tuple[str, str, int]] = Counter()
        self._recorded: dict[int, list[int]] = {}
        self._results = Results()
        self._stopping = False
        # An emptied ledger does not know which numbers the workers still hold: each generation has its own.
        self._ledger = Ledger(Journal(child.descriptors["ledger"]), first=child.generation << 40)
        self._lanes = Lanes(child.config.workers, ahead=True)
        self._pool = Pool(child, self)
        self._take_up()
        # Before the link's: what it tells the detector stands in the ledger then.
        child.loop.before_wait += [self._pump, self._pool.flush]
        self._link = DetectorLink(child, members=False, on_event=self._on_event, after=self._ledger.last)
        child.on_stop = self._on_stop
        child.on_inquiry = self._on_inquiry
        child.before_report.append(self._before_report)
        self._table: list[dict[str, Any]] = []
        self._tell_table_at = 0.0
        child.on_propose = _fault
        child.on_commit = lambda: self.apply(parse_handlers(child.config.handlers))

    # --- events -------------------------------------------------------------------------------------------------------

    def _on_event(self, event: Event) -> None:
        if event.sequence <= self._ledger.last:
            return
        label = event_label(event)
        specs = [spec for spec in self._specs for _ in range(spec.runs(event))]
        given = script_input(event, self._child.config.node, self._child.config.tags) if specs else NO_INPUT
        deadline, query = 0.0, None
        if isinstance(event, QueryReceived):
            deadline, query = event.deadline, (event.ltime, event.id)
        if specs and len(given.stdin) > INPUT_LIMIT:
            self.counters["serfmp.events.too_large"] += 1
            size = len(given.stdin)
            self._log("WARN", f"Event '{label}' has {size} bytes of input, more than {INPUT_LIMIT}; it is not handled")
            specs, given = [], NO_INPUT
        debts = self._ledger.event(event, label, given, specs, deadline, query)
        self._link.acknowledge(event.sequence)
        self._log("INFO", f"Received event: {_described(event)}")
        if debts:
            for variable in given.unpassable:
                self._log("WARN", f"{variable} is not passed to the handlers of event '{label}': it holds a NUL byte")
        for debt in debts:
            self._queue(debt, coalesce=isinstance(event, MemberEvent))

    def _queue(self, debt: Debt, *, coalesce: bool) -> None:
        invocation, policy = debt.invocation, debt.spec.queue
        if coalesce and policy.overflow is Overflow.COALESCE:
            last = self._lanes.last_waiting(invocation)
            if last is not None and self._may_join(last, debt):
                self._lanes.replace_last(self._ledger.grown(last.number, invocation.number, invocation.stdin))
                self.counters["serfmp.events.coalesced"] += 1
                return
        self._drop(self._lanes.push(invocation, policy))

    def _may_join(self, last: Invocation, debt: Debt) -> bool:
        """Whether the members of a new invocation may be told by one that waits."""
        new = debt.invocation
        alike = last.event == new.event and last.environment == new.environment
        fits = len(last.stdin) + len(new.stdin) <= INPUT_LIMIT
        return alike and fits and self._ledger.debts[last.number].spec == debt.spec

    def _drop(self, dropped: list[Invocation]) -> None:
        if not dropped:
            return
        if not self._dropped:
            self._child.loop.call_later(DROP_REPORT_PERIOD, self._report_drops)
        for invocation in dropped:
            spec = self._ledger.debts[invocation.number].spec
            self.counters["serfmp.events.dropped"] += 1
            self._dropped[spec.title, spec.queue.overflow, spec.queue.limit] += 1
            self._results.dropped(spec.identity)
        self._ledger.finished([invocation.number for invocation in dropped])

    def _report_drops(self) -> None:
        for (title, overflow, limit), number in self._dropped.items():
            which = "newest were refused" if overflow == Overflow.DROP_NEWEST else "oldest that waited were dropped"
            self._log(
                "WARN",
                f"Script '{title}' is too slow for its events: the {number} {which} "
                f"(limits: {limit} events of a handler, {SIZE_LIMIT} bytes in all)",
            )
        self._dropped.clear()

    # --- invocations --------------------------------------------------------------------------------------------------

    def _take_up(self) -> None:
        """Go on with what an earlier dispatcher left in the ledger."""
        now = self._child.loop.clock()
        # One that is tried again has a late number, but the place of its event.
        debts = sorted(self._ledger.debts.values(), key=lambda debt: (debt.invocation.sequence, debt.invocation.number))
        for debt in debts:
            if debt.sent:
                self._lanes.adopt(debt.invocation, debt.spec.queue)
            elif debt.rests_until > now:
                self._rest_on(debt, debt.rests_until - now)
        for debt in debts:
            if not debt.sent and debt.rests_until <= now:
                self._drop(self._lanes.push(debt.invocation, debt.spec.queue))
        for worker in range(self._child.config.workers):
            self.on_worker_gone(worker, self._pool.generation(worker))

    def _rest_on(self, debt: Debt, pause: float) -> None:
        number = debt.invocation.number
        self._lanes.adopt(debt.invocation, debt.spec.queue)
        self._lanes.rest(number)
        self._child.loop.call_later(pause, lambda: self._lanes.put_back(number))

    def _pump(self) -> None:
        """Once a turn: tell the workers whose ends are recorded, and send what may start."""
        taken = [] if self._stopping else self._lanes.take(self._child.loop.clock())
        self._give_up_late()
        if taken:
            self._ledger.sent([(invocation, worker, self._pool.generation(worker)) for worker, invocation in taken])
        else:
            self._ledger.flush()
        for worker, numbers in self._recorded.items():
            self._pool.send(worker, frames.Recorded(numbers))
        self._recorded.clear()
        for worker, invocation in taken:
            spec = self._ledger.debts[invocation.number].spec
            command = spec.command if isinstance(spec.command, str) else list(spec.command)
            self._pool.send(
                worker,
                frames.Run(
                    invocation.number,
                    command,
                    invocation.environment,
                    invocation.stdin,
                    spec.run.to_plain(),
                    self._lanes.in_turn(invocation),
                ),
            )

    def _give_up_late(self) -> None:
        """Queries whose time was over before a script could start."""
        for invocation in self._lanes.take_late():
            title = self._ledger.debts[invocation.number].spec.title
            self._ledger.finished([invocation.number])
            self.counters["serfmp.queries.late"] += 1
            self._log("DEBUG", f"Script '{title}' is not started for a query whose time is over")

    def on_worker(self, worker: int, generation: int, credits: int, held: frozenset[int]) -> None:
        """A worker is there: what it was sent and does not hold never reached it."""
        lost = [
            number
            for number, debt in self._ledger.debts.items()
            if debt.worker == worker and debt.generation == generation and number not in held
        ]
        self._return(lost)
        self._lanes.set_credits(worker, credits)

    def on_worker_gone(self, worker: int, generation: int) -> None:
        """What earlier generations of a worker had is cut short, or goes back into its lane."""
        self._lanes.set_credits(worker, 0)
        name = process_name("worker", worker)
        claims: dict[int, dict[int, int | None]] = {}
        again: list[int] = []
        for number, debt in list(self._ledger.debts.items()):
            if debt.worker != worker or debt.generation >= generation:
                continue
            if debt.generation not in claims:
                claims[debt.generation] = read_claims(self._child.directory, name, debt.generation)
            begun = claims[debt.generation]
            if number not in begun:
                again.append(number)
                continue
            cut_short = begun[number] is None
            self.counters["serfmp.events.cut_short"] += cut_short
            if cut_short and RERUN_CUT_SHORT:
                again.append(number)
                continue
            self._ledger.finished([number])
            self._lanes.finished(number)
            for level, text in lost_lines(debt.invocation, debt.spec, begun[number]):
                self._log(level, text)
        self._return(again)
        remove_claims(self._child.directory, name, generation)

    def on_finished(self, worker: int, frame: frames.Finished) -> None:
        """A script has ended: write it down, then tell everybody."""
        self._recorded.setdefault(worker, []).append(frame.invocation)
        debt = self._ledger.debts.get(frame.invocation)
        if debt is None:
            return  # an earlier dispatcher wrote it down, and was killed before it said so
        reason = end_reason(frame)
        self._results.ended(debt, frame, reason)
        self._watched_end(debt, frame, reason)
        for level, text in report_lines(debt.invocation, debt.spec, frame):
            self._log(level, text)
        if reason and self._try_again(debt):
            return
        self._ledger.finished([frame.invocation])
        self._lanes.finished(frame.invocation, quick=not frame.error and frame.seconds < QUICK)
        self.counters["serfmp.events.failed" if reason else "serfmp.events.finished"] += 1
        if debt.invocation.query is not None and not reason and frame.output:
            self._respond(debt.invocation, debt.invocation.query, frame.output)

    def _try_again(self, debt: Debt) -> bool:
        """Let an invocation that failed rest for a while, if its handler wants that; whether it does."""
        invocation, policy = debt.invocation, debt.spec.queue
        if self._stopping or invocation.attempt >= policy.retries:
            return False
        pause = min(policy.backoff * 2**invocation.attempt, BACKOFF_LIMIT)
        if 0.0 < invocation.deadline < self._child.loop.clock() + pause:
            return False
        again = self._ledger.retried(invocation.number, self._child.loop.clock() + pause)
        self._lanes.rest(invocation.number)
        self._child.loop.call_later(pause, lambda: self._lanes.put_back(invocation.number, again))
        self.counters["serfmp.events.retried"] += 1
        left = policy.retries - invocation.attempt
        self._log("INFO", f"Script '{debt.spec.title}' is tried again in {pause:g} s ({left} tries are left)")
        return True

    def _respond(self, invocation: Invocation, query: tuple[int, int], output: bytes) -> None:
        def answered(_value: Any, error: str) -> None:
            if error:
                name = invocation.environment.get("SERF_QUERY_NAME", "")
                self._log(
                    "WARN", f"Failed to respond to query 'query: {name}': failed to respond to key query: {error}"
                )

        self._link.ask(RespondRequest(*query, output), answered)

    def _return(self, numbers: list[int]) -> None:
        if numbers:
            self._ledger.returned(numbers)
            debts = self._ledger.debts
            # Each becomes the first of its lane: the latest event's first, so that the earliest ends up in front.
            for number in sorted(numbers, key=lambda one: (debts[one].invocation.sequence, one), reverse=True):
                self._lanes.put_back(number)

    # --- configuration, and what can be seen from outside -------------------------------------------------------------

    def apply(self, specs: tuple[HandlerSpec, ...]) -> None:
        """The handlers of the events that follow."""
        self._specs = specs
        self._ledger.forget_handlers({spec.identity for spec in specs})

    def _on_inquiry(self, subject: str) -> Any:
        return self._results.table(self._specs, self._lanes) if subject == "handlers" else None

    def _watched_end(self, debt: Debt, frame: frames.Finished, reason: str) -> None:
        """For those who watch the agent."""
        invocation = debt.invocation
        self._child.metrics.sample(f"agent.invoke.{debt.spec.title}", frame.seconds * 1000)
        if not self._child.watched:
            return
        body = {
            "handler": debt.spec.title,
            "event": invocation.event,
            "invocation": invocation.number,
            "attempt": invocation.attempt,
            "code": frame.code,
            "signal": frame.signal,
            "error": reason,
            "seconds": frame.seconds,
            "output_size": frame.output_size,
        }
        self._child.reporter.happened("handler.ended", body)

    def _before_report(self) -> None:
        gauge = self._child.metrics.gauge
        gauge("serfmp.queue.invocations", self._lanes.waiting)
        gauge("serfmp.queue_limit.invocations", sum(spec.queue.limit for spec in self._specs))
        gauge("serfmp.handlers.running", self._lanes.under_way)
        table = [
            {**row, "last": row["last"][-1] if row["last"] else None}
            for row in self._results.table(self._specs[:TABLE_ROWS], self._lanes)
        ]
        now = self._child.loop.clock()
        if table != self._table or now >= self._tell_table_at:
            # Told again from time to time: the rpc process may have been started again.
            self._table, self._tell_table_at = table, now + TABLE_PERIOD
            self._child.reporter.happened("handler.table", {"handlers": table})

    # --- stopping -----------------------------------------------------------------------------------------------------

    def _on_stop(self, grace: float) -> None:
        """Start nothing more; wait so long for the ends of what runs."""
        if not self._stopping:
            self._stopping = True
            self._wait_for_ends(self._child.loop.clock() + grace)

    def _wait_for_ends(self, deadline: float) -> None:
        if self._lanes.busy and self._child.loop.clock() < deadline:
            self._child.loop.call_later(STOP_POLL, lambda: self._wait_for_ends(deadline))
            return
        self._report_drops()
        if self._lanes.waiting:
            self._log("WARN", f"{self._lanes.waiting} invocations of handlers are given up, because the agent stops")
        self._child.loop.stop()

    def _log(self, level: str, text: str) -> None:
        self._child.log(level, "agent", text)


def _fault(config: AgentConfig) -> str:
    """Why this configuration's handlers cannot be taken over, or nothing."""
    try:
        parse_handlers(config.handlers)
    except UserError as error:
        return str(error)
    return ""


def _described(event: Event) -> str:
    """An event as the log names it."""
    match event:
        case UserEventReceived():
            return f"user-event: {event.name}"
        case QueryReceived():
            return f"query: {event.name}"
        case _:
            return event.kind.label


def main(child: Child) -> None:
    """Be the dispatcher process."""
    Dispatcher(child)
    child.ready()
    child.loop.run()
