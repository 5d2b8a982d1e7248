"""Configuring a running agent anew, in two phases: all processes agree, or nothing changes.

Rules:

* The files are read and checked as at the start; a mistake is told and changes nothing.
* Then every process is asked; one that refuses, dies or does not answer within `LIMIT` ends the reload.
* When all have agreed the new configuration is the agent's, before anybody is told to use it: a process that is killed
  after that starts with it, one killed before with the old one.
* What cannot change while the agent runs is named, and keeps its old value.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from serfmp.agent.process import ProcessState
from serfmp.bus import frames
from serfmp.detector.effects import TagsRequest
from serfmp.errors import UserError
from serfmp.events.specs import parse_handlers
from serfmp.wire.tags import encode_tags

if TYPE_CHECKING:
    from serfmp.agent.config import AgentConfig
    from serfmp.agent.process import Process
    from serfmp.bus.loop import Loop, Timer

LIMIT: Final = 5.0
"""Seconds within which all must agree."""

RELOADABLE: Final = (
    "handlers",
    "leave_on_terminate",
    "log_level",
    "rpc_tls_authorities",
    "rpc_tls_ca",
    "rpc_tls_cert",
    "rpc_tls_identity",
    "rpc_tls_key",
    "script_grace",
    "skip_leave_on_interrupt",
)
"""Fields that a reload changes. Tags change, too: by what the files say otherwise than before, so that tags which were
set while the agent ran stay."""

_APART: Final = frozenset({*RELOADABLE, "tags", "keyring"})
"""Fields that are not compared one by one. The keys of the keyring file change over the cluster (`serfmp keys`), never
by a reload."""

_CERTIFICATES: Final = {
    "rpc_tls_identity": "certificate of the RPC",
    "rpc_tls_authorities": "authority of the RPC's clients",
}
"""Fields that hold certificates, and what they are called."""

_SECRET: Final = frozenset({"encrypt_key", "rpc_auth"})


class Reload:
    """One reload at a time. `adopt(config, tags)` makes a configuration the agent's; `say(text)` tells people."""

    def __init__(
        self,
        loop: Loop,
        read: Callable[[], AgentConfig],
        first: AgentConfig,
        adopt: Callable[[AgentConfig, TagsRequest], None],
        say: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._read = read
        self._last_read = first
        """As the files and flags said at last, before addresses were bound."""
        self._adopt = adopt
        self._say = say
        self._number = 0
        self._waiting: set[str] = set()
        self._processes: list[Process] = []
        self._changes: list[str] = []
        self._read_now = first
        self._config = first
        self._tags = TagsRequest({}, ())
        self._timer: Timer | None = None
        self.on_done: Callable[[bool], None] = _nothing
        """Called when a reload has ended, with whether it went well."""

    @property
    def under_way(self) -> bool:
        """Whether processes are being asked."""
        return self._timer is not None

    def begin(self, present: AgentConfig, processes: list[Process]) -> None:
        """Read again and ask all; not while one is under way. `present` is the agent's configuration as it is."""
        try:
            self._read_now = read = self._read()
        except UserError as error:
            self._say(str(error))
            self._give_up()
            return
        new = {name: getattr(read, name) for name in RELOADABLE}
        self._changes = [
            text
            for name in RELOADABLE
            if getattr(read, name) != getattr(present, name)
            for text in _told(name, getattr(present, name), getattr(read, name))
        ]
        # The tags of a tags file change over RPC only.
        told = read.tags if not read.tags_file else self._last_read.tags
        self._tags = _tag_changes(self._last_read.tags, told)
        self._changes += _tags_told(self._last_read.tags, told)
        for item in dataclasses.fields(read):
            old, now = getattr(self._last_read, item.name), getattr(read, item.name)
            if item.name not in _APART and old != now:
                shown = "" if item.name in _SECRET else f": {_shown(old)} → {_shown(now)}"
                self._changes.append(f"{item.name}{shown} (needs a restart, not applied)")
        tags = {key: value for key, value in present.tags.items() if key not in self._tags.delete}
        try:
            encode_tags({**tags, **self._tags.set})
        except UserError as error:
            self._say(f"Failed to update tags: {error}")
            self._give_up()
            return
        self._config = dataclasses.replace(present, **new)
        self._number += 1
        self._processes = [process for process in processes if process.running]
        if any(process.state is not ProcessState.SERVING for process in self._processes):
            self._say("a process is being started; try again")
            self._give_up()
            return
        self._waiting = {process.name for process in self._processes}
        self._timer = self._loop.call_later(LIMIT, self._too_late)
        for process in self._processes:
            process.send(frames.Propose(self._number, self._config.to_plain(process.role)))

    def on_agreed(self, process: Process, answer: frames.Agreed) -> None:
        """A process has answered."""
        if not self.under_way or answer.number != self._number:
            return
        if answer.error:
            self._say(f"{process.name} refuses: {answer.error}")
            self._give_up()
            return
        self._waiting.discard(process.name)
        if not self._waiting:
            self._commit()

    def on_end(self, process: Process) -> None:
        """A process has ended: what it would have agreed to is not known."""
        if self.under_way:
            self._say(f"{process.name} ended meanwhile; try again")
            self._give_up()

    def _commit(self) -> None:
        self._stop_timer()
        self._last_read = self._read_now
        # Tags may have changed since the processes were asked: the present ones stay but for the difference.
        self._adopt(self._config, self._tags)
        for process in self._processes:
            process.send(frames.Commit(self._number))
        for text in self._changes or ["nothing has changed"]:
            self._say(f"Reloaded: {text}")
        self.on_done(True)

    def _too_late(self) -> None:
        self._timer = None
        self._say(f"{', '.join(sorted(self._waiting))} did not answer within {LIMIT:g} s")
        self._give_up()

    def _give_up(self) -> None:
        self._stop_timer()
        self._say("Failed to reload configs")
        self.on_done(False)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _told(name: str, old: Any, new: Any) -> list[str]:
    """A change of one field in words."""
    if name == "handlers":
        before = Counter(spec.title for spec in parse_handlers(old))
        after = Counter(spec.title for spec in parse_handlers(new))
        gone, added = (before - after).elements(), (after - before).elements()
        changes = [*(f"handler removed: {title}" for title in gone), *(f"handler added: {title}" for title in added)]
        return changes or ["handlers changed"]
    if name in _CERTIFICATES:
        from serfmp.agent.certificates import describe

        return [f"{_CERTIFICATES[name]}: {describe(old)} → {describe(new)}"]
    return [f"{name}: {_shown(old)} → {_shown(new)}"]


def _tag_changes(old: Mapping[str, str], new: Mapping[str, str]) -> TagsRequest:
    changed = {key: value for key, value in new.items() if old.get(key) != value}
    return TagsRequest(changed, tuple(key for key in old if key not in new))


def _tags_told(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    keys = sorted({*old, *new})
    return [
        f"tag {key}: {_shown(old.get(key))} → {_shown(new.get(key))}" for key in keys if old.get(key) != new.get(key)
    ]


def _shown(value: Any) -> str:
    return "-" if value in (None, "", (), b"") else str(value)


def _nothing(_ok: bool) -> None:
    """Nobody wants to know."""
