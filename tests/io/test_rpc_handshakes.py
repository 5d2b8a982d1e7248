"""Clients that have not finished their TLS handshake: deadlines, bounds, what they are told, and what the log is."""

from __future__ import annotations

import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgpack
import pytest

from serfmp.agent.certificates import read_certificates, server_context
from serfmp.bus.loop import Loop
from serfmp.io.rpc_handshakes import (
    FAREWELL_S,
    HANDSHAKE_LIMIT_S,
    NEEDS_TLS,
    STEPS_PER_TURN,
    TELL_PERIOD_S,
    UNDER_WAY,
    Handshakes,
    plain_answer,
)
from serfmp.io.rpc_tls import TlsChannel
from tests.harness import eventually
from tests.harness.certificates import Authority

DEADLINE_S = 20.0
HANDSHAKE = msgpack.packb({"Command": "handshake", "Seq": 3}) + msgpack.packb({"Version": 1})


@dataclass
class Gate:
    """Handshakes on a loop whose time is the test's."""

    context: ssl.SSLContext
    client: ssl.SSLContext
    now: float = 1000.0
    through: list[tuple[TlsChannel, str]] = field(default_factory=list)
    counted: Counter[str] = field(default_factory=Counter)
    log: list[str] = field(default_factory=list)
    sockets: list[socket.socket] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.loop = Loop(lambda: self.now)
        self.handshakes = Handshakes(
            self.loop,
            lambda channel, name: self.through.append((channel, name)),
            lambda kind: self.counted.update([kind]),
            lambda level, text: self.log.append(f"{level} {text}"),
        )

    def connect(self, name: str = "c") -> socket.socket:
        ours, theirs = socket.socketpair()
        self.handshakes.begin(ours, name, self.context)
        self.sockets.append(theirs)
        return theirs

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.loop.turn()

    def until(self, condition: Callable[[], object], what: str) -> None:
        def look() -> object:
            self.loop.call_soon(lambda: None)
            self.loop.turn()
            return condition()

        eventually(look, DEADLINE_S, what)

    def close(self) -> None:
        self.handshakes.close()
        for channel, _ in self.through:
            channel.close()
        for sock in self.sockets:
            sock.close()


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = Authority(tmp_path_factory.mktemp("tls"))
    cert, key = authority.issue("agent", "agent.example")
    client = ssl.create_default_context(cafile=authority.ca)
    client.load_cert_chain(*authority.issue("ops"))
    return server_context(read_certificates(cert, key, authority.ca, pytest.fail)), client


@pytest.fixture
def gate(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> Iterator[Gate]:
    made = Gate(*contexts)
    yield made
    made.close()


def speak(gate: Gate, sock: socket.socket) -> Callable[[], ssl.SSLSocket]:
    """Shake hands on a thread; gives the connection once it is there."""
    found: list[ssl.SSLSocket] = []
    sock.settimeout(DEADLINE_S)

    def talk() -> None:
        found.append(gate.client.wrap_socket(sock, server_hostname="agent.example"))

    thread = threading.Thread(target=talk)
    thread.start()

    def result() -> ssl.SSLSocket:
        gate.until(lambda: not thread.is_alive(), "the client has shaken hands")
        thread.join()
        gate.sockets.append(found[0])
        return found[0]

    return result


def test_a_client_is_through_with_its_first_request_though_others_say_nothing(gate: Gate) -> None:
    silent = [gate.connect(f"silent{number}") for number in range(20)]
    silent[0].sendall(b"\x16\x03\x01")
    client = speak(gate, gate.connect("honest"))()
    client.sendall(b"request")
    gate.until(lambda: gate.through, "it is through")
    ((channel, name),) = gate.through
    assert (name, len(gate.handshakes)) == ("honest", 20)
    gate.until(lambda: _received(channel) == b"request", "its request is there")
    assert gate.log == []


def _received(channel: TlsChannel) -> bytes:
    try:
        return channel.receive(1 << 16)
    except BlockingIOError:
        return b""


def test_who_stops_in_the_middle_is_refused_when_the_time_is_over(gate: Gate) -> None:
    stopped = gate.connect("stopped")
    stopped.sendall(hello(gate)[:-1])
    gate.pass_time(HANDSHAKE_LIMIT_S - 0.1)
    assert len(gate.handshakes) == 1
    gate.pass_time(0.2)
    assert (len(gate.handshakes), gate.counted) == (0, {"late": 1})
    assert gate.log == ["WARN Refused client: stopped: no TLS handshake within 10 s"]
    assert stopped.recv(1) == b""


def test_who_has_said_nothing_gives_way_first_when_too_many_are_under_way(gate: Gate) -> None:
    honest = gate.connect("honest")
    honest.sendall(hello(gate))
    gate.until(lambda: _peek(honest), "it was answered")
    silent = gate.connect("silent")
    for number in range(UNDER_WAY - 1):
        gate.connect(f"n{number}")
    assert (len(gate.handshakes), gate.counted) == (UNDER_WAY, {"crowd": 1})
    assert silent.recv(1) == b""
    assert gate.log == ["WARN Refused client: silent: 128 TLS handshakes are under way, and it is slow"]


def hello(gate: Gate) -> bytes:
    """The first message of a client."""
    outgoing = ssl.MemoryBIO()
    tls = gate.client.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="agent.example")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def test_one_turn_does_the_arithmetic_of_a_few_only(gate: Gate) -> None:
    hellos = []
    for number in range(3 * STEPS_PER_TURN):
        sock = gate.connect(f"n{number}")
        sock.sendall(hello(gate))
        hellos.append(sock)

    def answered() -> int:
        return sum(1 for sock in hellos if _peek(sock))

    for turn in range(1, 4):
        gate.loop.turn()
        assert answered() == turn * STEPS_PER_TURN


