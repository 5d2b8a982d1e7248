"""`serfmp agent`: runs an agent in the foreground.

Rules: the flags become one `AgentConfig`, or one error: on stdout behind `==> `, with exit code 1 (spec agent.md 1.2,
1.5, 1.6, 2.1). What is wrong is found in the order of that section. Words behind the flags are ignored.
"""

from __future__ import annotations

import dataclasses
import json
import re
import socket
from typing import TYPE_CHECKING, Any, Final

from serfmp.agent.config import DEFAULT_PORT, DEFAULT_RPC_ADDRESS, AgentConfig
from serfmp.agent.files import KEYS, SECRETS, WITHOUT_EFFECT, Settings, read_sources
from serfmp.agent.keys import decode_key, read_keyring_file
from serfmp.cli.flags import BOOLEAN, INTEGER, GoCommand, flag, parse_tag
from serfmp.cli.output import go_json, say, table, visible
from serfmp.client.address import MissingPortError, port_number, resolve_host, split_host_port
from serfmp.durations import parse_duration
from serfmp.errors import UserError
from serfmp.events.specs import parse_handlers
from serfmp.wire.crypto import Keyring
from serfmp.wire.packet import PacketFormat

if TYPE_CHECKING:
    import click

HELP_PREFIX: Final = "==> "
"""Stands before the help that follows a flag error."""

LEVELS: Final = ("TRACE", "DEBUG", "INFO", "WARN", "ERR")
PROFILES: Final = ("lan", "wan", "local")
START_METHODS: Final = ("fork", "exec")
DEFAULT_BIND: Final = "0.0.0.0"
DEFAULT_BROADCAST_TIMEOUT_S: Final = 5.0
BROADCAST_TIMEOUT_MIN_S: Final = 1.0
DEFAULT_SCRIPT_GRACE_S: Final = 3.0
SCRIPT_GRACE_MAX_S: Final = 3600.0
DEFAULT_RETRY_S: Final = 30.0
RETRY_MIN_S: Final = 1.0
DEFAULT_RECONNECT_S: Final = 30.0
DEFAULT_KEPT_S: Final = 24 * 3600.0
DEFAULT_HEAL_S: Final = 300.0
DEFAULT_WORKERS: Final = 2
DEFAULT_EVENT_SIZE: Final = 512
DEFAULT_QUERY_SIZE: Final = 1024
USER_EVENT_SIZE_CAP: Final = 9216
WORKERS_MAX: Final = 64

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


def _config_flag() -> click.Option:
    """`-config-file` and `-config-dir` feed one list, in the order of the command line."""
    option = flag(
        "config-file",
        "Configuration file, JSON or TOML, or a directory whose .json and .toml files are read in the order of their "
        "names. May be given several times; later ones win. -config-dir is the same.",
        many=True,
        shown="config-file=path",
    )
    option.opts.append("-config-dir")
    return option


