"""Whether and how a client speaks TLS. Imports nothing of it: most clients do not (`serfmp.client.tls_socket`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from serfmp.client.address import split_host_port
from serfmp.wire.host_port import TLS_SCHEME

if TYPE_CHECKING:
    import ssl


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS by the paths of files (PEM). The agent's certificate and its name are always checked."""

    ca: str = ""
    """Certificates of the authorities that may have signed the agent's; empty: those that the system trusts."""
    cert: str = ""
    """The client's own certificate, for agents that want one; empty: none."""
    key: str = ""
    """Its private key; empty: it stands in the same file."""
    server_name: str = ""
    """The name or IP address that the agent's certificate must be for; empty: the host of the address."""


def wanted_tls(address: str, tls: Tls | ssl.SSLContext | None) -> Tls | ssl.SSLContext | None:
    """How this address is spoken to; None: without TLS, as always on a unix socket."""
    if address.startswith("unix:"):
        return None
    return (tls or Tls()) if address.startswith(TLS_SCHEME) else tls


def expected_name(address: str, tls: Tls | ssl.SSLContext) -> str:
    """The name that the agent's certificate must be for, at a `host:port`. Raises `UserError` for what is none."""
    if isinstance(tls, Tls) and tls.server_name:
        return tls.server_name
    return split_host_port(address)[0] or "localhost"
