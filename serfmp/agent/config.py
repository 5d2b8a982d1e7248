"""The configuration of an agent: one frozen value, made once by the command line and handed to every process.

Rules: every field has a unit in its name or its comment; whoever makes an `AgentConfig` has validated its input and
raised a `UserError` that names the flag. It travels to the children as a plain map. Secrets are not part of its `repr`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

DEFAULT_PORT = 7946
"""Gossip port (spec agent.md 1.2)."""

DEFAULT_RPC_ADDRESS = "127.0.0.1:7373"
"""Address of the RPC (spec agent.md 1.2)."""


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """See the module. Defaults are Serf's (spec agent.md 1.2) where Serf has the setting."""

    node: str
    bind_host: str = "0.0.0.0"
    bind_port: int = DEFAULT_PORT
    advertise_host: str = ""
    """Empty: the bound address."""
    advertise_port: int = 0
    """0: the bound port, or Serf's default port where only a host is advertised."""
    advertise_address: bytes = b""
    """What is gossiped, 4 or 16 bytes: set by the supervisor once the sockets are bound."""
    rpc_address: str = DEFAULT_RPC_ADDRESS
    rpc_auth: str = field(default="", repr=False)
    rpc_tls_cert: str = ""
    """Where the RPC's certificate was read from; empty: it speaks without TLS."""
    rpc_tls_key: str = ""
    """Where its private key was read from."""
    rpc_tls_ca: str = ""
    """Where the authorities of clients' certificates were read from; empty: clients need none."""
    rpc_tls_identity: bytes = field(default=b"", repr=False)
    """What these files held (`serfmp.agent.certificates`): certificate, chain and private key, PEM."""
    rpc_tls_authorities: bytes = field(default=b"", repr=False)
    """The authorities of clients, PEM."""
    encrypt_key: bytes = field(default=b"", repr=False)
    """The one key of `-encrypt`: 16, 24 or 32 bytes; empty without."""
    keyring: tuple[bytes, ...] = field(default=(), repr=False)
    """The keys of the keyring file, the primary first; never together with `encrypt_key`."""
    keyring_file: str = ""
    """Where the keyring was read from."""
    interface: str = ""
    """Network interface whose address is bound; empty: any. `bind_host` is that address already."""
    discover: str = ""
    """Name of the cluster whose agents are found by mDNS; empty: none."""
    mdns_interface: str = ""
    """Interface for that; empty: `interface`, or the system's choice."""
    mdns_disable_ipv4: bool = False
    mdns_disable_ipv6: bool = False
    protocol: int = 5
    """The Serf protocol that this node tells others to speak with it."""
    validate_node_names: bool = False
    """Whether names of nodes may hold letters, digits, `-` and `.` only."""
    label: str = ""
    """Label of all gossip (spec wire.md 4.7); empty: none, as Serf's agents."""
    start_join: tuple[str, ...] = ()
    retry_join: tuple[str, ...] = ()
    """Addresses that are joined in the background, again and again until one answers."""
    retry_interval: float = 30.0
    """Seconds between two of these tries."""
    retry_max_attempts: int = 0
    """After so many further tries the agent ends; 0: never."""
    replay: bool = False
    handlers: tuple[str | dict[str, Any], ...] = ()
    """Handlers in the order in which they were given: texts in Serf's grammar, and objects (`serfmp.events.specs`)."""
    tags: dict[str, str] = field(default_factory=dict)
    tags_file: str = ""
    """Where `tags` were read from, and changes of them are written; empty: nowhere."""
    log_level: str = "INFO"
    log_file: str = ""
    """A file that gets the log, too; empty: none."""
    log_json: bool = False
    """Whether log lines are JSON objects, on standard output and in the file."""
    syslog: bool = False
    syslog_facility: str = "LOCAL0"
    syslog_socket: str = ""
    """Where the syslog daemon listens; empty: where such daemons do."""
    profile: str = "lan"
    compression: bool = True
    workers: int = 2
    """Processes that run handler scripts."""
    script_grace: float = 3.0
    """Seconds that running handler scripts get when the agent stops, before their process groups are ended."""
    start_method: str = "fork"
    """How children start: `fork`, or `exec` for platforms where fork is unsafe."""
    runtime_directory: str = ""
    """Where the bus lives; empty: chosen by `serfmp.agent.runtime`."""
    metrics_address: str = ""
    """Where Prometheus' text is served: a loopback host:port or `unix:PATH`; empty: nowhere."""
    statsd_address: str = ""
    """IP address and port of a statsd; empty: none."""
    statsite_address: str = ""
    """IP address and port of a statsite; empty: none."""
    monitor_group: str = ""
    """The group whose members may watch the agent on the public bus; empty: the agent's own."""
    coalesce_period: float = 3.0
    """Longest time for which member events, and user events that allow it, are collected."""
    quiescent_period: float = 1.0
    """They are told earlier when none has come for so many seconds."""
    gossip_budget: int = 1024 * 1024
    """Bytes a second, see `CoreConfig`."""
    disable_coalescing: bool = False
    """Whether each event is told at once."""
    broadcast_timeout: float = 5.0
    """Seconds."""
    user_event_size_limit: int = 512
    """Bytes."""
    query_size_limit: int = 1024
    """Bytes of an encoded query."""
    query_response_size_limit: int = 1024
    """Bytes of an encoded response."""
    resolve_name_conflicts: bool = True
    """Whether the loser of a vote on its name shuts itself down."""
    reconnect_interval: float = 30.0
    """Seconds between two tries to reach a failed member."""
    reconnect_timeout: float = 24 * 3600.0
    """Seconds for which a failed member is kept."""
    tombstone_timeout: float = 24 * 3600.0
    """Seconds for which a member that left is kept."""
    snapshot_path: str = ""
    """Where the snapshot is; empty: none."""
    rejoin_after_leave: bool = False
    """Whether the members of the snapshot are joined though the node had left."""
    disable_coordinates: bool = False
    heal_interval: float = 300.0
    """Seconds between two tries to reach a lost part of the cluster."""
    leave_on_terminate: bool = False
    skip_leave_on_interrupt: bool = False

    @property
    def keys(self) -> tuple[bytes, ...]:
        """All keys, the primary first; none means that nothing is encrypted."""
        return self.keyring or ((self.encrypt_key,) if self.encrypt_key else ())

    def to_plain(self, role: str = "rpc") -> dict[str, Any]:
        """As a map that msgpack carries, for a process of this role: certificates are for rpc alone."""
        plain = dataclasses.asdict(self)
        return plain if role == "rpc" else {**plain, "rpc_tls_identity": b"", "rpc_tls_authorities": b""}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> AgentConfig:
        """The inverse of `to_plain`."""
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()
        }
        return cls(**fields)