COMMAND: Final = GoCommand(
    "agent",
    "agent [options]",
    "Runs an agent in the foreground until it is interrupted or told to leave. An agent is one node of a cluster.",
    [
        flag(
            "advertise",
            "Address that other nodes shall use for this one, where it is not the bound one.",
            shown="advertise=host[:port]",
        ),
        flag(
            "bind",
            "Address for gossip, UDP and TCP. IPv6 is written as [::1] or [::1]:7946.",
            shown="bind=0.0.0.0:7946",
        ),
        flag(
            "broadcast-timeout",
            "How long a broadcast may take to leave this node, for example before it goes. At least 1s.",
            shown="broadcast-timeout=5s",
        ),
        flag(
            "check",
            "Show the merged configuration and where each value comes from, and end.",
            kind=BOOLEAN,
            default=False,
        ),
        _config_flag(),
        flag("disable-compression", "Send packets as they are.", kind=BOOLEAN, default=False),
        flag(
            "encrypt",
            "Encrypts all gossip with this key: base64 of 16, 24 or 32 bytes. Other users of the host can see a flag "
            "while the agent starts, and the shell remembers it: prefer -keyring-file.",
            shown="encrypt=key",
        ),
        flag(
            "event-handler",
            "Script that runs for events, with or without filters in front, such as member-join,user:deploy=./x.sh. "
            "May be given several times.",
            many=True,
            shown="event-handler=[filters=]script",
        ),
        flag(
            "join",
            "Address of a node to join at the start; the agent ends if none of them answers. May be given several "
            "times.",
            many=True,
            shown="join=address",
        ),
        flag(
            "keyring-file",
            "Encrypts all gossip with the keys of this file: a JSON list of base64 keys. The first one encrypts, all "
            "decrypt.",
            shown="keyring-file=path",
        ),
        flag(
            "label",
            "Separates this cluster from others on the same network: agents with another label, or none, are refused. "
            "Serf's own agents have none.",
            shown="label=text",
        ),
        flag("log-level", "Least level of log lines: trace, debug, info, warn or err.", shown="log-level=info"),
        flag("format", "How -check shows it: text (default) or json.", default="text", shown="format=text"),
        flag("node", "Name of this node, unique in the cluster. Default: the host's name.", shown="node=name"),
        flag("profile", "Timing that fits the network: lan, wan or local.", shown="profile=lan"),
        flag(
            "rejoin",
            "After a graceful leave, too, join the members of the snapshot at the next start.",
            kind=BOOLEAN,
            default=False,
        ),
        flag("replay", "Also deliver user events from before this node joined.", kind=BOOLEAN, default=False),
        flag(
            "retry-interval",
            "Time between two tries of -retry-join. At least 1s.",
            shown="retry-interval=30s",
        ),
        flag(
            "retry-join",
            "Address to join in the background, again and again until one answers. May be given several times.",
            many=True,
            shown="retry-join=address",
        ),
        flag(
            "retry-max",
            "How many further tries of -retry-join there are before the agent ends; 0: no limit.",
            kind=INTEGER,
            default=0,
            shown="retry-max=0",
        ),
        flag("role", "Deprecated: use -tag role=x.", shown="role=x"),
        flag("rpc-addr", "Address of the RPC, for the other commands.", shown=f"rpc-addr={DEFAULT_RPC_ADDRESS}"),
        flag(
            "runtime-dir",
            "Directory for the sockets between this agent's processes. Default: one below the user's runtime "
            "directory.",
            shown="runtime-dir=path",
        ),
        flag(
            "script-grace",
            "How long running handlers may go on when the agent stops, before they are ended: TERM, two seconds, KILL.",
            shown="script-grace=3s",
        ),
        flag(
            "snapshot",
            "File that keeps members and times over a restart: the agent finds the cluster again by itself, and no "
            "event is handled twice.",
            shown="snapshot=path",
        ),
        flag("start-method", "How processes are started: fork or exec.", shown="start-method=fork"),
        flag("tag", "Tag of this node. May be given several times.", many=True, shown="tag key=value"),
        flag("workers", "Processes that run handlers.", kind=INTEGER, default=None, shown="workers=2"),
    ],
)


def run(values: dict[str, Any], _words: list[str]) -> int:
    """Run the agent. Returns its exit code."""
    if values["check"]:
        return _check(values)
    try:
        config = make_config(values)
    except UserError as error:
        say(f"==> {error}")
        return 1
    try:
        config = _with_keyring(config)
    except UserError as error:
        say("==> Starting Serf agent...")
        say(f"==> Failed to setup the Serf agent: {error}")
        return 1
    try:
        _check_tags(config.tags)
        _check_key(config.encrypt_key)
        _check_limits(config)
    except UserError as error:
        say("==> Starting Serf agent...")
        say(f"==> Failed to start the Serf agent: Error creating Serf: {error}")
        return 1
    from serfmp.agent.supervisor import run_agent

    return run_agent(config, lambda: reread(values))


def reread(values: dict[str, Any]) -> AgentConfig:
    """The configuration that the same command line means now. Raises `UserError`."""
    return make_config(values)


def gather(values: dict[str, Any]) -> Settings:
    """Files and flags, merged, with the origin of each value. Raises `UserError`."""
    flags = {
        "advertise": values["advertise"],
        "bind": values["bind"],
        "broadcast_timeout": values["broadcast_timeout"] and _broadcast_timeout(values["broadcast_timeout"]),
        "encrypt_key": values["encrypt"],
        "event_handlers": list(values["event_handler"]),
        "keyring_file": values["keyring_file"],
        "label": values["label"],
        "log_level": values["log_level"],
        "node_name": values["node"],
        "profile": values["profile"],
        "replay_on_join": values["replay"],
        "retry_interval": values["retry_interval"] and _duration(values["retry_interval"]),
        "retry_join": list(values["retry_join"]),
        "retry_max_attempts": values["retry_max"],
        "rejoin_after_leave": values["rejoin"],
        "role": values["role"],
        "rpc_addr": values["rpc_addr"],
        "runtime_dir": values["runtime_dir"],
        "snapshot_path": values["snapshot"],
        "start_join": list(values["join"]),
        "start_method": values["start_method"],
        "tags": _tags(values["tag"]),
    }
    if values["disable_compression"]:
        flags["enable_compression"] = False
    if values["workers"] is not None:
        flags["workers"] = _workers(values["workers"])
    if values["script_grace"]:
        flags["script_grace"] = _script_grace(values["script_grace"])
    settings = read_sources(values["config_file"])
    settings.merge("flag", flags)
    if values["script_grace"]:  # zero is a value, too
        settings.values["script_grace"] = flags["script_grace"]
    return settings


