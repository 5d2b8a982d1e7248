"""TLS from end to end: agents with certificates, both clients, the commands, and what is told of failures."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from serfmp.cli.main import main
from serfmp.client import AsyncClient, Client, ClientError, ConnectError, ConnectionLostError, Tls, UserEvent
from tests.harness import Agent, Launcher, eventually, needs_serf
from tests.harness.certificates import Authority

DEADLINE_S = 30.0


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "tls")


def start(launch: Launcher, authority: Authority, *, clients: bool = False, **options: Any) -> Agent:
    """An agent with certificates, for clients with certificates only or for any."""
    cert, key = authority.issue("agent", "127.0.0.1", "localhost")
    extra = [f"-rpc-tls-cert={cert}", f"-rpc-tls-key={key}", *([f"-rpc-tls-ca={authority.ca}"] if clients else [])]
    agent = launch.serfmp("a", wait=False, **{**options, "extra": [*extra, *options.get("extra", ())]})
    agent.wait_log("Log data will now stream in", DEADLINE_S)
    return agent


@pytest.fixture
def agent(launch: Launcher, authority: Authority) -> Agent:
    return start(launch, authority, handlers=["query:load=cat"])


@pytest.fixture
def strict(launch: Launcher, authority: Authority) -> Agent:
    return start(launch, authority, clients=True)


def test_the_blocking_client_does_all_it_does(agent: Agent, authority: Authority) -> None:
    with Client(str(agent.options.rpc), tls=Tls(ca=authority.ca, server_name="localhost")) as client:
        assert [member.name for member in client.members()] == ["a"]
        stream = client.stream("user")
        assert stream.next_event(0) is None
        assert stream.next_event(0.05) is None
        client.event("deploy", bytes(400), coalesce=False)
        event = stream.next_event(DEADLINE_S)
        assert isinstance(event, UserEvent)
        assert (event.name, event.payload) == ("deploy", bytes(400))
        answers = [(answer.kind, answer.payload) for answer in client.query("load", b"15m", timeout_s=4)]
        assert answers == [("response", b"15m\n")]
        monitor = client.monitor("debug")
        lines = iter(lambda: monitor.next_line(DEADLINE_S), None)
        assert any("Accepted client" in line and "(TLSv1.3)" in line for line in lines if line)
        client.leave()
    assert agent.wait_exit(60) == 0


def test_tasks_share_a_connection(agent: Agent, authority: Authority) -> None:
    async def talk() -> None:
        own = ssl.create_default_context(cafile=authority.ca)
        own.check_hostname = False
        for tls in (Tls(ca=authority.ca, server_name="localhost"), own):
            async with asyncio.timeout(60), AsyncClient(f"tls://{agent.options.rpc}", tls=tls) as client:
                events = await client.stream("user")
                sending = [client.event("deploy", str(number).encode(), coalesce=False) for number in range(20)]
                sent = asyncio.gather(*sending)
                members, stats = await asyncio.gather(client.members(), client.stats())
                await sent
                assert (members[0].name, stats["agent"]["name"]) == ("a", "a")
                seen = [await events.next_record(DEADLINE_S) for _ in range(20)]
                payloads = {event.payload for event in seen if isinstance(event, UserEvent)}
                assert payloads == {str(number).encode() for number in range(20)}

    asyncio.run(talk())


def test_fifty_clients_at_once(agent: Agent, authority: Authority) -> None:
    async def talk() -> None:
        tls = ssl.create_default_context(cafile=authority.ca)
        tls.check_hostname = False
        clients = [AsyncClient(str(agent.options.rpc), tls=tls) for _ in range(50)]
        async with asyncio.timeout(60), contextlib.AsyncExitStack() as stack:
            await asyncio.gather(*(stack.enter_async_context(client) for client in clients))
            found = await asyncio.gather(*(client.members() for client in clients))
            assert [len(members) for members in found] == [1] * 50

    asyncio.run(talk())


def both_fail(address: str, tls: Tls | None, told: str) -> None:
    """Both clients tell the same."""
    with pytest.raises(ClientError) as caught:
        Client(address, tls=tls)
    assert told in str(caught.value)

    async def talk() -> None:
        async with asyncio.timeout(60), AsyncClient(address, tls=tls):
            pytest.fail("it should not connect")

    with pytest.raises(ClientError) as caught:
        asyncio.run(talk())
    assert told in str(caught.value)


def test_each_thing_that_is_wrong_with_the_agents_certificate_is_told(
    launch: Launcher, agent: Agent, authority: Authority, tmp_path: Path
) -> None:
    rpc = str(agent.options.rpc)
    both_fail(rpc, Tls(), "no authority that is trusted here has signed the agent's certificate")
    both_fail(f"tls://{rpc}", None, "name the one that has with -rpc-tls-ca")
    other = Authority(tmp_path / "other")
    both_fail(rpc, Tls(ca=other.ca, server_name="localhost"), "no authority that is trusted here")
    named = Tls(ca=authority.ca, server_name="db.example")
    both_fail(rpc, named, "the agent's certificate is not for 'db.example'")
    both_fail(rpc, Tls(ca=authority.ca, server_name="x" * 300), "no name of a host: ")
    both_fail(rpc, Tls(ca=authority.ca, server_name=".x"), "'.x' is no name of a host: it begins with a dot")
    both_fail("tls://127.0.0.1", Tls(ca=authority.ca), "missing port in address")
    both_fail(rpc, None, "this agent's RPC needs TLS: use -rpc-tls")
    plain = launch.serfmp("b")
    both_fail(str(plain.options.rpc), named, "the agent does not answer as one that speaks TLS: leave -rpc-tls out")
    plain.wait_log("the client begins TLS, which this RPC does not speak (rpc_tls_cert)", DEADLINE_S)
    agent.wait_log("it does not speak TLS", DEADLINE_S)


def test_each_thing_that_is_wrong_with_the_clients_certificate_is_told(
    strict: Agent, authority: Authority, tmp_path: Path
) -> None:
    rpc = str(strict.options.rpc)

    def tls(cert: str = "", key: str = "") -> Tls:
        return Tls(ca=authority.ca, server_name="localhost", cert=cert, key=key)

    good = authority.issue("ops")
    with Client(rpc, tls=tls(*good)) as client:
        assert len(client.members()) == 1
    strict.wait_log("(TLSv1.3, commonName='ops')", DEADLINE_S)
    both_fail(rpc, tls(), "the agent wants a certificate of its clients: give one with -rpc-tls-cert")
    stranger = Authority(tmp_path / "other").issue("stranger")
    both_fail(rpc, tls(*stranger), "the agent does not know the authority that signed the certificate of -rpc-tls-cert")
    old = authority.issue("old", ends=timedelta(hours=-1))
    both_fail(rpc, tls(*old), "the certificate of -rpc-tls-cert has expired")
    server = authority.issue("server", usage=ExtendedKeyUsageOID.SERVER_AUTH)
    both_fail(rpc, tls(*server), "the certificate of -rpc-tls-cert is not one for clients")
    both_fail(rpc, tls(good[0], stranger[1]), "the key is another one's")
    both_fail(rpc, tls(good[0]), "it is no PEM, or not all of it is there")
    both_fail(rpc, tls(key=good[1]), "-rpc-tls-key without -rpc-tls-cert")
    both_fail(rpc, tls("/nowhere"), "'/nowhere': no such file or directory")
    both_fail(rpc, Tls(ca="/nowhere"), "'/nowhere': no such file or directory")
    both_fail(rpc, tls(*authority.issue("hidden", passphrase=b"x")), "has a passphrase")


@pytest.mark.interop
@needs_serf
def test_the_real_program_is_told_and_told_of(launch: Launcher, agent: Agent, authority: Authority) -> None:
    command = ["serf", "members", f"-rpc-addr={agent.options.rpc}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "Error connecting to Serf agent: this agent's RPC needs TLS: use -rpc-tls" in done.stdout + done.stderr
    real = launch.serf("b")
    both_fail(str(real.options.rpc), Tls(ca=authority.ca), "the agent does not answer as one that speaks TLS")


def test_certificates_hold_where_they_are_looked_at_strictly(agent: Agent, authority: Authority) -> None:
    strictly = ssl.create_default_context(cafile=authority.ca)
    strictly.verify_flags |= ssl.VERIFY_X509_STRICT  # the default of later Pythons
    strictly.check_hostname = False
    with Client(str(agent.options.rpc), tls=strictly) as client:
        assert len(client.members()) == 1


def test_older_clients_are_told_the_same(strict: Agent, authority: Authority) -> None:
    old = ssl.create_default_context(cafile=authority.ca)
    old.check_hostname = False
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ConnectError, match="the agent refuses the TLS handshake; perhaps the agent wants a cert"):
        Client(str(strict.options.rpc), tls=old)
    old.load_cert_chain(*authority.issue("ops"))
    with Client(str(strict.options.rpc), tls=old) as client:
        assert len(client.members()) == 1


@contextlib.contextmanager
def server(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """A made-up agent for any number of connections, one after another; the address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                with sock, contextlib.suppress(OSError):
                    talk(sock)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        host, port = listener.getsockname()
        try:
            yield f"{host}:{port}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def greet(context: ssl.SSLContext, sock: socket.socket) -> None:
    """Shake hands, and end."""
    context.wrap_socket(sock, server_side=True).close()


