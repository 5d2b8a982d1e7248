"""What a script gets in its environment and on its input."""

from __future__ import annotations

import pytest

from serfmp.detector.effects import EventKind, Member, MemberEvent, MemberStatus, UserEventReceived
from serfmp.events.invocation import member_line, script_input, variable_name

VERSIONS = (1, 5, 2, 2, 5, 5)


def member(name: str, address: bytes = bytes([10, 0, 0, 1]), **tags: str) -> Member:
    return Member(name, address, 7946, tags, MemberStatus.ALIVE, VERSIONS)


@pytest.mark.parametrize(
    ("tag", "name"),
    [("data-center", "DATA_CENTER"), ("9x", "9X"), ("MiXed.é", "MIXED__"), ("ß", "_"), ("a\udcff", "A_"), ("", "")],
)
def test_tags_become_names_of_variables(tag: str, name: str) -> None:
    assert variable_name(tag) == name


@pytest.mark.parametrize(
    ("payload", "stdin"), [(b"", b""), (b"x", b"x\n"), (b"x\n", b"x\n"), (b"\n", b"\n"), (b"\xff\0", b"\xff\0\n")]
)
def test_a_payload_ends_with_a_line_feed_unless_it_is_empty(payload: bytes, stdin: bytes) -> None:
    given = script_input(UserEventReceived(1, 7, "deploy", payload, coalesce=False), "n", {})
    assert given.stdin == stdin
    assert given.environment == {
        "SERF_EVENT": "user",
        "SERF_SELF_NAME": "n",
        "SERF_SELF_ROLE": "",
        "SERF_USER_EVENT": "deploy",
        "SERF_USER_LTIME": "7",
    }


def test_tabs_and_line_feeds_are_escaped_and_nothing_else() -> None:
    line = member_line(member("a\tb\n", role="r\t", k="1\n2", z="\\,="))
    assert line == b"a\\tb\\n\t10.0.0.1\tr\\t\tk=1\\n2,role=r\\t,z=\\,=\n"


def test_bytes_that_are_no_text_arrive_as_they_are() -> None:
    assert member_line(member("n\udcff")) == b"n\xff\t10.0.0.1\t\t\n"


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (bytes(10) + b"\xff\xff\x7f\0\0\1", b"127.0.0.1"),
        (bytes(15) + b"\1", b"::1"),
        (b"", b"<nil>"),
        (b"\1\2", b"?0102"),
    ],
)
def test_any_address_has_a_text(address: bytes, text: bytes) -> None:
    assert member_line(member("n", address)).split(b"\t")[1] == text


def test_members_of_an_event_come_together() -> None:
    event = MemberEvent(1, EventKind.MEMBER_FAILED, (member("a"), member("b", role="db")))
    given = script_input(event, "n", {"role": "lb"})
    assert given.stdin == b"a\t10.0.0.1\t\t\nb\t10.0.0.1\tdb\trole=db\n"
    assert given.environment["SERF_EVENT"] == "member-failed"
    assert given.environment["SERF_SELF_ROLE"] == given.environment["SERF_TAG_ROLE"] == "lb"


def test_a_value_with_a_nul_byte_is_left_out_and_named() -> None:
    given = script_input(UserEventReceived(1, 1, "a\0b", b"", coalesce=False), "n", {"t": "\0", "u": "1"})
    assert given.unpassable == ("SERF_TAG_T", "SERF_USER_EVENT")
    assert "SERF_USER_EVENT" not in given.environment
    assert given.environment["SERF_TAG_U"] == "1"
