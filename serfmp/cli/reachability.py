"""`serfmp reachability`: whether gossip reaches all living nodes, and they this one (spec agent.md 3.7)."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from serfmp.cli.connection import answers, connected, explained, limit_of, require_format, rpc_flags
from serfmp.cli.flags import BOOLEAN, GoCommand, flag, format_flag
from serfmp.cli.output import go_json, say, visible
from serfmp.wire.internal_queries import PING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from serfmp.client import Client

COMMAND: Final = GoCommand(
    "reachability",
    "reachability [options]",
    "Asks all nodes for a sign of life through gossip, and compares who answers with the list of living members.",
    [
        format_flag(),
        flag("verbose", "Show each answer, and times.", kind=BOOLEAN, default=False),
        *rpc_flags(),
    ],
)

TIPS: Final = """\
Troubleshooting tips:
* Ensure that the bind addr:port is accessible by all other nodes
* If an advertise address is set, ensure it routes to the bind address
* Check that no nodes are behind a NAT
* If nodes are behind firewalls or iptables, check that Serf traffic is permitted (UDP and TCP)
* Verify networking equipment is functional"""


def run(values: dict[str, Any], _words: list[str]) -> int:
    """Test and tell. Returns the exit code."""
    require_format(values)
    try:
        with connected(values) as client:
            return _test(client, values)
    except KeyboardInterrupt:
        say("Test interrupted")
        return 1


def _test(client: Client, values: dict[str, Any]) -> int:
    with explained("Error getting members"):
        members = client.members()
    alive = {member.name for member in members if member.status == "alive"}
    as_text = values["format"] == "text"
    tell: Callable[[str], None] = say if as_text else _nothing
    tell(f"Total members: {len(members)}, live members: {len(alive)}")
    tell("Starting reachability test...")
    began = time.monotonic()
    last = began
    acks: dict[str, list[float]] = {}
    with explained("Error sending query"):
        for answer in answers(client.query(PING, ack=True), limit_of(values)):
            if answer.kind != "ack":
                continue
            if answer.node in acks:
                tell(f"Duplicate response from '{visible(answer.node)}'")
            last = time.monotonic()
            acks.setdefault(answer.node, []).append(last - began)
            if values["verbose"]:
                tell(f"\tAck from '{visible(answer.node)}'")
    if not as_text:
        return _show(values["format"], {member.name: member.status for member in members}, acks)
    if values["verbose"]:
        took, first = time.monotonic() - began, last - began
        say(f"Query time: {took:.2f} sec, time to last response: {first:.2f} sec")
    return _judge(alive, Counter({node: len(times) for node, times in acks.items()}))


def _nothing(_text: str) -> None:
    pass


def _show(form: str, states: Mapping[str, str], acks: Mapping[str, Sequence[float]]) -> int:
    """Each node that lives or answered: how it came out, how many answers came, and the seconds until the first one."""
    rows = []
    for node in sorted({node for node, status in states.items() if status == "alive"} | acks.keys()):
        times = acks.get(node, ())
        if not times:
            outcome = "missing"
        elif states.get(node) != "alive":
            outcome = "surplus"
        else:
            outcome = "answered" if len(times) == 1 else "duplicate"
        rows.append((node, states.get(node, "none"), outcome, len(times), round(times[0], 3) if times else None))
    reached = all(row[2] == "answered" for row in rows)
    columns = ("node", "status", "outcome", "acks", "seconds")
    if form == "json":
        found = [dict(zip(columns, row, strict=True)) for row in rows]
        say(go_json({"members": len(states), "reached": reached, "nodes": found}))
    else:
        from serfmp.cli.formats import Rows, show

        show(form, Rows(columns, rows))
    return 0 if reached else 1


def _judge(alive: set[str], acks: Counter[str]) -> int:
    if acks.total() > len(acks):
        say("Duplicate responses means there is a misconfiguration. Verify that node names are unique.")
        return 1
    missing, surplus = sorted(alive - acks.keys()), sorted(acks.keys() - alive)
    if not missing and not surplus:
        say("Successfully contacted all live nodes")
        return 0
    if missing:
        say("Received less acks than live nodes! Missing acks from:")
        cause = "This could mean Serf gossip packets are being lost due to a misconfiguration or network issue."
    else:
        say("Received more acks than live nodes! Acks from non-live nodes:")
        cause = "This could mean Serf is detecting false-failures due to a misconfiguration or network issue."
    for name in missing or surplus:
        say(f"\t{visible(name)}")
    say(f"{cause}\n\n{TIPS}")
    return 1
