"""The detector's end of the stream to the gossip process: packets and streams both ways, and the fence.

Rules:

* A turn takes at most `FRAMES_PER_TURN` frames, and no further packet after `TAKING_TIME`: what is left of a frame
  comes first in the next turn.
* Gossip keeps each frame until it is told that it is done. It is told with what is sent to it anyhow, or when
  `HANDLED_TOGETHER` frames are done, or with the next beat.
* Packets that cannot be sent are dropped and counted, as on the network. What is no packet waits while gossip is
  starting or busy, and dies with that gossip.
* A fence is a token that goes through gossip and comes back behind everything that had reached this host when it was
  sent: `fenced_until`.
* Packets of a gossip process that died since are as good as any; its streams and answers are not.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

import zmq

from serfmp.bus import frames
from serfmp.bus.endpoints import PACKET_HWM, make_socket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from serfmp.agent.child import Child

FRAMES_PER_TURN: Final = 16
"""Frames taken from gossip in one turn: at most 1024 packets."""

TAKING_TIME: Final = 0.05
"""Seconds after which a turn takes no further packet: 1024 packets full of deaths would take seconds, and a main loop
that does not turn for so long counts as stuck."""

CONNECT_POLL: Final = 0.005
"""Seconds between two looks whether the gossip process that was heard can be reached."""

WAITING_LIMIT: Final = 1024
"""Stream and name requests that wait for the gossip process."""

HANDLED_TOGETHER: Final = 16
"""Frames of packets that gossip may keep though they are done: what is sent to it tells it, too. 4 MiB at most, half of
its window."""


class GossipLink:
    """See the module.

    `on_packet(packet)` gets each packet and `on_frame(frame)` what else gossip tells. `on_lost()`: the gossip process
    has died, and another takes its place; `on_found(again)`: it is there, and can be reached; `again`: it is not the
    first one. `on_fence(seconds)`: a fence came back after so long.
    """

    def __init__(
        self,
        child: Child,
        on_packet: Callable[[frames.Packet], None],
        on_frame: Callable[[Any], None],
        on_lost: Callable[[], None],
        on_found: Callable[[bool], None],
        on_fence: Callable[[float], None],
    ) -> None:
        self._child = child
        self._loop = child.loop
        self._on_packet = on_packet
        self._on_frame = on_frame
        self._on_lost = on_lost
        self._on_found = on_found
        self._on_fence = on_fence
        self._counters = child.metrics.counters
        self._generation = child.generations.get("gossip", 0)
        self._heard = False
        """A frame of the present gossip process has come."""
        self._again = False
        """The present gossip process is not the first one."""
        self._transmissions: list[frames.Transmission] = []
        self._waiting: deque[object] = deque()
        self._handled = 0
        self._handled_told = 0
        self._tells_handled = False
        """Gossip is to be told with this turn how far its frames are done. A packet that it hands on twice does no
        harm, so for those there is time."""
        self._rest: tuple[frames.Envelope, Iterator[frames.Packet]] | None = None
        """A frame of packets that was begun, and what is left of it."""
        self._fence_token = child.generation << 40
        self._fence_sent: float | None = None
        self.fenced_until = 0.0
        """All that had reached this host by then was handed in."""
        self._packets = make_socket(child.context, zmq.PULL, hwm=PACKET_HWM)
        self._packets.bind(child.endpoints.packets(child.generation))
        self._network = make_socket(child.context, zmq.PUSH, hwm=PACKET_HWM)
        self._network.bind(child.endpoints.network(child.generation))
        self._watched = self._loop.add_socket(self._packets, self._receive, told=True)
        self._loop.add_socket(self._network, None)
        child.on_generation.append(self._on_generation)

    # --- output -------------------------------------------------------------------------------------------------------

    def transmit(self, packet: frames.Transmission) -> None:
        """Send a packet with the next `flush`."""
        self._transmissions.append(packet)

    def flush(self) -> None:
        """The turn ends: send its packets, and tell what is done."""
        if not self._transmissions and not self._tells_handled:
            return
        packets, self._transmissions = self._transmissions, []
        if self._to_gossip(frames.Transmit(self._handled, packets)):
            self._handled_told = self._handled
            self._tells_handled = False
        else:
            self._counters["serfmp.udp.send_full"] += len(packets)

    def beat(self) -> None:
        """From time to time: with this turn gossip is told what is done."""
        self._tells_handled = self._handled != self._handled_told

    def surely(self, frame: object) -> None:
        """Send a frame that is no packet."""
        self._waiting.append(frame)
        if len(self._waiting) > WAITING_LIMIT:
            self._waiting.popleft()
            self._counters["serfmp.bus.gossip_dropped"] += 1
        self._send_waiting()

    def fence(self, now: float) -> None:
        """Send a fence, unless one is out."""
        if self._fence_sent is None:
            self._fence_token += 1
            if self._to_gossip(frames.Fence(self._fence_token)):
                self._fence_sent = now

    def _send_waiting(self) -> None:
        while self._waiting:
            if not self._to_gossip(self._waiting[0]):
                self._loop.when_writable(self._network, self._send_waiting)
                return
            self._waiting.popleft()

    def _to_gossip(self, frame: object) -> bool:
        message = frames.seal(frames.encode(frame), self._child.generation, self._generation)
        try:
            self._network.send(message, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    # --- input --------------------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        until = self._loop.clock() + TAKING_TIME
        for _ in range(FRAMES_PER_TURN):
            # What is left of a frame comes first, at the beginning of the next turn.
            if self._rest is not None:
                return
            try:
                message = self._packets.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            envelope, frame = frames.open_sealed(message)
            present = envelope.sender == self._generation
            if present and not self._heard:
                self._heard = True
                self._find(envelope.sender)
            if isinstance(frame, frames.PacketBatch):
                self._rest = envelope, iter(frame.packets)
                self._take_rest(until)
            elif present:
                self._handled = envelope.sequence
                self._tells_handled = True
                self._handle(frame)
            if self._loop.clock() >= until or not self._watched.ready():  # cheaper than to be refused a message
                return

    def _go_on(self) -> None:
        self._take_rest(self._loop.clock() + TAKING_TIME)

    def _take_rest(self, until: float) -> None:
        """Take the packets of the frame that was begun, and go on in the next turn where the time is not enough."""
        if self._rest is None:
            return
        envelope, packets = self._rest
        take, clock = self._on_packet, self._loop.clock
        for packet in packets:
            take(packet)
            if clock() >= until:
                self._loop.call_soon(self._go_on)
                return
        self._rest = None
        if envelope.sender == self._generation:
            self._handled = envelope.sequence
            if self._handled - self._handled_told >= HANDLED_TOGETHER:
                self._tells_handled = True

    def _handle(self, frame: Any) -> None:
        match frame:
            case frames.FenceBack(token):
                if token == self._fence_token and self._fence_sent is not None:
                    self._on_fence(self._loop.clock() - self._fence_sent)
                    self.fenced_until, self._fence_sent = self._fence_sent, None
            case _:
                self._on_frame(frame)

    # --- generations --------------------------------------------------------------------------------------------------

    def _on_generation(self, name: str, generation: int) -> None:
        if name == "gossip":
            self._generation = generation
            self._heard, self._again = False, True
            self._handled = self._handled_told = 0
            self._fence_sent = None
            self._waiting.clear()
            self._on_lost()

    def _find(self, generation: int) -> None:
        """Gossip has connected one way: as soon as it has the other way, too, something can be sent."""
        if generation != self._generation:
            return
        if int(self._network.getsockopt(zmq.EVENTS)) & zmq.POLLOUT:
            self._on_found(self._again)
        else:
            self._loop.call_later(CONNECT_POLL, lambda: self._find(generation))