def test_what_a_server_does_instead_is_told(authority: Authority) -> None:
    tls = Tls(ca=authority.ca)
    with server(lambda sock: sock.sendall(b"SSH-2.0-OpenSSH_9.6\r\n" * 10)) as address:
        both_fail(address, tls, "the agent does not answer as one that speaks TLS")
    with server(lambda sock: None) as address:
        both_fail(address, tls, "the agent does not answer as one that speaks TLS")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("agent", "127.0.0.1"))
    with server(partial(greet, context)) as address:
        both_fail(address, tls, "the agent ended the connection after the handshake; its log says why")
    for day, told in ((-9, "certificate has expired: renew it"), (9, "is not valid yet: is this host's clock right?")):
        dated = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        begins, ends = timedelta(days=day - 1), timedelta(days=day)
        dated.load_cert_chain(*authority.issue("agent", "127.0.0.1", begins=begins, ends=ends))
        with server(partial(greet, dated)) as address:
            both_fail(address, tls, told)


def test_what_came_before_the_agent_was_gone_can_still_be_taken(agent: Agent, authority: Authority) -> None:
    with Client(str(agent.options.rpc), tls=Tls(ca=authority.ca, server_name="localhost")) as client:
        stream = client.stream("user")
        client.event("last", coalesce=False)
        assert isinstance(stream.next_event(DEADLINE_S), UserEvent)
        agent.kill()
        with pytest.raises(ConnectionLostError):
            next(stream)


