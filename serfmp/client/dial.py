"""Connecting to an agent: `host:port`, all addresses of the host one after another, or `unix:///path`.

TLS, which `tls://host:port` asks for, comes on top of that (`serfmp.client.tls_socket`).

The words of errors are Serf's, because scripts look for them (spec agent.md 3.1).
"""

from __future__ import annotations

import os
import socket

from serfmp.client.address import port_number, split_host_port
from serfmp.client.calls import DIAL_LIMIT_S
from serfmp.client.errors import ConnectError
from serfmp.errors import UserError
from serfmp.wire.host_port import TLS_SCHEME, join_host_port, unix_path


def speaks_tls(address: str, tls: object) -> bool:
    """Whether this address is spoken to with TLS, where `tls` says how, or None: never on a unix socket."""
    return address.startswith(TLS_SCHEME) or (tls is not None and not address.startswith("unix:"))


def dial(address: str) -> socket.socket:
    """Connect to `host:port`, with or without `tls://`, trying all addresses of the host, or to `unix:///path`.

    Raises `ConnectError` worded as Serf's.
    """
    try:
        path = unix_path(address)
        if path is not None:
            return _dial_unix(path)
        host, port_text = split_host_port(address.removeprefix(TLS_SCHEME))
        port = port_number(port_text)
    except UserError as error:
        raise ConnectError(f"dial tcp: {error}") from error
    name = host or "localhost"
    # ASCII as bytes: for a text Python first loads all that it knows of other alphabets.
    asked = name.encode() if name.isascii() else name
    try:
        found = socket.getaddrinfo(asked, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ConnectError(f"dial tcp: lookup {host}: no such host") from error
    failed: ConnectError | None = None
    for family, kind, protocol, _, target in sorted(found, key=lambda entry: entry[0] != socket.AF_INET):
        connection = socket.socket(family, kind, protocol)
        connection.settimeout(DIAL_LIMIT_S)
        try:
            connection.connect(target)
        except OSError as error:
            connection.close()
            shown = join_host_port(str(target[0]) if host else "", port)
            reason = "i/o timeout" if isinstance(error, TimeoutError) else f"connect: {_reason(error)}"
            failed = failed or ConnectError(f"dial tcp {shown}: {reason}")
        else:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection
    raise failed or ConnectError(f"dial tcp: lookup {host}: no such host")


def _dial_unix(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(DIAL_LIMIT_S)
    try:
        connection.connect(path)
    except OSError as error:
        connection.close()
        if error.errno is None and not isinstance(error, TimeoutError):
            raise ConnectError(f"dial unix {path}: connect: {error}") from error
        reason = "i/o timeout" if isinstance(error, TimeoutError) else f"connect: {_reason(error)}"
        raise ConnectError(f"dial unix {path}: {reason}") from error
    return connection


def _reason(error: OSError) -> str:
    return os.strerror(error.errno or 0).lower()