def _peek(sock: socket.socket) -> bytes:
    try:
        return sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return b""


def test_a_client_without_tls_is_answered_and_then_left_until_it_goes(gate: Gate) -> None:
    plain = gate.connect("plain")
    plain.sendall(HANDSHAKE)
    gate.until(lambda: gate.counted["plain"], "it is refused")
    assert msgpack.unpackb(plain.recv(4096)) == {"Error": NEEDS_TLS, "Seq": 3}
    assert plain.recv(1) == b""
    plain.sendall(b"more of it")
    gate.loop.turn()
    assert len(gate.handshakes) == 1
    plain.close()
    gate.until(lambda: not len(gate.handshakes), "it is forgotten")
    assert gate.log == ["WARN Refused client: plain: it does not speak TLS"]


def test_who_does_not_go_is_closed(gate: Gate) -> None:
    plain = gate.connect()
    plain.sendall(HANDSHAKE)
    gate.until(lambda: gate.counted["plain"], "it is refused")
    gate.pass_time(FAREWELL_S + 0.1)
    assert len(gate.handshakes) == 0


def test_a_refused_one_that_gives_way_is_not_counted_twice(gate: Gate) -> None:
    gate.connect().sendall(HANDSHAKE)
    gate.until(lambda: gate.counted["plain"], "it is refused")
    for _ in range(UNDER_WAY):
        gate.connect()
    assert gate.counted == {"plain": 1}


def test_the_log_tells_one_of_a_kind_and_counts_the_rest(gate: Gate) -> None:
    def refuse(name: str, data: bytes) -> None:
        before = gate.counted.total()
        gate.connect(name).sendall(data)
        gate.until(lambda: gate.counted.total() > before, f"{name} is refused")

    for name in ("a", "b", "c"):
        refuse(name, b"GET / HTTP/1.1\r\n\r\n")
    refuse("d", b"\x16" + bytes(100))
    gate.now += TELL_PERIOD_S
    refuse("e", HANDSHAKE)
    assert gate.counted == {"plain": 4, "protocol": 1}
    assert gate.log[0] == "WARN Refused client: a: it does not speak TLS"
    assert gate.log[1].startswith("WARN Refused client: d: TLS: ")
    assert gate.log[2:] == ["WARN Refused client: e: it does not speak TLS (2 more of this kind since the last line)"]


def test_a_client_that_goes_away_during_the_handshake_is_told_of(gate: Gate) -> None:
    gate.connect("gone").close()
    gate.until(lambda: gate.counted["gone"], "it is seen")
    assert gate.log == ["WARN Refused client: gone: during the TLS handshake: it ended the connection"]
    assert len(gate.handshakes) == 0


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"\x82", b"GET / HTTP/1.1", b"\xc1", b"\x90", b"\xff" * 100, HANDSHAKE[:9]),
        *(
            msgpack.packb(value)
            for value in ({"Seq": "1"}, {"Seq": True}, {"Seq": -1}, {"Command": "x"}, {"Seq": None})
        ),
    ],
)
def test_what_is_no_request_gets_no_answer(data: bytes) -> None:
    assert plain_answer(data) == b""
