"""Sends user events at a rate, or records when they come: a program of its own, so that nothing else takes its time.

`events.py send HOST PORT RATE SECONDS` and `events.py record HOST PORT`; the result is a line of JSON. Rules:

* A payload is a number and the time at which the event was due (the host's monotonic clock, nanoseconds): an event's
  delay counts from when it should have been sent, so a sender that is held up hides nothing.
* Requests are not waited for one by one; their answers are counted, and errors told.
* The recorder prints a line as soon as its stream runs, and ends when its standard input does.
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import struct
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgpack

from scripts.proofs.report import quantile
from tests.harness import Endpoint

NAME = "load"
PAYLOAD = struct.Struct(">QQ")
STEP_S = 0.002
"""Between two looks at what is due."""
LAST_ANSWERS_S = 20.0
CONNECT_S = 10.0
HANDSHAKE_SEQ = 1
STREAM_SEQ = 2


class EventsError(Exception):
    """An agent does not answer as one does."""


@dataclass(frozen=True, slots=True)
class Sent:
    """`sent` requests in `seconds`; `refused` were answered with an error, `unanswered` with nothing."""

    sent: int
    refused: int
    unanswered: int
    seconds: float
    error: str


@dataclass(frozen=True, slots=True)
class Recorded:
    """Different events, repeats, and the delays of the first arrivals in milliseconds."""

    events: int
    repeats: int
    median_ms: float
    p99_ms: float
    max_ms: float
    numbers: tuple[int, ...] = ()
    """Numbers of the events, where they were asked for."""


# --- seen from a script -----------------------------------------------------------------------------------------------


class Recorder:
    """A recorder that runs. `numbers`: whether to tell which events came."""

    def __init__(self, endpoint: Endpoint, numbers: bool = False) -> None:
        command = ["record", endpoint.host, str(endpoint.port), *(["--numbers"] if numbers else [])]
        self._process = _start(command)
        if self._process.stdout is None or not self._process.stdout.readline():
            message = f"no events can be recorded at {endpoint}"
            raise EventsError(message)

    def end(self) -> Recorded:
        """What it has recorded."""
        output, _ = self._process.communicate("", timeout=LAST_ANSWERS_S)
        found = json.loads(output)
        return Recorded(**{**found, "numbers": tuple(found["numbers"])})

    def kill(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()


def send(endpoint: Endpoint, rate: float, seconds: float) -> Sent:
    """Send events and wait for the answers."""
    process = _start(["send", endpoint.host, str(endpoint.port), str(rate), str(seconds)])
    try:
        output, _ = process.communicate("", timeout=seconds + CONNECT_S + LAST_ANSWERS_S)
    finally:
        process.kill()
        process.wait()
    return Sent(**json.loads(output))


def _start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "scripts.proofs.events", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parent.parent.parent,
    )


# --- the program ------------------------------------------------------------------------------------------------------


def _pack(*values: Any) -> bytes:
    return b"".join(msgpack.packb(value) for value in values)


def _connect(host: str, port: int) -> tuple[socket.socket, msgpack.Unpacker]:
    connection = socket.create_connection((host, port), timeout=CONNECT_S)
    connection.sendall(_pack({"Command": "handshake", "Seq": HANDSHAKE_SEQ}, {"Version": 1}))
    unpacker = msgpack.Unpacker(raw=False, unicode_errors="surrogateescape")
    _next(connection, unpacker)
    return connection, unpacker


def _next(connection: socket.socket, unpacker: msgpack.Unpacker) -> dict[str, Any]:
    while True:
        for value in unpacker:
            found: dict[str, Any] = value
            return found
        data = connection.recv(65536)
        if not data:
            message = "the agent ended the connection"
            raise EventsError(message)
        unpacker.feed(data)


def _send(host: str, port: int, rate: float, seconds: float) -> Sent:
    connection, unpacker = _connect(host, port)
    connection.setblocking(False)
    total = round(rate * seconds)
    begin = time.monotonic() + STEP_S
    made, waiting, answered, refused, error = 0, b"", 0, 0, ""
    deadline = begin + seconds + LAST_ANSWERS_S
    while answered < total and time.monotonic() < deadline:
        due = min(total, int((time.monotonic() - begin) * rate) + 1)
        for number in range(made, due):
            stamp = int((begin + number / rate) * 1e9)
            header = {"Command": "event", "Seq": STREAM_SEQ + number}
            waiting += _pack(header, {"Name": NAME, "Payload": PAYLOAD.pack(number, stamp), "Coalesce": False})
        made = max(made, due)
        readable, writable, _ = select.select([connection], [connection] if waiting else [], [], STEP_S)
        if writable:
            waiting = waiting[connection.send(waiting) :]
        if readable:
            data = connection.recv(1 << 18)
            if not data:
                error = error or "the agent ended the connection"
                break
            unpacker.feed(data)
            for value in unpacker:
                answered += 1
                if value["Error"]:
                    refused += 1
                    error = error or value["Error"]
    return Sent(made, refused, total - answered, time.monotonic() - begin, error)


def _record(host: str, port: int, numbers: bool) -> Recorded:
    connection, unpacker = _connect(host, port)
    connection.sendall(_pack({"Command": "stream", "Seq": STREAM_SEQ}, {"Type": f"user:{NAME}"}))
    _next(connection, unpacker)
    print("recording", flush=True)
    delays: dict[int, float] = {}
    repeats = 0
    while True:
        readable, _, _ = select.select([connection, sys.stdin], [], [])
        if connection not in readable:
            break
        data = connection.recv(1 << 18)
        if not data:
            break
        now = time.monotonic_ns()
        unpacker.feed(data)
        for value in unpacker:
            payload = value.get("Payload")
            if payload is None:
                continue
            number, stamp = PAYLOAD.unpack(payload)
            if number in delays:
                repeats += 1
            else:
                delays[number] = (now - stamp) / 1e6
    values = list(delays.values())
    return Recorded(
        len(delays),
        repeats,
        quantile(values, 0.5),
        quantile(values, 0.99),
        max(values, default=float("nan")),
        tuple(delays) if numbers else (),
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=("send", "record"))
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("rate", type=float, nargs="?", default=0.0)
    parser.add_argument("seconds", type=float, nargs="?", default=0.0)
    parser.add_argument("--numbers", action="store_true")
    given = parser.parse_args()
    if given.task == "send":
        print(json.dumps(asdict(_send(given.host, given.port, given.rate, given.seconds))))
    else:
        print(json.dumps(asdict(_record(given.host, given.port, given.numbers))))


if __name__ == "__main__":
    main()
