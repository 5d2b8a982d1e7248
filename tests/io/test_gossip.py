"""The gossip process, started for real; the test is its detector and its peers."""

from __future__ import annotations

import os
import signal
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest
import zmq

from serfmp.agent.config import AgentConfig
from serfmp.bus import frames
from serfmp.bus.endpoints import Endpoints, make_socket
from serfmp.io.gossip import COMPRESSED_PER_SECOND
from serfmp.wire.crypto import Keyring
from serfmp.wire.messages import Ack, Ping, encode
from serfmp.wire.packet import Opened, PacketFormat, open_packet, seal_packet
from serfmp.wire.stream import StreamReader, seal_stream
from tests.harness.role import Role, udp_pair

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMAT = PacketFormat()
KEYS = (bytes(16), bytes(range(32)))
SECRET = PacketFormat(Keyring(KEYS), "blue")


class Gossip(Role):
    """A gossip process with this test as detector generation `detector`."""

    def __init__(self, method: str = "fork", config: AgentConfig | None = None) -> None:
        self.udp, self.tcp = udp_pair()
        self.address = self.udp.getsockname()
        self.detector = 1
        self.received: list[tuple[int, Any]] = []
        self.packets_socket: zmq.Socket[bytes] | None = None
        self.network: zmq.Socket[bytes] | None = None
        super().__init__(
            "gossip",
            config or AgentConfig(node="n", log_level="DEBUG"),
            {"udp": self.udp.fileno(), "tcp": self.tcp.fileno()},
            {"gossip": 1, "detector": 1},
            method,
        )

    def start(self) -> None:
        if self.packets_socket is None:
            self.bind()
        super().start()

    def bind(self) -> None:
        """Be a (new) detector."""
        for old in (self.packets_socket, self.network):
            if old is not None:
                self.loop.remove_socket(old)
                old.close()
        endpoints = Endpoints(str(self.directory))
        self.packets_socket = make_socket(self.context, zmq.PULL, hwm=1000)
        self.packets_socket.bind(endpoints.packets(self.detector))
        self.network = make_socket(self.context, zmq.PUSH, hwm=1000)
        self.network.bind(endpoints.network(self.detector))
        pull = self.packets_socket

        def take() -> None:
            try:
                message = pull.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            envelope, frame = frames.open_sealed(message)
            assert envelope.receiver == self.detector
            self.received.append((envelope.sequence, frame))

        self.loop.add_socket(pull, take)
        self.loop.add_socket(self.network, None)

    def send(self, frame: object) -> None:
        """Send a frame as the detector, when gossip is connected."""
        network = self.network
        assert network is not None
        message = frames.seal(frames.encode(frame), self.detector, self.process.generation)

        def sent() -> bool:
            try:
                network.send(message, zmq.NOBLOCK)
            except zmq.Again:
                return False
            return True

        self.until(sent, "gossip takes the frame")

    def of(self, kind: type) -> list[Any]:
        """Received frames of one class."""
        return [frame for _sequence, frame in self.received if isinstance(frame, kind)]

    def parts(self) -> list[bytes]:
        """All leaf messages received, in order."""
        return [part for _sequence, part in self.numbered()]

    def numbered(self) -> list[tuple[int, bytes]]:
        """The same, each with the number of its frame."""
        batches = [(number, frame) for number, frame in self.received if isinstance(frame, frames.PacketBatch)]
        return [(number, part) for number, batch in batches for packet in batch.packets for part in packet[4]]

    def close(self) -> None:
        self.udp.close()
        self.tcp.close()
        super().close()


@pytest.fixture(params=["fork", "exec"])
def gossip(request: pytest.FixtureRequest) -> Iterator[Gossip]:
    role = Gossip(request.param)
    yield role
    role.close()


@pytest.fixture
def forked() -> Iterator[Gossip]:
    role = Gossip()
    yield role
    role.close()


@pytest.fixture
def peer() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(10)
        yield sock


def pings(count: int, start: int = 0) -> list[bytes]:
    return [encode(Ping(start + number, "n")) for number in range(count)]


