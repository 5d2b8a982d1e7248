"""What is kept for those who watch."""

from __future__ import annotations

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
