"""Agents that find each other by multicast, real ones too, and what is refused."""

from __future__ import annotations

import subprocess
import sys
import uuid
from pathlib import Path

import psutil
import pytest

from serfmp.cli.main import main
from tests.harness import Agent, Launcher, LoopbackAllocator, needs_serf

pytest.importorskip("zeroconf")

ROOT = Path(__file__).parent.parent.parent
DEADLINE_S = 30.0
LOOPBACK = next(
    name for name, found in psutil.net_if_addrs().items() if any(entry.address == "127.0.0.1" for entry in found)
)


def cluster_name() -> str:
    """A name that no other test on this host has."""
    return f"t{uuid.uuid4().hex[:10]}"


def discovering(launch: Launcher, node: str, cluster: str) -> Agent:
    return launch.serfmp(node, extra=[f"-discover={cluster}", f"-mdns-iface={LOOPBACK}"])


def test_agents_of_one_cluster_find_each_other_and_others_stay_away(launch: Launcher) -> None:
    cluster = cluster_name()
    one, two = discovering(launch, "one", cluster), discovering(launch, "two words.x", cluster)
    other = discovering(launch, "other", cluster_name())
    for agent in (one, two):
        agent.wait_statuses({"one": "alive", "two words.x": "alive"}, DEADLINE_S)
    assert f"                   mDNS cluster: {cluster}\n" in one.log()
    assert "[INFO] agent.mdns: Joined 1 hosts" in one.log() + two.log()
    assert other.statuses() == {"other": "alive"}
    assert "mdns" in one.pids_by_role()
    one.leave()
    assert one.wait_exit(DEADLINE_S) == 0


@pytest.mark.interop
@needs_serf
def test_the_real_agent_is_found_and_finds(launch: Launcher, loopback: LoopbackAllocator) -> None:
    cluster = cluster_name()
    # Its interface has 127.0.0.1 only, to which it must be bound.
    real = launch.serf(
        "real", bind=loopback.endpoint("127.0.0.1"), extra=[f"-discover={cluster}", f"-iface={LOOPBACK}"]
    )
    ours = discovering(launch, "ours", cluster)
    for agent in (real, ours):
        agent.wait_statuses({"real": "alive", "ours": "alive"}, DEADLINE_S)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([f"-mdns-iface={LOOPBACK}"], "mDNS interface specified without enabling mDNS discovery"),
        (
            ["-discover=c", "-mdns-iface=nope0"],
            "Invalid mDNS network interface: route ip+net: no such network interface",
        ),
        (
            ["-discover=c", "-mdns-disable-ipv4", "-mdns-disable-ipv6"],
            "Invalid mDNS configuration: both IPv4 and IPv6 are disabled",
        ),
    ],
)
def test_what_contradicts_itself_is_refused(words: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["agent", "-check", *words]) == 1
    assert capsys.readouterr().out == f"==> {text}\n"


def test_keys_of_the_section_are_taken_and_refused_with_their_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "c.json"
    file.write_text('{"discover": "c", "mdns": {"interface": "x", "disable_ipv4": 1, "other": true}, "mdns.x": 1}')
    assert main(["agent", "-check", f"-config-file={file}"]) == 1
    assert capsys.readouterr().out.splitlines()[2:] == [
        "* 'mdns.disable_ipv4' expected type 'bool', got unconvertible type 'float64', value: '1'",
        "* '' has invalid keys: mdns.other, mdns.x",
    ]


def test_a_missing_library_and_an_impossible_name_are_told(loopback: LoopbackAllocator, tmp_path: Path) -> None:
    without = "import sys; sys.modules['zeroconf'] = None; from serfmp.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", without, "agent", "-node=n", "-bind=127.0.0.1", "-discover=c"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=DEADLINE_S)
    assert done.returncode == 1
    assert "Error starting mDNS listener: zeroconf is not installed: pip install 'serfmp[mdns]'" in done.stdout


def test_a_name_that_no_service_can_have_ends_the_start(launch: Launcher) -> None:
    agent = launch.serfmp("one", extra=["-discover=a--b", f"-mdns-iface={LOOPBACK}"], wait=False)
    assert agent.wait_exit(DEADLINE_S) == 1
    assert "==> Error starting mDNS listener: Service name (serf_a--b) must not contain '--'\n" in agent.log()
