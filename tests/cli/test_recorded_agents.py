"""Recorded runs of agents: starts, refused starts, signals, handlers, whole clusters (see `recorded`).

Files that the recordings name but do not hold are made anew, with what the cases say about them.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from tests.cli.deviations import DEVIATIONS, NOT_PLAYED
from tests.cli.recorded import RECORDED, Case, Play, Stage, cases, judge
from tests.harness import Agent, eventually

EQUAL: Final = 346
"""Recorded cases that serfmp repeats, at least."""

pytestmark = pytest.mark.timeout(400)

KEY: Final = "5K9OtfP7efFrNKe5WCQvXvnaXJ5cWP0SvXiwe0kkjM4="

FILES: Final = {
    "comp.json": '{"enable_compression": false}',
    "kre.json": "[]",
    "krb.json": "[",
    "krc.json": '["!!"]',
    "krd.json": '["aGVsbG8="]',
    "krok.json": json.dumps([KEY]),
    "tags1.json": '{"role": "db", "dc": "west"}',
    "tagsb.json": '{"a": 1}',
    "tagsc.json": "",
    "ss.json": '{"statsd_addr": "127.0.0.1:1"}',
    "sf.json": '{"enable_syslog": true, "syslog_facility": "NOPE"}',
    "c-empty.json": "",
    "cd/C.json": '{"node_name": "fromC", "tags": {"x": "C"}}',
    "cd/a.json": '{"tags": {"aa": "1", "x": "a"}}',
    "cd/b.json": '{"node_name": "fromb", "tags": {"bb": "1", "x": "b"}, "event_handlers": ["true"]}',
    "cd/README": "not read",
    "cd/x.json/y.json": "not read",
    "cd2/x.json": "{bad",
    "rr.json": '{"reconnect_interval": "1s", "reconnect_timeout": "8s", "tombstone_timeout": "4s"}',
}

STARTS: Final = cases("agent-start")
PARTS: Final = 4
TALKING: Final = {
    "cfgdir-info": ["-config-dir=cd", "-tag=cl=1"],
    "cfgfiles-info": ["-config-file=cd", "-tag=x=flag", "-node=cfg2"],
    "limits-event": ["-config-file=c-limits.json", "-node=limits"],
    "limits-query": ["-config-file=c-limits.json", "-node=limits"],
    "discoord-info": ["-config-file=c-discoord.json", "-node=vname"],
}
"""Cases that ask an agent, with its flags."""


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path) as opened:
        yield opened


def files_of(case: Case) -> dict[str, str]:
    """The files of a start; a note that is JSON, or should be, is what stood in the configuration file."""
    named = [word.partition("=")[2] for word in case.argv if word.startswith("-config-file=c-")]
    return {**FILES, **{name: case.more["note"] for name in named if name not in FILES}}


def start(stage: Stage, case: Case) -> Play:
    """Start an agent as recorded; one that runs is compared when it writes its log, and ended."""
    agent = stage.start(case, files_of(case))
    played = stage.ended(case, agent)
    agent.kill()
    return played


def refuses(case: Case) -> bool:
    """Whether the agent of this case does not start."""
    return case.command == "agent" and case.outcome.code is not None and not case.id.startswith("retry-max")


def test_starts_that_are_refused(stage: Stage) -> None:
    mine = {key: case for key, case in STARTS.items() if refuses(case) and f"agent-start/{key}" not in NOT_PLAYED}
    for case in mine.values():
        for name, content in files_of(case).items():
            path = stage.directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
    taken = [socket.create_server(("127.0.0.1", stage.port(port))) for port in ("21150", "21250")]
    played = [stage.play(case) for case in mine.values()]
    for held in taken:
        held.close()
    judge("agent-start", played, only=mine.__contains__)


@pytest.mark.soak
@pytest.mark.parametrize("part", range(PARTS))
def test_starts(stage: Stage, part: int) -> None:
    running = [case for case in STARTS.values() if not refuses(case) and f"agent-start/{case.id}" not in NOT_PLAYED]
    mine = running[part::PARTS]
    played = [start(stage, case) for case in mine if case.command == "agent"]
    limits = {
        "c-limits.json": STARTS["cfg-limits"].more["note"],
        "c-discoord.json": STARTS["cfg-discoord"].more["note"],
    }
    for case in mine:
        if case.command != "agent":
            where = [f"-bind=127.0.0.1:{stage.port('21149')}", f"-rpc-addr=127.0.0.1:{stage.port('21249')}"]
            agent = stage.start_agent([*where, "-profile=local", *TALKING[case.id]], {**FILES, **limits})
            played.append(stage.play(case))
            agent.kill()
    ids = {case.id for case in mine}
    judge("agent-start", played, only=ids.__contains__)


SIGNALS: Final = cases("agent-signals")
INT, TERM, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
SENT: Final = {
    "int": [INT],
    "term": [TERM],
    "term-leave": [TERM],
    "int-skip": [INT],
    "int-peer": [INT],
    "int-twice": [INT, INT],
    "int-term": [INT, TERM],
    "int-hup": [INT, HUP],
    "int-bcast": [INT],
}
ALONE: Final = {"lot.json": '{"leave_on_terminate": true}', "sli.json": '{"skip_leave_on_interrupt": true}'}


def peer(stage: Stage, port: str, node: str = "peer", *more: str) -> Agent:
    """An agent that others join, on this recorded port."""
    rpc = stage.port(str(int(port) + 100))
    flags = [f"-node={node}", f"-bind=127.0.0.1:{stage.port(port)}", f"-rpc-addr=127.0.0.1:{rpc}", "-profile=local"]
    return stage.start_agent([*flags, *more], FILES)


def is_past(when: float) -> bool:
    return time.monotonic() > when


def test_signals(stage: Stage) -> None:
    peer(stage, "21152")
    played = []
    agents = {key: stage.start(SIGNALS[key], ALONE) for key in SENT}
    for key, numbers in SENT.items():
        for position, number in enumerate(numbers):
            if position:
                agents[key].wait_log("Gracefully shutting down", 60)
                # Two signals within 50 ms are one.
                apart = time.monotonic() + 0.1
                eventually(partial(is_past, apart), 1, "the signals are apart")
            agents[key].signal(number)
    for key, agent in agents.items():
        played.append(stage.ended(SIGNALS[key], agent))
    judge("agent-signals", played, only=SENT.__contains__)


def has_reloaded(agent: Agent, times: int) -> bool:
    """Whether as many reloads have told how they ended."""
    return (
        len(re.findall(r"Reloading configuration\.\.\.\n(?:.*\n)*?==> (?:Reloaded: |Failed to reload)", agent.log()))
        == times
    )


def test_reloads(stage: Stage) -> None:
    """Good; bad JSON; bad level; too long tags; bad handler; then `leave_on_terminate` gained by a reload, and TERM."""
    case = SIGNALS["hup"]
    agent = stage.start(case, {"rl.json": '{"tags": {"a": "1"}, "event_handlers": ["user=true"]}'})
    file = agent.options.directory / "rl.json"
    long = json.dumps({"tags": {"x": "y" * 600}})
    played = []
    versions = [
        '{"tags": {"b": "2"}, "event_handlers": ["user=echo again"]}',
        "{bad",
        '{"log_level": "nope"}',
        long,
        '{"event_handlers": ["zz=x"]}',
        '{"leave_on_terminate": true}',
    ]
    for number, text in enumerate(versions, start=1):
        file.write_text(text)
        agent.signal(HUP)
        eventually(partial(has_reloaded, agent, number), 60, "it has reloaded")
        if number == 1:
            played += [stage.play(SIGNALS["hup-info"]), stage.play(SIGNALS["hup-event"])]
    agent.signal(TERM)
    played.append(stage.ended(case, agent))
    judge("agent-signals", played, only={"hup", "hup-info", "hup-event"}.__contains__)


@pytest.mark.soak
def test_snapshots_replays_and_joins_in_the_background(stage: Stage) -> None:
    beside = stage.start(SIGNALS["snap-peer"])
    snapshot = stage.directory / "snA"
    played = []
    for key, end in {
        "snap-first": TERM,
        "snap-rejoin": INT,
        "snap-after-leave": None,
        "snap-rejoin-flag": None,
    }.items():
        case = SIGNALS[key]
        words = [stage.ours(word).replace("=snA", f"={snapshot}") for word in case.argv[1:]]
        agent = stage.start_agent(words)
        known = {"sn-a": "alive"} if key == "snap-after-leave" else {"sn-a": "alive", "sn-b": "alive"}
        agent.wait_statuses(known, 60)
        if end is not None:
            agent.signal(end)
        played.append(stage.ended(case, agent))
        agent.kill()
    played += [start(stage, SIGNALS[key]) for key in ("replay", "noreplay", "retry-join-ok")]
    played += [stage.ended(SIGNALS[key], beside) for key in ("snap-peer", "peer-fails-log")]
    ids = {play.case.id for play in played}
    judge("agent-signals", played, only=ids.__contains__)
    assert ids | SENT.keys() | {"hup", "hup-info", "hup-event"} == {
        key for key in SIGNALS if f"agent-signals/{key}" not in NOT_PLAYED
    }


HANDLERS: Final = cases("event-handlers")


def test_handlers_and_their_answers(stage: Stage) -> None:
    answering = stage.start(HANDLERS["query-agent"])
    asking = [case for key, case in HANDLERS.items() if key.startswith("query-") and key != "query-agent"]
    played = stage.play_together(case for case in asking if f"event-handlers/{case.id}" not in NOT_PLAYED)
    played.append(stage.ended(HANDLERS["query-agent"], answering))
    filtering = stage.start(HANDLERS["filters"])
    played.append(stage.play(HANDLERS["filter-info"]))
    for name in ("deploy", "a", "x:y"):
        filtering.event(name)
    for name in ("load", "other"):
        stage.run((["query", f"-rpc-addr={filtering.options.rpc}", "-timeout=300ms", name], {}))
    written = filtering.options.directory / "f.txt"
    # Handlers run beside each other: the lines are those of the recording, their order is not.
    expected = sorted(str(HANDLERS["filters"].more["file"]).split("\n"))
    eventually(lambda: sorted(written.read_text().split("\n")) == expected, 60, "the recorded lines")
    played.append(stage.ended(HANDLERS["filters"], filtering))
    twice = stage.start(HANDLERS["dup-filters"])
    twice.event("e")
    made = twice.options.directory / "g.txt"
    eventually(
        lambda: made.exists() and made.read_text().endswith(HANDLERS["dup-filters"].more["file"]), 60, "both ran"
    )
    played.append(stage.ended(HANDLERS["dup-filters"], twice))
    played.append(start(stage, HANDLERS["failures"]))
    judge("event-handlers", played)


CLUSTER: Final = ("alpha", "beta-long-name", "gamma", "delta")


def test_a_cluster_that_loses_members(stage: Stage) -> None:
    """The recordings of three files, which were one session."""
    members, forced, left = cases("members-cluster"), cases("force-leave"), cases("leave")
    alpha = stage.start(left["peer-view"])
    beta = stage.start(left["agent-side"])
    others = [peer(stage, port, node, f"-join={alpha.bind}") for port, node in (("21113", "gamma"), ("21114", "delta"))]
    alpha.wait_statuses(dict.fromkeys(CLUSTER, "alive"), 60)
    shown = [stage.play(members[key]) for key in ("all-alive", "all-alive-detailed", "status-alt")]
    for agent in others:
        agent.kill()
    states = {"alpha": "alive", "beta-long-name": "alive", "gamma": "failed", "delta": "failed"}
    alpha.wait_statuses(states, 60)
    shown += [stage.play(members[key]) for key in ("two-failed", "two-failed-json", "filter-failed")]
    asked = [stage.play(case) for key, case in forced.items() if key != "prune-left"]
    alpha.wait_statuses({"alpha": "alive", "beta-long-name": "alive", "gamma": "left"}, 60)
    shown += [stage.play(members[key]) for key in ("after-force-leave", "after-force-leave-json")]
    asked.append(stage.play(forced["prune-left"]))
    alpha.wait_statuses({"alpha": "alive", "beta-long-name": "alive"}, 60)
    shown.append(stage.play(members["after-prune-left"]))
    gone = [stage.play(left["ok"]), stage.ended(left["agent-side"], beta)]
    gone += [stage.play(left["again"]), stage.play(left["no-agent"]), stage.ended(left["peer-view"], alpha)]
    alpha.wait_statuses({"alpha": "alive", "beta-long-name": "left"}, 60)
    shown.append(stage.play(members["after-leave"]))
    judge(
        "monitor",
        map(stage.play, (case for key, case in cases("monitor").items() if f"monitor/{key}" not in NOT_PLAYED)),
    )
    judge("members-cluster", shown)
    judge("force-leave", asked)
    judge("leave", gone)


@pytest.mark.soak
def test_leaving_with_the_wan_profile(stage: Stage) -> None:
    recorded = cases("leave-wan")
    peer(stage, "21145", "peer", "-profile=wan")
    first = stage.start(recorded["int-wan"])
    first.signal(INT)
    played = [stage.ended(recorded["int-wan"], first), stage.play(recorded["peer-members"])]
    second = stage.start(recorded["rpc-leave-wan-agent"])
    played += [stage.play(recorded["rpc-leave-wan"]), stage.ended(recorded["rpc-leave-wan-agent"], second)]
    judge("leave-wan", played)


def test_names_that_conflict(stage: Stage) -> None:
    recorded = cases("name-conflict")
    original = stage.start(recorded["original"])
    bystander = stage.start(recorded["bystander"])
    third = peer(stage, "21122", "p3", f"-join=127.0.0.1:{stage.port('21120')}")
    for agent in (original, bystander, third):
        agent.wait_statuses(dict.fromkeys(("dup1", "p2", "p3"), "alive"), 60)
    newcomer = stage.start(recorded["newcomer"], wait=False)
    played = [stage.ended(recorded["newcomer"], newcomer), stage.play(recorded["members-after"])]
    played += [stage.ended(recorded[key], agent) for key, agent in (("original", original), ("bystander", bystander))]
    judge("name-conflict", played)


@pytest.mark.soak
def test_lost_members_are_found_again_or_forgotten(stage: Stage) -> None:
    recorded = cases("reconnect-reap")
    keeper = stage.start(recorded["keeper"], FILES)
    gone, leaver, comesback = (
        peer(stage, port, node, f"-join={keeper.bind}")
        for port, node in (("21142", "gone"), ("21143", "leaver"), ("21144", "comesback"))
    )
    keeper.wait_statuses(dict.fromkeys(("keeper", "gone", "leaver", "comesback"), "alive"), 60)
    leaver.leave()
    keeper.wait_statuses({"keeper": "alive", "gone": "alive", "leaver": "left", "comesback": "alive"}, 60)
    played = [stage.play(recorded["members-before"])]
    gone.kill()
    comesback.kill()
    keeper.wait_statuses({"keeper": "alive", "gone": "failed", "comesback": "failed"}, 60)
    again = stage.start(recorded["comesback"])
    keeper.wait_statuses({"keeper": "alive", "gone": "failed", "comesback": "alive"}, 60)
    played += [stage.play(recorded["members-after"]), stage.ended(recorded["comesback"], again)]
    judge("reconnect-reap", [*played, stage.ended(recorded["keeper"], keeper)])


def test_members_with_odd_tags(stage: Stage) -> None:
    recorded = cases("misc")
    played = []
    odd = peer(stage, "21133", "n é", "-tag=a=x|y", "-tag=h=<b>&")
    played += [stage.play(recorded["members-pipe"]), stage.play(recorded["members-html"])]
    odd.kill()
    peer(stage, "21136", "ro", "-role=r1", "-tag=role=r2")
    played.append(stage.play(recorded["role-vs-tag"]))
    judge("misc", played)


def test_most_of_the_recordings_are_repeated() -> None:
    """And the tables name no case that is not there."""
    known = {f"{path.stem}/{key}" for path in RECORDED.glob("*.json") for key in cases(path.stem)}
    assert len(known) == 392
    assert DEVIATIONS.keys() | NOT_PLAYED.keys() <= known
    assert DEVIATIONS.keys() & NOT_PLAYED.keys() == set()
    assert len(known) - len(DEVIATIONS) - len(NOT_PLAYED) >= EQUAL
