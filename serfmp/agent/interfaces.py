"""Network interfaces by name (spec agent.md 1.5): which address of one is bound.

Rules: with the bind host `0.0.0.0` the interface's first address that is not link-local is taken; any other host must
be an address of the interface. Errors are worded as Serf's. psutil is imported by who asks: most agents name none.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable

from serfmp.errors import UserError

ANY = "0.0.0.0"
"""The bind host that leaves the choice to the interface."""


def require_interface(name: str) -> None:
    """Raise `UserError` if the host has no interface of this name."""
    import psutil

    if name not in psutil.net_if_addrs() and name not in psutil.net_if_stats():
        raise UserError("Invalid network interface: route ip+net: no such network interface")


def interface_address(name: str, bind_host: str, say: Callable[[str], None]) -> str:
    """The address to bind. `say` is told of one that was chosen. Raises `UserError`."""
    import psutil

    addresses = [
        ipaddress.ip_address(entry.address.partition("%")[0])
        for entry in psutil.net_if_addrs().get(name, [])
        if entry.family in {socket.AF_INET, socket.AF_INET6}
    ]
    if not addresses:
        raise UserError(f"Interface '{name}' has no addresses")
    if bind_host != ANY:
        if ipaddress.ip_address(bind_host) not in addresses:
            raise UserError(f"Interface '{name}' has no '{bind_host}' address")
        return bind_host
    usable = [str(address) for address in addresses if not address.is_link_local]
    if not usable:
        raise UserError(f"Failed to find usable address for interface '{name}'")
    say(f"==> Using interface '{name}' address '{usable[0]}'")
    return usable[0]
