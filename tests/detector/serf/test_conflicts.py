"""Two nodes of one name: the vote, and what follows from it (spec serf.md 7, 20.14)."""

from __future__ import annotations

import pytest

from serfmp.detector.effects import Lifecycle, LifecycleChanged
from serfmp.detector.serf.conflicts import LONGEST_PAUSE, PAUSE
from serfmp.wire.internal_queries import ConflictResponse
from serfmp.wire.messages import User
from serfmp.wire.serf_messages import Query, QueryResponse, decode_serf, encode_serf
from tests.detector.rig import OWN, OWN_ADDRESS, PORT, Rig, address_of

LOWER, HIGHER = bytes((127, 0, 0, 0)), bytes((127, 0, 0, 200))


def rig_in_conflict(other: bytes = HIGHER) -> Rig:
    rig = Rig()
    for name in ("a", "b", "c"):
        rig.alive(name)
    claim(rig, other)
    assert votes_run(rig)
    rig.take()
    return rig


def claim(rig: Rig, address: bytes = HIGHER) -> None:
    """Somebody else claims the own name."""
    rig.alive(OWN, incarnation=50, address=address)


def report(rig: Rig) -> None:
    """The same, past the limit of how often SWIM reports it."""
    rig.core._context.now = rig.now
    rig.core._serf.conflicts.begin(HIGHER, PORT)


def votes_run(rig: Rig) -> bool:
    return bool(rig.core._serf.asking._running)


def vote(rig: Rig, node: str, address: bytes, port: int = PORT) -> None:
    rig.answer_query(node, encode_serf(ConflictResponse(OWN, address, port, {}, 1, (1, 5, 2, 2, 5, 5))))


def gave_up(rig: Rig) -> bool:
    rig.pass_time(30.0)
    rig.take()
    return any(isinstance(effect, LifecycleChanged) and effect.state is Lifecycle.SHUTDOWN for effect in rig.effects)


@pytest.mark.parametrize(
    ("mine", "theirs", "other", "loses"),
    [
        (2, 1, HIGHER, False),
        (1, 2, HIGHER, True),
        (3, 0, HIGHER, False),
        (0, 3, HIGHER, True),
        (1, 1, HIGHER, False),
        (1, 1, LOWER, True),
        (0, 0, LOWER, False),
    ],
)
def test_the_majority_decides_and_the_lower_address_a_tie(mine: int, theirs: int, other: bytes, loses: bool) -> None:
    rig = rig_in_conflict(other)
    voters = iter("abc")
    for address in [OWN_ADDRESS] * mine + [other] * theirs:
        vote(rig, next(voters), address)
    assert gave_up(rig) is loses


def test_an_address_counts_in_either_form_and_the_port_with_it() -> None:
    rig = rig_in_conflict()
    vote(rig, "a", bytes(10) + b"\xff\xff" + OWN_ADDRESS)
    assert not gave_up(rig)
    rig = rig_in_conflict()
    vote(rig, "a", OWN_ADDRESS, PORT + 1)
    assert gave_up(rig)


def test_who_answers_nonsense_has_no_vote() -> None:
    rig = rig_in_conflict()
    rig.answer_query("a", b"")
    rig.answer_query("b", b"\x06\xc1")
    rig.answer_query("c", b"\x08\x80")
    assert not gave_up(rig)


def test_the_next_vote_waits_longer_each_time_until_there_was_peace() -> None:
    rig = rig_in_conflict()
    for pause in (PAUSE, 2 * PAUSE):
        while votes_run(rig):
            rig.pass_time(0.1)
        rig.pass_time(pause - 0.5)
        report(rig)
        assert not votes_run(rig)
        rig.pass_time(0.6)
        report(rig)
        assert votes_run(rig)
    while votes_run(rig):
        rig.pass_time(0.1)
    rig.pass_time(4 * PAUSE + LONGEST_PAUSE + 1)
    for _ in range(2):
        report(rig)
        assert votes_run(rig)
        while votes_run(rig):
            rig.pass_time(0.1)
        rig.pass_time(PAUSE + 0.1)


def test_switched_off_nobody_is_asked() -> None:
    rig = Rig(resolve_name_conflicts=False)
    rig.alive("a")
    claim(rig)
    assert not votes_run(rig)


# --- answering --------------------------------------------------------------------------------------------------------


def asked_for(rig: Rig, name: str) -> list[ConflictResponse]:
    """What the node answers when another one asks whom it takes a name for."""
    rig.take()
    question = Query(9, 9, bytes((127, 0, 0, 9)), PORT, "asker", (), 0, 0, 10**10, "_serf_conflict", name.encode())
    rig.serf(question)
    responses = [
        decode_serf(message.payload) for _, messages in rig.sent() for message in messages if isinstance(message, User)
    ]
    votes = []
    for response in responses:
        if isinstance(response, QueryResponse):
            answer = decode_serf(response.payload)
            assert isinstance(answer, ConflictResponse)
            votes.append(answer)
    return votes


def test_a_member_is_told_as_it_is_held() -> None:
    rig = Rig()
    rig.alive("a")
    [told] = asked_for(rig, "a")
    assert (told.name, told.address, told.port, told.status) == ("a", address_of("a"), PORT, 1)


def test_an_unknown_name_is_told_as_unknown_and_the_own_not_at_all() -> None:
    rig = Rig()
    assert asked_for(rig, "nobody") == [ConflictResponse()]
    assert asked_for(Rig(), OWN) == []


def test_a_member_that_is_gone_is_no_vote() -> None:
    rig = Rig()
    rig.alive("a")
    rig.dead("a")
    assert asked_for(rig, "a") == []
