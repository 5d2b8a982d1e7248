"""docs/handlers.md: its examples are accepted, and its table names every key and its default."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from serfmp.errors import UserError
from serfmp.events import policy
from serfmp.events.specs import parse_handlers

TEXT = (Path(__file__).parents[2] / "docs/handlers.md").read_text(encoding="utf-8")
EXAMPLES = [
    json.loads(found)["event_handlers"]
    for found in re.findall(r"^```json\n(.+?)^```$", TEXT.replace("/var/lib/inventory", "/"), re.MULTILINE | re.DOTALL)
]
KEYS = set(re.findall(r"^\| `([a-z_]+)` \|", TEXT, re.MULTILINE)) - {str(order) for order in policy.Order}


def test_the_examples_are_accepted_and_one_has_every_key() -> None:
    for example in EXAMPLES:
        assert len(parse_handlers(example)) == len(example)
    assert EXAMPLES[-1][0].keys() == KEYS


def test_the_keys_that_an_error_names_are_the_documented_ones() -> None:
    with pytest.raises(UserError, match="unknown key; known are ") as caught:
        parse_handlers([{"run": "x", "nonsense": 1}])
    known = re.sub(".*known are ", "", str(caught.value)).split(", ")
    assert set(known) == KEYS


def test_the_defaults_are_the_documented_ones() -> None:
    (spec,) = parse_handlers([{"run": "x"}])
    documented: dict[str, object] = {
        "timeout": "5m",
        "grace": "5s",
        "backoff": "1s",
        "output": {"limit": "8KiB", "separate": True},
    }
    documented |= {"on": ["*"], "order": "handler", "concurrency": 1, "retries": 0, "nice": 10, "env": "inherit"}
    documented["queue"] = {"limit": 8192, "policy": "drop-oldest"}
    (written,) = parse_handlers([{"run": "x", **documented}])
    assert written == spec
