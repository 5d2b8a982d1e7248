"""Addresses as users write them: `host:port`, with brackets around an IPv6 address, or `unix:///path` (ours).

Rules: the texts of errors are those of Serf's runtime, because scripts look for them (spec agent.md 3.1). Ports may be
numbers or names of services.
"""

from __future__ import annotations

import socket
from typing import Final

from serfmp.errors import UserError

PORT_MAX: Final = 65535


class MissingPortError(UserError):
    """The address has no port; whoever knows a default one may add it."""


def split_host_port(text: str) -> tuple[str, str]:
    """Host (without brackets) and port, as text. Raises `UserError`, `MissingPortError` where only the port lacks."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket:
            raise UserError(f"address {text}: missing ']' in address")
        if not rest:
            raise MissingPortError(f"address {text}: missing port in address")
        if not rest.startswith(":"):
            raise UserError(f"address {text}: missing port in address")
        port = rest[1:]
        if ":" in port:
            raise UserError(f"address {text}: too many colons in address")
    else:
        host, colon, port = text.rpartition(":")
        if not colon:
            raise MissingPortError(f"address {text}: missing port in address" if text else "missing address")
        if ":" in host:
            raise UserError(f"address {text}: too many colons in address")
    for bracket in "[]":
        if bracket in host + port:
            raise UserError(f"address {text}: unexpected '{bracket}' in address")
    return host, port


def port_number(text: str) -> int:
    """The number of a TCP port given as a number or the name of a service; empty is 0. Raises `UserError`."""
    digits = text.removeprefix("-").removeprefix("+")
    if not digits.isascii() or not digits.isdecimal():
        if not text:
            return 0
        try:
            return socket.getservbyname(text, "tcp")
        except OSError:
            raise UserError(f"address tcp/{text}: unknown port") from None
    number = int(text)
    if not 0 <= number <= PORT_MAX:
        raise UserError(f"address {text}: invalid port")
    return number


def resolve_host(host: str) -> str:
    """The first IP address of a host, IPv4 before IPv6, as text. Raises `UserError`."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise UserError(f"lookup {host}: no such host") from None
    chosen = next((entry for entry in found if entry[0] == socket.AF_INET), found[0])
    return str(chosen[4][0])