def test_packets_reach_the_detector_with_their_layers_stripped(gossip: Gossip, peer: socket.socket) -> None:
    wanted = pings(3)
    (datagram,) = seal_packet(wanted, True, FORMAT)
    peer.sendto(datagram, gossip.address)
    gossip.until(lambda: gossip.parts() == wanted, "three messages")
    host, port, arrival, timed, _parts = gossip.of(frames.PacketBatch)[0].packets[0]
    assert (host, port) == peer.getsockname()
    assert timed
    assert 0 <= gossip.loop.clock() - arrival < 30
    assert gossip.stop() == 0


def test_packets_of_the_detector_are_sent(forked: Gossip, peer: socket.socket) -> None:
    host, port = peer.getsockname()
    ack = encode(Ack(7))
    forked.send(frames.Transmit(0, [(host, port, False, 0, (ack,)), (host, port, True, 0, (ack, ack))]))
    assert peer.recv(2000) == ack
    assert peer.recv(2000) == seal_packet([ack, ack], True, FORMAT)[0]


def test_bad_packets_are_counted_and_told_and_harm_nobody(forked: Gossip, peer: socket.socket) -> None:
    for bad in (b"", b"\x0c\x00\x00\x00\x00x", os.urandom(1), b"\x07\xff", b"\x09\x80"):
        peer.sendto(bad, forked.address)
    peer.sendto(pings(1)[0], forked.address)
    forked.until(lambda: pings(1)[0] in forked.parts(), "the good packet")
    forked.until(lambda: any("dropped a packet from=127.0.0.1" in line for line in forked.log), "the log line")


def test_a_fence_comes_back_behind_everything_that_had_arrived(forked: Gossip, peer: socket.socket) -> None:
    """Freeze gossip, let packets and then the fence arrive, wake it: the packets must come first."""
    forked.send(frames.Fence(98))
    forked.until(lambda: forked.of(frames.FenceBack), "the connection is there")
    forked.received.clear()
    forked.process.signal(signal.SIGSTOP)
    wanted = pings(100)  # well below what the default buffer of the test's socket holds
    for ping in wanted:
        peer.sendto(ping, forked.address)
    forked.send(frames.Fence(99))
    forked.process.signal(signal.SIGCONT)
    forked.until(lambda: forked.of(frames.FenceBack), "the fence")
    before = []
    for _sequence, frame in forked.received:
        if isinstance(frame, frames.FenceBack):
            break
        before += [part for packet in frame.packets for part in packet[4]]
    assert before == wanted


def test_a_new_detector_gets_what_the_old_one_had_not_finished(forked: Gossip, peer: socket.socket) -> None:
    first, second, third = pings(3)
    for ping in (first, second):
        peer.sendto(ping, forked.address)
        forked.until(lambda: ping in forked.parts(), "a packet")  # noqa: B023  called in this round only
    done = next(sequence for sequence, part in forked.numbered() if part == first)
    forked.send(frames.Transmit(done, []))
    forked.send(frames.Fence(1))
    forked.until(lambda: forked.of(frames.FenceBack), "the acknowledgement was seen")
    forked.received.clear()
    forked.detector = 2
    forked.bind()
    forked.announce("detector", 2)
    peer.sendto(third, forked.address)
    forked.until(lambda: third in forked.parts(), "the packet for the new detector")
    assert forked.parts() == [second, third]


def test_packets_that_come_while_gossip_is_dead_are_there_for_the_next_one(forked: Gossip, peer: socket.socket) -> None:
    forked.kill()
    wanted = pings(20)
    for ping in wanted:
        peer.sendto(ping, forked.address)
    forked.start()
    forked.until(lambda: len(forked.parts()) == len(wanted), "packets of the dead time")
    assert forked.parts() == wanted


def connect(gossip: Gossip) -> socket.socket:
    client = socket.create_connection(gossip.address, timeout=10)
    client.setblocking(False)
    return client


def read_message(gossip: Gossip, client: socket.socket, inbound: bool) -> bytes:
    reader = StreamReader(FORMAT, inbound=inbound)

    def complete() -> bytes | None:
        try:
            reader.feed(client.recv(65536))
        except BlockingIOError:
            return None
        while reader.step(1 << 20):
            pass
        return reader.message

    message = gossip.until(complete, "a stream message")
    assert isinstance(message, bytes)
    return message


