"""What the log says about a script that has ended, in Serf's words (spec agent.md 4.3)."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from serfmp.bus.frames import Finished

if TYPE_CHECKING:
    from collections.abc import Iterator

    from serfmp.events.invocation import Invocation
    from serfmp.events.specs import HandlerSpec


def report_lines(invocation: Invocation, spec: HandlerSpec, end: Finished) -> Iterator[tuple[str, str]]:
    """Level and text of each line, in order."""
    script = spec.title
    kept = len(end.output)
    if end.output_size > kept:
        yield "WARN", f"Script '{script}' generated {end.output_size} bytes of output, truncated to {kept}"
    if not end.error:
        output = end.output.decode(errors="surrogateescape")
        yield "DEBUG", f"Event '{invocation.event}' script output: {output}"
    if end.errors:
        yield "DEBUG", f"Event '{invocation.event}' script errors: {end.errors.decode(errors='surrogateescape')}"
    reason = end_reason(end)
    if reason:
        yield "ERR", f"Error invoking script '{script}': {reason}"


def lost_lines(invocation: Invocation, spec: HandlerSpec, status: int | None) -> Iterator[tuple[str, str]]:
    """The same for a script whose worker died before it could tell the end.

    `status`: exit code, a signal as a negative number, or None if the script still ran.
    """
    script = spec.title
    if status is None:
        reason = "because the process that ran it died"
        text = f"Script '{script}' was cut short, {reason}; event '{invocation.event}' is not handled again"
        yield "WARN", text
        return
    yield "DEBUG", f"Event '{invocation.event}' script output is lost: the process that ran it died"
    code, number = (status, 0) if status >= 0 else (None, -status)
    reason = end_reason(Finished(invocation.number, code, number, "", b"", 0, 0.0))
    if reason:
        yield "ERR", f"Error invoking script '{script}': {reason}"


def end_reason(end: Finished) -> str:
    """Why a run failed, such as `exit status 3` or `signal: killed`; empty for a run that did not."""
    if end.error:
        return end.error
    if end.timed_out:
        return f"time limit exceeded ({_status(end)})"
    return _status(end) if end.signal or end.code else ""


def _status(end: Finished) -> str:
    if end.signal:
        return f"signal: {(signal.strsignal(end.signal) or f'signal {end.signal}').lower()}"
    return f"exit status {end.code}"
