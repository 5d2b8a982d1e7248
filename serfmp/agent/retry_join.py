"""Joining in the background until somebody answers (spec agent.md 1.8).

Rules: each try joins all addresses, whose names are resolved anew; one that answers is enough. The next try comes
`interval` seconds after the end of the last. With a bound, the agent ends when the first try and so many further ones
have failed: it is of no use alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from serfmp.detector.effects import JoinRequest

if TYPE_CHECKING:
    from serfmp.agent.config import AgentConfig
    from serfmp.bus.loop import Loop


class RetryJoin:
    """See the module. `ask(request, callback)` asks the detector; `give_up()` ends the agent."""

    def __init__(
        self,
        loop: Loop,
        config: AgentConfig,
        ask: Callable[[JoinRequest, Callable[[Any, str], None]], None],
        log: Callable[[str, str], None],
        give_up: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._config = config
        self._ask = ask
        self._log = log
        self._give_up = give_up
        self._tries = 0
        self.stopped = False

    def begin(self) -> None:
        """Try; nothing if there is nothing to try, or it was stopped."""
        config = self._config
        if not config.retry_join or self.stopped:
            return
        self._log("INFO", f"Joining cluster...(replay: {str(config.replay).lower()})")
        self._tries += 1
        self._ask(JoinRequest(config.retry_join, config.replay), self._joined)

    def _joined(self, reached: Any, error: str) -> None:
        if self.stopped:
            return
        if not error:
            self._log("INFO", f"Join completed. Synced with {reached} initial agents")
            return
        limit = self._config.retry_max_attempts
        if limit and self._tries > limit:
            self._log("ERR", "maximum retry join attempts made, exiting")
            self._give_up()
            return
        self._log("WARN", f"Join failed: {error}, retrying in {self._config.retry_interval:g}s")
        self._loop.call_later(self._config.retry_interval, self.begin)