def make_config(values: dict[str, Any]) -> AgentConfig:
    """The configuration that these flags and files mean; prints warnings. Raises `UserError`."""
    settings = gather(values)
    get = settings.get
    node = _node(get("node_name", ""))
    handlers = tuple(get("event_handlers", ()))
    parse_handlers(handlers)
    tags = dict(get("tags", {}))
    if get("role"):
        say("==> Deprecation warning: 'Role' has been replaced with 'Tags'")
        tags["role"] = get("role")
    retry_interval = get("retry_interval", DEFAULT_RETRY_S)
    if retry_interval < RETRY_MIN_S:
        say("==> Warning: 'RetryInterval' is too low. Setting to 1s")
        retry_interval = RETRY_MIN_S
    broadcast_timeout = get("broadcast_timeout", DEFAULT_BROADCAST_TIMEOUT_S)
    if broadcast_timeout < BROADCAST_TIMEOUT_MIN_S:
        say("==> Warning: 'BroadcastTimeout' is too low. Setting to 1s")
        broadcast_timeout = BROADCAST_TIMEOUT_MIN_S
    if get("rejoin_after_leave") and not get("snapshot_path"):
        say("==> Warning: 'RejoinAfterLeave' enabled without snapshot file")
    for key in WITHOUT_EFFECT:
        if get(key):
            say(f"==> Warning: '{key}' ({settings.origins[key]}) has no effect in this version")
    level = _log_level(get("log_level", ""))
    bind_host, bind_port = _address(get("bind", DEFAULT_BIND), DEFAULT_PORT, "bind")
    advertise = get("advertise", "")
    advertise_host, advertise_port = _address(advertise, 0, "advertise") if advertise else ("", 0)
    encrypt_key = _encrypt_key(get("encrypt_key", ""))
    profile = get("profile", PROFILES[0])
    if profile not in PROFILES:
        raise UserError(f"Unknown profile: {profile}")
    method = get("start_method", START_METHODS[0])
    if method not in START_METHODS:
        raise UserError(f"Invalid start method: {method}. Valid start methods are: [{' '.join(START_METHODS)}]")
    return AgentConfig(
        node=node,
        bind_host=bind_host,
        bind_port=bind_port,
        advertise_host=advertise_host,
        advertise_port=advertise_port,
        rpc_address=get("rpc_addr", DEFAULT_RPC_ADDRESS),
        rpc_auth=get("rpc_auth", ""),
        encrypt_key=encrypt_key,
        keyring_file=get("keyring_file", ""),
        label=_label(get("label", "")),
        start_join=tuple(get("start_join", ())),
        replay=get("replay_on_join", False),
        retry_join=tuple(get("retry_join", ())),
        retry_interval=retry_interval,
        retry_max_attempts=max(0, get("retry_max_attempts", 0)),
        handlers=handlers,
        tags=tags,
        log_level=level,
        profile=profile,
        compression=get("enable_compression", True),
        workers=_workers(get("workers", DEFAULT_WORKERS)),
        start_method=method,
        runtime_directory=get("runtime_dir", ""),
        broadcast_timeout=broadcast_timeout,
        script_grace=get("script_grace", DEFAULT_SCRIPT_GRACE_S),
        user_event_size_limit=get("user_event_size_limit", DEFAULT_EVENT_SIZE),
        query_size_limit=get("query_size_limit", DEFAULT_QUERY_SIZE),
        query_response_size_limit=get("query_response_size_limit", DEFAULT_QUERY_SIZE),
        resolve_name_conflicts=not get("disable_name_resolution", False),
        reconnect_interval=get("reconnect_interval", DEFAULT_RECONNECT_S),
        reconnect_timeout=get("reconnect_timeout", DEFAULT_KEPT_S),
        tombstone_timeout=get("tombstone_timeout", DEFAULT_KEPT_S),
        heal_interval=get("heal_interval", DEFAULT_HEAL_S),
        snapshot_path=get("snapshot_path", ""),
        rejoin_after_leave=get("rejoin_after_leave", False),
        disable_coordinates=get("disable_coordinates", False),
        leave_on_terminate=get("leave_on_terminate", False),
        skip_leave_on_interrupt=get("skip_leave_on_interrupt", False),
    )


