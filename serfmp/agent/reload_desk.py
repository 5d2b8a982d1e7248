"""Where reloads are asked for, by SIGHUP or over RPC, and where those who asked, and the service manager, hear of them.

Rules: one reload at a time; whoever asks meanwhile gets one more behind it, because files may have changed since. What
a reload says goes to standard output and to those who asked for it. One that is asked for by SIGHUP before the start is
complete is carried out then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from serfmp.agent.reload import Reload

if TYPE_CHECKING:
    from serfmp.agent.config import AgentConfig
    from serfmp.agent.process import Process
    from serfmp.agent.sd_notify import ServiceManager
    from serfmp.bus.loop import Loop
    from serfmp.detector.effects import TagsRequest

Answer = Callable[[dict[str, Any]], None]
"""Called with `ok` and `lines`."""

STARTING: Final = "the agent is starting; try again"
ENDING: Final = "the agent is ending"


class ConfigSource(Protocol):
    """Flags and files of the agent, as they are now."""

    def read(self, warn: Callable[[str], None]) -> AgentConfig:
        """The configuration that they mean now. Raises `UserError`."""
        ...

    def adopted(self) -> None:
        """What was read last holds from now on, as far as a reload can do that."""
        ...

    def rows(self, config: AgentConfig) -> list[tuple[str, Any, str]]:
        """Keys, values and origins of a running configuration, by key; secrets hidden."""
        ...


class FixedSource:
    """The source of an agent that is started without flags and files."""

    def __init__(self, config: AgentConfig) -> None:
        self._config = config

    def read(self, _warn: Callable[[str], None]) -> AgentConfig:
        """The same as ever."""
        return self._config

    def adopted(self) -> None:
        """There is nothing new."""

    def rows(self, _config: AgentConfig) -> list[tuple[str, Any, str]]:
        """Nothing is known of keys."""
        return []


class ReloadDesk:
    """See the module. `present()` gives configuration, processes and, for the service manager, the agent's status.

    `adopt` makes a configuration the agent's; `say` writes a `==>` line.
    """

    def __init__(
        self,
        loop: Loop,
        config: AgentConfig,
        source: ConfigSource,
        present: Callable[[], tuple[AgentConfig, list[Process], str]],
        adopt: Callable[[AgentConfig, TagsRequest], None],
        say: Callable[[str], None],
        manager: ServiceManager,
    ) -> None:
        self._source = source
        self._present = present
        self._adopt = adopt
        self._output = say
        self._manager = manager
        self._lines: list[str] = []
        self._askers: list[Answer] = []
        self._next_askers: list[Answer] = []
        self._next = ""
        """Why the next reload follows at once; empty: it does not."""
        self._reload = Reload(loop, self._read, config, self._adopted, self._say)
        self._reload.on_done = self._done
        self.on_agreed = self._reload.on_agreed
        self.on_end = self._reload.on_end

    def begin(self, why: str, answer: Answer | None = None) -> None:
        """Read flags and files again and ask all processes; `answer` is told how that ended."""
        if self._reload.under_way:
            self._next = why
            self._next_askers += [answer] if answer is not None else []
            return
        self._askers += [answer] if answer is not None else []
        self._lines.clear()
        self._manager.reloading()
        self._output(why)
        self._output("Reloading configuration...")
        config, processes, _status = self._present()
        self._reload.begin(config, processes)

    def _read(self) -> AgentConfig:
        return self._source.read(lambda text: self._say(text.removeprefix("==> ")))

    def _adopted(self, config: AgentConfig, tags: TagsRequest) -> None:
        self._source.adopted()
        self._adopt(config, tags)

    def _say(self, text: str) -> None:
        self._lines.append(text)
        self._output(text)

    def _done(self, ok: bool) -> None:
        self._manager.ready(self._present()[2])
        askers, self._askers, self._next_askers = self._askers, self._next_askers, []
        for answer in askers:
            answer({"ok": ok, "lines": list(self._lines)})
        why, self._next = self._next, ""
        if why:
            self.begin(why)
