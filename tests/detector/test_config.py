"""The configuration of the core refuses what cannot work, and says so."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from serfmp.detector.config import LAN, PROFILES, CoreConfig
from serfmp.errors import UserError

GOOD: dict[str, Any] = {"node": "own", "address": bytes((127, 0, 0, 1)), "port": 7946}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"node": ""}, "node name"),
        ({"node": "a\nb"}, "newline"),
        ({"address": b"\x7f"}, "4 or 16 bytes"),
        ({"port": 0}, "port 0"),
        ({"serf_protocol": 1}, "Protocol version '1' too low. Must be in range: [2, 5]"),
        ({"serf_protocol": 6}, "Protocol version '6' too high. Must be in range: [2, 5]"),
        ({"user_event_size_limit": 9217}, "user event size limit exceeds limit of 9216 bytes"),
        ({"tags": {"k": "v" * 600}}, "Encoded length of tags exceeds limit of 512 bytes"),
        ({"event_buffer": 0}, "event_buffer"),
    ],
)
def test_what_cannot_work_is_refused(change: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError) as caught:
        CoreConfig(**{**GOOD, **change})
    assert text in str(caught.value)


def test_a_probe_timeout_that_breaks_the_fallback_is_refused() -> None:
    with pytest.raises(UserError):
        dataclasses.replace(LAN, probe_timeout=1.0)


def test_profiles_have_the_names_that_users_give() -> None:
    assert list(PROFILES) == ["lan", "wan", "local"]


def test_the_versions_are_those_of_a_stock_agent() -> None:
    assert CoreConfig(**GOOD).versions == bytes((1, 5, 2, 2, 5, 5))
    assert CoreConfig(**GOOD).packet_budget == 1400