def _check(values: dict[str, Any]) -> int:
    """Show what an agent would be started with, or all that is wrong with it."""
    if values["format"] not in {"text", "json"}:
        say(f"==> Invalid format: {values['format']}")
        return 1
    try:
        settings = gather(values)
        config = make_config(values)
        _with_keyring(config)
        _check_tags(config.tags)
        _check_key(config.encrypt_key)
        _check_limits(config)
    except UserError as error:
        say(f"==> {error}")
        return 1
    rows = []
    for key in sorted(KEYS):
        value = settings.get(key)
        shown = "(secret)" if key in SECRETS and value else value
        rows.append((key, shown, settings.origins.get(key, "default")))
    if values["format"] == "json":
        say(go_json({key: {"value": value, "origin": origin} for key, value, origin in rows}))
    else:
        texts = [[key, "-" if value is None else visible(json.dumps(value)), origin] for key, value, origin in rows]
        say(table([["key", "value", "from"], *texts]))
    return 0


def _check_limits(config: AgentConfig) -> None:
    if config.user_event_size_limit > USER_EVENT_SIZE_CAP:
        raise UserError(f"user event size limit exceeds limit of {USER_EVENT_SIZE_CAP} bytes")


def _workers(number: int) -> int:
    if not 1 <= number <= WORKERS_MAX:
        raise UserError(f"Invalid number of workers: {number}. It must be in range: [1, {WORKERS_MAX}]")
    return number


def _tags(texts: tuple[str, ...]) -> dict[str, str]:
    try:
        return dict(parse_tag(text) for text in texts)
    except UserError as error:
        raise UserError(f"Error: {error}") from None


def _check_tags(tags: dict[str, str]) -> None:
    from serfmp.wire.tags import encode_tags

    encode_tags(tags)


def _encrypt_key(text: str) -> bytes:
    try:
        return decode_key(text)
    except UserError as error:
        raise UserError(f"Invalid encryption key: {error}") from None


def _check_key(key: bytes) -> None:
    try:
        Keyring((key,) if key else ())
    except UserError as error:
        raise UserError(f"Failed to create memberlist: {error}") from None


def _with_keyring(config: AgentConfig) -> AgentConfig:
    """The configuration with the keys of its keyring file."""
    if not config.keyring_file:
        return config
    if config.encrypt_key:
        raise UserError("Encryption key not allowed while using a keyring")
    return dataclasses.replace(config, keyring=read_keyring_file(config.keyring_file))


def _label(label: str) -> str:
    try:
        PacketFormat(label=label)
    except UserError as error:
        raise UserError(f"Invalid label: {error}") from None
    return label


def _duration(text: str) -> float:
    try:
        return parse_duration(text)
    except UserError as error:
        raise UserError(f"Error: {error}") from None


def _broadcast_timeout(text: str) -> float:
    if not text:
        return DEFAULT_BROADCAST_TIMEOUT_S
    try:
        return parse_duration(text) or DEFAULT_BROADCAST_TIMEOUT_S
    except UserError as error:
        raise UserError(f"Error: {error}") from None


def _script_grace(text: str) -> float:
    if not text:
        return DEFAULT_SCRIPT_GRACE_S
    try:
        seconds = parse_duration(text)
    except UserError as error:
        raise UserError(f"Invalid script grace: {error}") from None
    if not 0 <= seconds <= SCRIPT_GRACE_MAX_S:
        raise UserError(f"Invalid script grace: {text}. It must be in range: [0s, {SCRIPT_GRACE_MAX_S:.0f}s]")
    return seconds


def _node(name: str) -> str:
    if not name:
        name = socket.gethostname()
    if _CONTROL.search(name):
        raise UserError(f"Invalid node name: {name!r} holds control characters; name the node with -node")
    return name


def _log_level(text: str) -> str:
    level = text.upper() or "INFO"
    if level not in LEVELS:
        raise UserError(f"Invalid log level: {level}. Valid log levels are: [{' '.join(LEVELS)}]")
    return level


def _address(text: str, default_port: int, what: str) -> tuple[str, int]:
    """Host and port; names are resolved. Without a port the default one."""
    try:
        try:
            host, port_text = split_host_port(text)
            port = port_number(port_text)
        except MissingPortError:
            host, port = text.removeprefix("[").removesuffix("]"), default_port
        return (resolve_host(host) if host else DEFAULT_BIND), port
    except UserError as error:
        raise UserError(f"Invalid {what} address: {error}") from None
