"""Flags and files of an agent, now and as it runs: what they mean, and where each value comes from.

Rules: what `read` finds holds only once `adopted` is called, and then only the keys that a reload changes; the others
keep the value and the origin of the start. Secrets are never shown.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from serfmp.agent.files import KEYS, SECRETS, Settings
from serfmp.agent.reload import RELOADABLE
from serfmp.cli.agent_config import FIELDS, gather, in_effect, make_config
from serfmp.wire.host_port import join_host_port

if TYPE_CHECKING:
    from serfmp.agent.config import AgentConfig

HIDDEN: Final = "(secret)"
_RELOADED: Final = frozenset({"tags", "role"} | {key for key, name in FIELDS.items() if name in RELOADABLE})


class AgentSource:
    """See the module. `values` are those of the agent's flags."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values
        self._running = Settings()
        self._latest = Settings()

    def start(self, warn: Callable[[str], None]) -> AgentConfig:
        """The configuration to start with. Raises `UserError`."""
        config = self.read(warn)
        self._running = self._latest
        return config

    def read(self, warn: Callable[[str], None]) -> AgentConfig:
        """The configuration that flags and files mean now. Raises `UserError`. `warn` gets what is odd about them."""
        self._latest = gather(self._values)
        return make_config(self._latest, warn)

    def adopted(self) -> None:
        """What was read last holds from now on."""
        for key in _RELOADED:
            for new, old in (
                (self._latest.values, self._running.values),
                (self._latest.origins, self._running.origins),
            ):
                if key in new:
                    old[key] = new[key]
                else:
                    old.pop(key, None)

    def given_rows(self, config: AgentConfig) -> list[tuple[str, Any, str]]:
        """Keys, values as given and origins; of those that were not given, what holds instead."""
        found = in_effect(config)
        return [self._row(key, self._running.get(key, found.get(key))) for key in sorted(KEYS)]

    def rows(self, config: AgentConfig) -> list[tuple[str, Any, str]]:
        """The same of a running agent: addresses as they were bound, tags as they are."""
        bound = {
            "bind": join_host_port(config.bind_host, config.bind_port),
            "node_name": config.node,
            "rpc_addr": config.rpc_address,
            "tags": dict(sorted(config.tags.items())),
        }
        rows = {key: (key, value, origin) for key, value, origin in self.given_rows(config)}
        for key, value in bound.items():
            rows[key] = self._row(key, value)
        given = dict(self._running.get("tags", {}))
        if self._running.get("role"):
            given["role"] = self._running.get("role")
        if config.tags_file:
            rows["tags"] = ("tags", bound["tags"], config.tags_file)
        elif config.tags != given:
            rows["tags"] = ("tags", bound["tags"], f"{rows['tags'][2]}, changed at run time")
        return list(rows.values())

    def _row(self, key: str, value: Any) -> tuple[str, Any, str]:
        return key, HIDDEN if key in SECRETS and value else value, self._running.origins.get(key, "default")
