"""Command lines recorded from the real program, run with ours: output and exit code are equal, byte for byte.

Left out of the comparison: the wording of help texts, which is ours; the order of tags, which is random in the
recording; addresses and ports, which are the test's own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.harness import Agent, Launcher, LoopbackAllocator
from tests.io.rpc_stage import RpcStage, member

ROOT: Final = Path(__file__).parent.parent.parent
RECORDED: Final = ROOT / "tests" / "data" / "transcripts"

DIFFERENT: Final = {
    "members/bad-regex": "the error names the expression instead of a lost connection",
    "members/bad-regex-tag": "the error names the expression instead of a lost connection",
    **dict.fromkeys(
        (f"toplevel/{name}" for name in ("dashv", "dashdashversion", "version-v-anywhere", "version", "version-extra")),
        "the version is ours",
    ),
}


def cases(*names: str) -> list[Any]:
    found = []
    for name in names:
        recorded = json.loads((RECORDED / f"{name}.json").read_text())["cases"]
        found += [pytest.param(case, id=f"{name}/{case['id']}") for case in recorded]
    return found


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str


def run(words: Sequence[str], env: Mapping[str, str] | None = None) -> Outcome:
    """Run our command line."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SERF_")}
    done = subprocess.run(
        [sys.executable, "-m", "serfmp", *words],
        capture_output=True,
        check=False,
        cwd=ROOT,
        env={**inherited, **(env or {})},
        timeout=60,
    )
    return Outcome(done.returncode, done.stdout.decode(errors="surrogateescape"), done.stderr.decode())


@dataclass(frozen=True)
class Cluster:
    """Two agents, not yet joined."""

    alpha: Agent
    beta: Agent

    def ours(self, text: str) -> str:
        """A recorded text with our addresses; 219xx and port 1 are where nobody listens."""
        own = {
            "127.0.0.1:21201": str(self.alpha.options.rpc),
            "127.0.0.1:21101": str(self.alpha.bind),
            "127.0.0.1:21102": str(self.beta.bind),
            '"port": 21101': f'"port": {self.alpha.bind.port}',
        }
        for theirs, mine in own.items():
            text = text.replace(theirs, mine)
        return text


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with LoopbackAllocator() as loopback, Launcher(tmp_path_factory.mktemp("agents"), loopback) as launch:
        yield Cluster(launch.serfmp("alpha", tags={"role": "web", "dc": "east"}), launch.serfmp("beta"))


def normal(text: str) -> str:
    """Without help texts, and with the tags of the one member in the order of their keys."""
    return re.sub(r"Usage: .*\Z", "<<help>>", text, flags=re.DOTALL).replace("role=web,dc=east", "dc=east,role=web")


def compare(case: dict[str, Any], cluster: Cluster) -> tuple[Outcome, Outcome]:
    words = [cluster.ours(word) for word in case["argv"][1:]]
    came = run(words, {name: cluster.ours(value) for name, value in case["env"].items()})
    expected = Outcome(case["exit_code"], normal(cluster.ours(case["stdout"])), normal(cluster.ours(case["stderr"])))
    return Outcome(came.code, normal(came.stdout), normal(came.stderr)), expected


@pytest.mark.parametrize("case", cases("members", "event", "toplevel", "join"))
def test_recorded_command_lines_are_equal(case: dict[str, Any], cluster: Cluster, request: Any) -> None:
    came, expected = compare(case, cluster)
    if request.node.callspec.id in DIFFERENT:
        assert came != expected, "the table of differences is not true any more"
        assert came.code == expected.code
    else:
        assert came == expected


def test_leaving_is_equal(launch: Launcher) -> None:
    agent = launch.serfmp("beta")
    env = {"SERF_RPC_ADDR": str(agent.options.rpc)}
    first, again, _ = (param.values[0] for param in cases("leave"))
    assert run(["leave"], env) == Outcome(0, first["stdout"], "")
    assert agent.wait_exit(10) == 0
    assert run(["leave"], env) == Outcome(1, again["stdout"].replace("127.0.0.1:21212", env["SERF_RPC_ADDR"]), "")


def test_changes_of_tags_are_equal(launch: Launcher) -> None:
    agent = launch.serfmp("alpha", tags={"role": "web", "dc": "east"})
    alone = Cluster(agent, agent)
    for param in cases("tags"):
        case = param.values[0]
        if case["id"] != "after-info":  # figures and versions differ
            came, expected = compare(case, alone)
            assert came == expected, case["id"]


