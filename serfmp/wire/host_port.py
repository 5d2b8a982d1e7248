"""`host:port`, as everybody writes it."""

from __future__ import annotations


def join_host_port(host: str, port: int | str) -> str:
    """A host and a port as one text, with brackets where the host holds a colon."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