def test_every_command_speaks_it(
    agent: Agent, authority: Authority, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rpc = f"-rpc-addr=tls://{agent.options.rpc}"
    flags = [rpc, f"-rpc-tls-ca={authority.ca}", "-rpc-tls-server-name=localhost"]

    def output(command: str, *words: str, flags: list[str] = flags) -> str:
        assert main([command, *flags, *words]) == 0
        return capsys.readouterr().out

    assert output("members").split()[0] == "a"
    assert "name = a" in output("info")
    assert "Event 'deploy' dispatched!" in output("event", "deploy", "v1")
    assert "15m" in output("query", "-timeout=2s", "load", "15m")
    assert "Reloaded: nothing has changed" in output("reload")
    assert "rpc_tls_cert" in output("config", "show")
    assert "query:load" in output("handlers")
    assert "tcp" in output("bus") or "ipc" in output("bus")
    assert output("tags", "-set=role=web")
    assert output("why", "a")
    monkeypatch.setenv("SERF_RPC_ADDR", str(agent.options.rpc))
    monkeypatch.setenv("SERF_RPC_TLS", "1")
    monkeypatch.setenv("SERF_RPC_TLS_CA", authority.ca)
    monkeypatch.setenv("SERF_RPC_TLS_SERVER_NAME", "localhost")
    assert output("members", flags=[]).split()[0] == "a"
    assert main(["members", "-rpc-tls=false"]) == 1
    assert "this agent's RPC needs TLS" in capsys.readouterr().out
    assert main(["members", rpc, "-rpc-tls=false"]) == 1
    assert "false contradicts the address" in capsys.readouterr().out
    assert main(["members", "-rpc-tls=perhaps"]) == 1
    assert 'invalid boolean value "perhaps" for -rpc-tls' in capsys.readouterr().err
    assert output("leave", flags=[])
    assert agent.wait_exit(60) == 0


def test_a_command_without_tls_imports_nothing_of_it(launch: Launcher) -> None:
    plain = launch.serfmp("a")
    program = (
        "import sys; from serfmp.cli.main import main; code = main(sys.argv[1:]); "
        "sys.exit(code or sorted(name for name in ('ssl', '_ssl', 'serfmp.client.tls') if name in sys.modules))"
    )
    command = [sys.executable, "-c", program, "members", f"-rpc-addr={plain.options.rpc}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout.split()[0], done.stderr.strip()) == ("a", "[]")


def test_a_unix_socket_is_spoken_to_as_ever(launch: Launcher, authority: Authority, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="s") as directory:
        address = f"unix://{directory}/rpc"
        agent = start(launch, authority, extra=[f"-rpc-addr={address}"])
        assert "rpc_tls_cert has no effect" in agent.log()
        with Client(address, tls=Tls(ca=authority.ca)) as client:
            assert len(client.members()) == 1
        with Client(address) as client:
            assert len(client.members()) == 1


def test_doctor_speaks_it_and_looks_at_the_certificate(
    agent: Agent, authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["doctor", f"-rpc-addr={agent.options.rpc}", f"-rpc-tls-ca={authority.ca}", "-rpc-tls-server-name=localhost"])
    out = capsys.readouterr().out
    assert "'a' with 1 members" in out
    assert "rpc-tls" in out
    main(["doctor", f"-rpc-addr={agent.options.rpc}"])
    assert "this agent's RPC needs TLS: use -rpc-tls" in capsys.readouterr().out


def test_hangup_reads_the_certificate_again_and_drops_nobody(
    launch: Launcher, authority: Authority, tmp_path: Path
) -> None:
    file = tmp_path / "c.json"
    cert, key = authority.issue("agent", "127.0.0.1", "localhost")
    file.write_text(json.dumps({"rpc_tls_cert": cert, "rpc_tls_key": key}))
    agent = launch.serfmp("a", wait=False, extra=[f"-config-file={file}"])
    agent.wait_log("Log data will now stream in", DEADLINE_S)
    tls = Tls(ca=authority.ca, server_name="localhost")

    def serial() -> str:
        context = ssl.create_default_context(cafile=authority.ca)
        with (
            socket.create_connection((agent.options.rpc.host, agent.options.rpc.port)) as sock,
            context.wrap_socket(sock, server_hostname="localhost") as client,
        ):
            certificate: Any = client.getpeercert()
            return str(certificate["serialNumber"]).lower()

    with Client(str(agent.options.rpc), tls=tls) as client:
        stream = client.stream("user")
        before = serial()
        # Half of a change: the new certificate is there, its key is not.
        old_key = Path(key).read_bytes()
        authority.issue("agent", "127.0.0.1", "localhost")
        new_key = Path(key).read_bytes()
        Path(key).write_bytes(old_key)
        agent.signal(signal.SIGHUP)
        agent.wait_log("does not belong to the certificate", DEADLINE_S)
        agent.wait_log("Failed to reload configs", DEADLINE_S)
        assert f"({file})" in agent.log()
        assert serial() == before
        Path(key).write_bytes(new_key)
        agent.signal(signal.SIGHUP)
        agent.wait_log("Reloaded: certificate of the RPC: 'CN=agent' (serial ", DEADLINE_S)
        after = serial()
        assert after != before
        assert f"(serial {after.lstrip('0')}" in agent.log()
        assert new_key.decode().splitlines()[1] not in agent.log()
        client.event("still", coalesce=False)
        assert isinstance(stream.next_event(DEADLINE_S), UserEvent)
        # A process that is started again has what holds, though the files are gone.
        Path(key).unlink()
        old = agent.pids_by_role()["rpc"]
        os.kill(old[0], signal.SIGKILL)
        eventually(lambda: agent.pids_by_role().get("rpc", old) != old, DEADLINE_S, "a new rpc")
        eventually(lambda: serial() == after, DEADLINE_S, "it serves", ignoring=(OSError,))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the program openssl")
def test_the_openssl_program_connects_and_renews_its_keys(agent: Agent, authority: Authority) -> None:
    names = ["-servername", "localhost", "-verify_hostname", "localhost"]
    with subprocess.Popen(
        ["openssl", "s_client", "-connect", str(agent.options.rpc), "-CAfile", authority.ca, *names],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        seen = b""
        for said, answer in (
            (b"", b"Verify return code: 0 (ok)"),
            (b"K\n", b"KEYUPDATE"),
            (b"\x82\xa7Command\xa9handshake\xa3Seq\x05\x81\xa7Version\x01\n", b"\xa3Seq\x05"),
        ):
            os.write(program.stdin.fileno(), said)
            while answer not in seen:
                data = os.read(program.stdout.fileno(), 4096)
                assert data, seen
                seen += data
        program.stdin.close()
        program.wait(DEADLINE_S)
