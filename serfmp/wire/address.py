"""Addresses as raw bytes on the wire, and as text for everybody else.

Rules:

* On the wire an address is 4 bytes (IPv4) or 16 (IPv6, or IPv4 mapped into IPv6). Agents compare these bytes as they
  stand, so they are kept and gossiped exactly as received (spec wire.md 3.6); text is made only to connect and to show.
* Both forms of an IPv4 address give the same text.
* Link-local zones do not travel: they mean nothing to another host.
* `ipaddress` is imported where it is needed: showing IPv4 addresses takes none of it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from serfmp.errors import UserError
from serfmp.wire.errors import WireError

V4_LENGTH: Final = 4
V6_LENGTH: Final = 16
MAPPED_PREFIX: Final = bytes(10) + b"\xff\xff"
"""The first 12 bytes of an IPv4 address mapped into IPv6."""

_CACHED: Final = 1024
"""How many addresses are remembered. Each costs each process 250 bytes, and making a text anew takes 0.7 µs."""


@lru_cache(maxsize=_CACHED)
def to_text(addr: bytes) -> str:
    """The text of a raw address of 4 or 16 bytes; `WireError` for any other length."""
    if len(addr) == V4_LENGTH:
        return ".".join(map(str, addr))
    if len(addr) != V6_LENGTH:
        raise WireError(f"an address has {len(addr)} bytes instead of 4 or 16", "address")
    if addr.startswith(MAPPED_PREFIX):
        return ".".join(map(str, addr[12:]))
    from ipaddress import IPv6Address

    return str(IPv6Address(addr))


def from_text(host: str) -> bytes:
    """The raw bytes of an address text: 4 for IPv4, 16 for IPv6; `UserError` if the text is not an IP address."""
    from ipaddress import ip_address

    try:
        return ip_address(host).packed
    except ValueError:
        raise UserError(f"{host!r} is not an IP address; give one such as 192.0.2.7 or 2001:db8::7") from None


def is_public(addr: bytes) -> bool:
    """Whether a raw address can be reached from everywhere."""
    from ipaddress import ip_address

    return ip_address(to_text(addr)).is_global