def test_an_inbound_stream_is_read_and_answered(forked: Gossip) -> None:
    client = connect(forked)
    client.sendall(seal_stream(encode(Ping(5, "n")), FORMAT, dialling=True))
    (arrived,) = forked.until(lambda: forked.of(frames.StreamArrived), "the request")
    assert arrived.message == encode(Ping(5, "n"))
    forked.send(frames.StreamAnswer(arrived.stream, encode(Ack(5))))
    assert read_message(forked, client, inbound=False) == encode(Ack(5))
    client.close()


def test_a_request_that_a_dead_detector_did_not_answer_goes_to_the_next(forked: Gossip) -> None:
    client = connect(forked)
    client.sendall(seal_stream(encode(Ping(5, "n")), FORMAT, dialling=True))
    (arrived,) = forked.until(lambda: forked.of(frames.StreamArrived), "the request")
    sequence = next(number for number, frame in forked.received if frame is arrived)
    forked.send(frames.Transmit(sequence, []))
    forked.send(frames.Fence(1))
    forked.until(lambda: forked.of(frames.FenceBack), "the acknowledgement was seen")
    forked.received.clear()
    forked.detector = 2
    forked.bind()
    forked.announce("detector", 2)
    assert forked.until(lambda: forked.of(frames.StreamArrived), "the request again") == [arrived]
    client.close()


def test_outbound_streams_end_with_a_message_or_an_error(forked: Gossip) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        port = server.getsockname()[1]
        forked.send(frames.StreamOpen(1, "127.0.0.1", port, encode(Ping(6, "x")), 5.0, True))
        accepted, _source = server.accept()
        accepted.setblocking(False)
        assert read_message(forked, accepted, inbound=True) == encode(Ping(6, "x"))
        accepted.sendall(seal_stream(encode(Ack(6)), FORMAT, dialling=False))
        forked.until(lambda: forked.of(frames.StreamAnswered), "the answer")
        assert forked.of(frames.StreamAnswered) == [frames.StreamAnswered(1, encode(Ack(6)), "", False)]
        accepted.close()
    forked.send(frames.StreamOpen(2, "127.0.0.1", port, encode(Ping(6, "x")), 5.0, True))
    refused = forked.until(lambda: forked.of(frames.StreamAnswered)[1:], "the error")[0]
    assert refused == frames.StreamAnswered(2, None, f"dial tcp 127.0.0.1:{port}: connect: connection refused", True)


def test_a_silent_peer_meets_the_deadline(forked: Gossip) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        forked.send(frames.StreamOpen(3, "127.0.0.1", server.getsockname()[1], encode(Ping(6, "x")), 0.05, True))
        (answer,) = forked.until(lambda: forked.of(frames.StreamAnswered), "the deadline")
    assert answer.message is None
    assert "i/o timeout" in answer.error


@pytest.mark.parametrize("host", ["localhost", "x" * 64])
def test_names_are_resolved_or_give_an_error(forked: Gossip, host: str) -> None:
    forked.send(frames.NameResolve(4, host, 7946))
    (answer,) = forked.until(lambda: forked.of(frames.NameResolved), "the addresses")
    if host == "localhost":
        assert "127.0.0.1" in answer.addresses
    else:
        assert answer.addresses == []
        assert answer.error.startswith(f"lookup {host}: ")


def test_garbage_on_a_stream_closes_it(forked: Gossip) -> None:
    client = connect(forked)
    client.sendall(b"GET / HTTP/1.1\r\n\r\n")

    def closed() -> bool:
        try:
            return client.recv(100) == b""
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True

    forked.until(closed, "the stream is closed")
    client.close()


@pytest.fixture
def secret() -> Iterator[Gossip]:
    role = Gossip(config=AgentConfig(node="n", log_level="DEBUG", keyring=KEYS, label="blue"))
    yield role
    role.close()


