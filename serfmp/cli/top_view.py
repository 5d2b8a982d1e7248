"""How `serfmp top` looks: rich renderables from the state. Nothing here reads or waits.

Rules: text of the cluster (names, tags, reasons) is shown with control characters escaped and never read as markup.
What is wrong is red, what deserves a look yellow; colour never says what text does not say.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from rich.console import Group
from rich.table import Table
from rich.text import Text

from serfmp.cli.output import visible
from serfmp.cli.top_state import HELP, TopState, health_score, round_trip

if TYPE_CHECKING:
    from rich.console import RenderableType

    from serfmp.client.bus import BusMonitor

MEMBERS: Final = 20
"""Rows of members where the height is not known."""

HANDLERS: Final = 8
"""Rows of handlers."""

HAPPENINGS: Final = 10
"""Last happenings shown."""

_STATUS_STYLES: Final = {"alive": "green", "leaving": "yellow", "left": "dim", "failed": "bold red"}
_STALE_S: Final = 1.0
_LATE_MS: Final = 250.0
_DEEP: Final = 0.5


def picture(monitor: BusMonitor, state: TopState, height: int | None = None) -> RenderableType:
    """The whole picture; `height`: rows of the terminal."""
    if state.inside and state.chosen in monitor.members:
        return Group(_title(monitor, state), _inside(monitor, state))
    shown = state.to_map(monitor)
    handlers = shown["handlers"][:HANDLERS]
    others = 18 + len(handlers) + len(shown["processes"]) + len(shown["queues"]) // 3
    room = MEMBERS if height is None else max(3, height - others)
    parts: list[RenderableType] = [_title(monitor, state), _members(shown["members"], state, room)]
    parts += [_probes(shown), _queues(shown["queues"])]
    if handlers:
        parts.append(_handlers(handlers))
    parts += [_processes(shown), _happenings(shown["recent"], HAPPENINGS)]
    if state.help:
        parts.append(Text(HELP, style="dim"))
    return Group(*parts)


def _table(title: str, *columns: tuple[str, str]) -> Table:
    made = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0), expand=False)
    for name, justify in columns:
        made.add_column(name, justify="right" if justify == "r" else "left", header_style="dim", no_wrap=True)
    return made


def _text(value: str, style: str = "", limit: int = 0) -> Text:
    shown = visible(value)
    return Text(shown if not limit or len(shown) <= limit else shown[: limit - 1] + "…", style=style)


def _title(monitor: BusMonitor, state: TopState) -> Text:
    counts: dict[str, int] = {}
    for row in monitor.members.values():
        counts[row["status"]] = counts.get(row["status"], 0) + 1
    score = health_score(monitor)
    line = Text.assemble(
        ("serfmp ", "bold"),
        (visible(str(monitor.table.get("node", ""))), "bold"),
        f"  {monitor.table.get('lifecycle', '')}  ",
        f"{len(monitor.members)} members: ",
    )
    for number, (status, count) in enumerate(sorted(counts.items())):
        line.append(f"{', ' if number else ''}{count} {status}", _STATUS_STYLES.get(status, ""))
    line.append("  health score ")
    line.append(str(score), "green" if score == 0 else "yellow" if score < 3 else "bold red")
    if state.paused:
        line.append("  PAUSED", "bold yellow")
    if state.typing or state.filter:
        line.append(f"  filter: {visible(state.filter)}{'_' if state.typing else ''}", "cyan")
    if state.gaps:
        line.append(f"  {state.gaps} gaps", "yellow")
    return line


def _members(rows: list[dict[str, Any]], state: TopState, room: int) -> Table:
    title = f"Members by {state.sort}"
    names = [row["name"] for row in rows]
    place = names.index(state.chosen) if state.chosen in names else 0
    start = max(0, min(place - room // 2, len(rows) - room))
    if len(rows) > room:
        title += f" ({start + 1} to {start + room} of {len(rows)})"
    made = _table(
        title, ("name", ""), ("address", ""), ("status", ""), ("rtt", "r"), ("inc", "r"), ("age", "r"), ("tags", "")
    )
    for row in rows[start : start + room]:
        tags = ",".join(f"{key}={value}" for key, value in sorted(row["tags"].items()))
        made.add_row(
            _text(row["name"], limit=32),
            row["address"],
            Text(row["status"], style=_STATUS_STYLES.get(row["status"], "")),
            _seconds(row["round_trip"]),
            "-" if row["incarnation"] is None else str(row["incarnation"]),
            _age(row["age"]),
            _text(tags, limit=40),
            style="reverse" if row["name"] == state.chosen else "",
        )
    return made


def _probes(shown: Mapping[str, Any]) -> Text:
    figures = shown["probes"]
    line = Text.assemble(("Probes  ", "bold"), f"last {figures['probes']}: ")
    if "p50" in figures:
        line.append(f"p50 {_seconds(figures['p50'])}  p99 {_seconds(figures['p99'])}  max {_seconds(figures['max'])}")
    line.append(f"  not answered directly: {figures['missed']}", "yellow" if figures["missed"] else "")
    late = shown["lateness_ms"].get("detector", 0.0)
    line.append(f"  detector late by {late:.0f} ms", "bold red" if late > _LATE_MS else "")
    return line


def _queues(queues: Mapping[str, Mapping[str, float | None]]) -> Text:
    line = Text.assemble(("Queues  ", "bold"))
    for name, queue in sorted(queues.items()):
        size, bound = queue["size"] or 0, queue["bound"]
        full = size / bound if bound else 0.0
        line.append(f"{name} ", "dim")
        line.append(f"{size:.0f}", "bold red" if full > _DEEP else "yellow" if size else "")
        line.append(f"/{bound:.0f}  " if bound else "  ", "dim")
    return line


def _handlers(rows: list[dict[str, Any]]) -> Table:
    columns = ("queued", "running", "ended", "failed", "dropped")
    made = _table("Handlers", ("handler", ""), ("on", ""), *((name, "r") for name in columns), ("last", ""))
    for row in rows:
        last = row["last"]
        reason = "-" if last is None else last["error"] or f"ok, {last['seconds']:.2f} s"
        made.add_row(
            _text(row["name"], limit=32),
            _text(",".join(row["on"]), limit=24),
            *(_count(row[name], bad=name in {"failed", "dropped"}) for name in columns),
            _text(reason, "red" if last is not None and last["error"] else "", 30),
        )
    return made


def _processes(shown: Mapping[str, Any]) -> Table:
    made = _table(
        "Processes",
        *(("process", ""), ("pid", "r"), ("state", ""), ("cpu", "r"), ("pss", "r"), ("heartbeat", "r"), ("late", "r")),
        *(("restarts", "r"), ("age", "r"), ("last end", "")),
    )
    for row in shown["processes"]:
        beat, late = row["heartbeat_age"], shown["lateness_ms"].get(row["name"])
        made.add_row(
            row["name"],
            str(row["pid"] or "-"),
            Text(row["state"], style="" if row["state"] == "serving" else "bold red"),
            "-" if row["cpu"] is None else f"{row['cpu'] * 100:.0f} %",
            "-" if row["pss"] is None else f"{row['pss'] / 1e6:.1f} MB",
            Text("-" if beat is None else f"{beat:.1f} s", style="bold red" if beat and beat > _STALE_S else ""),
            Text("-" if late is None else f"{late:.0f} ms", style="bold red" if late and late > _LATE_MS else ""),
            _count(row["restarts"], bad=True),
            _age(row["age"]),
            _text(row["last_end"], limit=30),
        )
    return made


def _happenings(items: list[dict[str, Any]], room: int) -> Table:
    made = _table("Last events", ("", ""), ("", ""), ("", ""))
    made.show_header = False
    for item in items[-room:]:
        when = time.strftime("%H:%M:%S", time.localtime(item["time"]))
        made.add_row(when, _text(item["topic"], limit=32), _text(summary(item), limit=70))
    return made


def summary(item: Mapping[str, Any]) -> str:
    """What a happening says, in short."""
    body, family = item["body"], item["topic"].partition(".")[0]
    match family:
        case "member":
            return ", ".join(row["name"] for row in body["members"]) if "members" in body else body.get("name", "")
        case "user" | "query":
            payload = body["payload"]
            text = payload.decode("utf-8", "replace") if isinstance(payload, bytes) else str(payload)
            return f"time {item['ltime']}: {text}"
        case "suspicion":
            facts = ", ".join(
                f"{key} {f'{value:.3g}' if isinstance(value, float) else value}" for key, value in body["facts"].items()
            )
            return f"{body['node']}, by {body['by']}{f': {facts}' if facts else ''}"
        case "handler":
            return f"{body['handler']}: {body['error'] or 'ok'}, {body['seconds']:.2f} s"
        case "process":
            return f"{body['name']} (pid {body['pid']}) {body.get('reason', '')}"
    return ""


def _inside(monitor: BusMonitor, state: TopState) -> RenderableType:
    """All that is known of one member."""
    row = monitor.members[state.chosen]
    probe = row.get("probe") or {}
    since = row["since"]
    rows = [
        ("address", f"{row['address']}:{row['port']}"),
        ("status", row["status"]),
        ("since", "-" if since is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(since))),
        ("tags", ", ".join(f"{key}={value}" for key, value in sorted(row["tags"].items())) or "-"),
        ("versions", " ".join(map(str, row["versions"]))),
        ("round trip", _seconds(round_trip(row))),
        ("incarnation", str(probe.get("incarnation", "-"))),
        ("health score here, at the last probe", str(probe.get("score", "-"))),
    ]
    made = _table(state.chosen, ("", ""), ("", ""))
    made.title = _text(state.chosen, "bold")
    made.show_header = False
    for label, value in rows:
        made.add_row(Text(label, style="dim"), _text(value))
    about = [item for item in state.happenings(monitor) if _is_about(item, state.chosen)]
    return Group(made, _happenings(about, 2 * HAPPENINGS), Text("escape: back", style="dim"))


def _is_about(item: Mapping[str, Any], name: str) -> bool:
    body = item["body"]
    if name in {body.get("node"), body.get("name")}:
        return True
    return any(member["name"] == name for member in body.get("members", ()) if isinstance(member, Mapping))


def _count(value: int, *, bad: bool) -> Text:
    return Text(str(value), style="red" if bad and value else "")


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value * 1000:.1f} ms" if value < 1 else f"{value:.1f} s"


def _age(value: float | None) -> str:
    if value is None:
        return "-"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if value >= size:
            return f"{value / size:.1f}{unit}"
    return f"{value:.0f}s"
