"""The quick start: two agents, join, members, Ctrl-C gives left, kill -9 gives failed.

Every combination of serfmp and the real serf, joining in both directions, by the command line of both.
"""

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.harness import Agent, Launcher, MemberRecord, UserRecord, eventually, needs_serf
from tests.harness.commands import SERF, SERFMP, run_command

DEADLINE_S = 30.0

Start = Callable[..., Agent]

serfmp_alone = pytest.param("serfmp", "serfmp", id="serfmp-serfmp")
mixed = [
    pytest.param("serfmp", "serf", id="serf-joins-serfmp", marks=[pytest.mark.interop, needs_serf]),
    pytest.param("serf", "serfmp", id="serfmp-joins-serf", marks=[pytest.mark.interop, needs_serf]),
]
pairs = pytest.mark.parametrize(("first", "second"), [serfmp_alone, *mixed])


def start(launch: Launcher, kind: str, node: str, **options: object) -> Agent:
    return launch.serfmp(node, **options) if kind == "serfmp" else launch.serf(node, **options)  # type: ignore[arg-type]


def command(program: Sequence[str], agent: Agent, *words: str) -> str:
    """Run a command of the command line against an agent; its output."""
    done = run_command(agent, *words, program=program)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rows(output: str) -> dict[str, str]:
    """Name and status of each row of `members`."""
    return {line.split()[0]: line.split()[2] for line in output.splitlines() if line.strip()}


@pairs
def test_join_event_and_interrupt(launch: Launcher, first: str, second: str) -> None:
    one, two = start(launch, first, "one"), start(launch, second, "two")
    programs = [SERFMP] + ([SERF] if "serf" in {first, second} else [])
    joined = command(programs[-1], two, "join", str(one.bind))
    assert joined == "Successfully joined cluster by contacting 1 nodes.\n"
    both = {"one": "alive", "two": "alive"}
    for agent in (one, two):
        agent.wait_statuses(both, DEADLINE_S)
        for program in programs:
            assert rows(command(program, agent, "members")) == both
    streams = [agent.stream("user:deploy") for agent in (one, two)]
    command(programs[-1], one, "event", "-coalesce=false", "deploy", "v1")
    command(programs[0], two, "event", "-coalesce=false", "deploy", "v2")
    for stream in streams:
        stream.wait_for(lambda r: isinstance(r, UserRecord) and r.payload == b"v1", DEADLINE_S, "the first event")
        stream.wait_for(lambda r: isinstance(r, UserRecord) and r.payload == b"v2", DEADLINE_S, "the second event")
        assert sorted(r.payload for r in stream.records if isinstance(r, UserRecord)) == [b"v1", b"v2"]
    two.signal(signal.SIGINT)
    assert two.wait_exit(DEADLINE_S) == 0
    one.wait_statuses({"one": "alive", "two": "left"}, DEADLINE_S)
    assert "failed" not in one.log().lower().replace("failed to", "")


@pairs
def test_a_killed_agent_is_failed_within_seconds_and_comes_back(launch: Launcher, first: str, second: str) -> None:
    one = start(launch, first, "one")
    two = start(launch, second, "two", join=[one])
    events = one.stream("*")
    one.wait_statuses({"one": "alive", "two": "alive"}, DEADLINE_S)
    two.kill()
    one.wait_statuses({"one": "alive", "two": "failed"}, DEADLINE_S)
    events.wait_for(
        lambda r: isinstance(r, MemberRecord) and r.kind == "member-failed" and r.names == {"two"},
        DEADLINE_S,
        "the stream tells of the failure",
    )


@pairs
def test_leave_over_rpc_ends_the_agent_with_success(launch: Launcher, first: str, second: str) -> None:
    one = start(launch, first, "one")
    two = start(launch, second, "two", join=[one])
    one.wait_statuses({"one": "alive", "two": "alive"}, DEADLINE_S)
    program = SERF if "serf" in {first, second} else SERFMP
    assert command(program, two, "leave") == "Graceful leave complete\n"
    assert two.wait_exit(DEADLINE_S) == 0
    one.wait_statuses({"one": "alive", "two": "left"}, DEADLINE_S)


@pairs
def test_a_handler_runs_with_serfs_environment_and_input(
    launch: Launcher, tmp_path: Path, first: str, second: str
) -> None:
    seen = tmp_path / "seen"
    script = f"(env | grep ^SERF_ | sort; cat) >> {seen}; echo end >> {seen}"
    one = launch.serfmp("one", handlers=[f"user:deploy={script}"], tags={"role": "web"})
    two = start(launch, second if first == "serfmp" else first, "two", join=[one])
    one.wait_statuses({"one": "alive", "two": "alive"}, DEADLINE_S)
    two.event("deploy", b"v7")
    eventually(lambda: seen.exists() and seen.read_text().endswith("end\n"), DEADLINE_S, "the handler has run")
    lines = seen.read_text().splitlines()
    assert [line for line in lines if not line.startswith("SERF_USER_LTIME=") and not line.startswith("SERF_RPC")] == [
        "SERF_EVENT=user",
        "SERF_SELF_NAME=one",
        "SERF_SELF_ROLE=web",
        "SERF_TAG_ROLE=web",
        "SERF_USER_EVENT=deploy",
        "v7",
        "end",
    ]


def test_terminate_stops_without_leaving(launch: Launcher) -> None:
    one = launch.serfmp("one")
    one.signal(signal.SIGTERM)
    assert one.wait_exit(DEADLINE_S) == 1
    assert "Shutdown without a Leave" in one.log()
    assert not one.left_over()


@pytest.mark.parametrize("method", ["fork", "exec"])
def test_children_start_by_fork_and_by_exec(launch: Launcher, method: str) -> None:
    one = launch.serfmp("one", extra=[f"-start-method={method}"])
    two = launch.serfmp("two", extra=[f"-start-method={method}"], join=[one])
    for agent in (one, two):
        agent.wait_statuses({"one": "alive", "two": "alive"}, DEADLINE_S)
    stream = one.stream("user")
    old = two.pids_by_role()["detector"]
    for role in ("detector", "gossip", "rpc", "dispatcher", "worker"):
        os.kill(two.pids_by_role()[role][0], signal.SIGKILL)
    eventually(
        lambda: two.pids_by_role().get("detector", old) != old and two.pids_by_role(), DEADLINE_S, "a new detector"
    )
    two.wait_ready(DEADLINE_S)
    two.event("again")
    stream.wait_for(lambda r: isinstance(r, UserRecord) and r.name == "again", DEADLINE_S, "an event of the new one")
    assert one.statuses() == {"one": "alive", "two": "alive"}
