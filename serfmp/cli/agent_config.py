"""The agent's configuration from its flags and files (spec agent.md 1.2, 1.5, 1.6).

Rules: `gather` merges flags and files, `make_config` checks and turns the result into one `AgentConfig`, `with_files`
adds the tags of the tags file and the keys of the keyring file, `check` refuses what would fail later. Each raises one
`UserError`, with the place in a file that it comes from; what is wrong is found in the order of the spec. Defaults are
those of `AgentConfig`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from serfmp.agent.config import DEFAULT_PORT, AgentConfig
from serfmp.agent.files import SettingError, Settings, read_sources
from serfmp.agent.interfaces import interface_address, require_interface
from serfmp.agent.keys import read_keyring_file
from serfmp.agent.log_writer import check_log_file, require_log_file
from serfmp.agent.runtime import base_directory
from serfmp.agent.syslog import facility_number, find_daemon
from serfmp.agent.tags_file import read_tags_file
from serfmp.cli import agent_values
from serfmp.cli.agent_values import DEFAULT
from serfmp.detector.config import (
    GOSSIP_BUDGET_MIN,
    NAME_RULE,
    SERF_PROTOCOL_MAX,
    SERF_PROTOCOL_MIN,
    USER_EVENT_SIZE_CAP,
    is_valid_name,
)
from serfmp.detector.swim.join import SRV
from serfmp.errors import UserError
from serfmp.events.specs import parse_handlers
from serfmp.io.resolver import require_dns
from serfmp.wire.crypto import Keyring
from serfmp.wire.host_port import TLS_SCHEME, join_host_port
from serfmp.wire.tags import encode_tags

if TYPE_CHECKING:
    from collections.abc import Callable

PROFILES: Final = ("lan", "wan", "local")
START_METHODS: Final = ("fork", "exec")
BROADCAST_TIMEOUT_MIN_S: Final = 1.0
RETRY_MIN_S: Final = 1.0


_AS_IT_STANDS: Final = {
    "coalesce_period": "coalesce_period",
    "disable_coalescing": "disable_coalescing",
    "disable_coordinates": "disable_coordinates",
    "discover": "discover",
    "mdns.disable_ipv4": "mdns_disable_ipv4",
    "mdns.disable_ipv6": "mdns_disable_ipv6",
    "mdns.interface": "mdns_interface",
    "enable_compression": "compression",
    "enable_syslog": "syslog",
    "interface": "interface",
    "gossip_budget": "gossip_budget",
    "heal_interval": "heal_interval",
    "keyring_file": "keyring_file",
    "leave_on_terminate": "leave_on_terminate",
    "log_file": "log_file",
    "log_json": "log_json",
    "monitor_group": "monitor_group",
    "profile": "profile",
    "query_response_size_limit": "query_response_size_limit",
    "query_size_limit": "query_size_limit",
    "quiescent_period": "quiescent_period",
    "reconnect_interval": "reconnect_interval",
    "reconnect_timeout": "reconnect_timeout",
    "rejoin_after_leave": "rejoin_after_leave",
    "replay_on_join": "replay",
    "rpc_addr": "rpc_address",
    "rpc_auth": "rpc_auth",
    "rpc_tls_ca": "rpc_tls_ca",
    "rpc_tls_cert": "rpc_tls_cert",
    "rpc_tls_key": "rpc_tls_key",
    "runtime_dir": "runtime_directory",
    "script_grace": "script_grace",
    "skip_leave_on_interrupt": "skip_leave_on_interrupt",
    "snapshot_path": "snapshot_path",
    "start_method": "start_method",
    "syslog_socket": "syslog_socket",
    "tags_file": "tags_file",
    "tombstone_timeout": "tombstone_timeout",
    "user_event_size_limit": "user_event_size_limit",
    "validate_node_names": "validate_node_names",
}
"""Settings that are fields of the configuration under these names; where one is not given the field's default holds."""

_CHECKED: Final = {
    "broadcast_timeout": "broadcast_timeout",
    "label": "label",
    "log_level": "log_level",
    "metrics_addr": "metrics_address",
    "node_name": "node",
    "protocol": "protocol",
    "syslog_facility": "syslog_facility",
    "retry_interval": "retry_interval",
    "retry_max_attempts": "retry_max_attempts",
    "workers": "workers",
}
"""Further ones, whose values are checked or changed on the way."""


