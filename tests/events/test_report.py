"""The log lines about a script that has ended."""

from __future__ import annotations

import pytest

from serfmp.bus.frames import Finished
from serfmp.events.invocation import Invocation
from serfmp.events.report import end_reason, lost_lines, report_lines
from serfmp.events.specs import parse_handlers

INVOCATION = Invocation(1, 1, "h", "h", "h", "member-join", {}, b"")
(SPEC,) = parse_handlers(["x.sh"])


def finished(code: int | None = 0, number: int = 0, error: str = "", output: bytes = b"", size: int = 0) -> Finished:
    return Finished(1, code, number, error, output, size, 0.1)


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (finished(), ""),
        (finished(3), "exit status 3"),
        (finished(None, 9), "signal: killed"),
        (finished(None, 15), "signal: terminated"),
        (finished(None, 11), "signal: segmentation fault"),
        (finished(None, 6), "signal: aborted"),
        (finished(None, error="no such file"), "no such file"),
    ],
)
def test_an_end_has_serfs_words(end: Finished, reason: str) -> None:
    assert end_reason(end) == reason


def test_output_is_told_even_if_empty_and_a_failure_after_it() -> None:
    assert list(report_lines(INVOCATION, SPEC, finished(3))) == [
        ("DEBUG", "Event 'member-join' script output: "),
        ("ERR", "Error invoking script 'x.sh': exit status 3"),
    ]


def test_output_that_was_cut_is_told_at_the_end() -> None:
    lines = list(report_lines(INVOCATION, SPEC, finished(output=b"\xff" * 8192, size=8193)))
    assert lines[0] == ("WARN", "Script 'x.sh' generated 8193 bytes of output, truncated to 8192")
    assert lines[1] == ("DEBUG", f"Event 'member-join' script output: {chr(0xDCFF) * 8192}")


def test_an_end_that_only_the_claims_know_is_told_without_output() -> None:
    assert list(lost_lines(INVOCATION, SPEC, 3))[-1] == ("ERR", "Error invoking script 'x.sh': exit status 3")
    assert list(lost_lines(INVOCATION, SPEC, -9))[-1] == ("ERR", "Error invoking script 'x.sh': signal: killed")
    assert [level for level, _text in lost_lines(INVOCATION, SPEC, 0)] == ["DEBUG"]


def test_a_script_that_was_cut_short_is_a_warning_with_its_text() -> None:
    ((level, text),) = lost_lines(INVOCATION, SPEC, None)
    assert level == "WARN"
    assert "Script 'x.sh' was cut short" in text
