"""Single values of the agent's flags and files: what is taken, and what is said of what is not.

Rules: each function gives the value in the form of `AgentConfig`, or raises a `UserError` in Serf's words; a
`SettingError` where the key is known, so that its place in a file can be told.
"""

from __future__ import annotations

import functools
import ipaddress
import re
import socket
from typing import Final

from serfmp.agent.config import AgentConfig
from serfmp.agent.files import SettingError
from serfmp.agent.keys import decode_key
from serfmp.cli.flags import parse_tag
from serfmp.client.address import MissingPortError, port_number, resolve_host, split_host_port
from serfmp.durations import parse_duration
from serfmp.errors import UserError
from serfmp.wire.host_port import join_host_port
from serfmp.wire.packet import PacketFormat

LEVELS: Final = ("TRACE", "DEBUG", "INFO", "WARN", "ERR")
SCRIPT_GRACE_MAX_S: Final = 3600.0
WORKERS_MAX: Final = 64
DEFAULT: Final = AgentConfig("")
"""Where the defaults stand."""

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


def is_exposed(address: str) -> bool:
    """Whether this address of the RPC is one that other hosts may reach."""
    if address.startswith("unix:"):
        return False
    try:
        host = split_host_port(address)[0]
        return not ipaddress.ip_address(resolved(host) if host else "0.0.0.0").is_loopback
    except (UserError, ValueError):
        return False  # told when it is bound


def workers_count(number: int) -> int:
    """A number of processes that run handlers."""
    if not 1 <= number <= WORKERS_MAX:
        text = f"Invalid number of workers: {number}. It must be in range: [1, {WORKERS_MAX}]"
        raise SettingError("workers", text)
    return number


def tags_of_flags(texts: tuple[str, ...]) -> dict[str, str]:
    """The tags of `-tag` flags."""
    try:
        return dict(parse_tag(text) for text in texts)
    except UserError as error:
        raise UserError(f"Error: {error}") from None


def encrypt_key(text: str) -> bytes:
    """The key in this base64."""
    try:
        return decode_key(text)
    except UserError as error:
        raise SettingError("encrypt_key", f"Invalid encryption key: {error}") from None


def checked_label(label: str) -> str:
    """A label of gossip."""
    try:
        PacketFormat(label=label)
    except UserError as error:
        raise SettingError("label", f"Invalid label: {error}") from None
    return label


def flag_duration(text: str) -> float:
    """A flag's duration in seconds."""
    try:
        return parse_duration(text)
    except UserError as error:
        raise UserError(f"Error: {error}") from None


def broadcast_timeout(text: str) -> float:
    """A flag's broadcast timeout in seconds; the default for an empty text or zero."""
    if not text:
        return DEFAULT.broadcast_timeout
    try:
        return parse_duration(text) or DEFAULT.broadcast_timeout
    except UserError as error:
        raise UserError(f"Error: {error}") from None


def script_grace(text: str) -> float:
    """A flag's grace of scripts in seconds; the default for an empty text."""
    if not text:
        return DEFAULT.script_grace
    try:
        seconds = parse_duration(text)
    except UserError as error:
        raise UserError(f"Invalid script grace: {error}") from None
    if not 0 <= seconds <= SCRIPT_GRACE_MAX_S:
        raise UserError(f"Invalid script grace: {text}. It must be in range: [0s, {SCRIPT_GRACE_MAX_S:.0f}s]")
    return seconds


def node_name(name: str) -> str:
    """The node's name; for an empty text the host's."""
    if not name:
        name = socket.gethostname()
    if _CONTROL.search(name):
        text = f"Invalid node name: {name!r} holds control characters; name the node with -node"
        raise SettingError("node_name", text)
    return name


def metrics_address(text: str) -> str:
    """A loopback `host:port`, or `unix:` and a path that is not relative."""
    path = text.removeprefix("unix:")
    if not text or path.startswith("/"):
        return f"unix:{path}" if text else ""
    try:
        host, port_text = split_host_port(text)
        port = port_number(port_text)
        address = resolved(host)
    except UserError as error:
        raise UserError(f"Invalid metrics address: {error}") from None
    if not ipaddress.ip_address(address).is_loopback:
        raise UserError(
            f"Invalid metrics address: {text} is no loopback address; give one such as 127.0.0.1:9464, or "
            "unix:PATH, and put a proxy before it where others shall read it"
        )
    return join_host_port(address, port)


def sink_address(text: str, what: str) -> str:
    """The `host:port` of a sink of metrics."""
    if not text:
        return ""
    try:
        host, port_text = split_host_port(text)
        return join_host_port(resolved(host), port_number(port_text))
    except UserError as error:
        raise UserError(f"Failed to start {what} sink. Got: {error}") from None


def log_level(text: str) -> str:
    """A log level in capitals; the default for an empty text."""
    level = text.upper() or "INFO"
    if level not in LEVELS:
        text = f"Invalid log level: {level}. Valid log levels are: [{' '.join(LEVELS)}]"
        raise SettingError("log_level", text)
    return level


@functools.lru_cache(maxsize=64)
def resolved(host: str) -> str:
    """The address of a host."""
    # Remembered: a reload must not wait for name servers for a name that the agent's start has resolved.
    return resolve_host(host)


def address(text: str, default_port: int, what: str) -> tuple[str, int]:
    """Host and port; names are resolved. Without a port the default one."""
    try:
        try:
            host, port_text = split_host_port(text)
            port = port_number(port_text)
        except MissingPortError:
            host, port = text.removeprefix("[").removesuffix("]"), default_port
        return (resolved(host) if host else DEFAULT.bind_host), port
    except UserError as error:
        raise SettingError(what, f"Invalid {what} address: {error}") from None
