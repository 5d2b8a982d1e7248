"""Handler texts: which events a handler gets, and what is refused in which words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serfmp.detector.effects import EventKind, MemberEvent, UserEventReceived
from serfmp.errors import UserError
from serfmp.events.specs import HandlerSpec, parse_handlers

JOIN = MemberEvent(1, EventKind.MEMBER_JOIN, ())


def user(name: str) -> UserEventReceived:
    return UserEventReceived(1, 1, name, b"", coalesce=False)


@pytest.mark.parametrize(
    ("text", "specs"),
    [
        ("x.sh", [(None, "", "x.sh")]),
        ("=x.sh", [(None, "", "x.sh")]),
        ("", [(None, "", "")]),
        ("*=A=1 x.sh", [(None, "", "A=1 x.sh")]),
        ("member-reap= x ", [(EventKind.MEMBER_REAP, "", " x ")]),
        ("user,query:load=x", [(EventKind.USER, "", "x"), (EventKind.QUERY, "load", "x")]),
        ("user:a:b=x", [(EventKind.USER, "a:b", "x")]),
        ("user,user:=", [(EventKind.USER, "", ""), (EventKind.USER, "", "")]),
    ],
)
def test_a_text_is_one_spec_per_filter(text: str, specs: list[tuple[EventKind | None, str, str]]) -> None:
    assert parse_handlers([text]) == tuple(HandlerSpec(*spec, 0) for spec in specs)


@pytest.mark.parametrize(
    ("text", "filter_", "script"),
    [
        ("bogus=x.sh", "bogus", "x.sh"),
        ("user:a,foo:b=x", "foo:b", "x"),
        ("FOO=1 ./x.sh", "FOO", "1 ./x.sh"),
        ("member-join, user=x", " user", "x"),
        ("user,=x", "", "x"),
        ("member-join:a=x", "member-join:a", "x"),
        ("*:a=x", "*:a", "x"),
        ("User=x", "User", "x"),
    ],
)
def test_what_is_no_filter_is_refused_in_serfs_words(text: str, filter_: str, script: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_handlers(["fine", text])
    assert str(caught.value) == f"Invalid event script: Event '{filter_}' invoking '{script}'"


def test_specs_of_one_text_share_its_index() -> None:
    assert [spec.index for spec in parse_handlers(["a", "user,*=b", "query=c"])] == [0, 1, 1, 2]


def test_the_same_handlers_match_as_in_serf() -> None:
    recorded = json.loads((Path(__file__).parents[1] / "data/handlers.json").read_text(encoding="utf-8"))["filters"]
    specs = parse_handlers(recorded["handlers"])
    for event, label in ((JOIN, "member-join"), (user("deploy"), "user deploy"), (user("x:y"), "user x:y")):
        ran = [spec.script.split()[1] for spec in specs if spec.matches(event)]
        assert ran == [line.split()[0] for line in recorded["ran"] if line.endswith(f" {label}")]


def test_names_are_exact() -> None:
    (spec,) = parse_handlers(["user:deploy=x"])
    assert [spec.matches(user(name)) for name in ("deploy", "Deploy", "deploy2", "")] == [True, False, False, False]
