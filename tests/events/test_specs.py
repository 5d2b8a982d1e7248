"""Handler texts: which events a handler gets, and what is refused in which words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serfmp.detector.effects import EventKind, MemberEvent, UserEventReceived
from serfmp.errors import UserError
from serfmp.events.policy import Order, Overflow, QueuePolicy, RunPolicy
from serfmp.events.specs import HandlerSpec, parse_handler_object, parse_handlers

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
def test_a_text_is_its_filters_and_a_script(text: str, specs: list[tuple[EventKind | None, str, str]]) -> None:
    (spec,) = parse_handlers([text])
    assert [(pattern.kind, pattern.name, spec.command) for pattern in spec.patterns] == specs
    assert (spec.run, spec.queue, spec.is_object) == (RunPolicy(), QueuePolicy(), False)


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


def test_equal_texts_are_told_apart_and_others_stay_what_they_are() -> None:
    first, second, third = parse_handlers(["user=a", "user=a", "query=c"])
    assert len({first.identity, second.identity, third.identity}) == 3
    assert [spec.identity for spec in parse_handlers(["query=c", "user=a"])] == [third.identity, first.identity]


def test_the_same_handlers_match_as_in_serf() -> None:
    recorded = json.loads((Path(__file__).parents[1] / "data/handlers.json").read_text(encoding="utf-8"))["filters"]
    specs = parse_handlers(recorded["handlers"])
    for event, label in ((JOIN, "member-join"), (user("deploy"), "user deploy"), (user("x:y"), "user x:y")):
        ran = [str(spec.command).split()[1] for spec in specs for _ in range(spec.runs(event))]
        assert ran == [line.split()[0] for line in recorded["ran"] if line.endswith(f" {label}")]


def test_names_are_exact() -> None:
    (spec,) = parse_handlers(["user:deploy=x"])
    assert [bool(spec.runs(user(name))) for name in ("deploy", "Deploy", "deploy2", "")] == [True, False, False, False]


FULL: dict[str, object] = {
    "name": "deploy",
    "on": ["user:deploy", "query"],
    "run": ["./deploy.sh", "--now"],
    "timeout": "1m30s",
    "grace": 2,
    "concurrency": 3,
    "order": "event",
    "retries": 2,
    "backoff": "500ms",
    "nice": 5,
    "limits": {"address_space": "512MiB", "cpu_seconds": 60, "open_files": 256},
    "env": ["PATH", "HOME"],
    "cwd": "/",
    "output": {"limit": "64KiB", "separate": False},
    "queue": {"limit": 100, "policy": "drop-newest"},
}


def test_an_object_says_everything() -> None:
    spec = parse_handler_object(FULL, "event_handlers[0]")
    assert spec.command == ("./deploy.sh", "--now")
    assert spec.run == RunPolicy(90.0, 2.0, 5, 512 << 20, 60, 256, ("PATH", "HOME"), "/", 65536, separate=False)
    assert spec.queue == QueuePolicy(Order.EVENT, 3, 100, Overflow.DROP_NEWEST, 2, 0.5)
    assert HandlerSpec.from_plain(json.loads(json.dumps(spec.to_plain()))) == spec
    assert (spec.runs(user("deploy")), spec.runs(user("other")), spec.runs(JOIN)) == (1, 0, 0)


def test_an_object_needs_only_what_to_run() -> None:
    spec = parse_handler_object({"run": "x.sh"}, "h")
    assert [str(pattern) for pattern in spec.patterns] == ["*"]
    assert (spec.run.timeout, spec.run.separate, spec.run.environment) == (300.0, True, None)
    assert spec.queue == QueuePolicy()
    assert spec.runs(JOIN) == 1
    assert parse_handler_object({"run": "x", "on": ["user", "*"]}, "h").runs(user("a")) == 1, "once, as an object"


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"run": ""}, "h.run: what to run is missing"),
        ({"run": []}, "h.run: the list is empty or names no program"),
        ({"run": ["a", 1]}, "h.run: a list of texts is expected"),
        ({"run": 7}, "h.run: a text is expected, not a number"),
        ({"run": "a\0"}, "h.run: it holds a NUL byte"),
        ({"runs": "x"}, "h.runs: unknown key; known are name, on, run"),
        ({"on": ["bogus"]}, "h.on[0]: 'bogus' is no filter"),
        ({"on": []}, "h.on: the list is empty"),
        ({"on": "user"}, "h.on: a list of texts is expected, not 'user'"),
        ({"timeout": "5"}, 'h.timeout: time: missing unit in duration "5"'),
        ({"timeout": -1}, "h.timeout: -1 is negative"),
        ({"timeout": True}, "h.timeout: a duration such as 30s"),
        ({"concurrency": 0}, "h.concurrency: 0 is not between 1 and 64"),
        ({"concurrency": "2"}, "h.concurrency: a whole number is expected, not '2'"),
        ({"order": "agent"}, "h.concurrency: with order 'agent' it is 1"),
        ({"order": "random"}, "h.order: 'random' is none of handler, agent"),
        ({"nice": 20}, "h.nice: 20 is not between 0 and 19"),
        ({"limits": {"cpu": 1}}, "h.limits.cpu: unknown key; known are address_space, cpu_seconds, open_files"),
        ({"limits": {"address_space": "1 XB"}}, "h.limits.address_space: '1 XB' is no size"),
        ({"limits": []}, "h.limits: an object is expected, not a list"),
        ({"env": "PATH"}, "h.env: a list of texts is expected"),
        ({"cwd": "/no/such/place"}, "h.cwd: there is no directory '/no/such/place'"),
        ({"output": {"limit": "2GiB"}}, "h.output.limit: 2147483648 bytes are more than 1048576"),
        ({"output": {"separate": 1}}, "h.output.separate: true or false is expected, not a number"),
        ({"queue": {"policy": "coalesce"}}, "h.queue.policy: coalesce is for member events only"),
    ],
)
def test_every_mistake_is_named_with_its_place(changes: dict[str, object], fault: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_handler_object({**FULL, **changes}, "h")
    assert fault in str(caught.value)


def test_all_mistakes_are_told_at_once_each_with_its_place() -> None:
    with pytest.raises(UserError) as caught:
        parse_handlers(["x", {"run": 1, "nice": -1}, {}, 5, {"run": "a", "name": "n"}, {"run": "b", "name": "n"}])
    assert str(caught.value).splitlines() == [
        "event_handlers[1].nice: -1 is not between 0 and 19",
        "event_handlers[1].run: a text is expected, not a number",
        "event_handlers[2].run: what to run is missing: a shell line, or a list with a program and its arguments",
        "event_handlers[3]: an object is expected, not a number",
        "event_handlers: 2 handlers have the name 'n'",
    ]
