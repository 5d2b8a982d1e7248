"""The ledger: what a dispatcher owes is what its successor reads, at any moment."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serfmp.agent import journal
from serfmp.agent.journal import Journal
from serfmp.events.invocation import ScriptInput
from serfmp.events.ledger import Ledger
from serfmp.events.specs import HandlerSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

SPECS = [HandlerSpec(None, "", f"script {index}", index) for index in range(3)]


@pytest.fixture
def descriptor() -> Iterator[int]:
    number = journal.create("test")
    yield number
    os.close(number)


def given_input(stdin: bytes = b"in") -> ScriptInput:
    return ScriptInput({"SERF_EVENT": "user", "T": "\udcff"}, stdin, ())


def same(left: Ledger, right: Ledger) -> bool:
    return left.last == right.last and left.debts == right.debts and list(left.debts) == list(right.debts)


def test_a_successor_sees_how_far_each_invocation_came(descriptor: int) -> None:
    ledger = Ledger(Journal(descriptor))
    assert ledger.last == -1
    first, second, third = ledger.event(7, "user", given_input(b"\xff\0"), SPECS)
    ledger.sent([(first, 0, 4), (second, 1, 5)])
    ledger.event(8, "user", given_input(), [])
    successor = Ledger(Journal(descriptor))
    assert same(ledger, successor)
    assert successor.last == 8
    debts = [successor.debts[one.number] for one in (first, second, third)]
    assert [(debt.sent, debt.worker, debt.generation) for debt in debts] == [(True, 0, 4), (True, 1, 5), (False, -1, 0)]


def test_numbers_are_never_used_again(descriptor: int) -> None:
    ledger = Ledger(Journal(descriptor))
    old = ledger.event(1, "user", given_input(), SPECS)
    ledger.finished([one.number for one in old])
    new = Ledger(Journal(descriptor)).event(2, "user", given_input(), SPECS)
    assert min(one.number for one in new) > max(one.number for one in old)


def test_it_compacts_itself_and_stays_the_same(descriptor: int) -> None:
    ledger = Ledger(Journal(descriptor))
    (kept,) = ledger.event(1, "user", given_input(b"kept"), SPECS[:1])
    for sequence in range(2, 3000):
        (one,) = ledger.event(sequence, "user", given_input(b"x" * 1000), SPECS[:1])
        ledger.sent([(one, 0, 1)])
        ledger.finished([one.number])
    assert list(ledger.debts) == [kept.number]
    assert Journal(descriptor).size < 1_000_000
    assert same(ledger, Ledger(Journal(descriptor)))


def test_a_full_bank_is_compacted_though_nothing_asked_for_it(descriptor: int) -> None:
    """What is owed is large, then paid: the journal's own threshold lies beyond its end by then."""
    ledger = Ledger(Journal(descriptor))
    for sequence in range(1, 301):
        (one,) = ledger.event(sequence, "user", given_input(bytes(1_000_000)), SPECS[:1])
        if sequence > 40:
            ledger.finished([one.number])
    assert len(ledger.debts) == 40
    assert same(ledger, Ledger(Journal(descriptor)))


@given(steps=st.lists(st.tuples(st.sampled_from(["event", "sent", "returned", "finished"]), st.integers(0))))
def test_at_any_moment_a_successor_reads_what_the_writer_knew(steps: list[tuple[str, int]]) -> None:
    descriptor = journal.create("test")
    try:
        ledger = Ledger(Journal(descriptor))
        for sequence, (step, choice) in enumerate(steps, 1):
            if step == "event":
                ledger.event(sequence, "user", given_input(), SPECS[: choice % 4])
            elif ledger.debts:
                number = list(ledger.debts)[choice % len(ledger.debts)]
                match step:
                    case "sent":
                        ledger.sent([(ledger.debts[number].invocation, choice % 2, 1 + choice % 7)])
                    case "returned":
                        ledger.returned([number])
                    case "finished":
                        ledger.finished([number])
        assert same(ledger, Ledger(Journal(descriptor)))
    finally:
        os.close(descriptor)
