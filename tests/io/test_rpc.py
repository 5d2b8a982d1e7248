"""The rpc process: order, limits, slow clients, and a detector that dies. The test is its detector and its clients."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace

import msgpack
import pytest

from serfmp.detector.effects import EventKind, MemberEvent, MemberStatus
from serfmp.io import rpc_commands
from serfmp.io.rpc_connection import OUT_LIMIT, PENDING_LIMIT
from serfmp.io.rpc_reader import VALUE_LIMIT
from serfmp.io.rpc_streams import QUEUE_LIMIT
from tests.io.rpc_stage import RpcStage, kernel_memory_is_small, member

OK = ""


@pytest.fixture
def stage() -> Iterator[RpcStage]:
    with RpcStage(member("rpc1", role="web"), member("b"), member("c", role="db")) as made:
        yield made


def header(sequence: int, error: str = OK) -> dict[str, object]:
    return {"Error": error, "Seq": sequence}


def names(body: dict[str, list[dict[str, str]]]) -> list[str]:
    return [row["Name"] for row in body["Members"]]


# --- reads ------------------------------------------------------------------------------------------------------------


def test_members_are_answered_without_the_detector(stage: RpcStage) -> None:
    client = stage.client()
    assert names(client.ask("members", values=2)[1]) == ["rpc1", "b", "c"]
    assert stage.state.asked == []


def test_a_change_is_seen_by_whoever_has_the_answer_that_came_behind_it(stage: RpcStage) -> None:
    client = stage.client()
    client.send({"Command": "join", "Seq": 3}, {"Existing": ["x"]}, {"Command": "members", "Seq": 4})
    stage.until(lambda: stage.state.asked, "the join is asked for")
    stage.set_member(member("d"))
    stage.answer(1)
    assert client.take(2) == [header(3), {"Num": 1}]
    assert names(client.take(2)[1]) == ["rpc1", "b", "c", "d"]


def test_members_of_a_large_cluster_come_in_one_answer(stage: RpcStage) -> None:
    for number in range(3000):
        stage.state.members[f"n{number}"] = member(f"n{number}", number, role="web")
    stage.restart_detector()
    client = stage.client()
    stage.until(lambda: len(client.ask("members", values=2)[1]["Members"]) == 3003, "the new snapshot is complete")


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"Name": "r.*"}, ["rpc1"]),
        ({"Name": "rpc"}, []),
        ({"Name": "rp|c"}, ["rpc1", "c"]),
        ({"Status": "alive", "Tags": {"role": ".+"}}, ["rpc1", "c"]),
        ({"Tags": {"role": ""}}, ["b"]),
        ({"Tags": {"none": ".*"}}, ["rpc1", "b", "c"]),
        ({"Status": "failed"}, []),
    ],
)
def test_filters_are_anchored_as_text_and_all_must_hold(
    stage: RpcStage, wanted: dict[str, object], found: list[str]
) -> None:
    assert names(stage.client().ask("members-filtered", wanted, values=2)[1]) == found


def test_a_bad_expression_is_answered_with_an_error_and_the_connection_stays(stage: RpcStage) -> None:
    client = stage.client()
    first, second = client.ask("members-filtered", {"Name": "("}, values=2)
    assert first == second
    assert first["Error"].startswith("Failed to compile regex '('")
    assert client.ask("members", values=2)[0] == header(7)


def test_an_expression_that_backtracking_engines_hang_on_is_harmless(stage: RpcStage) -> None:
    stage.set_member(member("a" * 128))
    assert names(stage.client().ask("members-filtered", {"Name": "(a*)*(a*)*c"}, values=2)[1]) == ["c"]


def test_stats_have_serfs_sections_and_own_tags(stage: RpcStage) -> None:
    stage.set_member(replace(member("b"), status=MemberStatus.FAILED))
    body = stage.client().ask("stats", values=2)[1]
    assert list(body) == ["agent", "event_handlers", "runtime", "serf", "tags"]
    assert body["agent"] == {"name": "rpc1"}
    assert body["tags"] == {"role": "web"}
    assert body["serf"]["members"] == "3"


# --- order ------------------------------------------------------------------------------------------------------------


def test_requests_of_a_connection_are_carried_out_one_after_another(stage: RpcStage) -> None:
    client = stage.client()
    client.send({"Command": "event", "Seq": 1}, {"Name": "a"}, {"Command": "event", "Seq": 2}, {"Name": "b"})
    stage.until(lambda: stage.state.asked, "the first is asked for")
    other = stage.client()
    assert other.ask("members", values=2)[0] == header(7)
    assert [ask.fields[0] for _, ask in stage.state.asked] == ["a"]
    stage.answer()
    assert client.take(1) == [header(1)]
    stage.until(lambda: stage.state.asked, "the second is asked for")
    stage.answer(None, "no")
    assert client.take(1) == [header(2, "no")]


def test_records_of_streams_come_between_answers_each_whole(stage: RpcStage) -> None:
    client = stage.client()
    assert client.ask("stream", {"Type": "user"}, sequence=1) == [header(1)]
    assert client.ask("stream", {"Type": "user:deploy,*"}, sequence=2) == [header(2)]
    client.send({"Command": "leave", "Seq": 3})
    stage.publish("deploy", "other")
    got = client.take(8)
    heads, bodies = got[0::2], got[1::2]
    assert sorted(head["Seq"] for head in heads) == [1, 1, 2, 2]
    assert bodies[0] == {"Coalesce": False, "Event": "user", "LTime": 41, "Name": "deploy", "Payload": b"p"}
    stage.until(lambda: stage.state.asked, "the leave is asked for")
    stage.answer()
    assert client.take(1) == [header(3)]


def test_an_empty_payload_is_nil_and_a_batch_of_members_is_one_record(stage: RpcStage) -> None:
    client = stage.client()
    client.ask("stream", {"Type": "user,member-leave"}, sequence=1)
    stage.publish("e", payload=b"")
    assert client.take(2)[1]["Payload"] is None
    stage.state.events.append(MemberEvent(2, EventKind.MEMBER_LEAVE, (member("b"), member("c"))))
    stage.state.events.append(MemberEvent(3, EventKind.MEMBER_JOIN, (member("d"),)))
    stage.pump()
    body = client.take(2)[1]
    assert (body["Event"], names(body)) == ("member-leave", ["b", "c"])
    stage.until(lambda: stage.state.acknowledged["rpc"] == 3, "all are acknowledged")
    assert client.values == []


def test_a_stopped_stream_gets_nothing_more_and_its_number_is_free(stage: RpcStage) -> None:
    client = stage.client()
    client.ask("stream", {}, sequence=1)
    assert client.ask("stream", {}, sequence=1) == [header(1, "Stream with given sequence exists")]
    assert client.ask("stop", {"Stop": 1}) == [header(7)]
    stage.publish("e")
    stage.until(lambda: stage.state.acknowledged["rpc"] == 1, "the event is acknowledged")
    assert client.ask("stream", {}, sequence=1) == [header(1)]


# --- limits -----------------------------------------------------------------------------------------------------------


def test_a_client_that_does_not_read_loses_events_and_nobody_waits_for_it(stage: RpcStage) -> None:
    slow, quick = stage.client(), stage.client()
    for client in (slow, quick):
        client.ask("stream", {}, sequence=1)
    slow.reading = False
    kernel_memory_is_small(slow.sock)
    line = f"[WARN] agent.ipc: Dropping event to ipc.client: {slow.name}"
    for _ in range(200):
        stage.publish(*["e"] * 64, payload=b"x" * 4000)
        assert len(quick.take(128)) == 128
        if line in stage.log:
            break
    assert line in stage.log
    assert not any(quick.name in entry for entry in stage.log if "Dropping" in entry)
    slow.reading = True
    stage.until(lambda: stage.log.count(line) and len(slow.values) >= 2 * QUEUE_LIMIT, "the slow one catches up")
    assert all(value["Event"] == "user" for value in slow.values[1::2])


def test_a_client_that_asks_without_reading_is_not_read_either(stage: RpcStage) -> None:
    for number in range(2000):
        stage.state.members[f"n{number}"] = member(f"n{number}", number, role="x" * 100)
    stage.restart_detector()
    client = stage.client()
    stage.until(lambda: len(client.ask("members", values=2)[1]["Members"]) > 2000, "the snapshot is complete")
    client.reading = False
    request = msgpack.packb({"Command": "members", "Seq": 1})
    sent = 0
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

    def fill() -> bool:
        nonlocal sent
        try:
            sent += client.sock.send(request * 200)
        except BlockingIOError:
            return True
        return False

    stage.until(fill, "the connection takes no more requests")
    assert stage.client().ask("members", values=2)[0] == header(7)
    assert sent > len(request) * PENDING_LIMIT
    assert OUT_LIMIT < 2**21


def test_more_than_the_limit_of_pipelined_requests_are_all_answered_in_order(stage: RpcStage) -> None:
    client = stage.client()
    count = 5 * PENDING_LIMIT
    for number in range(count):
        client.send({"Command": "stop", "Seq": number}, {"Stop": number})
    assert [value["Seq"] for value in client.take(count)] == list(range(count))


@pytest.mark.parametrize("size", [VALUE_LIMIT + 100, 3 * VALUE_LIMIT])
def test_a_request_that_is_too_long_ends_the_connection(stage: RpcStage, size: int) -> None:
    client = stage.client()
    client.send({"Command": "event", "Seq": 1})
    data = msgpack.packb({"Name": "x", "Payload": bytes(size)})
    # The other side may end the connection in the middle.
    with contextlib.suppress(OSError):
        client.send_bytes(data)
    assert client.wait_closed() == []
    stage.until(lambda: any("longer than" in line for line in stage.log), "the log says why")


def test_a_claimed_length_reserves_nothing(stage: RpcStage) -> None:
    client = stage.client()
    client.send_bytes(b"\xdd\xff\xff\xff\xff" * 500)
    assert stage.client().ask("members", values=2)[0] == header(7)


def test_requests_before_a_broken_one_are_carried_out_and_answered(stage: RpcStage) -> None:
    client = stage.client()
    client.send({"Command": "event", "Seq": 1}, {"Name": "a"}, {"Command": "members", "Seq": -1})
    stage.until(lambda: stage.state.asked, "the event is asked for")
    stage.answer()
    assert client.wait_closed() == [header(1)]
    stage.until(lambda: any("failed to decode request header" in line for line in stage.log), "it is told")


def test_a_client_that_ends_in_the_middle_of_a_request_is_logged_and_others_go_on(stage: RpcStage) -> None:
    one, two = stage.client(), stage.client()
    one.send({"Command": "event", "Seq": 1})
    two.send_bytes(b"\x82\xa7Comm")
    for client in (one, two):
        client.sock.shutdown(socket.SHUT_WR)
        assert client.wait_closed() == []
    stage.until(
        lambda: (
            {
                "[ERR] agent.ipc: Failed to evaluate request: decode failed: EOF",
                "[ERR] agent.ipc: failed to decode request header: unexpected EOF",
            }
            <= set(stage.log)
        ),
        "both are logged",
    )


# --- restarts and the end ---------------------------------------------------------------------------------------------


def test_a_request_waits_for_the_next_detector_and_is_answered_by_it(stage: RpcStage) -> None:
    client = stage.client()
    client.send({"Command": "event", "Seq": 1}, {"Name": "a"})
    stage.until(lambda: stage.state.asked, "the event is asked for")
    stage.state.asked.clear()
    stage.restart_detector()
    stage.until(lambda: stage.state.asked, "it is asked for again")
    stage.answer()
    assert client.take(1) == [header(1)]


def test_a_request_that_the_detector_does_not_answer_ends_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc_commands, "REQUEST_LIMIT", 0.2)
    with RpcStage(member("rpc1")) as silent:
        client = silent.client()
        error = "the detector did not answer within 0.2 s"
        assert client.ask("event", {"Name": "a"}) == [header(7, error)]
        silent.answer()
        assert client.ask("members", values=2)[0] == header(7)


def test_clients_that_connect_while_the_process_is_dead_are_served_by_the_next_one(stage: RpcStage) -> None:
    stage.kill()
    waiting = stage.client(handshake=False)
    waiting.send({"Command": "handshake", "Seq": 0}, {"Version": 1})
    stage.start()
    assert waiting.take(1) == [header(0)]


def test_events_that_a_killed_process_had_not_acknowledged_come_again(stage: RpcStage) -> None:
    stage.process.signal(signal.SIGSTOP)
    stage.publish("a", "b")
    stage.kill()
    assert stage.state.acknowledged["rpc"] == 0
    stage.start()
    stage.until(lambda: stage.state.acknowledged["rpc"] == 2, "the next generation got both")


def test_the_answer_to_a_leave_is_written_before_the_process_stops(stage: RpcStage) -> None:
    client = stage.client()
    client.send({"Command": "leave", "Seq": 1})
    stage.until(lambda: stage.state.asked, "the leave is asked for")
    stage.answers["leave"] = (None, "")
    stage.answer()
    assert stage.stop() == 0
    assert client.wait_closed() == [header(1)]
    assert "[INFO] agent.ipc: Graceful leave triggered" in stage.log


def test_a_client_that_never_reads_does_not_keep_the_process_from_stopping(stage: RpcStage) -> None:
    client = stage.client()
    client.ask("stream", {}, sequence=1)
    client.reading = False
    kernel_memory_is_small(client.sock)
    for _ in range(60):
        stage.publish(*["e"] * 64, payload=b"x" * 4000)
    stage.until(lambda: stage.state.acknowledged["rpc"] == 60 * 64, "all are acknowledged")
    assert stage.stop() == 0


def test_it_serves_when_it_was_started_by_exec() -> None:
    with RpcStage(member("rpc1"), method="exec") as stage:
        assert names(stage.client().ask("members", values=2)[1]) == ["rpc1"]


# --- authentication ---------------------------------------------------------------------------------------------------


def test_without_the_token_every_command_is_refused_and_its_body_is_read(stage: RpcStage) -> None:
    del stage
    with RpcStage(member("rpc1"), auth="sekrit") as guarded:
        client = guarded.client()
        refused = header(7, "Authentication required")
        assert client.ask("event", {"Name": "x"}) == [refused]
        assert client.ask("query", {"Name": "x", "Payload": b"y"}) == [refused]
        assert client.ask("bogus") == [refused]
        assert client.ask("auth", {"AuthKey": "bad"}) == [header(7, "Invalid authentication token")]
        assert client.ask("auth", {"AuthKey": b"sekrit"}) == [header(7)]
        assert client.ask("members", values=2)[0] == header(7)
        assert guarded.state.asked == []
        assert guarded.log.count("[WARN] agent.ipc: Client sending commands before auth") == 3
