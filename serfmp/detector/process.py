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
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from serfmp.agent.journal import Journal
from serfmp.agent.keys import KEYRING_MODE, keyring_file_content
from serfmp.agent.tags_file import TAGS_MODE, tags_file_content
from serfmp.bus import frames, plain
from serfmp.detector import effects as fx
from serfmp.detector import snapshot
from serfmp.detector.config import PROFILES, CoreConfig
from serfmp.detector.core import Core
from serfmp.detector.disk import Disk, replace_file
from serfmp.detector.gossip_link import GossipLink
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
    from collections.abc import Callable

    from serfmp.agent.child import Child

MERGE_BUDGET: Final = 128
"""Entries of a push/pull merged in one turn."""

STALL: Final = 0.25
"""A turn that is later than this many seconds means that the process was frozen or starved."""

FENCE_POLL: Final = 0.02
"""While a fence is out, the loop wakes at least this often, in seconds, though a timer is due."""

WATCHFUL_WAIT: Final = 0.25
"""Longest wait, in seconds, while somebody may come to be blamed: a freeze within a planned wait is not seen."""

STATE_PERIOD: Final = 1.0
"""Seconds between two looks at the figures for the replicas, and the longest time until gossip is told what is done."""

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
        self._bad_messages = 0
        self._tags = dict(child.config.tags)
        """Of the local node, as the others were told."""
        self._state: frames.DetectorState | None = None
        self._actions: dict[type, Callable[[Any], None]] = {
            fx.SendPacket: self._send_packet,
            fx.OpenStream: self._open_stream,
            fx.AnswerStream: lambda effect: self._gossip.surely(frames.StreamAnswer(effect.stream, effect.reply)),
            fx.CloseStream: lambda effect: self._gossip.surely(frames.StreamClose(effect.stream)),
            fx.Resolve: lambda effect: self._gossip.surely(frames.NameResolve(effect.token, effect.host, effect.port)),
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
        self._loop.before_wait.append(self._flush)
        # Behind that, because it sends what that brings.
        self._hub = Hub(
            child, self._core.acknowledged, self._core.outbox, self._core.members, self._on_ask, self._core.acknowledge
        )
        self._gossip = GossipLink(
            child, self._take_packet, self._handle, self._gossip_lost, self._gossip_found, self._fence_back
        )
        self._loop.after_input = self._after_input
        self._loop.next_deadline = self._next_deadline
        self._loop.call_every(STATE_PERIOD, self._beat)
        self._host = HostWatch(child, self._core)
        self._loop.call_every(LOG_PERIOD, self._tell_bad_messages)
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

    def _take_packet(self, packet: frames.Packet) -> None:
        host, port, arrival, timed, parts = packet
        source, core = (host, port), self._core
        for part in core.news(parts):
            try:
                message = decode_packet_message(part)
            except WireError as error:
                self._count_bad(error, host, port)
            else:
                core.receive(message, source, arrival, timed)

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

    def _gossip_lost(self) -> None:
        self._core.gossip_lost(self._loop.clock())

    def _gossip_found(self, again: bool) -> None:
        if again:
            self._core.gossip_restarted(self._loop.clock())
        else:
            self._core.gossip_found(self._loop.clock())

    def _fence_back(self, late: float) -> None:
        self._host.late(self._loop.clock(), late)

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
            if core.blame_due(now):
                self._gossip.fence(now)
        deadline = core.next_deadline()
        if deadline is not None and deadline <= now:
            core.advance(now, self._gossip.fenced_until)
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
        self._gossip.flush()

    def _journal_first(self, done: list[fx.Effect]) -> None:
        records = [effect.fields for effect in done if type(effect) is fx.Record]
        if records:
            self._journal.extend(records)
            if self._journal.full:
                self._journal.compact(self._core.snapshot_records())

    def _send_packet(self, effect: fx.SendPacket) -> None:
        host, port = effect.destination
        self._gossip.transmit((host, port, effect.checksum, effect.token, effect.parts))

    def _open_stream(self, effect: fx.OpenStream) -> None:
        host, port = effect.destination
        self._gossip.surely(frames.StreamOpen(effect.token, host, port, effect.request, effect.timeout, effect.reply))

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
        self._gossip.beat()
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
