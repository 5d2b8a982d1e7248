"""Agents that find each other by multicast, real ones too, and what is refused."""

from __future__ import annotations

import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from serfmp.agent.config import AgentConfig
from serfmp.bus import frames
from serfmp.cli.main import main
from serfmp.io import mdns
from tests.harness import Agent, Launcher, LoopbackAllocator, needs_serf
from tests.harness.role import Role

zeroconf = pytest.importorskip("zeroconf")

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


class Finder(Role):
    """The mdns process for real; the test is its supervisor."""

    def __init__(self, cluster: str) -> None:
        config = AgentConfig(
            node="finder",
            discover=cluster,
            mdns_interface=LOOPBACK,
            mdns_disable_ipv6=True,
            advertise_address=b"\x7f\0\0\1",
            advertise_port=7946,
        )
        super().__init__("mdns", config, {}, {})

    def asked(self) -> list[str]:
        return [frame.address for frame in self.frames if isinstance(frame, frames.Discovered)]


def test_what_cannot_be_joined_is_tried_again_and_what_was_joined_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mdns, "RETRY", 0.3)
    cluster = cluster_name()
    kind = mdns.service_type(cluster)
    finder = Finder(cluster)
    speaker = zeroconf.Zeroconf(interfaces=["127.0.0.1"], ip_version=zeroconf.IPVersion.V4Only)
    try:
        for port in (1111, 7946):
            info = zeroconf.ServiceInfo(
                kind, f"n{port}.{kind}", port=port, addresses=[b"\x7f\0\0\1"], server=f"n{port}.local."
            )
            speaker.register_service(info, cooperating_responders=True, strict=False)
        finder.until(lambda: finder.asked() == ["127.0.0.1:1111"], "it is found; the own address is not")
        finder.process.send(frames.DiscoveredJoined("127.0.0.1:1111", "nobody there"))
        finder.until(lambda: len(finder.asked()) == 2, "it is tried again")
        finder.process.send(frames.DiscoveredJoined("127.0.0.1:1111", ""))
        finder.until(lambda: "[INFO] agent.mdns: Joined 1 hosts" in finder.log, "it was joined")
        assert "[ERR] agent.mdns: Failed to join: nobody there" in finder.log
        started = finder.loop.clock()
        finder.until(lambda: finder.loop.clock() > started + 1, "three more tries would be due")
        assert finder.asked() == ["127.0.0.1:1111"] * 2
        assert finder.stop() == 0
    finally:
        speaker.close()
        finder.close()


def test_one_that_is_started_again_where_nothing_can_be_announced_tries_on_and_ends_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mdns, "RETRY", 0.3)
    finder = Finder(cluster_name())
    try:
        # The library refuses such a name, as it does what a host without a network brings.
        finder.config = replace(finder.config, discover="a--b")
        finder.kill()
        finder.start()
        failed = "[ERR] agent.mdns: Failed to poll for new hosts: "
        finder.until(lambda: sum(line.startswith(failed) for line in finder.log) >= 3, "it tries again")
        assert not any(isinstance(frame, frames.CannotStart) for frame in finder.frames)
        assert finder.stop() == 0
    finally:
        finder.close()


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
