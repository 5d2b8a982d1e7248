"""The address of a network interface that is bound, and the errors in Serf's words."""

from __future__ import annotations

import socket

import psutil
import pytest

from serfmp.agent.interfaces import interface_address, require_interface
from serfmp.errors import UserError
from tests.harness import Launcher, LoopbackAllocator, needs_serf

LOOPBACK = next(
    name
    for name, addresses in psutil.net_if_addrs().items()
    if any(entry.family == socket.AF_INET and entry.address == "127.0.0.1" for entry in addresses)
)


def test_the_first_usable_address_of_the_interface_is_taken_and_told() -> None:
    told: list[str] = []
    assert interface_address(LOOPBACK, "0.0.0.0", told.append) == "127.0.0.1"
    assert told == [f"==> Using interface '{LOOPBACK}' address '127.0.0.1'"]
    assert interface_address(LOOPBACK, "127.0.0.1", told.append) == "127.0.0.1"
    assert len(told) == 1


def test_what_the_interface_has_not_is_refused() -> None:
    with pytest.raises(UserError, match="no such network interface"):
        require_interface("nope0")
    require_interface(LOOPBACK)
    with pytest.raises(UserError, match=f"^Interface '{LOOPBACK}' has no '192.0.2.7' address$"):
        interface_address(LOOPBACK, "192.0.2.7", print)
    with pytest.raises(UserError, match=r"^Interface 'nope0' has no addresses$"):
        interface_address("nope0", "0.0.0.0", print)


def test_an_agent_speaks_an_older_protocol_when_told_to(launch: Launcher) -> None:
    old, new = launch.serfmp("old", extra=["-protocol=4"]), launch.serfmp("new")
    new.join(old)
    for agent in (old, new):
        agent.wait_statuses({"old": "alive", "new": "alive"}, 10)
        assert {name: member.versions[5] for name, member in agent.members().items()} == {"old": 4, "new": 5}


@pytest.mark.interop
@needs_serf
def test_agents_of_both_kinds_meet_over_ipv6(launch: Launcher, loopback: LoopbackAllocator) -> None:
    ours = launch.serfmp("ours", bind=loopback.endpoint("::1"), rpc=loopback.endpoint("::1"))
    real = launch.serf("real", bind=loopback.endpoint("::1"), rpc=loopback.endpoint("::1"))
    real.join(ours)
    for agent in (ours, real):
        agent.wait_statuses({"ours": "alive", "real": "alive"}, 10)
        assert {member.address for member in agent.members().values()} == {"::1"}