@pytest.mark.parametrize("case", cases("agent-start"))
def test_options_that_an_agent_refuses_are_refused_with_the_same_words(case: dict[str, Any], request: Any) -> None:
    with tempfile.TemporaryDirectory(prefix="s") as short:
        own = [] if case["id"] == "badflag" else [f"-runtime-dir={short}"]
        came = run([*case["argv"][1:], *own])
    equal = Outcome(came.code, normal(came.stdout), normal(came.stderr)) == Outcome(1, case["stdout"], case["stderr"])
    assert equal is (request.node.callspec.id not in DIFFERENT), came


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["-workers=0"], "==> Invalid number of workers: 0. It must be in range: [1, 64]\n"),
        (["-script-grace=2h"], "==> Invalid script grace: 2h. It must be in range: [0s, 3600s]\n"),
        (["-script-grace=3"], '==> Invalid script grace: time: missing unit in duration "3"\n'),
        (["-start-method=thread"], "==> Invalid start method: thread. Valid start methods are: [fork exec]\n"),
        (["-node=a\nb"], "==> Invalid node name: 'a\\nb' holds control characters; name the node with -node\n"),
        (["-bind=a..b"], "==> Invalid bind address: lookup a..b: no such host\n"),
        (["-bind=::1"], "==> Invalid bind address: address ::1: too many colons in address\n"),
        (["-advertise=[::1"], "==> Invalid advertise address: address [::1: missing ']' in address\n"),
        (
            ["-role=x", "-broadcast-timeout=1ms", "-profile=moon"],
            (
                "==> Deprecation warning: 'Role' has been replaced with 'Tags'\n"
                "==> Warning: 'BroadcastTimeout' is too low. Setting to 1s\n"
                "==> Unknown profile: moon\n"
            ),
        ),
    ],
)
def test_options_of_ours_that_are_refused(words: list[str], text: str) -> None:
    assert run(["agent", *words]) == Outcome(1, text, "")


@pytest.mark.parametrize("name", ["agent", "event", "join", "leave", "members"])
@pytest.mark.parametrize("flag", ["-h", "-help", "--help"])
def test_help_of_a_command_is_on_stderr_with_exit_code_0(name: str, flag: str) -> None:
    came = run([name, "-rpc-addr=x", flag])
    assert (came.code, came.stdout) == (0, "")
    assert came.stderr.startswith(f"Usage: serfmp {name}")


def test_help_behind_two_dashes_is_a_word() -> None:
    assert run(["event", "a", "b", "--", "-h"]).stdout.startswith("Too many command line arguments.")


def test_a_token_that_is_wrong_missing_or_right() -> None:
    with RpcStage(member("n"), auth="sekrit") as stage:
        host, port = stage.address
        env = {"SERF_RPC_ADDR": f"{host}:{port}"}
        assert run(["members"], env) == Outcome(1, "Error retrieving members: Authentication required\n", "")
        refused = "Error connecting to Serf agent: Invalid authentication token\n"
        assert run(["members", "-rpc-auth=bad"], env) == Outcome(1, refused, "")
        row = Outcome(0, "n  127.0.0.1:7946  alive\n", "")
        assert run(["members"], {**env, "SERF_RPC_AUTH": "sekrit"}) == row
        assert run(["members", "-rpc-auth", "sekrit"], {**env, "SERF_RPC_AUTH": "bad"}) == row


def test_a_reader_that_goes_away_is_no_traceback(cluster: Cluster) -> None:
    shell = f"'{sys.executable}' -m serfmp members -rpc-addr {cluster.alpha.options.rpc} -format=json | true"
    done = subprocess.run(["/bin/sh", "-c", shell], capture_output=True, check=False, cwd=ROOT, timeout=60)
    assert b"Traceback" not in done.stderr


def test_members_loads_only_what_it_needs(cluster: Cluster) -> None:
    words = ["members", "-rpc-addr", str(cluster.alpha.options.rpc)]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "serfmp", *words],
        capture_output=True,
        check=True,
        cwd=ROOT,
        text=True,
        timeout=60,
    )
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert loaded & {"zmq", "psutil", "cryptography", "rich", "re2", "asyncio"} == set()
