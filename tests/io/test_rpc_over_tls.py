"""The rpc process with certificates: what holds without TLS holds with it, and nobody waits for a handshake."""

from __future__ import annotations

import dataclasses
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest

from serfmp.agent.certificates import Certificates, read_certificates
from serfmp.bus import frames
from serfmp.io.rpc_connection import PENDING_LIMIT
from serfmp.io.rpc_handshakes import NEEDS_TLS
from tests.harness.certificates import Authority
from tests.io.rpc_stage import RpcStage, member

OK = ""


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def certificates(authority: Authority) -> Certificates:
    return read_certificates(*authority.issue("agent", "127.0.0.1"), "", pytest.fail)


@pytest.fixture(scope="module")
def tls(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority.ca)


@pytest.fixture
def stage(certificates: Certificates) -> Iterator[RpcStage]:
    with RpcStage(member("rpc1"), certificates=certificates) as made:
        yield made


def header(sequence: int, error: str = OK) -> dict[str, object]:
    return {"Error": error, "Seq": sequence}


def reconfigured(stage: RpcStage, number: int, certificates: Certificates) -> str:
    """Both phases of a reload; the error of the first."""
    config = dataclasses.replace(
        stage.config,
        rpc_tls_identity=certificates.identity,
        rpc_tls_authorities=certificates.authorities,
    )
    stage.process.send(frames.Propose(number, config.to_plain()))
    answers: list[frames.Agreed] = stage.until(
        lambda: [frame for frame in stage.frames if isinstance(frame, frames.Agreed) and frame.number == number],
        "it has an opinion",
    )
    if not answers[0].error:
        stage.process.send(frames.Commit(number))
        stage.config = config
    return answers[0].error


def serial(client: ssl.SSLSocket | socket.socket) -> object:
    assert isinstance(client, ssl.SSLSocket)
    certificate = client.getpeercert()
    assert certificate is not None
    return certificate["serialNumber"]


def test_ten_thousand_members_are_one_answer_for_each_of_many_clients(stage: RpcStage, tls: ssl.SSLContext) -> None:
    for number in range(10_000):
        stage.state.members[f"n{number}"] = member(f"n{number}", number, role="web", rack=f"r{number % 50}")
    stage.restart_detector()
    clients = [stage.client(tls=tls) for _ in range(50)]
    stage.until(lambda: len(clients[0].ask("members", values=2)[1]["Members"]) == 10_001, "the snapshot is complete")
    for client in clients:
        client.send({"Command": "members", "Seq": 8}, {"Command": "stats", "Seq": 9})
    for client in clients:
        values = client.take(4)
        assert (values[0], len(values[1]["Members"]), values[2]) == (header(8), 10_001, header(9))
        client.values.clear()


def test_streams_and_monitors_come_between_answers(stage: RpcStage, tls: ssl.SSLContext) -> None:
    client = stage.client(tls=tls)
    assert client.ask("stream", {"Type": "user"}, sequence=1) == [header(1)]
    stage.publish("deploy", payload=bytes(300))
    assert client.take(2)[1]["Payload"] == bytes(300)
    client.send({"Command": "monitor", "Seq": 2}, {"LogLevel": "DEBUG"})
    assert client.take(1) == [header(2)]
    stage.lines.add(1.0, "INFO", "agent", "a line")
    stage.until(lambda: any("a line" in str(value) for value in client.values), "the line comes")


def test_a_client_that_reads_nothing_loses_records_and_holds_up_nobody(stage: RpcStage, tls: ssl.SSLContext) -> None:
    slow, quick = stage.client(tls=tls), stage.client(tls=tls)
    assert slow.ask("stream", {"Type": "user"}, sequence=1) == [header(1)]
    slow.reading = False

    def dropped() -> bool:
        stage.publish(*(f"e{number}" for number in range(64)), payload=bytes(16 * 1024))
        return any("Dropping event to ipc.client" in line for line in stage.log)

    stage.until(dropped, "records are dropped", 60.0)
    assert quick.ask("members", values=2)[0] == header(7)
    slow.reading = True
    stage.until(lambda: len(slow.values) >= 2 * 512, "what was kept comes")
    slow.values.clear()


def test_requests_beyond_the_limit_wait_in_the_clients_own_connection(stage: RpcStage, tls: ssl.SSLContext) -> None:
    client = stage.client(tls=tls)
    count = 4 * PENDING_LIMIT
    client.send({"Command": "join", "Seq": 1}, {"Existing": ["x"]})
    stage.until(lambda: stage.state.asked, "the join is under way")
    client.send(*({"Command": "stats", "Seq": 2 + number} for number in range(count)))
    stage.answer(1)
    values = client.take(2 + 2 * count)
    assert [value["Seq"] for value in values[2::2]] == [2 + number for number in range(count)]


