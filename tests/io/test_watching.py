"""What is kept for those who watch."""

from __future__ import annotations

from serfmp.detector.effects import UserEventReceived
from serfmp.io.watching import RECENT, RECENT_BYTES, Recent


def test_the_last_happenings_are_kept_as_they_were_told() -> None:
    recent = Recent()
    for number in range(RECENT + 3):
        recent.add({"topic": "user.a", "time": 1.5, "ltime": number, "body": {"name": "a\udcff", "payload": b"\xff"}})
    kept = recent.all()
    assert [happening["ltime"] for happening in kept] == list(range(3, RECENT + 3))
    assert kept[0] == {"topic": "user.a", "time": 1.5, "ltime": 3, "body": {"name": "a\udcff", "payload": b"\xff"}}


def test_long_happenings_are_fewer_and_the_last_one_is_always_there() -> None:
    recent = Recent()
    for number in range(20):
        recent.add({"topic": "member.join", "ltime": number, "body": {"members": ["m" * (RECENT_BYTES // 10)]}})
    assert [happening["ltime"] for happening in recent.all()] == list(range(11, 20))
    recent.add({"topic": "member.join", "ltime": 20, "body": {"members": ["m" * (2 * RECENT_BYTES)]}})
    assert [happening["ltime"] for happening in recent.all()] == [20]


def test_user_events_are_told_as_they_were_published_among_the_others() -> None:
    recent = Recent()
    recent.add({"topic": "member.join", "time": 1.0, "ltime": None, "body": {}})
    recent.add_event(2.0, UserEventReceived(7, 40, "deploy", b"x", coalesce=True))
    assert recent.all()[1:] == [
        {
            "topic": "user.deploy",
            "time": 2.0,
            "ltime": 40,
            "body": {"sequence": 7, "name": "deploy", "payload": b"x", "coalesce": True},
        }
    ]


def test_large_user_events_count_with_their_bytes() -> None:
    recent = Recent()
    for number in range(RECENT):
        recent.add_event(1.0, UserEventReceived(number, 1, "n", bytes(RECENT_BYTES // 10), coalesce=False))
    assert [happening["body"]["sequence"] for happening in recent.all()] == list(range(RECENT - 9, RECENT))
