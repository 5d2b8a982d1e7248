"""`doctor`: whole clusters that are well, and each illness that it knows."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from serfmp.client import Member
from serfmp.doctor import cluster, host
from serfmp.doctor.finding import Finding, Status
from serfmp.doctor.gossip import Target
from serfmp.doctor.subject import Subject
from serfmp.wire.packet import PacketFormat
from tests.harness import Agent, Launcher, needs_serf

ROOT: Final = Path(__file__).parents[2]
KEYS: Final = '["HvY8ubRZMgafUOWvrOadwOckVa1wN3QWAo46FVKbVN8="]'
OF_THE_HOST: Final = {"clock", "open files", "udp buffer", "runtime directory"}


def doctor(address: str, *words: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit code, and the findings by check; a later one of the same check replaces an earlier one."""
    done = subprocess.run(
        [sys.executable, "-m", "serfmp", "doctor", f"-rpc-addr={address}", "-format=json", *words],
        capture_output=True,
        check=False,
        cwd=ROOT,
        text=True,
        timeout=110,
    )
    assert done.stderr == ""
    return done.returncode, {finding["check"]: finding for finding in json.loads(done.stdout)["findings"]}


def statuses(findings: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {check: finding["status"] for check, finding in findings.items() if check not in OF_THE_HOST}


def joined(
    launch: Launcher, kind: str, other: str, extra: Sequence[str] = (), profile: str = "local"
) -> tuple[Agent, Agent]:
    one = getattr(launch, kind)("one", extra=extra, profile=profile)
    two = getattr(launch, other)("two", join=[one], extra=extra, profile=profile)
    for agent in (one, two):
        agent.wait_statuses({"one": "alive", "two": "alive"}, 60)
    return one, two


WELL: Final = dict.fromkeys(
    [
        "rpc",
        "addresses",
        "advertised address",
        "own ports",
        "failed members",
        "udp",
        "tcp",
        "udp back",
        "mtu",
        "name clash",
        "keys",
    ],
    "ok",
)


@pytest.mark.parametrize(
    ("kind", "other"),
    [
        ("serfmp", "serfmp"),
        pytest.param("serfmp", "serf", marks=[needs_serf, pytest.mark.interop]),
        pytest.param("serf", "serfmp", marks=[needs_serf, pytest.mark.interop]),
    ],
)
def test_a_cluster_that_is_well_and_a_peer_that_hangs(launch: Launcher, kind: str, other: str) -> None:
    # In this profile a silent member is held for alive for long.
    one, two = joined(launch, kind, other, profile="wan")
    code, findings = doctor(str(one.options.rpc))
    assert statuses(findings) == {**WELL, "handlers": "ok"}
    assert code == (1 if findings["runtime directory"]["status"] == "error" else 0)
    for agent in (one, two):
        assert "[ERR]" not in agent.log()
        assert "[WARN]" not in agent.log().replace("a process may open", "")
    two.pause_tree()
    code, findings = doctor(str(one.options.rpc))
    two.resume_tree()
    assert code == 1
    assert {check for check, status in statuses(findings).items() if status == "error"} == {"udp", "tcp"}
    assert findings["udp"]["seen"] == "two: no answer within 1.5 s"
    assert findings["tcp"]["seen"] == "two: no answer within 3 s"
    assert findings["udp"]["advice"].startswith("let UDP through")


def test_encrypted_gossip_needs_the_keys_and_then_is_looked_at(launch: Launcher, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(KEYS)
    one, _ = joined(launch, "serfmp", "serfmp", ["-label=blue", f"-keyring-file={file}"])
    code, findings = doctor(str(one.options.rpc))
    assert statuses(findings) == {**WELL, "handlers": "ok"}
    assert (code, findings["keys"]["seen"]) == (0, "1 keys, all on all 2 nodes")
    _, findings = doctor(str(one.options.rpc), "-label=red")
    assert findings["tcp"]["status"] == "error"
    assert "other keys or another label" in findings["tcp"]["advice"]
    _, findings = doctor(str(one.options.rpc), f"-keyring-file={tmp_path}/none.json")
    assert findings["ports"]["status"] == "skipped"
    assert "cannot be read" in findings["ports"]["seen"]


def test_without_an_agent_the_host_and_the_files_are_looked_at(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    runtime = tmp_path / "run"
    runtime.mkdir()
    runtime.chmod(0o777)
    file.write_text(json.dumps({"event_handlers": ["user=/no/such/program x"], "runtime_dir": str(runtime)}))
    code, findings = doctor("127.0.0.1:1", f"-config-file={file}")
    assert code == 1
    assert findings["rpc"]["seen"].endswith("dial tcp 127.0.0.1:1: connect: connection refused")
    assert findings["handler"]["seen"] == "/no/such/program is not there"
    if len(str(runtime)) < 60:
        assert findings["runtime directory"]["seen"] == "others may write to it (mode 0777)"


def test_text_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    from serfmp.cli.main import main

    assert main(["doctor", "-rpc-addr=127.0.0.1:1"]) == 1
    out = capsys.readouterr().out
    assert "error    rpc" in out
    assert "→ is an agent running" in out


def member(name: str, address: str, port: int = 7946, status: str = "alive") -> Member:
    return Member(name, address, port, {}, status, 1, 5, 2, 2, 5, 5)


def subject(*members: Member) -> Subject:
    return Subject("a", members[0], members, False, {}, PacketFormat(), "")


def seen(finding: Finding) -> tuple[str, str]:
    return finding.status.value, finding.seen


def test_addresses_that_lead_nowhere_or_are_claimed_twice() -> None:
    far = member("b", "192.0.2.9")
    assert seen(cluster.advertised(subject(member("a", "127.0.0.1"), far)))[0] == "error"
    assert seen(cluster.advertised(subject(member("a", "192.0.2.1"), far)))[0] == "warning"
    assert seen(cluster.advertised(subject(member("a", "127.0.0.1")))) == ("ok", "127.0.0.1:7946")
    double = subject(member("a", "192.0.2.1"), member("b", "192.0.2.9"), member("c", "192.0.2.9"))
    assert seen(cluster.addresses(double)) == ("error", "192.0.2.9:7946 is claimed by b, c")
    left = subject(member("a", "192.0.2.9"), member("c", "192.0.2.9", status="left"))
    assert seen(cluster.addresses(left))[0] == "ok"


def test_a_name_that_others_know_another_host_by() -> None:
    me = Target("a", "192.0.2.1", 7946)
    right, wrong = {"a": ("192.0.2.1", 7946)}, {"a": ("192.0.2.7", 7946)}
    assert seen(cluster.names(me, {"b": right})) == ("ok", "all hold this host for it")
    assert seen(cluster.names(me, {"b": right, "c": wrong})) == ("error", "c: holds 192.0.2.7:7946 for it")
    assert seen(cluster.names(me, {"b": {}})) == ("warning", "b do not know it yet")
    assert seen(cluster.names(me, {})) == ("skipped", "no list could be read")


@pytest.mark.parametrize(
    ("command", "program"),
    [
        ("/bin/sh -c x", "/bin/sh"),
        ("FOO=1 exec ./x.sh y", "./x.sh"),
        ("echo hi", ""),
        ("$HOME/x", ""),
        ("a 'b", ""),
        (("python3", "-m", "x"), "python3"),
        ("", ""),
    ],
)
def test_the_program_of_a_command(command: str | tuple[str, ...], program: str) -> None:
    assert host.first_program(command) == program


def test_programs_that_are_there_may_not_run_or_are_missing(tmp_path: Path) -> None:
    script = tmp_path / "x.sh"
    script.write_text("true\n")
    found = host.handlers({"event_handlers": [str(script), "sh -c true", "./rel.sh"]})
    assert [finding.status for finding in found] == [Status.ERROR, Status.OK, Status.SKIPPED]
    assert found[0].advice == f"chmod +x '{script}'"
    assert host.handlers({"event_handlers": ["bogus=x"]})[0].status is Status.ERROR


def test_a_runtime_directory_that_is_too_long_or_open_to_others(tmp_path: Path) -> None:
    assert seen(host.runtime("/" + "x" * 90)) == ("error", "its path is 22 bytes too long for unix sockets")
    assert seen(host.runtime("/nowhere")) == ("ok", "not there yet; an agent makes it")
    assert seen(host.runtime("/etc/passwd"))[0] == "error"


def test_checks_of_the_host_give_findings() -> None:
    assert {finding.check for finding in host.look({})} == {*OF_THE_HOST, "handlers"}