FIELDS: Final = {
    **_AS_IT_STANDS,
    **_CHECKED,
    "event_handlers": "handlers",
    "retry_join": "retry_join",
    "start_join": "start_join",
    "tags": "tags",
}
"""Settings that are fields of the configuration, by their keys."""


def gather(values: dict[str, Any]) -> Settings:
    """Files and flags, merged, with the origin of each value. Raises `UserError`."""
    flags = {
        "advertise": values["advertise"],
        "bind": values["bind"],
        "disable_coalescing": values["disable_coalescing"],
        "broadcast_timeout": values["broadcast_timeout"]
        and agent_values.broadcast_timeout(values["broadcast_timeout"]),
        "encrypt_key": values["encrypt"],
        "event_handlers": list(values["event_handler"]),
        "discover": values["discover"],
        "mdns.disable_ipv4": values["mdns_disable_ipv4"],
        "mdns.disable_ipv6": values["mdns_disable_ipv6"],
        "mdns.interface": values["mdns_iface"],
        "interface": values["iface"],
        "keyring_file": values["keyring_file"],
        "label": values["label"],
        "enable_syslog": values["syslog"],
        "log_file": values["log_file"],
        "log_json": values["log_json"],
        "log_level": values["log_level"],
        "metrics_addr": values["metrics_addr"],
        "node_name": values["node"],
        "profile": values["profile"],
        "protocol": max(0, values["protocol"]),
        "replay_on_join": values["replay"],
        "retry_interval": values["retry_interval"] and agent_values.flag_duration(values["retry_interval"]),
        "retry_join": list(values["retry_join"]),
        "retry_max_attempts": values["retry_max"],
        "rejoin_after_leave": values["rejoin"],
        "role": values["role"],
        "rpc_addr": values["rpc_addr"],
        "rpc_tls_ca": values["rpc_tls_ca"],
        "rpc_tls_cert": values["rpc_tls_cert"],
        "rpc_tls_key": values["rpc_tls_key"],
        "runtime_dir": values["runtime_dir"],
        "snapshot_path": values["snapshot"],
        "start_join": list(values["join"]),
        "start_method": values["start_method"],
        "tags": agent_values.tags_of_flags(values["tag"]),
        "tags_file": values["tags_file"],
    }
    if values["disable_compression"]:
        flags["enable_compression"] = False
    if values["workers"] is not None:
        flags["workers"] = agent_values.workers_count(values["workers"])
    if values["script_grace"]:
        flags["script_grace"] = agent_values.script_grace(values["script_grace"])
    settings = read_sources(values["config_file"])
    settings.merge("flag", flags)
    if values["script_grace"]:  # zero is a value, too
        settings.values["script_grace"] = flags["script_grace"]
    return settings


def make_config(settings: Settings, warn: Callable[[str], None]) -> AgentConfig:
    """The configuration that these settings mean. Raises `UserError`. `warn` gets what is odd about them."""
    try:
        return _make_config(settings, warn)
    except UserError as error:
        raise settings.placed(error) from None


