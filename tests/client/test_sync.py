"""The blocking client against real agents of both kinds, and against recorded and made-up servers."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgpack
import pytest

from serfmp.client import (
    AgentError,
    Client,
    ClientError,
    ConnectError,
    ConnectionLostError,
    DeadlineError,
    JoinError,
    Member,
    MemberEvent,
    ProtocolError,
    UserEvent,
)
from tests.client.made_up import HANDSHAKE, end_a_query_with_nobody, server
from tests.harness import Agent, Launcher, LoopbackAllocator, needs_serf

DATA: Final = json.loads((Path(__file__).parent.parent / "data" / "rpc-vectors.json").read_text())

both_kinds = pytest.mark.parametrize("kind", ["serfmp", pytest.param("serf", marks=[needs_serf, pytest.mark.interop])])


def start(launch: Launcher, kind: str, **options: Any) -> Agent:
    return launch.serf("a", **options) if kind == "serf" else launch.serfmp("a", **options)


@both_kinds
def test_members_events_streams_and_stats(launch: Launcher, kind: str) -> None:
    agent = start(launch, kind, tags={"role": "web", "dc": "é"})
    with Client(str(agent.options.rpc)) as client:
        (row,) = client.members()
        assert row == Member(
            "a", agent.bind.host, agent.bind.port, {"role": "web", "dc": "é"}, "alive", 1, 5, 2, 2, 5, 5
        )
        assert client.members_filtered(name="a", tags={"role": "w.b"}) == (row,)
        assert client.members_filtered(status="failed") == ()
        assert client.stats()["tags"]["role"] == "web"
        stream = client.stream("user:deploy")
        other = client.stream("user")
        client.event("deploy", b"\xff\x00", coalesce=False)
        client.event("later", coalesce=False)
        event = stream.next_event(10)
        assert isinstance(event, UserEvent)
        assert (event.name, event.payload, event.coalesce) == ("deploy", b"\xff\x00", False)
        assert [e.name for e in (other.next_event(10), other.next_event(10)) if isinstance(e, UserEvent)] == [
            "deploy",
            "later",
        ]
        other.close()
        assert other.next_event(0) is None
        assert stream.next_event(0) is None


@both_kinds
def test_joining_others(launch: Launcher, loopback: LoopbackAllocator, kind: str) -> None:
    agent = start(launch, kind)
    other = launch.serfmp("b")
    nobody = str(loopback.endpoint())
    with Client(str(agent.options.rpc)) as client:
        stream = client.stream("member-join")
        assert client.join([]) == 0
        with pytest.raises(JoinError, match="1 error occurred") as failed:
            client.join([nobody])
        assert failed.value.reached == 0
        assert client.join([str(other.bind), nobody]) == 1
        assert {row.name for row in client.members()} == {"a", "b"}
        names: set[str] = set()
        while "b" not in names:
            event = stream.next_event(15)
            assert isinstance(event, MemberEvent)
            names |= {row.name for row in event.members}


@both_kinds
def test_leaving_ends_the_connection(launch: Launcher, kind: str) -> None:
    agent = start(launch, kind)
    with Client(str(agent.options.rpc)) as client:
        client.leave()
        assert agent.wait_exit(10) == 0
        with pytest.raises(ConnectionLostError, match=r"^client closed$"):
            client.members()


@both_kinds
def test_an_event_that_is_too_large_is_an_error_with_serfs_words(launch: Launcher, kind: str) -> None:
    agent = start(launch, kind)
    with Client(str(agent.options.rpc)) as client:
        with pytest.raises(AgentError, match=r"^user event exceeds configured limit of 512 bytes before encoding$"):
            client.event("e", bytes(600))
        client.event("e", bytes(100))


def test_a_stream_ends_with_its_agent(launch: Launcher) -> None:
    agent = launch.serfmp("a")
    with Client(str(agent.options.rpc)) as client:
        stream = client.stream("user")
        agent.kill()
        with pytest.raises(ConnectionLostError):
            next(stream)


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("", "dial tcp: missing address"),
        ("nonsense", "dial tcp: address nonsense: missing port in address"),
        ("x:y:z", "dial tcp: address x:y:z: too many colons in address"),
        ("::1:7373", "dial tcp: address ::1:7373: too many colons in address"),
        ("[::1", "dial tcp: address [::1: missing ']' in address"),
        ("[::1]:99999", "dial tcp: address 99999: invalid port"),
        ("127.0.0.1:-1", "dial tcp: address -1: invalid port"),
        ("127.0.0.1:no-such-service", "dial tcp: address tcp/no-such-service: unknown port"),
    ],
)
def test_addresses_that_are_none(address: str, text: str) -> None:
    with pytest.raises(ConnectError) as failed:
        Client(address)
    assert str(failed.value) == text


def test_nobody_listens(loopback: LoopbackAllocator) -> None:
    free = loopback.endpoint()
    with pytest.raises(ConnectError) as failed:
        Client(str(free))
    assert str(failed.value) == f"dial tcp {free}: connect: connection refused"


# --- recorded and made-up servers -------------------------------------------------------------------------------------

DO: Final[dict[str, Callable[[Client], Any]]] = {
    "members": lambda client: [row.name for row in client.members_filtered()],
    "members -status=alive -name=c.* -tag role=web": lambda client: [
        row.name for row in client.members_filtered(name="c.*", status="alive", tags={"role": "web"})
    ],
    "join 127.0.0.1:21197": lambda client: client.join(["127.0.0.1:21197"]),
    "join -replay 127.0.0.1:21197 127.0.0.1:21999": lambda client: client.join(
        ["127.0.0.1:21197", "127.0.0.1:21999"], replay=True
    ),
    "event -coalesce=false deploy v1": lambda client: client.event("deploy", b"v1", coalesce=False),
    "leave": lambda client: client.leave(),
}
GIVES: Final = {
    "members": ["cli1"],
    "members -status=alive -name=c.* -tag role=web": ["cli1"],
    "join 127.0.0.1:21197": 1,
    "join -replay 127.0.0.1:21197 127.0.0.1:21999": 1,
}


def recorded(command: str) -> list[dict[str, Any]]:
    found = [entry for entry in DATA["cli_exchanges"] if " ".join(entry["argv"][1:]) == command]
    return [part for part in found[0]["exchange"] if "hex" in part]


@pytest.mark.parametrize("command", DO)
def test_the_recorded_agent_hears_what_the_real_command_line_said(command: str) -> None:
    exchange = recorded(command)
    heard: list[Any] = []

    def talk(sock: socket.socket) -> None:
        unpacker = msgpack.Unpacker()
        for part in exchange:
            if part["from"] == "server":
                # Sequence numbers of the recording begin with 1, ours with 0.
                sequence = part["decoded"][0]["Seq"]
                data = bytes.fromhex(part["hex"])
                sock.sendall(data.replace(b"\xa3Seq" + bytes([sequence]), b"\xa3Seq" + bytes([sequence - 1])))
                continue
            values: list[Any] = []
            while len(values) < len(part["decoded"]):
                unpacker.feed(sock.recv(65536))
                values += list(unpacker)
            heard.extend(values)

    with server(talk) as address, Client(address) as client:
        assert DO[command](client) == GIVES.get(command)
    said = [value for part in exchange if part["from"] == "client" for value in part["decoded"]]
    for ours, theirs in zip(heard, said, strict=True):
        theirs = {**theirs, **({"Seq": theirs["Seq"] - 1} if "Seq" in theirs else {})}  # noqa: PLW2901
        assert {**ours, **({"Payload": ours["Payload"].decode()} if "Payload" in ours else {})} == theirs


def answering(*values: Any, raw: bytes = b"", linger: bool = False) -> Callable[[socket.socket], None]:
    """Shakes hands, waits for the next request, and then sends these values."""

    def talk(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.sendall(HANDSHAKE)
        sock.recv(65536)
        sock.sendall(b"".join(msgpack.packb(value) for value in values) + raw)
        while linger and sock.recv(65536):
            pass

    return talk


def test_an_answer_that_never_comes_is_a_deadline_and_the_connection_stays() -> None:
    def talk(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.sendall(HANDSHAKE)
        sock.recv(65536)
        sock.recv(65536)
        sock.sendall(msgpack.packb({"Error": "", "Seq": 1}) + msgpack.packb({"Error": "late", "Seq": 2}))

    with server(talk) as address, Client(address, limit_s=0.1) as client:
        with pytest.raises(DeadlineError, match=r"'event' within 0\.1 s"):
            client.event("x")
        with pytest.raises(AgentError, match="late"):
            client.leave()


def test_a_refusal_that_is_repeated_is_ignored() -> None:
    refused = {"Error": "Authentication required", "Seq": 1}
    with (
        server(answering(refused, refused)) as address,
        Client(address) as client,
        pytest.raises(AgentError, match="Authentication required"),
    ):
        client.members_filtered()


@pytest.mark.parametrize(
    "talk",
    [
        answering(raw=b"\xc1"),
        answering(5),
        answering({"Error": "", "Seq": "1"}),
        answering({"Error": "", "Seq": 1}, {"Members": 5}, linger=True),
        answering({"Error": "", "Seq": 1}, {"Members": [{"Name": 7}]}, linger=True),
        answering({"Error": "", "Seq": 1}, {"Members": [{"Addr": b"abc"}]}, linger=True),
    ],
)
def test_answers_that_are_none_are_told_as_such(talk: Callable[[socket.socket], None]) -> None:
    with server(talk) as address, Client(address) as client, pytest.raises(ProtocolError):
        client.members()


def test_a_connection_that_ends_before_the_answer_is_lost() -> None:
    with server(answering()) as address, Client(address) as client:
        with pytest.raises(ConnectionLostError, match=r"^client closed$"):
            client.members()
        with pytest.raises(ClientError):
            client.event("x")


def test_old_encoders_are_understood() -> None:
    body = msgpack.packb({"Members": [{"Name": "n", "Addr": b"\x7f\0\0\1", "Tags": None}]}, use_bin_type=False)
    with server(answering({"Error": "", "Seq": 1}, raw=body)) as address, Client(address) as client:
        (row,) = client.members()
    assert (row.name, row.address, row.tags, row.port) == ("n", "127.0.0.1", {}, 0)


def test_importing_the_client_is_cheap() -> None:
    program = "import sys, serfmp.client; print(*sorted(name.partition('.')[0] for name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & {"zmq", "psutil", "cryptography", "rich", "click", "asyncio", "re2"} == set()


def test_acks_and_responses_of_nobody_are_left_out() -> None:
    with server(end_a_query_with_nobody) as address, Client(address) as client:
        answers = [(answer.kind, answer.node, answer.payload) for answer in client.query("q", ack=True)]
    assert answers == [("ack", "a", b""), ("response", "a", b"x")]
