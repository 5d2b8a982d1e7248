"""What has ended gives its memory back at once: the collector of cycles counts objects and not their buffers."""

from __future__ import annotations

import contextlib
import gc
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgpack
import pytest

from serfmp.bus import frames
from serfmp.bus.loop import Loop
from serfmp.io.refusals import Refusals
from serfmp.io.rpc_channel import PlainChannel
from serfmp.io.rpc_connection import Connection
from serfmp.io.rpc_protocol import Request
from serfmp.io.streams import Streams, _Stream
from serfmp.wire.messages import Ack, Ping, encode
from serfmp.wire.packet import PacketFormat
from serfmp.wire.stream import seal_stream

DEADLINE_S = 20.0
FORMAT = PacketFormat()
"""Neither keys nor a label."""
PING = seal_stream(encode(Ping(1, "n")), FORMAT, dialling=True)


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def turn_until(loop: Loop, condition: Callable[[], object]) -> None:
    """Take turns of the loop until something holds."""
    until = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < until
        loop.call_later(0.01, lambda: None)
        loop.turn()


def alive(kind: type) -> int:
    """How many objects of a class there are."""
    return sum(type(found) is kind for found in gc.get_objects())


@dataclass
class Stage:
    """Streams on a loop; the test is the detector and the other side."""

    loop: Loop = field(default_factory=Loop)
    arrived: list[int] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()
        self.streams = Streams(
            self.loop,
            self.listener,
            FORMAT,
            1.0,
            1,
            lambda number, *_rest: self.arrived.append(number),
            lambda _token, _message, error, _remote: self.answered.append(error),
            lambda _level, _text: None,
            Refusals(lambda _level, _text: None, self.loop.clock),
            Counter(),
        )

    def open(self, port: int, *, reply: bool) -> None:
        self.streams.open(frames.StreamOpen(1, "127.0.0.1", port, b"request", 1.0, reply))


@pytest.fixture
def stage() -> Iterator[Stage]:
    """With a listener of its own."""
    made = Stage()
    yield made
    made.listener.close()


def test_an_inbound_stream_leaves_nothing_however_it_ends(stage: Stage) -> None:
    for _ in range(3):
        with socket.create_connection(stage.address) as client:
            client.sendall(PING)
            turn_until(stage.loop, lambda: stage.arrived)
            stage.streams.answer(stage.arrived.pop(), b"answer")
            turn_until(stage.loop, lambda: not stage.streams._inbound)
        for sent in (b"", b"no message", PING[:2]):
            with socket.create_connection(stage.address) as client:
                client.sendall(sent)
                turn_until(stage.loop, lambda: stage.streams._inbound)
            turn_until(stage.loop, lambda: not stage.streams._inbound)
    assert alive(_Stream) == 0


@pytest.mark.parametrize("reply", [False, True])
def test_an_outbound_stream_leaves_nothing_whether_it_is_answered_or_not(stage: Stage, reply: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        stage.open(port, reply=reply)
        peer, _ = other.accept()
        with peer:
            if reply:
                peer.sendall(seal_stream(encode(Ack(1)), FORMAT, dialling=False))
            turn_until(stage.loop, lambda: stage.answered)
        stage.open(port, reply=True)
        peer, _ = other.accept()
        peer.close()
        turn_until(stage.loop, lambda: len(stage.answered) == 2)
    stage.open(port, reply=reply)
    turn_until(stage.loop, lambda: len(stage.answered) == 3)
    assert (stage.answered[0] == "", bool(stage.answered[1]), bool(stage.answered[2])) == (True, True, True)
    assert alive(_Stream) == 0


def test_a_client_of_the_rpc_leaves_nothing() -> None:
    loop = Loop()
    clients: set[Connection] = set()

    def execute(connection: Connection, request: Request) -> None:
        connection.answer(request)

    def flush(connection: Connection) -> None:
        loop.call_soon(connection.flush)

    for sent in (b"", b"\xc1", msgpack.packb({"Command": "stats", "Seq": 1})):
        pair = socket.socketpair()
        clients.add(
            Connection(loop, PlainChannel(pair[0]), "c", execute, flush, clients.discard, lambda _level, _text: None)
        )
        with contextlib.closing(pair[1]):
            pair[1].sendall(sent)
            pair[1].shutdown(socket.SHUT_WR)
            turn_until(loop, lambda: not clients)
    assert alive(Connection) == 0
