"""TLS around a connection of the RPC, byte by byte: whatever way the stream is cut, and whatever is sent instead."""

from __future__ import annotations

import contextlib
import socket
import ssl
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serfmp.agent.certificates import read_certificates, server_context
from serfmp.io.rpc_tls import HELLO, UNSENT_LIMIT, TlsChannel, TlsError
from tests.harness.certificates import Authority

SIZE = 64 * 1024
DEADLINE_S = 20.0
versions = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
messages = st.lists(st.binary(max_size=40_000), min_size=1, max_size=4)
cuts = st.lists(st.integers(1, 5000), min_size=1, max_size=8)


@lru_cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    with tempfile.TemporaryDirectory() as directory:
        authority = Authority(Path(directory))
        cert, key = authority.issue("agent", "agent.example")
        server = server_context(read_certificates(cert, key, "", pytest.fail))
        return server, ssl.create_default_context(cafile=authority.ca)


@dataclass
class Both:
    """A client in memory, and the agent's side on a socket; what the client sends arrives as `cut` says."""

    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    incoming: ssl.MemoryBIO = field(default_factory=ssl.MemoryBIO)
    outgoing: ssl.MemoryBIO = field(default_factory=ssl.MemoryBIO)

    def __enter__(self) -> Self:
        server, client = contexts()
        client.maximum_version = self.version
        self.tls = client.wrap_bio(self.incoming, self.outgoing, server_hostname="agent.example")
        ours, self.sock = socket.socketpair()
        self.sock.setblocking(False)
        self.channel = TlsChannel(ours, server)
        self.received = b""
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.abort()
        self.sock.close()

    def fetch(self) -> None:
        """What the agent has sent reaches the client."""
        with contextlib.suppress(BlockingIOError):
            while data := self.sock.recv(1 << 20):
                self.incoming.write(data)

    def shake_hands(self, sizes: Iterator[int]) -> None:
        through = False
        while not through:
            with contextlib.suppress(ssl.SSLWantReadError):
                self.tls.do_handshake()
            for chunk in chunks(self.outgoing.read(), sizes):
                self.sock.sendall(chunk)
                if through:
                    self.take()
                else:
                    through = self.channel.handshake(SIZE)
            self.fetch()
        self.take()
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        # What a connection does when it has been told that there is something to write.
        self.channel.push()

    def deliver(self, data: bytes, sizes: Iterator[int]) -> None:
        """What the client has sent reaches the agent."""
        for chunk in chunks(data, sizes):
            self.sock.sendall(chunk)
            self.take()

    def take(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self.received += self.channel.receive(SIZE)

    def answer(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest or self.channel.unsent:
            with contextlib.suppress(BlockingIOError):
                rest = rest[self.channel.send([rest[:7], rest[7:]]) :]
            self.fetch()

    def read(self) -> bytes:
        found = b""
        with contextlib.suppress(ssl.SSLWantReadError):
            while data := self.tls.read(1 << 20):
                found += data
        return found


def chunks(data: bytes, sizes: Iterator[int]) -> Iterator[bytes]:
    while data:
        size = next(sizes)
        yield data[:size]
        data = data[size:]


def repeat(sizes: list[int]) -> Iterator[int]:
    while True:
        yield from sizes


@given(
    version=st.sampled_from([ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]),
    said=messages,
    answered=messages,
    cut=cuts,
)
def test_whatever_way_the_stream_is_cut_the_same_bytes_come_out_of_it(
    version: ssl.TLSVersion, said: list[bytes], answered: list[bytes], cut: list[int]
) -> None:
    sizes = repeat(cut)
    with Both(version) as both:
        both.shake_hands(sizes)
        for message in said:
            both.tls.write(message)
            both.deliver(both.outgoing.read(), sizes)
        assert both.received == b"".join(said)
        for message in answered:
            both.answer(message)
        assert both.read() == b"".join(answered)


@given(said=st.binary(min_size=1, max_size=2000), cut=cuts, place=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_a_byte_that_was_changed_on_the_way_ends_the_connection_and_is_never_taken(
    said: bytes, cut: list[int], place: int, flip: int
) -> None:
    sizes = repeat(cut)
    with Both() as both:
        both.shake_hands(sizes)
        both.tls.write(said)
        sent = bytearray(both.outgoing.read())
        sent[place % len(sent)] ^= flip
        # Behind it, as much as a length that was changed may claim.
        sent += bytes(1 << 16)
        with pytest.raises(ConnectionAbortedError):
            both.deliver(bytes(sent), sizes)
        assert both.received == b""


@given(data=st.binary(min_size=1, max_size=400), cut=cuts)
def test_whatever_comes_instead_of_a_handshake_is_an_error_or_not_yet_complete(data: bytes, cut: list[int]) -> None:
    found: TlsError | None = None
    with Both() as both:
        for chunk in chunks(data, repeat(cut)):
            both.sock.sendall(chunk)
            try:
                assert both.channel.handshake(SIZE) is False
            except TlsError as error:
                found = error
                break
    if data[0] != HELLO:
        assert found is not None
        assert (found.kind, found.received) == ("plain", data[: cut[0]])
    else:
        assert found is None or (found.kind, found.received) == ("protocol", b"")


@versions
def test_a_request_that_comes_with_the_end_of_the_handshake_is_there(version: ssl.TLSVersion) -> None:
    with Both(version) as both:
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                both.tls.do_handshake()
                break
            both.sock.sendall(both.outgoing.read())
            both.channel.handshake(SIZE)
            both.fetch()
        both.tls.write(b"request")
        both.sock.sendall(both.outgoing.read())
        with contextlib.suppress(BlockingIOError):
            assert both.channel.handshake(SIZE)
        assert both.channel.receive(SIZE) == b"request"
        with pytest.raises(BlockingIOError):
            both.channel.receive(SIZE)


def test_a_farewell_behind_a_request_is_seen_though_the_connection_stays_open() -> None:
    with Both() as both:
        both.shake_hands(repeat([SIZE]))
        both.tls.write(b"request")
        with contextlib.suppress(ssl.SSLWantReadError):
            both.tls.unwrap()
        both.sock.sendall(both.outgoing.read())
        assert both.channel.receive(SIZE) == b"request"
        assert both.channel.receive(SIZE) == b""


def test_the_end_of_the_connection_is_an_end_without_a_farewell() -> None:
    with Both() as both:
        both.shake_hands(repeat([SIZE]))
        both.tls.write(b"request")
        both.sock.sendall(both.outgoing.read())
        both.sock.close()
        assert both.channel.receive(SIZE) == b"request"
        assert both.channel.receive(SIZE) == b""


def test_a_client_that_takes_nothing_costs_no_more_than_one_limit() -> None:
    with Both() as both:
        both.shake_hands(repeat([SIZE]))
        data = memoryview(bytes(4 * 1024 * 1024))
        taken = 0
        with contextlib.suppress(BlockingIOError):
            while taken < len(data):
                taken += both.channel.send([data[taken:]])
        assert both.channel.unsent
        assert len(both.channel._unsent) + both.channel._outgoing.pending <= UNSENT_LIMIT + 1024
        both.answer(bytes(data[taken:]))
        assert both.read() == bytes(data)


def test_the_log_shows_a_clients_certificate_on_one_line(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.issue("agent", "agent.example")
    server = server_context(read_certificates(cert, key, authority.ca, pytest.fail))
    client = ssl.create_default_context(cafile=authority.ca)
    client.load_cert_chain(*authority.issue("ops\n[ERR] forged"))
    ours, theirs = socket.socketpair()
    channel = TlsChannel(ours, server)
    with theirs:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = client.wrap_bio(incoming, outgoing, server_hostname="agent.example")
        through = False
        while not through:
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.do_handshake()
            theirs.sendall(outgoing.read())
            through = channel.handshake(SIZE)
            if not through:
                incoming.write(theirs.recv(SIZE))
        assert channel.describe() == r"TLSv1.3, commonName='ops\n[ERR] forged'"
        channel.close()
