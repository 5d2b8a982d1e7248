"""`serfmp reachability`: whether gossip reaches all living nodes, and they this one (spec agent.md 3.7)."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from serfmp.cli.connection import CommandError, connected, rpc_flags
from serfmp.cli.flags import BOOLEAN, GoCommand, flag
from serfmp.cli.output import say, visible
from serfmp.client import ClientError
from serfmp.wire.internal_queries import PING

if TYPE_CHECKING:
    from serfmp.client import Client

COMMAND: Final = GoCommand(
    "reachability",
    "reachability [options]",
    "Asks all nodes for a sign of life through gossip, and compares who answers with the list of living members.",
    [flag("verbose", "Show each answer, and times.", kind=BOOLEAN, default=False), *rpc_flags()],
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
    try:
        with connected(values) as client:
            return _test(client, verbose=values["verbose"])
    except KeyboardInterrupt:
        say("Test interrupted")
        return 1


def _test(client: Client, *, verbose: bool) -> int:
    try:
        members = client.members()
    except ClientError as error:
        raise CommandError(f"Error getting members: {error}") from error
    alive = {member.name for member in members if member.status == "alive"}
    say(f"Total members: {len(members)}, live members: {len(alive)}")
    say("Starting reachability test...")
    began = time.monotonic()
    last = began
    acks: Counter[str] = Counter()
    try:
        for answer in client.query(PING, ack=True):
            if answer.kind != "ack":
                continue
            if acks[answer.node]:
                say(f"Duplicate response from '{visible(answer.node)}'")
            acks[answer.node] += 1
            last = time.monotonic()
            if verbose:
                say(f"\tAck from '{visible(answer.node)}'")
    except ClientError as error:
        raise CommandError(f"Error sending query: {error}") from error
    if verbose:
        took, first = time.monotonic() - began, last - began
        say(f"Query time: {took:.2f} sec, time to last response: {first:.2f} sec")
    return _judge(alive, acks)


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
