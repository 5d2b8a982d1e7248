"""The harness does what it says: proved with the real agent on both sides."""

import signal
import sys
from collections.abc import Callable, Collection

import psutil
import pytest

from tests.harness import (
    AnswerRecord,
    Launcher,
    MemberRecord,
    RpcError,
    Sniffer,
    UserRecord,
    eventually,
    holds_throughout,
)
from tests.harness.processes import is_running

DEADLINE_S = 30.0


def test_two_agents_join_talk_and_notice_a_death(launch: Launcher) -> None:
    alpha = launch.serf("alpha", tags={"role": "web", "empty": ""})
    stream = alpha.stream("*")
    beta = launch.serf("beta")

    assert beta.join(alpha) == 1
    for agent in (alpha, beta):
        agent.wait_statuses({"alpha": "alive", "beta": "alive"}, DEADLINE_S)
    seen = beta.members()["alpha"]
    assert (seen.address, seen.port) == (alpha.bind.host, alpha.bind.port)
    assert seen.tags == {"role": "web", "empty": ""}
    assert seen.versions == (1, 5, 2, 2, 5, 5)

    beta.event("deploy", b"\x00\xff payload")
    record = stream.wait_for(lambda r: isinstance(r, UserRecord), DEADLINE_S, "beta's event at alpha")
    assert isinstance(record, UserRecord)
    assert (record.name, record.payload) == ("deploy", b"\x00\xff payload")

    beta.kill()
    stream.wait_for(
        lambda r: isinstance(r, MemberRecord) and r.kind == "member-failed" and r.names == {"beta"},
        DEADLINE_S,
        "alpha tells that beta failed",
    )
    alpha.wait_statuses({"alpha": "alive", "beta": "failed"}, DEADLINE_S)


def test_an_agent_started_with_join_leaves_on_interrupt(launch: Launcher) -> None:
    alpha = launch.serf("alpha")
    beta = launch.serf("beta", join=[alpha])
    alpha.wait_statuses({"alpha": "alive", "beta": "alive"}, DEADLINE_S)
    beta.wait_log("Log data will now stream in as it occurs:", DEADLINE_S)
    beta.signal(signal.SIGINT)
    assert beta.wait_exit(DEADLINE_S) == 0
    assert "Gracefully shutting down agent" in beta.log()
    alpha.wait_statuses({"alpha": "alive", "beta": "left"}, DEADLINE_S)


def test_a_paused_agent_neither_answers_nor_ends_and_goes_on_when_resumed(launch: Launcher) -> None:
    agent = launch.serf("alpha")
    agent.client()
    agent.pause_tree()
    paused = [psutil.Process(pid) for pids in agent.pids_by_role().values() for pid in pids]
    eventually(lambda: {p.status() for p in paused} == {psutil.STATUS_STOPPED}, DEADLINE_S, "all of it stands still")
    agent.resume_tree()
    agent.wait_statuses({"alpha": "alive"}, DEADLINE_S)


def test_closing_an_agent_ends_its_handlers_and_their_daemons(launch: Launcher) -> None:
    daemon = f"user:linger=setsid {sys.executable} -c 'import time; time.sleep(600)' >/dev/null 2>&1 & sleep 600"
    agent = launch.serf("alpha", handlers=[daemon])
    agent.event("linger")
    # The agent, its shell, the shell's sleep, and the daemon (perhaps with the program that made it one).
    eventually(lambda: len(agent.left_over()) >= 4, DEADLINE_S, "the daemon runs")
    started = agent.left_over()
    agent.close()
    assert not any(is_running(process) for process in started)
    assert agent.left_over() == []


def test_a_query_is_answered_over_the_stream_of_another_agent(launch: Launcher) -> None:
    alpha = launch.serf("alpha")
    beta = launch.serf("beta", join=[alpha], handlers=["query:who=echo -n $SERF_SELF_NAME"])
    alpha.wait_statuses({"alpha": "alive", "beta": "alive"}, DEADLINE_S)
    answers = alpha.client().query("who", request_ack=True, timeout_s=1)
    answers.wait_for(lambda r: isinstance(r, AnswerRecord) and r.kind == "done", DEADLINE_S, "the end of the query")
    told = {(r.kind, r.sender, r.payload) for r in answers.records if isinstance(r, AnswerRecord)}
    assert ("response", beta.node, b"beta") in told
    assert {sender for kind, sender, _ in told if kind == "ack"} == {"alpha", "beta"}


def test_an_error_of_the_agent_carries_its_text_and_body(launch: Launcher) -> None:
    agent = launch.serf("alpha")
    nowhere = launch.options("nowhere").bind
    with pytest.raises(RpcError, match="connection refused") as caught:
        agent.join(str(nowhere))
    assert caught.value.body == {"Num": 0}
    with pytest.raises(RpcError, match="Unknown log level"):
        agent.client().monitor("VERBOSE")
    assert agent.client().is_connected
    assert "name" in agent.client().stats()["agent"]


def test_the_sniffer_sees_what_two_agents_send_each_other(
    launch: Launcher, sniff: Callable[[Collection[int]], Sniffer]
) -> None:
    alpha = launch.serf("alpha")
    beta_options = launch.options("beta")
    capture = sniff({alpha.bind.port, beta_options.bind.port})
    beta = launch.serf("beta", bind=beta_options.bind, join=[alpha])

    def both_ways() -> bool:
        ends = {(packet.source, packet.target) for packet in capture.packets}
        return {(alpha.bind, beta.bind), (beta.bind, alpha.bind)} <= ends

    eventually(both_ways, DEADLINE_S, "packets in both directions")
    capture.close()
    assert capture.dropped == 0


def test_what_should_hold_is_looked_at_until_the_end(launch: Launcher) -> None:
    agent = launch.serf("alpha")
    holds_throughout(lambda: agent.statuses() == {"alpha": "alive"}, 0.3, "alpha is alone and well")
