"""Which events a stream wants, and how many of them wait."""

import pytest

from serfmp.detector.effects import Event, EventKind, MemberEvent, UserEventReceived
from serfmp.io.rpc_streams import QUEUE_LIMIT, EventStream, parse_filters

JOIN = MemberEvent(1, EventKind.MEMBER_JOIN, ())
DEPLOY = UserEventReceived(2, 1, "deploy", b"", coalesce=False)


@pytest.mark.parametrize(
    ("text", "event", "wanted"),
    [
        ("", JOIN, True),
        ("*", DEPLOY, True),
        ("member-join", JOIN, True),
        ("member-join", DEPLOY, False),
        ("member-leave,user", DEPLOY, True),
        ("user:deploy", DEPLOY, True),
        ("user:Deploy", DEPLOY, False),
        ("user:", DEPLOY, True),
        ("query", DEPLOY, False),
        ("user:a:b", UserEventReceived(3, 1, "a:b", b"", coalesce=False), True),
        ("user:a=b", UserEventReceived(3, 1, "a=b", b"", coalesce=False), True),
    ],
)
def test_filters(text: str, event: Event, wanted: bool) -> None:
    filters = parse_filters(text)
    assert filters is not None
    assert EventStream(1, filters).wants(event) is wanted


@pytest.mark.parametrize("text", ["bogus", "member-join,bogus", "member-join, user", "member-join:foo", "user,", "*:x"])
def test_texts_that_are_no_filters(text: str) -> None:
    assert parse_filters(text) is None


def test_a_full_stream_drops_the_new_record_and_counts_it() -> None:
    stream = EventStream(1, ())
    assert all(stream.add(b"old") for _ in range(QUEUE_LIMIT))
    assert not stream.add(b"new")
    assert (stream.dropped, set(stream.records)) == (1, {b"old"})
