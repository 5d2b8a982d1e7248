"""The detector process: the core, its clock, its journal, its sockets.

Nothing here blocks: no disk, no name service, no log pipe. A turn: take what gossip and the consumers sent, look
whether the process was frozen, fire the timers, then carry out the effects: first the journal, then everything else.
Two rules guard others against our own slowness:

* **No blame without a fence.** Before a timer that accuses somebody may fire, a token goes through the gossip process
  and comes back behind everything that had reached this host. So an ack that waits in a buffer always beats the
  deadline that it met.
* **A frozen process blames nobody.** Time in which the loop neither waited nor looked at input is handed to the core as
  lost.
"""

from __future__ import annotations

import os
import random
import time
from collections import deque
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import zmq

from serfmp.agent.journal import Journal
from serfmp.agent.keys import KEYRING_MODE, keyring_file_content
from serfmp.agent.tags_file import TAGS_MODE, tags_file_content
from serfmp.bus import frames, plain
from serfmp.bus.endpoints import PACKET_HWM, make_socket
from serfmp.detector import effects as fx
from serfmp.detector import snapshot
from serfmp.detector.config import PROFILES, CoreConfig
from serfmp.detector.core import Core
from serfmp.detector.disk import Disk, replace_file
from serfmp.detector.hub import Hub
from serfmp.detector.records import Recovered
from serfmp.detector.snapshot import SnapshotWriter
from serfmp.detector.watching import HostWatch, Watchers
from serfmp.wire.address import is_public
from serfmp.wire.crypto import OVERHEAD
from serfmp.wire.errors import WireError
from serfmp.wire.messages import decode_packet_message
from serfmp.wire.packet import label_bytes, label_header
from serfmp.wire.snapshot import SnapshotState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from serfmp.agent.child import Child

FRAMES_PER_TURN: Final = 16
"""Frames taken from gossip in one turn: at most 1024 packets."""

TAKING_TIME: Final = 0.05
"""Seconds after which a turn takes no further packet: 1024 packets full of deaths would take seconds, and a main loop
that does not turn for so long counts as stuck."""

MERGE_BUDGET: Final = 128
"""Entries of a push/pull merged in one turn."""

STALL: Final = 0.25
"""A turn that is later than this many seconds means that the process was frozen or starved."""

FENCE_POLL: Final = 0.02
"""While a fence is out, the loop wakes at least this often, in seconds, though a timer is due."""

CONNECT_POLL: Final = 0.005
"""Seconds between two looks whether the gossip process that was heard can be reached."""

WAITING_LIMIT: Final = 1024
"""Stream and name requests that wait for the gossip process."""

WATCHFUL_WAIT: Final = 0.25
"""Longest wait, in seconds, while somebody may come to be blamed: a freeze within a planned wait is not seen."""

STATE_PERIOD: Final = 1.0
"""Seconds between two looks at the figures for the replicas, and the longest time until gossip is told what is done."""

HANDLED_TOGETHER: Final = 16
"""Frames of packets that gossip may keep though they are done: what is sent to it tells it, too. 4 MiB at most, half of
its window."""

SNAPSHOT_PERIOD: Final = 0.5
"""Seconds between two looks at what the snapshot's thread has to say."""

LOG_PERIOD: Final = 1.0
"""Seconds between two log lines about bad messages; those between are counted."""


