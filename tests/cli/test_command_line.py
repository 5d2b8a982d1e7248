"""The command line as it is run: refused options, help, tokens, closed pipes, what is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.harness import Agent, Launcher, LoopbackAllocator
from tests.io.rpc_stage import RpcStage, member

ROOT: Final = Path(__file__).parent.parent.parent


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


@pytest.fixture(scope="module")
def alpha(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with LoopbackAllocator() as loopback, Launcher(tmp_path_factory.mktemp("agents"), loopback) as launch:
        yield launch.serfmp("alpha")


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


def test_a_reader_that_goes_away_is_no_traceback(alpha: Agent) -> None:
    shell = f"'{sys.executable}' -m serfmp members -rpc-addr {alpha.options.rpc} -format=json | true"
    done = subprocess.run(["/bin/sh", "-c", shell], capture_output=True, check=False, cwd=ROOT, timeout=60)
    assert b"Traceback" not in done.stderr


def test_members_loads_only_what_it_needs(alpha: Agent) -> None:
    words = ["members", "-rpc-addr", str(alpha.options.rpc)]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "serfmp", *words],
        capture_output=True,
        check=True,
        cwd=ROOT,
        text=True,
        timeout=60,
    )
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    packages = {module.partition(".")[0] for module in modules}
    assert packages & {"zmq", "psutil", "cryptography", "rich", "re2", "asyncio"} == set()
    # Milliseconds each, for what plain text of members does not need.
    assert packages & {"json", "ipaddress", "ssl", "textwrap", "fractions"} == set()
    assert modules & {"encodings.idna", "serfmp.client.records", "serfmp.client.tls", "serfmp.wire.coordinate"} == set()


@pytest.mark.parametrize(
    ("words", "code", "wanted"),
    [
        (["members", "-format=json"], 0, '"name": "alpha"'),
        (["members", "-format=nonsense"], 1, "Invalid output format"),
        (["nonsense"], 127, "Available commands are"),
    ],
)
def test_a_program_that_ends_at_once_has_written_everything(
    alpha: Agent, tmp_path: Path, words: list[str], code: int, wanted: str
) -> None:
    # A file: what is written to one waits in a buffer.
    output = tmp_path / "output"
    environment = {**os.environ, "SERF_RPC_ADDR": str(alpha.options.rpc)}
    with output.open("wb") as file:
        done = subprocess.run(
            [sys.executable, "-m", "serfmp", *words],
            stdout=file,
            stderr=file,
            env=environment,
            check=False,
            cwd=ROOT,
            timeout=60,
        )
    assert wanted in output.read_text()
    assert done.returncode == code


def test_a_full_disk_is_told_though_the_program_ends_at_once(alpha: Agent) -> None:
    words = ["members", f"-rpc-addr={alpha.options.rpc}"]
    with open("/dev/full", "wb") as full:  # noqa: PTH123  no path of ours
        done = subprocess.run(
            [sys.executable, "-m", "serfmp", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            cwd=ROOT,
            timeout=60,
        )
    assert done.returncode != 0
    assert b"No space left" in done.stderr
