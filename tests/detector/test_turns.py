"""The detector process, started for real, under more packets than a turn takes; the test is its gossip process."""

from __future__ import annotations

from typing import Any

import pytest
import zmq

from serfmp.agent import journal
from serfmp.agent.config import AgentConfig
from serfmp.bus import frames
from serfmp.bus.endpoints import Endpoints, make_socket
from serfmp.detector import gossip_link
from serfmp.wire.messages import Ack, Ping, decode_packet_message, encode
from tests.harness.role import Role

BATCHES, PACKETS = 3, 20


def test_what_a_turn_has_no_time_for_is_taken_in_the_next_ones_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    # Whatever a packet takes, the time is over behind it.
    monkeypatch.setattr(gossip_link, "TAKING_TIME", 1e-9)
    config = AgentConfig(node="n", log_level="DEBUG", advertise_address=b"\x7f\0\0\1", advertise_port=7946)
    role = Role("detector", config, {"journal": journal.create("test")}, {"gossip": 1, "detector": 1})
    endpoints = Endpoints(str(role.directory))
    push = make_socket(role.context, zmq.PUSH, hwm=1000)
    push.connect(endpoints.packets(1))
    pull = make_socket(role.context, zmq.PULL, hwm=1000)
    pull.connect(endpoints.network(1))
    acked: list[int] = []
    handled: list[int] = []

    def take() -> bool:
        while pull.poll(0):
            _envelope, frame = frames.open_sealed(pull.recv())
            if isinstance(frame, frames.Transmit):
                handled.append(frame.handled)
                messages = [decode_packet_message(part) for sent in frame.packets for part in parts_of(sent)]
                acked.extend(message.sequence for message in messages if isinstance(message, Ack))
        return len(acked) == BATCHES * PACKETS and handled[-1] == BATCHES

    try:
        now = role.loop.clock()
        for batch in range(BATCHES):
            numbers = range(batch * PACKETS, (batch + 1) * PACKETS)
            packets = [("127.0.0.2", 7946, now, True, [encode(Ping(number, "n"))]) for number in numbers]
            frame: Any = frames.PacketBatch(packets)
            push.send(frames.seal(frames.encode(frame), 1, 1, batch + 1))
        role.until(take, "all pings are answered, and gossip is told that its frames are done")
        assert acked == list(range(BATCHES * PACKETS))
        assert handled == sorted(handled)
        assert role.stop() == 0
    finally:
        push.close()
        pull.close()
        role.close()


def parts_of(sent: Any) -> list[bytes]:
    """The messages of a packet to send."""
    _host, _port, _checksum, _token, parts = sent
    return list(parts)
