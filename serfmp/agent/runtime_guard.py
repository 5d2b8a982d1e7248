"""Binding anew what somebody has removed from the runtime directory: a process that starts later would find nobody.

Directories of users go when they log out.

Rules:

* The kernel tells of removals; where it does not, `look` is called often. It is called, too, when a process has ended:
  one that cannot bind ends at once. Nothing is done before the detector has served once, or while the agent stops.
* Who removes a directory may not be done when it is noticed, and takes what was just made. So the directories are made
  again whatever the processes are doing, as often as they are gone; what was bound in them is gone, too, and those that
  bind sockets are killed and started again.
* Where only sockets are gone, those that had bound them are killed. As long as a directory cannot be made, each look
  tries; the log tells once.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Final

from serfmp.agent.directory_watch import DirectoryWatch
from serfmp.agent.process import ProcessState
from serfmp.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from serfmp.agent.process import Process
    from serfmp.agent.runtime import RuntimeDirectory
    from serfmp.bus.loop import Loop

BINDING_ROLES: Final = frozenset({"detector", "rpc", "dispatcher"})
"""They bind sockets in the runtime directory."""


class RuntimeGuard:
    """See the module. `stopping()` tells whether the agent stops."""

    def __init__(
        self,
        loop: Loop,
        runtime: RuntimeDirectory,
        processes: Sequence[Process],
        log: Callable[[str, str], None],
        stopping: Callable[[], bool],
    ) -> None:
        self._runtime = runtime
        self._processes = processes
        self._log = log
        self._stopping = stopping
        self._served = False
        """The detector has served once: the agent has started."""
        self._lost = False
        """The log has told that the directory is gone."""
        self._watch = DirectoryWatch(loop, runtime.bus, self.look)

    @property
    def must_look_often(self) -> bool:
        """Whether nobody tells of removals, or what was removed is still to be made again."""
        return self._lost or not self._watch.works

    def look(self) -> None:
        """See whether all is there, and make it again if not."""
        if self._stopping():
            return
        if not self._served:
            self._served = any(p.name == "detector" and p.state is ProcessState.SERVING for p in self._processes)
            if not self._served:
                return
        whole = self._runtime.is_whole
        if not whole:
            try:
                self._runtime.restore()
            except (OSError, UserError) as error:
                if not self._lost:
                    self._lost = True
                    text = f"the runtime directory '{self._runtime.path}' was removed and cannot be made again: {error}"
                    self._log("ERR", text)
                return
            self._watch.begin()
        self._lost = False
        for process in self._processes:
            if process.role in BINDING_ROLES and process.running and not (whole and self._holds_sockets_of(process)):
                process.kill_reason = "its sockets were removed from the runtime directory"
                process.signal(signal.SIGKILL)

    def _holds_sockets_of(self, process: Process) -> bool:
        """Whether what it has bound is there; while it starts, that is not known."""
        serves = process.state is ProcessState.SERVING
        return not serves or self._runtime.holds_sockets_of(process.role, process.generation)

    def close(self) -> None:
        """Watch no more."""
        self._watch.close()
