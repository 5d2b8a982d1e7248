"""The ledger: what a dispatcher owes is what its successor reads, at any moment."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serfmp.agent import journal
from serfmp.agent.journal import Journal
from serfmp.detector.effects import UserEventReceived
from serfmp.events.invocation import NO_INPUT, ScriptInput
from serfmp.events.ledger import Ledger
from serfmp.events.specs import parse_handlers

if TYPE_CHECKING:
    from collections.abc import Iterator

SPECS = parse_handlers([f"script {index}" for index in range(3)])


@pytest.fixture
def descriptor() -> Iterator[int]:
    number = journal.create("test")
    yield number
    os.close(number)


def user(sequence: int) -> UserEventReceived:
    return UserEventReceived(sequence, sequence, "e", b"", coalesce=False)


def given_input(stdin: bytes = b"in") -> ScriptInput:
    return ScriptInput({"SERF_EVENT": "user", "T": "\udcff"}, stdin, ())


def same(left: Ledger, right: Ledger) -> bool:
    return left.last == right.last and left.debts == right.debts and list(left.debts) == list(right.debts)


def test_a_successor_sees_how_far_each_invocation_came(descriptor: int) -> None:
    ledger = Ledger(Journal(descriptor))
    assert ledger.last == -1
    first, second, third = ledger.event(user(7), "user", given_input(b"\xff\0"), SPECS)
    ledger.sent([(first.invocation, 0, 4), (second.invocation, 1, 5)])
    ledger.event(user(8), "user", given_input(), [])
    ledger.flush()
    successor = Ledger(Journal(descriptor))
    assert same(ledger, successor)
    assert successor.last == 8
    debts = [successor.debts[one.invocation.number] for one in (first, second, third)]
    assert [(debt.sent, debt.worker, debt.generation) for debt in debts] == [(True, 0, 4), (True, 1, 5), (False, -1, 0)]


def test_numbers_are_never_used_again(descriptor: int) -> None:
    ledger = Ledger(Journal(descriptor))
    old = ledger.event(user(1), "user", given_input(), SPECS)
    ledger.finished([one.invocation.number for one in old])
    new = Ledger(Journal(descriptor)).event(user(2), "user", given_input(), SPECS)
    assert min(one.invocation.number for one in new) > max(one.invocation.number for one in old)


def test_it_compacts_itself_and_stays_the_same(descriptor: int) -> None:
    ledger = Ledger(Journal(descriptor))
    (kept,) = ledger.event(user(1), "user", given_input(b"kept"), SPECS[:1])
    for sequence in range(2, 3000):
        (one,) = ledger.event(user(sequence), "user", given_input(b"x" * 1000), SPECS[:1])
        ledger.sent([(one.invocation, 0, 1)])
        ledger.finished([one.invocation.number])
    assert list(ledger.debts) == [kept.invocation.number]
    assert Journal(descriptor).size < 1_000_000
    ledger.flush()
    assert same(ledger, Ledger(Journal(descriptor)))


def test_a_full_bank_is_compacted_though_nothing_asked_for_it(descriptor: int) -> None:
    """What is owed is large, then paid: the journal's own threshold lies beyond its end by then."""
    ledger = Ledger(Journal(descriptor))
    for sequence in range(1, 301):
        (one,) = ledger.event(user(sequence), "user", given_input(bytes(1_000_000)), SPECS[:1])
        if sequence > 40:
            ledger.finished([one.invocation.number])
    assert len(ledger.debts) == 40
    ledger.flush()
    assert same(ledger, Ledger(Journal(descriptor)))


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["event", "event", "sent", "returned", "retried", "grown", "finished", "flush"]),
            st.integers(0),
        )
    )
)
def test_at_any_moment_a_successor_reads_what_the_writer_knew(steps: list[tuple[str, int]]) -> None:
    descriptor = journal.create("test")
    try:
        ledger = Ledger(Journal(descriptor))
        for sequence, (step, choice) in enumerate(steps, 1):
            if step == "event":
                ledger.event(user(sequence), "user", given_input(), SPECS[: choice % 4])
            elif ledger.debts:
                number = list(ledger.debts)[choice % len(ledger.debts)]
                match step:
                    case "sent":
                        ledger.sent([(ledger.debts[number].invocation, choice % 2, 1 + choice % 7)])
                    case "returned":
                        ledger.returned([number])
                    case "retried":
                        ledger.retried(number, float(choice % 5))
                    case "grown" if len(ledger.debts) > 1 and number != list(ledger.debts)[-1]:
                        ledger.grown(number, list(ledger.debts)[-1], b"more")
                    case "finished":
                        ledger.finished([number])
                    case "flush":
                        ledger.flush()
        ledger.flush()
        assert same(ledger, Ledger(Journal(descriptor)))
    finally:
        os.close(descriptor)


def test_what_is_finished_is_written_with_the_next_record(descriptor: int) -> None:
    ledger = Ledger(Journal(descriptor))
    first, *others = (one.invocation.number for one in ledger.event(user(1), "user", given_input(), SPECS))
    ledger.finished([first])
    ledger.sent([(ledger.debts[others[0]].invocation, 0, 1)])
    assert list(Ledger(Journal(descriptor)).debts) == others


def test_events_without_handlers_are_written_with_the_next_record(descriptor: int) -> None:
    ledger = Ledger(Journal(descriptor))
    debts = ledger.event(user(1), "user", given_input(), SPECS)
    size = Journal(descriptor).size
    for sequence in range(2, 50):
        ledger.event(user(sequence), "user", NO_INPUT, [])
    assert (Journal(descriptor).size, Ledger(Journal(descriptor)).last, ledger.last) == (size, 1, 49)
    ledger.returned([debts[0].invocation.number])
    assert same(ledger, Ledger(Journal(descriptor)))


def test_what_waits_keeps_the_handler_that_it_was_made_for(descriptor: int) -> None:
    ledger = Ledger(Journal(descriptor))
    (old,) = parse_handlers([{"name": "web", "run": "old", "retries": 2}])
    (new,) = parse_handlers([{"name": "web", "run": ["new"]}])
    ledger.event(user(1), "user", given_input(), [old])
    ledger.event(user(2), "user", given_input(), [new])
    ledger.forget_handlers(set())
    for taken_up in (ledger, Ledger(Journal(descriptor))):
        assert [debt.spec for debt in taken_up.debts.values()] == [old, new]


def test_a_compaction_in_the_middle_of_an_event_keeps_its_handler(descriptor: int) -> None:
    ledger = Ledger(Journal(descriptor))
    for sequence in range(1, 201):
        (one,) = ledger.event(user(sequence), "user", given_input(bytes(1_000_000)), SPECS[:1])
        assert same(ledger, Ledger(Journal(descriptor))) or sequence % 10
        ledger.finished([one.invocation.number])


def test_one_that_is_tried_again_has_a_new_number_and_knows_how_often(descriptor: int) -> None:
    ledger = Ledger(Journal(descriptor))
    (debt,) = ledger.event(user(1), "user", given_input(), SPECS[:1], deadline=7.5, query=(3, 4))
    ledger.sent([(debt.invocation, 1, 1)])
    again = ledger.retried(debt.invocation.number, 7.5)
    assert (again.number, again.attempt) == (debt.invocation.number + 1, 1)
    (found,) = Ledger(Journal(descriptor)).debts.values()
    assert (found.invocation, found.sent, found.rests_until) == (again, False, 7.5)
    assert (found.invocation.deadline, found.invocation.query) == (7.5, (3, 4))