def _make_config(settings: Settings, warn: Callable[[str], None]) -> AgentConfig:
    get = settings.get
    node = agent_values.node_name(get("node_name", ""))
    handlers = tuple(get("event_handlers", ()))
    parse_handlers(handlers)
    interface = get("interface", "")
    if interface:
        require_interface(interface)
    tags = dict(get("tags", {}))
    if get("role"):
        warn("==> Deprecation warning: 'Role' has been replaced with 'Tags'")
        tags["role"] = get("role")
    retry_interval = get("retry_interval", DEFAULT.retry_interval)
    if retry_interval < RETRY_MIN_S:
        warn("==> Warning: 'RetryInterval' is too low. Setting to 1s")
        retry_interval = RETRY_MIN_S
    broadcast_timeout = get("broadcast_timeout", DEFAULT.broadcast_timeout)
    if broadcast_timeout < BROADCAST_TIMEOUT_MIN_S:
        warn("==> Warning: 'BroadcastTimeout' is too low. Setting to 1s")
        broadcast_timeout = BROADCAST_TIMEOUT_MIN_S
    _check_mdns(settings)
    if get("rejoin_after_leave") and not get("snapshot_path"):
        warn("==> Warning: 'RejoinAfterLeave' enabled without snapshot file")
    identity, authorities = _certificates(settings, warn)
    # TLS alone hides what is said, from whoever may listen; it does not tell who may command.
    closed = get("rpc_auth") or authorities
    if agent_values.is_exposed(get("rpc_addr", DEFAULT.rpc_address)) and not closed:
        warn(
            f"==> Warning: RPC on '{get('rpc_addr')}' can be reached from other hosts, and 'rpc_auth' is not set: "
            "whoever reaches it commands this agent"
        )
    level = agent_values.log_level(get("log_level", ""))
    facility = get("syslog_facility", DEFAULT.syslog_facility).upper()
    try:
        facility_number(facility)
    except UserError as error:
        raise SettingError("syslog_facility", str(error)) from None
    bind_host, bind_port = agent_values.address(get("bind", DEFAULT.bind_host), DEFAULT_PORT, "bind")
    if interface:
        bind_host = interface_address(interface, bind_host, warn)
    advertise = get("advertise", "")
    advertise_host, advertise_port = agent_values.address(advertise, 0, "advertise") if advertise else ("", 0)
    profile = get("profile", DEFAULT.profile)
    if profile not in PROFILES:
        raise SettingError("profile", f"Unknown profile: {profile}")
    method = get("start_method", DEFAULT.start_method)
    if method not in START_METHODS:
        text = f"Invalid start method: {method}. Valid start methods are: [{' '.join(START_METHODS)}]"
        raise SettingError("start_method", text)
    given = {field: settings.values[key] for key, field in _AS_IT_STANDS.items() if key in settings.values}
    return AgentConfig(
        node=node,
        bind_host=bind_host,
        bind_port=bind_port,
        advertise_host=advertise_host,
        advertise_port=advertise_port,
        encrypt_key=agent_values.encrypt_key(get("encrypt_key", "")),
        label=agent_values.checked_label(get("label", "")),
        start_join=tuple(get("start_join", ())),
        retry_join=tuple(get("retry_join", ())),
        retry_interval=retry_interval,
        retry_max_attempts=max(0, get("retry_max_attempts", 0)),
        handlers=handlers,
        tags=tags,
        log_level=level,
        syslog_facility=facility,
        metrics_address=agent_values.metrics_address(get("metrics_addr", "")),
        statsd_address=agent_values.sink_address(get("statsd_addr", ""), "statsd"),
        statsite_address=agent_values.sink_address(get("statsite_addr", ""), "statsite"),
        protocol=get("protocol", DEFAULT.protocol) if get("protocol", 0) > 0 else DEFAULT.protocol,
        workers=agent_values.workers_count(get("workers", DEFAULT.workers)),
        broadcast_timeout=broadcast_timeout,
        resolve_name_conflicts=not get("disable_name_resolution", False),
        rpc_tls_identity=identity,
        rpc_tls_authorities=authorities,
        **given,
    )


def _certificates(settings: Settings, warn: Callable[[str], None]) -> tuple[bytes, bytes]:
    """What the files of the RPC's TLS hold; nothing without them."""
    address = settings.get("rpc_addr", DEFAULT.rpc_address)
    cert, key, ca = (settings.get(f"rpc_tls_{name}", "") for name in ("cert", "key", "ca"))
    if address.startswith(TLS_SCHEME):
        text = (
            f"Invalid RPC address: {address}: {TLS_SCHEME} is for the commands; give an agent host:port, with "
            "rpc_tls_cert and rpc_tls_key"
        )
        raise SettingError("rpc_addr", text)
    for given, needed, path in (("cert", "key", key), ("key", "cert", cert), ("ca", "cert", cert)):
        if settings.get(f"rpc_tls_{given}") and not path:
            raise SettingError(f"rpc_tls_{given}", f"rpc_tls_{given} needs rpc_tls_{needed}, too: the path of a file")
    if not cert:
        return b"", b""
    if address.startswith("unix:"):
        warn(f"==> Warning: RPC on '{address}' speaks without TLS, as on every unix socket: rpc_tls_cert has no effect")
    from serfmp.agent.certificates import read_certificates

    found = read_certificates(cert, key, ca, warn)
    return found.identity, found.authorities


