"""Requests out of bytes: however they are cut, whatever they hold."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serfmp.io import rpc_protocol as protocol
from serfmp.io.rpc_protocol import Request, RequestReader
from serfmp.io.rpc_reader import VALUE_LIMIT, MalformedError, ValueReader


def bytes_of(*values: Any) -> bytes:
    return b"".join(msgpack.packb(value) for value in values)


def read(*values: Any) -> Request | None:
    reader = RequestReader()
    reader.feed(bytes_of(*values))
    return reader.take()


TALK = bytes_of(
    {"Command": "handshake", "Seq": 0},
    {"Version": 1},
    {"Command": "members", "Seq": 1},
    {"Command": "event", "Seq": 2},
    {"Name": "deploy", "Payload": b"\xff" * 300, "Coalesce": True},
    {"Command": "bogus", "Seq": 3},
)


def requests(reader: RequestReader, pieces: list[bytes]) -> list[Request]:
    found = []
    for piece in pieces:
        reader.feed(piece)
        while (request := reader.take()) is not None:
            found.append(request)
    return found


@given(st.sets(st.integers(1, len(TALK) - 1)))
def test_requests_do_not_depend_on_how_their_bytes_arrive(cuts: set[int]) -> None:
    edges = [0, *sorted(cuts), len(TALK)]
    pieces = [TALK[start:end] for start, end in pairwise(edges)]
    assert requests(RequestReader(), pieces) == requests(RequestReader(), [TALK])


def test_requests_byte_by_byte() -> None:
    reader = RequestReader()
    found = requests(reader, [TALK[at : at + 1] for at in range(len(TALK))])
    assert [(request.command, request.known) for request in found] == [
        ("handshake", True),
        ("members", True),
        ("event", True),
        ("bogus", False),
    ]
    assert found[2].body == protocol.UserEvent("deploy", b"\xff" * 300, coalesce=True)
    assert not reader.unfinished


@given(st.binary(max_size=200))
def test_any_bytes_are_requests_or_malformed(data: bytes) -> None:
    reader = RequestReader()
    reader.feed(data)
    try:
        while reader.take() is not None:
            pass
    except MalformedError:
        return


@given(st.recursive(st.none() | st.booleans() | st.integers(0, 9) | st.text() | st.binary(), st.lists, max_leaves=20))
def test_any_body_is_a_request_or_malformed(body: Any) -> None:
    for command in ("handshake", "auth", "event", "join", "members-filtered", "stream", "stop", "query"):
        try:
            request = read({"Command": command, "Seq": 1}, body)
        except MalformedError:
            continue
        assert request is not None


@pytest.mark.parametrize(
    ("header", "request_"),
    [
        (None, Request(0, "", protocol.Nothing(), known=False)),
        ({}, Request(0, "", protocol.Nothing(), known=False)),
        ({"command": "members", "seq": 4}, Request(0, "", protocol.Nothing(), known=False)),
        ({"Command": "stats", "Seq": None}, Request(0, "stats", protocol.Nothing())),
        ({"Command": b"stats", "Seq": 2**64 - 1, "More": [1]}, Request(2**64 - 1, "stats", protocol.Nothing())),
        (["leave", 4], Request(4, "leave", protocol.Nothing())),
    ],
)
def test_headers(header: Any, request_: Request) -> None:
    assert read(header) == request_


@pytest.mark.parametrize(
    "header",
    [
        5,
        "members",
        {"Command": 5},
        {"Command": "stats", "Seq": -1},
        {"Command": "stats", "Seq": 1.0},
        {"Command": "stats", "Seq": "1"},
        {"Command": "stats", "Seq": True},
    ],
)
def test_headers_that_are_none(header: Any) -> None:
    with pytest.raises(MalformedError):
        read(header)


@pytest.mark.parametrize(
    ("command", "body", "expected"),
    [
        ("event", None, protocol.UserEvent()),
        ("event", {"Name": b"n", "Payload": "p", "Coalesce": 1, "Bogus": 1}, protocol.UserEvent("n", b"p", True)),
        ("event", ["n", b"p", True], protocol.UserEvent("n", b"p", coalesce=True)),
        ("join", {"Existing": ["a", b"b"]}, protocol.Join(("a", "b"))),
        ("join", {"Existing": None, "Replay": True}, protocol.Join((), replay=True)),
        ("members-filtered", {"Tags": {"a": "b"}}, protocol.MembersFiltered((("a", "b"),))),
        ("stream", {}, protocol.Stream()),
        ("stop", {"Stop": 9}, protocol.Stop(9)),
        ("handshake", {"Version": -1}, protocol.Handshake(-1)),
        ("monitor", {"LogLevel": b"err"}, protocol.Monitor("err")),
    ],
)
def test_bodies(command: str, body: Any, expected: protocol.Body) -> None:
    request = read({"Command": command, "Seq": 1}, body)
    assert request is not None
    assert request.body == expected


@pytest.mark.parametrize(
    ("command", "body"),
    [
        ("event", 5),
        ("event", {"Name": 5}),
        ("event", {"Coalesce": "x"}),
        ("event", {"Coalesce": 2}),
        ("join", {"Existing": "a"}),
        ("join", {"Existing": [1]}),
        ("members-filtered", {"Tags": {"a": 1}}),
        ("handshake", {"Version": 2**40}),
        ("handshake", {"Version": 1.0}),
    ],
)
def test_bodies_that_are_none(command: str, body: Any) -> None:
    with pytest.raises(MalformedError):
        read({"Command": command, "Seq": 1}, body)


def test_a_value_of_the_limit_passes_and_a_longer_one_is_refused_before_it_is_complete() -> None:
    reader = ValueReader()
    reader.feed(msgpack.packb(bytes(VALUE_LIMIT - 5)))
    complete, value = reader.take()
    assert complete
    assert len(value) == VALUE_LIMIT - 5
    reader.feed(b"\xc6\x7f\xff\xff\xff" + bytes(VALUE_LIMIT))
    with pytest.raises(MalformedError, match="longer than"):
        reader.take()


def test_deep_nesting_is_malformed() -> None:
    reader = ValueReader()
    reader.feed(b"\x91" * 5000)
    with pytest.raises(MalformedError):
        reader.take()