def test_packets_are_sealed_and_opened_with_key_and_label_compressed_or_not(
    secret: Gossip, peer: socket.socket
) -> None:
    wanted = pings(40)
    for keys in (KEYS, KEYS[::-1]):
        (datagram,) = seal_packet(wanted, True, PacketFormat(Keyring(keys), "blue"))
        peer.sendto(datagram, secret.address)
    secret.until(lambda: secret.parts() == wanted * 2, "all messages, sealed with either key")
    host, port = peer.getsockname()
    different = [tuple(wanted[number:]) for number in range(5)]
    secret.send(frames.Transmit(0, [(host, port, True, 0, parts) for parts in different]))
    shares = []
    for parts in different:
        datagram = peer.recv(2000)
        opened = open_packet(datagram, SECRET)
        assert isinstance(opened, Opened)
        assert opened.parts == parts
        shares.append(len(datagram) / sum(map(len, parts)))
    assert min(shares[2:]) > 1.0 > max(shares[:2]), "only the first packets of a turn are compressed"
    secret.send(frames.Transmit(0, [(host, port, True, 0, tuple(wanted)) for _ in range(5)]))
    assert len({peer.recv(2000) for _ in range(5)}) == 1, "what goes to several nodes is sealed once"


def test_a_busy_agent_compresses_few_packets(forked: Gossip, peer: socket.socket) -> None:
    host, port = peer.getsockname()
    wanted = pings(40)
    begun = time.monotonic()
    compressed = 0
    for number in range(2 * COMPRESSED_PER_SECOND):
        parts = tuple(wanted[number % 20 :])
        forked.send(frames.Transmit(0, [(host, port, False, 0, parts)]))
        compressed += len(peer.recv(2000)) < sum(map(len, parts))
    seconds = time.monotonic() - begun
    assert COMPRESSED_PER_SECOND <= compressed <= COMPRESSED_PER_SECOND * (1 + seconds)


def test_an_agent_that_is_busy_with_small_packets_sends_large_ones_as_they_are(
    forked: Gossip, peer: socket.socket
) -> None:
    host, port = peer.getsockname()
    (small, *_), large = pings(1), tuple(pings(40))
    begun = time.monotonic()
    for _ in range(COMPRESSED_PER_SECOND):
        forked.send(frames.Transmit(0, [(host, port, False, 0, (small,))]))
        assert peer.recv(2000) == small
    forked.send(frames.Transmit(0, [(host, port, False, 0, large)]))
    sent = len(peer.recv(2000))
    assert sent > sum(map(len, large)) or time.monotonic() - begun >= 1, "a second has its own packets"


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        (PacketFormat(Keyring([bytes(range(16))]), "blue"), "it does not decrypt with any of our 2 keys"),
        (PacketFormat(label="blue"), "it is not encrypted, and this agent has a key"),
        (PacketFormat(Keyring(KEYS)), "it has another label than 'blue', or none"),
        (PacketFormat(Keyring(KEYS), "green"), "it has another label than 'blue', or none"),
    ],
    ids=["another-key", "no-key", "no-label", "another-label"],
)
def test_packets_with_another_key_or_label_are_dropped_with_one_line_that_names_the_peer(
    secret: Gossip, peer: socket.socket, theirs: PacketFormat, said: str
) -> None:
    host, port = peer.getsockname()
    for _ in range(5):
        peer.sendto(seal_packet(pings(2), True, theirs)[0], secret.address)
    peer.sendto(seal_packet(pings(1, 9), True, SECRET)[0], secret.address)
    secret.until(lambda: secret.parts() == pings(1, 9), "the good packet alone")
    lines = secret.until(lambda: [line for line in secret.log if said in line], "the line")
    assert len(lines) == 1
    assert f"dropped a packet from={host}:{port}: {said}" in lines[0]


def test_encrypted_packets_are_known_as_such_without_a_key(forked: Gossip, peer: socket.socket) -> None:
    nonces = iter(bytes((number,)) * 12 for number in (0, 7, 255))
    keyring = Keyring(KEYS, lambda _length: next(nonces))
    for version in (0, 1, 1):
        peer.sendto(keyring.seal(pings(1)[0], b"", version), forked.address)
    peer.sendto(pings(1)[0], forked.address)
    forked.until(lambda: forked.parts() == pings(1), "the plain packet alone")
    forked.until(
        lambda: any(
            "it looks encrypted, and this agent has no key; does it need -encrypt" in line for line in forked.log
        ),
        "the line",
    )