def _check_mdns(settings: Settings) -> None:
    """Spec agent.md 1.9."""
    interface = settings.get("mdns.interface", "")
    if interface and not settings.get("discover"):
        raise SettingError("mdns.interface", "mDNS interface specified without enabling mDNS discovery")
    if interface:
        try:
            require_interface(interface)
        except UserError as error:
            text = str(error).removeprefix("Invalid network interface: ")
            raise SettingError("mdns.interface", f"Invalid mDNS network interface: {text}") from None
    if settings.get("mdns.disable_ipv4") and settings.get("mdns.disable_ipv6"):
        raise SettingError("mdns.disable_ipv4", "Invalid mDNS configuration: both IPv4 and IPv6 are disabled")


def in_effect(config: AgentConfig) -> dict[str, Any]:
    """What the settings are that were not given, by their keys; those that have no default are not there."""
    values = {key: getattr(config, field) for key, field in (_AS_IT_STANDS | _CHECKED).items()}
    values |= {
        "bind": join_host_port(config.bind_host, config.bind_port),
        "disable_name_resolution": not config.resolve_name_conflicts,
        "event_handlers": [],
        "retry_join": [],
        "runtime_dir": str(base_directory(config)),
        "start_join": [],
        "tags": config.tags,
    }
    return {key: value for key, value in values.items() if value != ""}


def require_logs(config: AgentConfig, *, make: bool = True) -> None:
    """Refuse a log file that cannot be written, and a syslog that is not there. Raises `UserError`.

    `make`: the file is made if there is none.
    """
    if config.syslog:
        find_daemon(config.syslog_socket)
    if config.log_file:
        (require_log_file if make else check_log_file)(config.log_file)


def with_files(config: AgentConfig) -> AgentConfig:
    """The configuration with the tags of its tags file and the keys of its keyring file. Raises `UserError`."""
    if config.tags_file:
        if config.tags:
            raise UserError("Tags config not allowed while using tag files")
        config = dataclasses.replace(config, tags=read_tags_file(config.tags_file))
    if not config.keyring_file:
        return config
    if config.encrypt_key:
        raise UserError("Encryption key not allowed while using a keyring")
    return dataclasses.replace(config, keyring=read_keyring_file(config.keyring_file))


def check(config: AgentConfig) -> None:
    """Refuse what could not be gossiped, or joined. Raises `UserError`."""
    if any(address.startswith(SRV) for address in (*config.start_join, *config.retry_join)):
        require_dns()
    if config.discover:
        from serfmp.io.mdns import require_zeroconf

        require_zeroconf()
    if not SERF_PROTOCOL_MIN <= config.protocol <= SERF_PROTOCOL_MAX:
        side = "low" if config.protocol < SERF_PROTOCOL_MIN else "high"
        allowed = f"[{SERF_PROTOCOL_MIN}, {SERF_PROTOCOL_MAX}]"
        raise UserError(f"Protocol version '{config.protocol}' too {side}. Must be in range: {allowed}")
    if config.validate_node_names and not is_valid_name(config.node):
        raise UserError(f"node name {config.node!r} is not allowed with validate_node_names: {NAME_RULE}")
    encode_tags(config.tags, config.protocol)
    try:
        Keyring((config.encrypt_key,) if config.encrypt_key else ())
    except UserError as error:
        raise UserError(f"Failed to create memberlist: {error}") from None
    if config.user_event_size_limit > USER_EVENT_SIZE_CAP:
        raise UserError(f"user event size limit exceeds limit of {USER_EVENT_SIZE_CAP} bytes")
    if config.gossip_budget < GOSSIP_BUDGET_MIN:
        raise UserError(
            f"Invalid gossip budget: {config.gossip_budget} bytes/s. It must be at least {GOSSIP_BUDGET_MIN}"
        )
