"""Joining: address texts, several addresses, errors in the users' form (spec swim.md 11.1, 11.2)."""

from __future__ import annotations

import pytest

from serfmp.detector.effects import Answer, JoinRequest, OpenStream, Resolve
from serfmp.detector.swim.join import combine_errors, parse_join_address
from serfmp.errors import UserError
from serfmp.wire.serf_state import PushPullState, encode_push_pull_state
from serfmp.wire.stream import PushPullReader, decode_stream_message, encode_push_pull
from tests.detector.rig import Rig

STATE = encode_push_pull_state(PushPullState(ltime=1, event_ltime=1, query_ltime=1))
EMPTY = encode_push_pull(True, [], STATE)
REFUSED = "dial tcp 127.0.0.1:21999: connect: connection refused"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1", ("", "127.0.0.1", 7946, True)),
        ("127.0.0.1:5", ("", "127.0.0.1", 5, True)),
        ("node/127.0.0.1:5", ("node", "127.0.0.1", 5, True)),
        ("::1", ("", "::1", 7946, True)),
        ("[::1]", ("", "::1", 7946, True)),
        ("[::1]:5", ("", "::1", 5, True)),
        ("host", ("", "host", 7946, False)),
        ("srv:_serf._tcp.x@[::1]:5", ("", "srv:_serf._tcp.x@[::1]:5", 7946, False)),
        ("host.example:5", ("", "host.example", 5, False)),
    ],
)
def test_address_texts(text: str, expected: tuple[str, str, int, bool]) -> None:
    address = parse_join_address(text, 7946)
    assert (address.name, address.host, address.port, address.literal) == expected


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("/127.0.0.1", "empty node name provided"),
        ("srv:@127.0.0.1", "no name of service records behind 'srv:'"),
        ("127.0.0.1:notaport", 'strconv.ParseUint: parsing "notaport": invalid syntax'),
        ("127.0.0.1:65536", 'strconv.ParseUint: parsing "65536": value out of range'),
        ("127.0.0.1:", 'strconv.ParseUint: parsing "": invalid syntax'),
    ],
)
def test_bad_address_texts(text: str, error: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_join_address(text, 7946)
    assert str(caught.value) == error


def test_errors_are_combined_as_users_know_them() -> None:
    assert combine_errors([]) == ""
    assert combine_errors(["a"]) == "1 error occurred:\n\t* a\n\n"
    assert combine_errors(["a", "b"]) == "2 errors occurred:\n\t* a\n\t* b\n\n"


def join(rig: Rig, number: int, *addresses: str) -> None:
    rig.core.request(("rpc", 1, number), JoinRequest(addresses, replay=True), rig.now)


def streams(rig: Rig) -> list[OpenStream]:
    return [effect for effect in rig.take() if isinstance(effect, OpenStream)]


def reply(rig: Rig, stream: OpenStream, message: bytes | None, error: str = "") -> None:
    rig.core.stream_replied(stream.token, message, error, remote=True, now=rig.now)
    while rig.core.work(rig.now, 100):
        pass


def answers(rig: Rig) -> list[Answer]:
    rig.take()
    return [effect for effect in rig.effects if isinstance(effect, Answer)]


def test_addresses_are_tried_one_after_another_and_one_success_is_success() -> None:
    rig = Rig()
    join(rig, 1, "127.0.0.1:21999", "127.0.0.2")
    (first,) = streams(rig)
    assert first.destination == ("127.0.0.1", 21999)
    decoded = decode_stream_message(first.request)
    assert isinstance(decoded, PushPullReader)
    assert decoded.join
    reply(rig, first, None, REFUSED)
    (second,) = streams(rig)
    assert second.destination == ("127.0.0.2", 7946)
    reply(rig, second, EMPTY)
    assert answers(rig) == [Answer(("rpc", 1, 1), 1, "")]
    assert rig.core.stats()["member_time"] == "2"


def test_a_join_that_reached_nobody_tells_all_reasons_and_broadcasts_nothing() -> None:
    rig = Rig()
    join(rig, 1, "127.0.0.1:21999", "127.0.0.1:notaport")
    (first,) = streams(rig)
    reply(rig, first, None, REFUSED)
    error = (
        "2 errors occurred:\n"
        f"\t* Failed to join 127.0.0.1: {REFUSED}\n"
        '\t* Failed to resolve 127.0.0.1:notaport: strconv.ParseUint: parsing "notaport": invalid syntax\n\n'
    )
    assert answers(rig) == [Answer(("rpc", 1, 1), 0, error)]
    assert rig.core.stats()["member_time"] == "1"


def test_joins_wait_for_each_other() -> None:
    rig = Rig()
    join(rig, 1, "127.0.0.1:21999")
    join(rig, 2, "127.0.0.2")
    (first,) = streams(rig)
    reply(rig, first, None, REFUSED)
    (second,) = streams(rig)
    reply(rig, second, EMPTY)
    assert [(answer.request[2], answer.value) for answer in answers(rig)] == [(1, 0), (2, 1)]


def test_every_address_of_a_name_is_contacted() -> None:
    rig = Rig()
    join(rig, 1, "host.example:5")
    (asked,) = [effect for effect in rig.take() if isinstance(effect, Resolve)]
    assert (asked.host, asked.port) == ("host.example", 5)
    rig.core.resolved(asked.token, ("127.0.0.4", "::1"), "", rig.now)
    (first,) = streams(rig)
    reply(rig, first, EMPTY)
    (second,) = streams(rig)
    reply(rig, second, EMPTY)
    assert [first.destination, second.destination] == [("127.0.0.4", 5), ("::1", 5)]
    assert answers(rig) == [Answer(("rpc", 1, 1), 2, "")]


def test_a_name_that_cannot_be_resolved_is_an_error() -> None:
    rig = Rig()
    join(rig, 1, "nowhere")
    (asked,) = [effect for effect in rig.take() if isinstance(effect, Resolve)]
    rig.core.resolved(asked.token, (), "lookup nowhere: no such host", rig.now)
    rig.core.resolved(asked.token, ("127.0.0.1",), "", rig.now)
    (answer,) = answers(rig)
    assert answer.error == "1 error occurred:\n\t* Failed to resolve nowhere: lookup nowhere: no such host\n\n"


def test_a_new_gossip_process_carries_joins_on() -> None:
    rig = Rig()
    join(rig, 1, "127.0.0.2")
    (first,) = streams(rig)
    rig.core.gossip_lost(rig.now)
    rig.core.gossip_restarted(rig.now)
    (again,) = streams(rig)
    reply(rig, first, EMPTY)
    assert answers(rig) == []
    reply(rig, again, EMPTY)
    assert answers(rig) == [Answer(("rpc", 1, 1), 1, "")]
    join(rig, 2, "name")
    (asked,) = [effect for effect in rig.take() if isinstance(effect, Resolve)]
    rig.core.gossip_lost(rig.now)
    rig.core.gossip_restarted(rig.now)
    (asked_again,) = [effect for effect in rig.take() if isinstance(effect, Resolve)]
    assert asked_again.token != asked.token
    assert asked_again.host == "name"
