"""Clients of an agent's RPC that ask as fast as they are answered, in a process of their own.

Rules: each client has one request under way. The client must cost little beside the agent, so an answer whose length
never changes is only counted, after one was read; others are looked through by msgpack in C. Every answer must begin as
a good one does.
"""

from __future__ import annotations

import argparse
import json
import selectors
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgpack

GOOD = b"\x82\xa5Error\xa0\xa3Seq\x01"
REQUESTS: dict[str, tuple[dict[str, Any] | None, int]] = {
    "members": (None, 2),
    "stats": (None, 2),
    "event": ({"Name": "deploy", "Payload": b"v1", "Coalesce": False}, 1),
}
"""Bodies, and how many values an answer has."""

CONSTANT = frozenset({"members", "event"})
CHUNK = 1 << 20
START_S = 20.0


@dataclass(frozen=True, slots=True)
class Load:
    """Answers a second, and the seconds that the middle one took."""

    rate: float
    latency: float


class Client:
    """One connection."""

    def __init__(self, address: tuple[str, int], command: str) -> None:
        body, self._values = REQUESTS[command]
        self._request = msgpack.packb({"Command": command, "Seq": 1})
        if body is not None:
            self._request += msgpack.packb(body)
        self.socket = socket.create_connection(address, START_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(msgpack.packb({"Command": "handshake", "Seq": 0}) + msgpack.packb({"Version": 1}))
        self._read_values(1)
        self.ask()
        self._length = self._read_values(self._values) if command in CONSTANT else 0
        self._unpacker = msgpack.Unpacker(max_buffer_size=1 << 28)
        self._left = 0
        self._came = 0
        self.asked = 0.0
        if command not in CONSTANT:
            self._read_values(self._values)

    def _read_values(self, count: int) -> int:
        unpacker, length = msgpack.Unpacker(max_buffer_size=1 << 28), 0
        while count:
            data = self.socket.recv(CHUNK)
            if not data:
                raise ConnectionError("the agent closed the connection")
            length += len(data)
            unpacker.feed(data)
            while count:
                try:
                    unpacker.skip()
                except msgpack.OutOfData:
                    break
                count -= 1
        return length

    def ask(self) -> None:
        """Send a request."""
        self.asked = time.perf_counter()
        self.socket.sendall(self._request)
        self._left = getattr(self, "_length", 0)
        self._came = self._values

    def read(self, buffer: memoryview) -> bool:
        """Read once; whether the answer is complete."""
        size = self.socket.recv_into(buffer)
        if not size:
            raise ConnectionError("the agent closed the connection")
        if not self._length:
            self._unpacker.feed(buffer[:size])
            while self._came:
                try:
                    self._unpacker.skip()
                except msgpack.OutOfData:
                    return False
                self._came -= 1
            return True
        if self._left == self._length and bytes(buffer[: len(GOOD)]) != GOOD[:size]:
            raise ConnectionError(f"a bad answer: {bytes(buffer[:60])!r}")
        self._left -= size
        if self._left < 0:
            raise ConnectionError("an answer was longer than the first one")
        return not self._left


def load(address: tuple[str, int], command: str, clients: int, seconds: float) -> Load:
    """Ask for so long."""
    buffer = memoryview(bytearray(CHUNK))
    selector = selectors.DefaultSelector()
    for _ in range(clients):
        client = Client(address, command)
        selector.register(client.socket, selectors.EVENT_READ, client)
    began = time.perf_counter()
    until = began + seconds
    for key in list(selector.get_map().values()):
        key.data.ask()
    took: list[float] = []
    # One answer at least: an agent that needs longer has a rate, too.
    while (now := time.perf_counter()) < until or not took:
        for key, _ in selector.select(max(0.01, until - now)):
            if key.data.read(buffer):
                took.append(time.perf_counter() - key.data.asked)
                key.data.ask()
    return Load(len(took) / (time.perf_counter() - began), statistics.median(took) if took else float("nan"))


def run(host: str, port: int, command: str, *, clients: int, seconds: float) -> Load:
    """`load` in a process of its own."""
    words = [sys.executable, str(Path(__file__).resolve()), host, str(port), command, str(clients), str(seconds)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=seconds + 60, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit {done.returncode}")
    return Load(**json.loads(done.stdout))


def main() -> None:
    """The command line of the process."""
    parser = argparse.ArgumentParser()
    for name, kind in (("host", str), ("port", int), ("command", str), ("clients", int), ("seconds", float)):
        parser.add_argument(name, type=kind)
    given = parser.parse_args()
    print(json.dumps(asdict(load((given.host, given.port), given.command, given.clients, given.seconds))))


if __name__ == "__main__":
    main()
