"""The watch sees what it is there to see: with a rule of the core switched off, a run breaks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from serfmp.detector.serf.layer import Serf
from serfmp.detector.serf.members import Members
from serfmp.detector.serf.user_events import UserEvents
from serfmp.detector.swim.membership import Membership
from serfmp.detector.swim.suspicion import Suspicion
from serfmp.sim.invariants import BrokenError
from serfmp.sim.scenario import History

LIKELY = 80
"""Seeds among which one shows it."""


def nothing(*_args: object, **_settings: object) -> None:
    """Do not do it."""


def run_seeds() -> None:
    for seed in range(LIKELY):
        History(seed).run()


@pytest.mark.parametrize(
    ("where", "what", "instead", "rule"),
    [
        pytest.param(Membership, "_outdated", lambda *_: False, "I1, I2", id="stale alives are accepted"),
        pytest.param(Membership, "_touch", nothing, "Journal", id="rows are not journaled"),
        pytest.param(Membership, "_refute", nothing, "L8", id="accusations are not refuted"),
        pytest.param(Suspicion, "deadline", property(lambda self: self.started + 0.1), "I8", id="no time to refute"),
        pytest.param(Serf, "_contradict_leave", lambda _: False, "L8", id="leave intents are not contradicted"),
        pytest.param(Members, "reconcile", nothing, "I7|Layers", id="recovery forgets the layer above"),
        pytest.param(UserEvents, "restore", nothing, "P14", id="recovery forgets the events"),
        pytest.param(UserEvents, "replay", nothing, "L8", id="push/pulls carry no events"),
    ],
)
def test_a_core_without_one_of_its_rules_is_found_out(
    monkeypatch: pytest.MonkeyPatch, where: type, what: str, instead: Callable[..., Any], rule: str
) -> None:
    monkeypatch.setattr(where, what, instead)
    with pytest.raises(BrokenError, match=rule):
        run_seeds()