class Detector:
    """The process' state. See the module."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._loop = child.loop
        self.counters = child.metrics.counters
        self._transmissions: list[frames.Transmission] = []
        self._handled = 0
        self._handled_told = 0
        self._gossip_generation = child.generations.get("gossip", 0)
        self._fence_token = child.generation << 40
        self._fence_sent: float | None = None
        self._tells_handled = False
        """Gossip is to be told with this turn how far its frames are done. A packet that it hands on twice does no
        harm, so for those there is time."""
        self._gossip_heard = False
        """A frame of the present gossip process has come."""
        self._gossip_again = False
        """The present gossip process is not the first one."""
        self._rest: tuple[frames.Envelope, Iterator[frames.Packet]] | None = None
        """A frame of packets that was begun, and what is left of it."""
        self._waiting: deque[object] = deque()
        self._fenced_until = 0.0
        self._bad_messages = 0
        self._tags = dict(child.config.tags)
        """Of the local node, as the others were told."""
        self._state: frames.DetectorState | None = None
        self._actions: dict[type, Callable[[Any], None]] = {
            fx.SendPacket: self._send_packet,
            fx.OpenStream: self._open_stream,
            fx.AnswerStream: lambda effect: self._surely(frames.StreamAnswer(effect.stream, effect.reply)),
            fx.CloseStream: lambda effect: self._surely(frames.StreamClose(effect.stream)),
            fx.Resolve: lambda effect: self._surely(frames.NameResolve(effect.token, effect.host, effect.port)),
            fx.Publish: lambda _effect: self._hub.pump(),
            fx.MemberChanged: self._member_changed,
            fx.MemberForgotten: lambda effect: self._hub.row_gone(effect.name),
            fx.LifecycleChanged: self._lifecycle_changed,
            fx.Answer: self._answer,
            fx.QueryProgress: self._query_progress,
            fx.SnapshotLines: self._snapshot_lines,
            fx.StoreKeys: self._store_keys,
            fx.StoreTags: self._store_tags,
            fx.KeysChanged: lambda effect: child.send_control(frames.KeysNotice(list(effect.keys))),
            fx.Log: lambda effect: child.log(effect.level, effect.component, effect.text),
            **Watchers(child).actions,
        }
        self._journal = Journal(child.descriptors["journal"])
        records = self._journal.records()
        first = next(records, None)
        recovered = None if first is None else Recovered.replay(map(tuple, chain((first,), records)))
        now = self._loop.clock()
        self._disk = Disk(child.loop)
        self._snapshot: SnapshotWriter | None = None
        found = self._open_snapshot(read=recovered is None)
        self._core = Core(
            core_config(child),
            random.Random(os.urandom(16)),
            now,
            child.generation,
            recovered,
            found,
            time.perf_counter,
        )
        self._core.gossip_lost(now)
        child.endpoints.remove_older(child.generation)
        self._packets = make_socket(child.context, zmq.PULL, hwm=PACKET_HWM)
        self._packets.bind(child.endpoints.packets(child.generation))
        self._network = make_socket(child.context, zmq.PUSH, hwm=PACKET_HWM)
        self._network.bind(child.endpoints.network(child.generation))
        self._loop.before_wait.append(self._flush)
        # Behind that, because it sends what that brings.
        self._hub = Hub(
            child, self._core.acknowledged, self._core.outbox, self._core.members, self._on_ask, self._core.acknowledge
        )
        self._watched = self._loop.add_socket(self._packets, self._receive, told=True)
        self._loop.add_socket(self._network, None)
        self._loop.after_input = self._after_input
        self._loop.next_deadline = self._next_deadline
        self._loop.call_every(STATE_PERIOD, self._beat)
        self._host = HostWatch(child, self._core)
        self._loop.call_every(LOG_PERIOD, self._tell_bad_messages)
        child.on_generation.append(self._on_generation)
        child.on_ask = self._on_supervisor_ask
        child.on_stop = self._on_stop
        child.tell = self._hub.report
        self._tell_state()
        if recovered is None and not child.config.keys and is_public(child.config.advertise_address):
            child.log("WARN", "memberlist", "Binding to public address without encryption!")

    # --- the snapshot -------------------------------------------------------------------------------------------------

    def _open_snapshot(self, *, read: bool) -> SnapshotState | None:
        """Begin to write the snapshot; before that, at the start of an agent, read what it holds."""
        config = self._child.config
        if not config.snapshot_path:
            return None
        found = None
        if read:
            try:
                found, warnings = snapshot.load(config.snapshot_path, config.rejoin_after_leave)
            except OSError as error:
                text = f"Failed to read snapshot: {config.snapshot_path}: {error.strerror}"
                self._child.log("ERR", "serf", text)
            else:
                for warning in warnings:
                    self._child.log("WARN", "serf", warning)
        self._snapshot = SnapshotWriter(config.snapshot_path, config.rejoin_after_leave)
        self._loop.call_every(SNAPSHOT_PERIOD, self._look_at_snapshot)
        return found

    def _snapshot_lines(self, effect: fx.SnapshotLines) -> None:
        if self._snapshot is not None:
            self._snapshot.write(list(effect.lines), sync=effect.sync)

    def _store_keys(self, effect: fx.StoreKeys) -> None:
        path, content = self._child.config.keyring_file, keyring_file_content(effect.keys)
        self._disk.submit(
            lambda: replace_file(path, content, KEYRING_MODE),
            lambda error: self._core.keys_stored(effect.token, error, self._loop.clock()),
        )

    def _store_tags(self, effect: fx.StoreTags) -> None:
        path, content = self._child.config.tags_file, tags_file_content(effect.tags)
        self._disk.submit(
            lambda: replace_file(path, content, TAGS_MODE),
            lambda error: self._core.tags_stored(effect.token, error, self._loop.clock()),
        )

    def _look_at_snapshot(self) -> None:
        writer = self._snapshot
        if writer is None:
            return
        for level, text in writer.take_logs():
            self._child.log(level, "serf", text)
        for name, milliseconds in writer.take_times():
            self._child.metrics.sample(name, milliseconds)
        if writer.behind and writer.idle:
            self.counters["serfmp.snapshot.dropped"] += writer.dropped
            writer.behind, writer.dropped = False, 0
            self._child.log("WARN", "serf", "The snapshot's disk was too slow: telling it everything again")
            self._core.tell_snapshot()

    def _on_stop(self, grace: float) -> None:
        if self._snapshot is not None:
            self._flush()
            self._snapshot.close(grace)
            self._look_at_snapshot()
        self._hub.hurry()
        self._loop.stop()

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
            present = envelope.sender == self._gossip_generation
            if present and not self._gossip_heard:
                self._gossip_heard = True
                self._find_gossip(envelope.sender)
            # Packets of a gossip process that died since are as good as any; its streams and answers are not.
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
        if not self._take_packets(packets, until):
            self._loop.call_soon(self._go_on)
            return
        self._rest = None
        if envelope.sender == self._gossip_generation:
            self._handled = envelope.sequence
            if self._handled - self._handled_told >= HANDLED_TOGETHER:
                self._tells_handled = True

    def _handle(self, frame: Any) -> None:
        core = self._core
        match frame:
            case frames.StreamArrived(stream, host, port, message):
                core.receive_stream(stream, message, (host, port), self._loop.clock())
            case frames.StreamAnswered(token, reply, error, remote):
                core.stream_replied(token, reply, error, remote, self._loop.clock())
            case frames.NameResolved(token, addresses, error):
                core.resolved(token, tuple(addresses), error, self._loop.clock())
            case frames.SendFailed(token, remote, error):
                core.send_failed(token, remote, error, self._loop.clock())
            case frames.FenceBack(token) if token == self._fence_token and self._fence_sent is not None:
                self._host.late(self._loop.clock(), self._loop.clock() - self._fence_sent)
                self._fenced_until, self._fence_sent = self._fence_sent, None

    def _take_packets(self, packets: Iterator[frames.Packet], until: float) -> bool:
        """Whether all were taken in time."""
        news, receive, clock = self._core.news, self._core.receive, self._loop.clock
        for host, port, arrival, timed, parts in packets:
            source = (host, port)
            for part in news(parts):
                try:
                    message = decode_packet_message(part)
                except WireError as error:
                    self._count_bad(error, host, port)
                else:
                    receive(message, source, arrival, timed)
            if clock() >= until:
                return False
        return True

    def _count_bad(self, error: WireError, host: str, port: int) -> None:
        self.counters["serfmp.messages.bad"] += 1
        if not self._bad_messages:
            self._child.log("ERR", "memberlist", f"dropped a message from={host}:{port}: {error}")
        self._bad_messages += 1

    def _tell_bad_messages(self) -> None:
        if self._bad_messages > 1:
            self._child.log(
                "ERR", "memberlist", f"dropped {self._bad_messages - 1} more bad messages within {LOG_PERIOD:.0f} s"
            )
        self._bad_messages = 0

    def _on_ask(self, consumer: str, generation: int, ask: frames.Ask) -> None:
        request = plain.request_from_plain(ask.kind, ask.fields)
        self._core.request((consumer, generation, ask.number), request, self._loop.clock())

    def _on_supervisor_ask(self, ask: frames.Ask) -> None:
        self._on_ask("supervisor", 1, ask)

    def _on_generation(self, name: str, generation: int) -> None:
        if name == "gossip":
            self._gossip_generation = generation
            self._gossip_heard, self._gossip_again = False, True
            self._handled = self._handled_told = 0
            self._fence_sent = None
            self._waiting.clear()
            self._core.gossip_lost(self._loop.clock())

    def _find_gossip(self, generation: int) -> None:
        """Gossip has connected one way: as soon as it has the other way, too, the core may send."""
        if generation != self._gossip_generation:
            return
        if not int(self._network.getsockopt(zmq.EVENTS)) & zmq.POLLOUT:
            self._loop.call_later(CONNECT_POLL, lambda: self._find_gossip(generation))
        elif self._gossip_again:
            self._core.gossip_restarted(self._loop.clock())
        else:
            self._core.gossip_found(self._loop.clock())

    # --- time ---------------------------------------------------------------------------------------------------------

    def _after_input(self, now: float) -> None:
        core = self._core
        lateness = self._loop.lateness
        self._host.late(now, lateness)
        if lateness > STALL:
            self.counters["serfmp.detector.stalls"] += 1
            core.stalled(now, lateness)
        if core.blame_due(now):
            self._host.before_blame(now)
            if self._fence_sent is None and core.blame_due(now):
                self._fence_token += 1
                if self._to_gossip(frames.Fence(self._fence_token)):
                    self._fence_sent = now
        deadline = core.next_deadline()
        if deadline is not None and deadline <= now:
            core.advance(now, self._fenced_until)
        if core.work(now, MERGE_BUDGET) or self._hub.go_on():
            self._loop.call_soon(_nothing)

    def _next_deadline(self) -> float | None:
        deadline = self._core.next_deadline()
        if deadline is None:
            return None
        now = self._loop.clock()
        if deadline <= now and self._core.blame_due(now):
            return now + FENCE_POLL
        return min(deadline, now + WATCHFUL_WAIT) if self._core.may_blame else deadline

    # --- output -------------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        """Carry out the effects of this turn: the journal first, then everything else, in order."""
        while done := self._core.take_effects():
            self._journal_first(done)
            actions = self._actions
            for effect in done:
                if type(effect) is not fx.Record:
                    actions[type(effect)](effect)
        if self._transmissions:
            packets, self._transmissions = self._transmissions, []
            self._transmit(packets)
        elif self._tells_handled:
            self._transmit([])

    def _transmit(self, packets: list[frames.Transmission]) -> None:
        """Send packets, and tell what is handled."""
        if self._to_gossip(frames.Transmit(self._handled, packets)):
            self._handled_told = self._handled
            self._tells_handled = False
        else:
            self.counters["serfmp.udp.send_full"] += len(packets)

    def _journal_first(self, done: list[fx.Effect]) -> None:
        records = [effect.fields for effect in done if type(effect) is fx.Record]
        if records:
            self._journal.extend(records)
            if self._journal.full:
                self._journal.compact(self._core.snapshot_records())

    def _send_packet(self, effect: fx.SendPacket) -> None:
        host, port = effect.destination
        self._transmissions.append((host, port, effect.checksum, effect.token, effect.parts))

    def _open_stream(self, effect: fx.OpenStream) -> None:
        host, port = effect.destination
        self._surely(frames.StreamOpen(effect.token, host, port, effect.request, effect.timeout, effect.reply))

    def _surely(self, frame: object) -> None:
        """Send a frame that is no packet: it waits while gossip is starting or busy, and dies with that gossip."""
        self._waiting.append(frame)
        if len(self._waiting) > WAITING_LIMIT:
            self._waiting.popleft()
            self.counters["serfmp.bus.gossip_dropped"] += 1
        self._send_waiting()

    def _send_waiting(self) -> None:
        while self._waiting:
            if not self._to_gossip(self._waiting[0]):
                self._loop.when_writable(self._network, self._send_waiting)
                return
            self._waiting.popleft()

    def _to_gossip(self, frame: object) -> bool:
        try:
            self._network.send(
                frames.seal(frames.encode(frame), self._child.generation, self._gossip_generation), zmq.NOBLOCK
            )
        except zmq.Again:
            return False
        return True

    def _answer(self, effect: fx.Answer) -> None:
        role, generation, number = effect.request
        answer = frames.Answered(number, effect.value, effect.error)
        if role == "supervisor":
            self._child.send_control(answer)
        else:
            self._hub.answer(role, generation, answer)

    def _member_changed(self, effect: fx.MemberChanged) -> None:
        self._hub.row_changed(effect.member)
        member = effect.member
        if member.name == self._child.config.node and member.tags != self._tags:
            self._tags = dict(member.tags)
            self._child.send_control(frames.TagsNotice(self._tags))

    def _query_progress(self, effect: fx.QueryProgress) -> None:
        role, generation, number = effect.request
        self._hub.news(role, generation, frames.QueryNews(number, effect.kind, effect.node, effect.payload))

    def _lifecycle_changed(self, effect: fx.LifecycleChanged) -> None:
        self._tell_state()
        self._child.send_control(frames.LifecycleNotice(effect.state.value))

    def _beat(self) -> None:
        self._tells_handled = self._handled != self._handled_told
        self._tell_state()

    def _tell_state(self) -> None:
        state = frames.DetectorState(self._core.lifecycle.value, self._core.stats())
        if state != self._state:
            self._state = state
            self._hub.state(state)


def core_config(child: Child) -> CoreConfig:
    """The part of the agent's configuration that the core knows."""
    config = child.config
    label = label_bytes(config.label)
    return CoreConfig(
        node=config.node,
        address=config.advertise_address,
        port=config.advertise_port,
        tags=config.tags,
        tags_file=bool(config.tags_file),
        serf_protocol=config.protocol,
        validate_node_names=config.validate_node_names,
        profile=PROFILES[config.profile],
        encryption_overhead=OVERHEAD if config.keys else 0,
        label_overhead=len(label_header(label)) if label else 0,
        user_event_size_limit=config.user_event_size_limit,
        query_size_limit=config.query_size_limit,
        reconnect_interval=config.reconnect_interval,
        reconnect_timeout=config.reconnect_timeout,
        tombstone_timeout=config.tombstone_timeout,
        heal_interval=config.heal_interval,
        snapshot=bool(config.snapshot_path),
        coordinates=not config.disable_coordinates,
        keys=config.keys,
        keyring_file=bool(config.keyring_file),
        seeds=(*config.start_join, *config.retry_join),
        query_response_size_limit=config.query_response_size_limit,
        resolve_name_conflicts=config.resolve_name_conflicts,
        broadcast_timeout=config.broadcast_timeout,
        coalesce_period=0.0 if config.disable_coalescing else config.coalesce_period,
        quiescent_period=config.quiescent_period,
        gossip_budget=config.gossip_budget,
    )


def _nothing() -> None:
    """Only makes the loop take another turn at once."""


def main(child: Child) -> None:
    """Be the detector process."""
    Detector(child)
    child.ready()
    child.loop.run()
