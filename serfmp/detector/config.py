"""What the core is configured with: protocol constants by profile, limits, and who the local node is.

Rules: everything here is frozen and checked once, when it is made; whoever makes a `CoreConfig` gets a `UserError` that
names the value. All durations are seconds. Constants of the protocol stand here once, with their source.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from serfmp.errors import UserError
from serfmp.wire.tags import encode_tags

GOSSIP_PROTOCOL_MIN: Final = 1
"""Lowest gossip protocol understood (spec swim.md 10)."""
GOSSIP_PROTOCOL_MAX: Final = 5
"""Highest gossip protocol understood (spec swim.md 10)."""
GOSSIP_PROTOCOL_SPOKEN: Final = 2
"""Gossip protocol spoken; all Serf protocols map to it (spec swim.md 10)."""
SERF_PROTOCOL_MIN: Final = 2
"""Lowest Serf protocol understood (spec serf.md 1)."""
SERF_PROTOCOL_MAX: Final = 5
"""Highest Serf protocol understood (spec serf.md 1)."""
GOSSIP_BUDGET_MIN: Final = 64 * 1024
"""Bytes a second. Ours."""
USER_EVENT_SIZE_CAP: Final = 9 * 1024
"""No configuration may raise the size limit of user events above this, in bytes (spec serf.md 1)."""


NAME_RULE: Final = "letters, digits, '-' and '.', 128 at most"
"""What a node name holds where names are validated (spec agent.md 1.10)."""

_VALID_NAME: Final = re.compile(r"[A-Za-z0-9.-]{1,128}")


def is_valid_name(name: str) -> bool:
    """Whether a node name keeps to `NAME_RULE`."""
    return _VALID_NAME.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class Profile:
    """Timing of one kind of network (spec swim.md 12.1). Durations in seconds, sizes in bytes."""

    name: str
    stream_timeout: float
    """Bounds each step of a stream: connect, write, read (TCPTimeout)."""
    indirect_checks: int
    """Helpers asked to probe a target that did not answer (k of SWIM)."""
    retransmit_mult: int
    """Factor of the retransmit limit (spec swim.md 7.1)."""
    suspicion_mult: int
    """Factor of the shortest suspicion (spec swim.md 5.1; α of Lifeguard)."""
    suspicion_max_timeout_mult: int
    """Longest suspicion in multiples of the shortest (β of Lifeguard)."""
    push_pull_interval: float
    probe_interval: float
    """Protocol period T′ of SWIM."""
    probe_timeout: float
    """Wait for a direct ack before helpers are asked."""
    awareness_max_multiplier: int
    """The health score stays below this (spec swim.md 6)."""
    gossip_nodes: int
    """Targets of one gossip tick."""
    gossip_interval: float
    gossip_to_the_dead_time: float
    """How long dead nodes still get gossip, and stay in the list."""
    packet_size: int = 1400
    """Largest UDP packet in bytes, all layers included (UDPBufferSize)."""

    def __post_init__(self) -> None:
        if not 0 < self.probe_timeout < self.probe_interval:
            raise UserError(
                f"profile '{self.name}': the probe timeout ({self.probe_timeout} s) must be above 0 and below the "
                f"probe interval ({self.probe_interval} s)"
            )


LAN: Final = Profile(
    name="lan",
    stream_timeout=10.0,
    indirect_checks=3,
    retransmit_mult=4,
    suspicion_mult=4,
    suspicion_max_timeout_mult=6,
    push_pull_interval=30.0,
    probe_interval=1.0,
    probe_timeout=0.5,
    awareness_max_multiplier=8,
    gossip_nodes=3,
    gossip_interval=0.2,
    gossip_to_the_dead_time=30.0,
)
"""Spec swim.md 12.1."""

WAN: Final = Profile(
    name="wan",
    stream_timeout=30.0,
    indirect_checks=3,
    retransmit_mult=4,
    suspicion_mult=6,
    suspicion_max_timeout_mult=6,
    push_pull_interval=60.0,
    probe_interval=5.0,
    probe_timeout=3.0,
    awareness_max_multiplier=8,
    gossip_nodes=4,
    gossip_interval=0.5,
    gossip_to_the_dead_time=60.0,
)
"""Spec swim.md 12.1."""

LOCAL: Final = Profile(
    name="local",
    stream_timeout=1.0,
    indirect_checks=1,
    retransmit_mult=2,
    suspicion_mult=3,
    suspicion_max_timeout_mult=6,
    push_pull_interval=15.0,
    probe_interval=1.0,
    probe_timeout=0.2,
    awareness_max_multiplier=8,
    gossip_nodes=3,
    gossip_interval=0.1,
    gossip_to_the_dead_time=15.0,
)
"""Spec swim.md 12.1."""

PROFILES: Final[Mapping[str, Profile]] = {profile.name: profile for profile in (LAN, WAN, LOCAL)}
"""Profiles by the names that users give."""


@dataclass(frozen=True, slots=True)
class CoreConfig:
    """Who the local node is, and the limits that it keeps. `address` is what it advertises: 4 or 16 raw bytes."""

    node: str
    address: bytes
    port: int
    tags: Mapping[str, str] = field(default_factory=dict)
    serf_protocol: int = SERF_PROTOCOL_MAX
    profile: Profile = LAN
    encryption_overhead: int = 0
    """Bytes that encryption adds to a packet: 0 without a key, else 29 (spec swim.md 7.5)."""
    keys: tuple[bytes, ...] = field(default=(), repr=False)
    """Keys of the start, the primary first; none: nothing is encrypted, ever."""
    keyring_file: bool = False
    """Whether changes of keys are to be stored."""
    tags_file: bool = False
    """Whether changes of tags are to be stored."""
    validate_node_names: bool = False
    """Whether nodes are refused whose names hold anything but letters, digits, `-` and `.`, or more than 128 bytes."""
    label_overhead: int = 0
    """Bytes that a label adds to a packet: 0 without, else 2 + its length (spec swim.md 7.5)."""
    event_buffer: int = 4096
    """Slots of the ring of user events: Lamport times by which one may be late. Ours; Serf has 512 (spec serf.md 1)."""
    event_replay: int = 512
    """The latest of these slots that a push/pull carries (spec serf.md 1)."""
    query_buffer: int = 512
    """Slots of the ring of queries (spec serf.md 1)."""
    user_event_size_limit: int = 512
    """Bytes of a user event, before and after encoding (spec serf.md 8)."""
    coordinates: bool = True
    """Whether acks carry network coordinates, and round trips are learned from (spec serf.md 15)."""
    query_size_limit: int = 1024
    """Bytes of an encoded query (spec serf.md 1)."""
    query_response_size_limit: int = 1024
    """Bytes of an encoded response, and of a relayed one (spec serf.md 1)."""
    query_timeout_mult: int = 16
    """Gossip intervals of the default time-out of queries, per digit of the cluster's size (spec serf.md 10.1)."""
    resolve_name_conflicts: bool = True
    """Whether the loser of a vote on its name shuts itself down (spec serf.md 7)."""
    query_limit: int = 1024
    """Own queries that run at once. Ours."""
    open_query_limit: int = 4096
    """Received queries that may still be answered. Ours."""
    relay_rate: int = 1000
    """Responses relayed for others in a second. Ours."""
    coalesce_period: float = 0.0
    """Longest time for which events are collected before they are told (spec serf.md 9); 0: they are not."""
    quiescent_period: float = 0.0
    """They are told earlier when none has come for so long; 0: they are not collected."""
    broadcast_timeout: float = 5.0
    """Longest wait for a notified broadcast (spec serf.md 1)."""
    leave_propagate_delay: float = 1.0
    """How long a node that left still answers probes (spec serf.md 1)."""
    recent_intent_timeout: float = 300.0
    """How long intents about unknown nodes are remembered (spec serf.md 1)."""
    reconnect_timeout: float = 24 * 3600.0
    """How long a failed member is kept (spec serf.md 1)."""
    tombstone_timeout: float = 24 * 3600.0
    """How long a member that left is kept (spec serf.md 1)."""
    reap_limits: Mapping[str, float] = field(default_factory=dict)
    """Limits of single nodes, by name, instead of these two."""
    reconnect_interval: float = 30.0
    """Between two tries to reach a failed member (spec serf.md 1)."""
    snapshot: bool = False
    """Whether the core tells what belongs into the snapshot file."""
    heal_interval: float = 300.0
    """Between two tries to reach a lost part of the cluster. Ours."""
    seeds: tuple[str, ...] = ()
    """Addresses `[name/]host[:port]` that belong to the cluster: tried for ever while nobody is there."""
    reap_interval: float = 15.0
    """Period of the reaper (spec serf.md 1)."""
    flap_timeout: float = 60.0
    """A failed member that is back within this counts as flapping; a metric only (spec serf.md 1)."""
    queue_check_interval: float = 30.0
    """Period of the queue watchers (spec serf.md 1)."""
    queue_depth_warning: int = 128
    """Depth from which a watcher warns (spec serf.md 1)."""
    queue_depth_limit: int = 4096
    """Messages in each of Serf's queues; enforced when something is queued, unlike Serf (spec swim.md 15 B10)."""
    prompt_delay: float = 0.010
    """Between two transmissions of what is new, and of a deep queue: bursts share packets. Ours."""
    prompt_packets: int = 4
    """Packets to one target in one such transmission. Ours."""
    tick_packets: int = 4
    """The same for repetitions. Ours."""
    gossip_budget: int = 1024 * 1024
    """Bytes a second that gossip may send beyond one packet to each target per tick. Ours."""
    node_limit: int = 65536
    """Nodes in the table; further invented ones are refused and counted (spec wire.md 12.6). Ours."""
    intent_limit: int = 16384
    """Remembered intents about unknown nodes (spec wire.md 12.6). Ours."""
    slot_limit: int = 1024
    """Different events, or query IDs, under one Lamport time (spec wire.md 12.7). Ours."""
    outbox_limit: int = 65536
    """Events kept for consumers that have not acknowledged them. Ours."""
    requests_kept: int = 4096
    """Answered requests remembered, so that one asked again is not carried out twice. Ours."""

    def __post_init__(self) -> None:
        if not self.node:
            raise UserError("the node name must not be empty")
        if self.validate_node_names and not is_valid_name(self.node):
            raise UserError(f"the node name {self.node!r} breaks the rule of validate_node_names: {NAME_RULE}")
        if "\n" in self.node:
            raise UserError(f"the node name {self.node!r} contains a newline, which the snapshot file cannot carry")
        if len(self.address) not in {4, 16}:
            raise UserError(f"the advertised address must have 4 or 16 bytes, not {len(self.address)}")
        if not 0 < self.port <= 0xFFFF:
            raise UserError(f"the advertised port {self.port} is not in 1..65535")
        if self.serf_protocol < SERF_PROTOCOL_MIN:
            raise UserError(
                f"Protocol version '{self.serf_protocol}' too low. "
                f"Must be in range: [{SERF_PROTOCOL_MIN}, {SERF_PROTOCOL_MAX}]"
            )
        if self.serf_protocol > SERF_PROTOCOL_MAX:
            raise UserError(
                f"Protocol version '{self.serf_protocol}' too high. "
                f"Must be in range: [{SERF_PROTOCOL_MIN}, {SERF_PROTOCOL_MAX}]"
            )
        if self.user_event_size_limit > USER_EVENT_SIZE_CAP:
            raise UserError(f"user event size limit exceeds limit of {USER_EVENT_SIZE_CAP} bytes")
        for name in ("event_buffer", "query_buffer", "queue_depth_limit", "outbox_limit", "node_limit"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.gossip_budget < GOSSIP_BUDGET_MIN:
            raise UserError(f"gossip_budget must be at least {GOSSIP_BUDGET_MIN} bytes/s, not {self.gossip_budget}")
        encode_tags(self.tags, self.serf_protocol)

    @property
    def meta(self) -> bytes:
        """The tags as gossiped."""
        return encode_tags(self.tags, self.serf_protocol)

    @property
    def versions(self) -> bytes:
        """The six protocol numbers as gossiped (spec wire.md 7)."""
        return bytes(
            (
                GOSSIP_PROTOCOL_MIN,
                GOSSIP_PROTOCOL_MAX,
                GOSSIP_PROTOCOL_SPOKEN,
                SERF_PROTOCOL_MIN,
                SERF_PROTOCOL_MAX,
                self.serf_protocol,
            )
        )

    @property
    def packet_budget(self) -> int:
        """Bytes of a packet that are left for a compound of messages, its two bytes of header included."""
        return self.profile.packet_size - self.encryption_overhead - self.label_overhead
