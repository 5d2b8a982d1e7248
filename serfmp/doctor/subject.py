"""The agent that is looked at: what it tells of itself over RPC, and with which layers its gossip is dressed.

Rules: real Serf agents tell neither their configuration nor their keyring's place; what is not known is None. Keys are
read from the keyring file, by the user who asks; they are never asked of the agent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serfmp.agent.keys import read_keyring_file
from serfmp.client import Client, Member
from serfmp.errors import UserError
from serfmp.wire.crypto import Keyring
from serfmp.wire.packet import PacketFormat


@dataclass(frozen=True, slots=True)
class Subject:
    """See the module. `dress` is None where the keys are not known; `why_naked` then says why."""

    node: str
    own: Member | None
    members: tuple[Member, ...]
    encrypted: bool
    settings: Mapping[str, Any] | None
    dress: PacketFormat | None
    why_naked: str

    def others(self, limit: int) -> list[Member]:
        """At most so many other living members, spread over all of them."""
        alive = sorted(
            (member for member in self.members if member.status == "alive" and member.name != self.node),
            key=lambda member: member.name,
        )
        step = max(1, -(-len(alive) // limit))
        return alive[::step]

    @property
    def lost(self) -> list[Member]:
        """The members that are held for failed."""
        return [member for member in self.members if member.status == "failed"]


def ask(client: Client, keyring_file: str, label: str) -> Subject:
    """Ask the agent. Raises `ClientError`."""
    stats = client.stats()
    node = stats.get("agent", {}).get("name", "")
    members = client.members()
    # A real Serf agent ends the connection of who asks for what it does not know.
    real = stats.get("runtime", {}).get("version", "").startswith("go")
    settings: Mapping[str, Any] | None = None if real else {row.key: row.value for row in client.config()}
    encrypted = stats.get("serf", {}).get("encrypted") == "true"
    known = settings or {}
    dress, why = _dress(encrypted, keyring_file or known.get("keyring_file") or "", label or known.get("label") or "")
    own = next((member for member in members if member.name == node), None)
    return Subject(node, own, members, encrypted, settings, dress, why)


def _dress(encrypted: bool, keyring_file: str, label: str) -> tuple[PacketFormat | None, str]:
    if not encrypted:
        return PacketFormat(label=label, compress=False), ""
    if not keyring_file:
        return None, "gossip is encrypted, and no keyring file is known; name one with -keyring-file"
    try:
        return PacketFormat(Keyring(read_keyring_file(keyring_file)), label=label, compress=False), ""
    except UserError as error:
        return None, f"gossip is encrypted, and the keyring file '{keyring_file}' cannot be read: {error}"
