"""The asyncio client against agents of both kinds, and against made-up servers; the examples of its documentation."""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import os
import re
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import msgpack
import pytest

from serfmp.client import (
    AgentError,
    AsyncClient,
    Client,
    ConnectError,
    ConnectionLostError,
    DeadlineError,
    JoinError,
    ProtocolError,
    QueryEvent,
    UserEvent,
)
from tests.client.made_up import HANDSHAKE, end_a_query_with_nobody, server
from tests.harness import Agent, Launcher, eventually, needs_serf
from tests.harness.certificates import Authority

ROOT: Final = Path(__file__).parents[2]

both_kinds = pytest.mark.parametrize("kind", ["serfmp", pytest.param("serf", marks=[needs_serf, pytest.mark.interop])])


def start(launch: Launcher, kind: str, **options: Any) -> Agent:
    return launch.serf("a", **options) if kind == "serf" else launch.serfmp("a", **options)


def run(address: str, talk: Callable[[AsyncClient], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), AsyncClient(address, **options) as client:
            await talk(client)

    asyncio.run(main())


@both_kinds
def test_tasks_share_a_connection(launch: Launcher, kind: str) -> None:
    agent = start(launch, kind, tags={"role": "web"}, handlers=["query:load=cat"])
    address = str(agent.options.rpc)

    async def talk(client: AsyncClient) -> None:
        events = await client.stream("user")
        sending = [client.event("deploy", str(number).encode(), coalesce=False) for number in range(20)]
        sent = asyncio.gather(*sending)
        members, filtered, stats = await asyncio.gather(
            client.members(), client.members_filtered(tags={"role": "w.b"}), client.stats()
        )
        await sent
        with Client(address) as blocking:
            assert members == filtered == blocking.members()
            assert stats["tags"] == blocking.stats()["tags"] == {"role": "web"}
        payloads = set()
        async for event in events:
            assert isinstance(event, UserEvent)
            payloads.add(event.payload)
            if len(payloads) == 20:
                break
        await events.close()
        assert await events.next_record(5) is None
        async with await client.query("load", b"15m", ack=True, timeout_s=4) as query:
            answers = [answer async for answer in query]
        assert sorted((answer.kind, answer.node, answer.payload) for answer in answers) == [
            ("ack", "a", b""),
            ("response", "a", b"15m\n"),
        ]
        await client.tags({"role": "db"}, ["none"])
        assert (await client.members())[0].tags == {"role": "db"}
        assert await client.coordinate("a") is not None
        assert await client.coordinate("b") is None
        with pytest.raises(JoinError, match="connection refused") as refused:
            await client.join(["127.0.0.1:1"])
        assert refused.value.reached == 0
        with pytest.raises(AgentError, match="nodes reported failure"):
            await client.list_keys()
        async with await client.monitor("debug") as lines:
            async for line in lines:
                if "Serf agent starting" in line:
                    break
        await client.leave()

    run(address, talk)
    assert agent.wait_exit(60) == 0


@both_kinds
def test_a_query_is_answered_from_another_task(launch: Launcher, kind: str) -> None:
    agent = start(launch, kind)

    async def talk(client: AsyncClient) -> None:
        async def answer() -> None:
            async for query in queries:
                assert isinstance(query, QueryEvent)
                await client.respond(query, b"to " + query.payload)
                return

        async with await client.stream("query") as queries:
            answering = asyncio.create_task(answer())
            async with await client.query("who", b"you", timeout_s=3) as found:
                async for one in found:
                    assert (one.kind, one.node, one.payload) == ("response", "a", b"to you")
                    break
            await answering

    run(str(agent.options.rpc), talk)


def test_what_came_before_the_agent_was_gone_can_still_be_taken(launch: Launcher) -> None:
    agent = launch.serfmp("a")

    async def talk(client: AsyncClient) -> None:
        events = await client.stream("user")
        await client.event("last", coalesce=False)
        first = await events.next_record(20)
        assert isinstance(first, UserEvent)
        waiting = asyncio.create_task(anext(events))
        await asyncio.to_thread(agent.kill)
        with pytest.raises(ConnectionLostError):
            await waiting
        with pytest.raises(ConnectionLostError):
            await client.members()

    run(str(agent.options.rpc), talk)


def answer_after(sock: socket.socket, waits: threading.Event) -> None:
    sock.recv(65536)
    sock.sendall(HANDSHAKE)
    sock.recv(65536)
    waits.wait(20)
    # The late answer of the first call, and that of the second one.
    for number in (1, 2):
        sock.sendall(msgpack.packb({"Error": "", "Seq": number}) + msgpack.packb({"a": {"n": str(number)}}))
    sock.recv(65536)


@pytest.mark.parametrize("how", ["deadline", "cancelled"])
def test_a_call_that_was_given_up_leaves_the_connection_usable(how: str) -> None:
    waits = threading.Event()
    with server(lambda sock: answer_after(sock, waits)) as address:

        async def talk(client: AsyncClient) -> None:
            if how == "deadline":
                with pytest.raises(DeadlineError, match=r"did not answer 'leave' within 0\.1 s"):
                    await client.leave(limit_s=0.1)
            else:
                given_up = asyncio.create_task(client.stats())
                await asyncio.wait([given_up], timeout=0.05)
                given_up.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await given_up
            waits.set()
            if how == "cancelled":
                assert await client.stats() == {"a": {"n": "2"}}

        run(address, talk)


def speak_http(sock: socket.socket) -> None:
    sock.sendall(b"HTTP/1.1 400\r\n\r\n")
    sock.recv(65536)


def test_no_agent_and_no_serf_are_told_as_the_blocking_client_tells_them() -> None:
    async def connect(address: str) -> None:
        async with AsyncClient(address, limit_s=5):
            raise AssertionError(address)

    for address in ("127.0.0.1:1", "nonsense", "unix:///no/such", "unix://x"):
        with pytest.raises(ConnectError) as expected:
            Client(address)
        with pytest.raises(ConnectError) as came:
            asyncio.run(connect(address))
        assert str(came.value) == str(expected.value)
    with server(speak_http) as address, pytest.raises(ProtocolError):
        asyncio.run(connect(address))


def test_a_client_that_is_not_connected_says_so() -> None:
    with pytest.raises(ConnectError, match="use it as a context manager"):
        asyncio.run(AsyncClient("127.0.0.1:1").members())


EXAMPLES: Final = dict(
    re.findall(r"<!-- example: (\w+) -->\n```python\n(.*?)```", (ROOT / "docs/client.md").read_text(), flags=re.DOTALL)
)


def test_the_examples_of_the_documentation_run(launch: Launcher, tmp_path: Path) -> None:
    agent = launch.serfmp("a", handlers=["query:load=echo 1"])
    assert set(EXAMPLES) == {"blocking", "records", "tls", "asyncio", "answering"}
    authority = Authority(tmp_path / "tls")
    files = dict(zip(("ops.pem", "ops.key"), authority.issue("ops"), strict=True)) | {"ca.pem": authority.ca}
    cert, key = authority.issue("web1", "web1.example.com")
    extra = [f"-rpc-tls-cert={cert}", f"-rpc-tls-key={key}", f"-rpc-tls-ca={authority.ca}"]
    secure = launch.serfmp("web1", wait=False, extra=extra)
    secure.wait_log("Log data will now stream in", 30)
    running = {}
    for name, text in EXAMPLES.items():
        path = tmp_path / f"example-{name}.py"
        for file, place in files.items():
            text = text.replace(f"/etc/serfmp/{file}", place)  # noqa: PLW2901
        path.write_text(text.replace("127.0.0.1:7373", str((secure if name == "tls" else agent).options.rpc)))
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        running[name] = subprocess.Popen(
            [sys.executable, str(path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env, text=True
        )
    told = {name: (process.communicate(timeout=60)[0], process.returncode) for name, process in running.items()}
    assert {name: code for name, (_, code) in told.items()} == dict.fromkeys(EXAMPLES, 0), told
    assert told["blocking"][0] == f"a {agent.bind.host} alive {{}}\n"
    assert "deploy b'v1.2.3'\nack a b''\nresponse a b'1\\n'\n" in told["records"][0]
    assert told["tls"][0] == "1\n"
    assert told["asyncio"][0].startswith("1 a\nUserEvent(name='deploy'")
    assert told["answering"][0] == "a b'3 days'\n"


def test_the_serfclient_package_works_as_it_is(launch: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("pkg_resources") is None:
        # Its __init__ asks setuptools for its own version, and nothing else.
        stand_in: Any = types.ModuleType("pkg_resources")
        stand_in.get_distribution = importlib.metadata.distribution
        monkeypatch.setitem(sys.modules, "pkg_resources", stand_in)
    serfclient = pytest.importorskip(
        "serfclient", reason="the serfclient package is not installed (pip install serfclient==1.2.0)"
    )
    agent = launch.serfmp("a", tags={"role": "web"})
    where = {"host": agent.options.rpc.host, "port": agent.options.rpc.port}
    client = serfclient.SerfClient(**where, timeout=20)
    (row,) = client.members().body["Members"]
    assert (row["Name"], row["Status"], row["Tags"]) == ("a", "alive", {"role": "web"})
    assert client.members(name="zzz").body["Members"] == []
    assert client.stats().body["agent"]["name"] == "a"
    assert client.join(str(agent.bind)).body == {"Num": 1}
    assert client.force_leave("nobody").head["Error"] == ""
    watching = serfclient.SerfClient(**where, timeout=20)
    events = watching.stream("user")
    assert events.head["Error"] == ""
    assert client.event("deploy", "v1", coalesce=False).head["Error"] == ""
    assert next(events.body).body["Name"] == "deploy"
    watching.close()
    client.close()
    eventually(lambda: agent.log().count("Accepted client") >= 2, 10, "both clients were seen")


def test_both_clients_have_the_same_methods() -> None:
    blocking = {name for name in vars(Client) if not name.startswith("_")}
    alone = {"either", "wait_for_input", "end_stream", "forget_stream"}
    assert blocking - alone == {name for name in vars(AsyncClient) if not name.startswith("_")} - {*alone, "connect"}


def test_acks_and_responses_of_nobody_are_left_out() -> None:
    async def talk(client: AsyncClient) -> None:
        answers = [answer async for answer in await client.query("q", ack=True)]
        assert [(answer.kind, answer.node) for answer in answers] == [("ack", "a"), ("response", "a")]

    with server(end_a_query_with_nobody) as address:
        run(address, talk)
