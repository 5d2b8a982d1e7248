"""`serfmp why`: why a node is held for alive, failed or left, in sentences or as JSON.

Rules: the agent keeps what it saw and heard since the first doubt, within bounds; routine leaves no trace. Each line
begins with the wall time, and ends with how far the agent could trust itself, where it was not at its best.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from serfmp.cli.connection import connected, explained, require_format, rpc_flags
from serfmp.cli.flags import BOOLEAN, ROW_FORMATS, GoCommand, flag, format_flag
from serfmp.cli.output import go_json, say, visible
from serfmp.client import Evidence, History

COMMAND: Final = GoCommand(
    "why",
    "why [options] [node]",
    "Tells on what evidence the agent holds a node for alive, failed or left: probes, who else was asked, who accused, "
    "who confirmed, what the node itself said. Without a name, or with -self: why others accused the agent's own node.",
    [
        format_flag(),
        flag("self", "The agent's own node.", kind=BOOLEAN, default=False),
        *rpc_flags(),
    ],
)


def run(values: dict[str, Any], words: list[str]) -> int:
    """Ask and tell. Returns the exit code."""
    if len(words) > 1 or (words and values["self"]):
        say(f"At most one node name may be given, and none with -self.\n\n{COMMAND.help_text()}")
        return 1
    require_format(values)
    with connected(values) as client, explained("Error asking the agent"):
        history = client.why(words[0] if words else "")
    if values["format"] == "json":
        say(go_json(_map(history)))
    elif values["format"] in ROW_FORMATS:
        from serfmp.cli.formats import Rows, show

        cells = [
            (_clock(entry.at), entry.finding, entry.by, entry.source, entry.score, entry.late, sentence(entry))
            for entry in history.entries
        ]
        columns = ("time", "finding", "by", "source", "score", "late", "sentence")
        show(
            values["format"], Rows(columns, cells, [{"node": history.node, **row} for row in _map(history)["entries"]])
        )
    else:
        say(_text(history))
    return 0


def _map(history: History) -> dict[str, Any]:
    return {
        "node": history.node,
        "status": history.status,
        "entries": [
            {
                "at": entry.at,
                "finding": entry.finding,
                "by": entry.by,
                "source": entry.source,
                "score": entry.score,
                "late": entry.late,
                "facts": dict(entry.facts),
            }
            for entry in history.entries
        ],
    }


def _text(history: History) -> str:
    known = "is not known here" if history.status == "none" else f"is {history.status}"
    lines = [f"{visible(history.node)} {known}."]
    if not history.entries:
        lines.append("Nothing was ever held against it here, as far as the agent remembers.")
    lines += [f"{_clock(entry.at)}  {sentence(entry)}" for entry in history.entries]
    return "\n".join(lines)


def _clock(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)) + f".{int(at % 1 * 1000):03d}"


def sentence(entry: Evidence) -> str:
    """One entry in words."""
    text = _SENTENCES.get(entry.finding, _unknown)(entry, entry.facts)
    trust = []
    if entry.score:
        trust.append(f"own health score {entry.score}")
    if entry.late:
        trust.append(f"this agent had just been late by {entry.late:.1f} s")
    return visible(text + (f" ({', '.join(trust)})" if trust else ""))


def _heard(entry: Evidence) -> str:
    return f", heard from {entry.source}" if entry.source else ""


def _confirmations(facts: Any) -> str:
    return f"{facts.get('confirmations', 0)} of {facts.get('wanted', 0)} confirmations"


def _helpers(_entry: Evidence, facts: Any) -> str:
    helpers = ", ".join(map(str, facts.get("helpers", ())))
    asked = f"asked {helpers} to probe it" if helpers else "there was nobody to ask for help"
    return asked + (", and tried TCP" if facts.get("stream") else "")


def _suspected(entry: Evidence, facts: Any) -> str:
    wanted = facts.get("wanted", 0)
    time_left = f"{facts.get('shortest', 0.0):.1f} s"
    if wanted:
        time_left += f" after {wanted} confirmations, {facts.get('longest', 0.0):.1f} s without"
    who = "a state exchange" if facts.get("merged") else entry.by
    return f"{who} suspects it{_heard(entry)}; it has {time_left} to contradict"


def _accused(entry: Evidence, facts: Any) -> str:
    claim = "dead" if facts.get("of") == "dead" else "suspect"
    return f"{entry.by} called this node {claim}{_heard(entry)}; it contradicted at once"


def _stalled(_entry: Evidence, facts: Any) -> str:
    what = "the host was suspended" if facts.get("suspended") else "this agent was frozen or starved"
    return f"{what} for {facts.get('lost', 0.0):.1f} s"


def _pressed(_entry: Evidence, facts: Any) -> str:
    level, late = facts.get("level", 0), facts.get("late", 0.0)
    if not level:
        return "the host does not make this agent late any more"
    return f"the host makes this agent late by {late:.2f} s: it distrusts itself by {level} more"


def _unknown(entry: Evidence, _facts: Any) -> str:
    return f"{entry.finding}, by {entry.by}{_heard(entry)}"


_SENTENCES: Final[dict[str, Callable[[Evidence, Any], str]]] = {
    "probe-timed-out": lambda _entry, facts: f"a probe was not answered within {facts.get('waited', 0.0):.2f} s",
    "probe-unsendable": lambda _entry, facts: f"a probe could not be sent: {facts.get('error', '')}",
    "helpers-asked": _helpers,
    "nacked": lambda entry, _facts: f"a helper got no answer from it either{_heard(entry)}",
    "stream-failed": lambda _entry, facts: f"TCP to it failed: {facts.get('error', '')}",
    "stream-answered": lambda _entry, _facts: "it answered by TCP though not by UDP: it lives, the network drops UDP",
    "indirect-ack": lambda entry, facts: f"an ack came after {facts.get('after', 0.0):.2f} s{_heard(entry)}",
    "unanswered": lambda _entry, facts: (
        f"the probe round of {facts.get('lasted', 0.0):.1f} s ended without an ack; "
        f"{facts.get('nacks', 0)} of {facts.get('expected', 0)} helpers said that they got none"
    ),
    "suspected": _suspected,
    "confirmed": lambda entry, facts: (
        f"{entry.by} suspects it, too{_heard(entry)}: {_confirmations(facts)}, {facts.get('left', 0.0):.1f} s left"
    ),
    "refuted": lambda entry, facts: f"it contradicted with incarnation {facts.get('incarnation', 0)}{_heard(entry)}",
    "expired": lambda _entry, facts: (
        f"nobody contradicted for {facts.get('lasted', 0.0):.1f} s ({_confirmations(facts)})"
    ),
    "dead": lambda entry, _facts: f"{entry.by} declared it failed{_heard(entry)}",
    "left": lambda entry, _facts: f"it said that it leaves{_heard(entry)}",
    "alive": lambda entry, facts: f"it is back, with incarnation {facts.get('incarnation', 0)}{_heard(entry)}",
    "accused": _accused,
    "stalled": _stalled,
    "pressed": _pressed,
}
