"""`host:port`, as everybody writes it, and `unix:///path`; clients of the RPC also take `tls://host:port`."""

from __future__ import annotations

from typing import Final

from serfmp.errors import UserError

UNIX_SCHEME: Final = "unix://"
TLS_SCHEME: Final = "tls://"


def unix_path(address: str) -> str | None:
    """The path of `unix:///path`; None for any other address. Raises `UserError` for one that is not absolute."""
    if not address.startswith("unix:"):
        return None
    path = address.removeprefix(UNIX_SCHEME)
    if not address.startswith(UNIX_SCHEME) or not path.startswith("/") or "\0" in path:
        raise UserError(f"address {address}: a unix socket is written unix:///path, with an absolute path")
    return path


def join_host_port(host: str, port: int | str) -> str:
    """A host and a port as one text, with brackets where the host holds a colon."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