def test_silent_and_plain_clients_hold_up_nobody_and_are_told_of(stage: RpcStage, tls: ssl.SSLContext) -> None:
    silent = [socket.create_connection(stage.address) for _ in range(30)]
    silent[0].sendall(b"\x16\x03\x01\x02\x00\x01")
    plain = stage.client(handshake=False)
    plain.send({"Command": "handshake", "Seq": 4}, {"Version": 1})
    assert plain.wait_closed() == [header(4, NEEDS_TLS)]
    assert stage.client(tls=tls).ask("members", values=2)[0] == header(7)
    stage.until(lambda: any("it does not speak TLS" in line for line in stage.log), "the log tells it")
    for sock in silent:
        sock.close()


def test_hello_on_a_port_without_tls_is_named(tls: ssl.SSLContext) -> None:
    with RpcStage(member("rpc1")) as stage:
        with pytest.raises(ssl.SSLError), socket.create_connection(stage.address) as sock:
            tls.wrap_socket(sock, server_hostname="127.0.0.1")
        stage.until(lambda: any("the client begins TLS, which this RPC does not" in line for line in stage.log), "told")


def test_a_reload_changes_the_certificate_of_those_who_come_and_drops_nobody(
    stage: RpcStage, authority: Authority, tls: ssl.SSLContext
) -> None:
    before = stage.client(tls=tls)
    assert before.ask("stream", {"Type": "user"}, sequence=1) == [header(1)]
    half = socket.create_connection(stage.address)
    new = read_certificates(*authority.issue("agent", "127.0.0.1"), "", pytest.fail)
    assert reconfigured(stage, 1, new) == ""
    stage.until(lambda: serial(stage.client(tls=tls).sock) != serial(before.sock), "the new one is shown")
    stage.publish("still")
    assert before.take(2)[1]["Name"] == "still"
    assert before.ask("members", values=2)[0] == header(7)
    # Whoever was in the middle goes on with what it was shown.
    with tls.wrap_socket(half, server_hostname="127.0.0.1") as through:
        assert serial(through) == serial(before.sock)


def test_certificates_that_cannot_serve_are_refused_and_change_nothing(
    stage: RpcStage, certificates: Certificates, tls: ssl.SSLContext
) -> None:
    first = serial(stage.client(tls=tls).sock)
    assert "certificates: " in reconfigured(stage, 1, Certificates(b"no PEM", b""))
    assert "certificates: " in reconfigured(stage, 2, Certificates(certificates.identity, b"no PEM"))
    assert serial(stage.client(tls=tls).sock) == first


def test_tls_comes_and_goes_with_a_reload(certificates: Certificates, tls: ssl.SSLContext) -> None:
    with RpcStage(member("rpc1")) as stage:
        plain = stage.client()
        assert reconfigured(stage, 1, certificates) == ""
        assert plain.ask("members", values=2)[0] == header(7)
        assert stage.client(tls=tls).ask("members", values=2)[0] == header(7)
        assert reconfigured(stage, 2, Certificates(b"", b"")) == ""
        assert stage.client().ask("members", values=2)[0] == header(7)


def test_a_killed_process_comes_back_with_the_certificates_that_hold(
    stage: RpcStage, authority: Authority, tls: ssl.SSLContext
) -> None:
    first = serial(stage.client(tls=tls).sock)
    assert reconfigured(stage, 1, read_certificates(*authority.issue("agent", "127.0.0.1"), "", pytest.fail)) == ""
    stage.kill()
    stage.start()
    assert serial(stage.client(tls=tls).sock) != first


def test_a_process_that_was_executed_has_them_too(certificates: Certificates, tls: ssl.SSLContext) -> None:
    with RpcStage(member("rpc1"), certificates=certificates, method="exec") as stage:
        assert stage.client(tls=tls).ask("members", values=2)[0] == header(7)


def test_a_client_must_have_a_certificate_where_authorities_are_named(
    authority: Authority, tls: ssl.SSLContext, tmp_path: Path
) -> None:
    found = read_certificates(*authority.issue("agent", "127.0.0.1"), authority.ca, pytest.fail)
    with RpcStage(member("rpc1"), certificates=found, auth="token") as stage:
        sock = tls.wrap_socket(socket.create_connection(stage.address), server_hostname="127.0.0.1")
        with sock, pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
            sock.recv(1)
        known = ssl.create_default_context(cafile=authority.ca)
        known.load_cert_chain(*authority.issue("ops"))
        client = stage.client(tls=known)
        stage.until(lambda: any("(TLSv1.3, commonName='ops')" in line for line in stage.log), "the log names it")
        # The token is asked for all the same.
        assert client.ask("members") == [header(7, "Authentication required")]
        client.send({"Command": "auth", "Seq": 8}, {"AuthKey": "token"})
        stage.until(lambda: header(8) in client.values, "it is accepted")


def test_the_first_request_may_come_in_one_piece_with_the_end_of_the_handshake(
    stage: RpcStage, tls: ssl.SSLContext
) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = tls.wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with socket.create_connection(stage.address) as sock:
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                incoming.write(sock.recv(1 << 16))
        client.write(msgpack.packb({"Command": "handshake", "Seq": 0}) + msgpack.packb({"Version": 1}))
        sock.sendall(outgoing.read())
        incoming.write(sock.recv(1 << 16))
        assert msgpack.unpackb(client.read(1 << 16)) == header(0)
