"""The dispatcher process: events come in, invocations of handlers go out to the workers, and nothing is lost between.

Rules:

* An event is acknowledged to the detector when it stands in the ledger with all its invocations. The ledger is shared
  memory of the supervisor; a killed dispatcher's successor reads it and goes on behind the last event.
* An invocation that a live worker has keeps running when the dispatcher is killed; its end is told to the successor.
* An invocation that a dead worker had is looked up in what the worker had claimed: one that was never begun is run by
  its successor; one that had ended has ended; one that ran is cut short, which is logged and counted, and by
  `RERUN_CUT_SHORT` not run again, since half of it may have been done.
* One process logs what scripts did, so that the log tells it in the order in which it happened.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from serfmp.agent.child import process_name
from serfmp.agent.journal import Journal
from serfmp.bus import frames
from serfmp.bus.consumer import DetectorLink
from serfmp.detector.effects import Event, QueryReceived, UserEventReceived
from serfmp.events.claims import read_claims, remove_claims
from serfmp.events.invocation import Invocation, event_label, script_input
from serfmp.events.lanes import QUEUE_LIMIT, SIZE_LIMIT, Lanes
from serfmp.events.ledger import Ledger
from serfmp.events.pool import Pool
from serfmp.events.report import lost_lines, report_lines
from serfmp.events.specs import parse_handlers

if TYPE_CHECKING:
    from serfmp.agent.child import Child

RERUN_CUT_SHORT: Final = False
"""Whether a script that ran at a worker that died is run again. Serf's handlers are not written for being repeated."""

INPUT_LIMIT: Final = 2 * 1024 * 1024
"""Bytes that one event may give a handler: more than ten thousand members in one event; the ledger has to hold it."""

DROP_REPORT_PERIOD: Final = 1.0
"""Seconds over which dropped invocations are counted for one log line."""

STOP_POLL: Final = 0.02
"""Seconds between two looks whether everything under way has ended."""


class Dispatcher:
    """See the module."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._specs = parse_handlers(child.config.handlers)
        self.counters: Counter[str] = Counter()
        self._dropped: Counter[tuple[int, str]] = Counter()
        self._recorded: dict[int, list[int]] = {}
        self._stopping = False
        # An emptied ledger does not know which numbers the workers still hold: each generation has its own.
        self._ledger = Ledger(Journal(child.descriptors["ledger"]), first=child.generation << 40)
        self._lanes = Lanes(child.config.workers)
        self._pool = Pool(child, self)
        self._take_up()
        self._link = DetectorLink(child, members=False, on_event=self._on_event, after=self._ledger.last)
        child.on_stop = self._on_stop
        child.loop.before_wait += [self._pump, self._pool.flush]

    # --- events -------------------------------------------------------------------------------------------------------

    def _on_event(self, event: Event) -> None:
        if event.sequence <= self._ledger.last:
            return
        label = event_label(event)
        given = script_input(event, self._child.config.node, self._child.config.tags)
        specs = [spec for spec in self._specs if spec.matches(event)]
        if specs and len(given.stdin) > INPUT_LIMIT:
            self.counters["serfmp.events.too_large"] += 1
            size = len(given.stdin)
            self._log("WARN", f"Event '{label}' has {size} bytes of input, more than {INPUT_LIMIT}; it is not handled")
            specs = []
        invocations = self._ledger.event(event.sequence, label, given, specs)
        self._link.acknowledge(event.sequence)
        named = _described(event)
        self._log("INFO", f"Received event: {named}")
        if invocations:
            for variable in given.unpassable:
                self._log("WARN", f"{variable} is not passed to the handlers of event '{label}': it holds a NUL byte")
        for invocation in invocations:
            self._drop(self._lanes.push(invocation))

    def _drop(self, dropped: list[Invocation]) -> None:
        if not dropped:
            return
        self._ledger.finished([invocation.number for invocation in dropped])
        if not self._dropped:
            self._child.loop.call_later(DROP_REPORT_PERIOD, self._report_drops)
        for invocation in dropped:
            self.counters["serfmp.events.dropped"] += 1
            self._dropped[invocation.handler, invocation.script] += 1

    def _report_drops(self) -> None:
        for (_handler, script), number in self._dropped.items():
            self._log(
                "WARN",
                f"Script '{script}' is too slow for its events: the {number} oldest that waited were dropped "
                f"(limits: {QUEUE_LIMIT} events of a handler, {SIZE_LIMIT} bytes in all)",
            )
        self._dropped.clear()

    # --- invocations --------------------------------------------------------------------------------------------------

    def _take_up(self) -> None:
        """Go on with what an earlier dispatcher left in the ledger."""
        for debt in list(self._ledger.debts.values()):
            if debt.sent:
                self._lanes.adopt(debt.invocation)
        for debt in list(self._ledger.debts.values()):
            if not debt.sent:
                self._drop(self._lanes.push(debt.invocation))
        for worker in range(self._child.config.workers):
            self.on_worker_gone(worker, self._pool.generation(worker))

    def _pump(self) -> None:
        """Once a turn: tell the workers whose ends are recorded, and send what may start."""
        for worker, numbers in self._recorded.items():
            self._pool.send(worker, frames.Recorded(numbers))
        self._recorded.clear()
        if self._stopping:
            return
        taken = self._lanes.take()
        if not taken:
            return
        self._ledger.sent([(invocation, worker, self._pool.generation(worker)) for worker, invocation in taken])
        for worker, invocation in taken:
            run = frames.Run(invocation.number, invocation.script, invocation.environment, invocation.stdin, {})
            self._pool.send(worker, run)

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
            for level, text in lost_lines(debt.invocation, begun[number]):
                self._log(level, text)
        self._return(again)
        remove_claims(self._child.directory, name, generation)

    def on_finished(self, worker: int, frame: frames.Finished) -> None:
        """A script has ended: write it down, then tell everybody."""
        self._recorded.setdefault(worker, []).append(frame.invocation)
        if frame.invocation not in self._ledger.debts:
            return  # an earlier dispatcher wrote it down, and was killed before it said so
        invocation = self._ledger.debts[frame.invocation].invocation
        self._ledger.finished([frame.invocation])
        self._lanes.finished(frame.invocation)
        self.counters["serfmp.events.finished"] += 1
        for level, text in report_lines(invocation, frame):
            self._log(level, text)

    def _return(self, numbers: list[int]) -> None:
        if numbers:
            self._ledger.returned(numbers)
            for number in numbers:
                self._lanes.put_back(number)

    # --- stopping -----------------------------------------------------------------------------------------------------

    def _on_stop(self, grace: float) -> None:
        """Start nothing more; wait so long for the ends of what runs."""
        if not self._stopping:
            self._stopping = True
            self._wait_for_ends(self._child.loop.clock() + grace)

    def _wait_for_ends(self, deadline: float) -> None:
        if self._lanes.under_way and self._child.loop.clock() < deadline:
            self._child.loop.call_later(STOP_POLL, lambda: self._wait_for_ends(deadline))
            return
        self._report_drops()
        if self._lanes.waiting:
            self._log("WARN", f"{self._lanes.waiting} invocations of handlers are given up, because the agent stops")
        self._child.loop.stop()

    def _log(self, level: str, text: str) -> None:
        self._child.log(level, "agent", text)


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
