"""How a client speaks TLS, by the paths of files. Imports nothing of it (`serfmp.client.tls_socket` does)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tls:
    """Files are PEM. The agent's certificate and its name are always checked."""

    ca: str = ""
    """Certificates of the authorities that may have signed the agent's; empty: those that the system trusts."""
    cert: str = ""
    """The client's own certificate, for agents that want one; empty: none."""
    key: str = ""
    """Its private key; empty: it stands in the same file."""
    server_name: str = ""
    """The name or IP address that the agent's certificate must be for; empty: the host of the address."""
