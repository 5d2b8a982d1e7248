"""What an agent says of itself when it serves (spec agent.md 2.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from serfmp.wire.host_port import join_host_port

if TYPE_CHECKING:
    from serfmp.agent.config import AgentConfig
    from serfmp.agent.terminal import Terminal


def show_banner(terminal: Terminal, config: AgentConfig) -> None:
    """Write the banner; `Advertise addr` stands where Serf has it, unaligned."""
    rows = [
        ("Node name", f"'{config.node}'"),
        ("Bind addr", f"'{join_host_port(config.bind_host, config.bind_port)}'"),
        ("RPC addr", f"'{config.rpc_address}'"),
        *([("RPC TLS", "with client certificates" if config.rpc_tls_ca else "true")] if config.rpc_tls_cert else []),
        ("Encrypted", _shown(bool(config.keys))),
        ("Snapshot", _shown(bool(config.snapshot_path))),
        ("Profile", config.profile),
        ("Message Compression Enabled", _shown(config.compression)),
        *([("mDNS cluster", config.discover)] if config.discover else []),
    ]
    terminal.output("Serf agent running!")
    for label, value in rows:
        terminal.info(f"{label:>27}: {value}")
        if label == "Bind addr" and config.advertise_host:
            terminal.info(f"Advertise addr: '{join_host_port(config.advertise_host, config.advertise_port)}'")


def status(config: AgentConfig) -> str:
    """One line for the service manager."""
    bind = join_host_port(config.bind_host, config.bind_port)
    return f"Node {config.node}, gossip on {bind}, RPC on {config.rpc_address}"


def _shown(value: bool) -> str:
    return "true" if value else "false"
