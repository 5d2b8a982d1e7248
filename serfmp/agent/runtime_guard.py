"""Binding anew what somebody has removed from the runtime directory: a process that starts later would find nobody.

Directories of users go when they log out.

Rules: the kernel tells of removals; where it does not, `look` is called often. Nothing is done before the detector
serves, or while the agent stops. The directory is made again, and the processes that bind sockets in it are killed and
started again. As long as it cannot be made, each look tries; the log tells once.
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
        self._lost = False
        """The log has told that the directory is gone."""
        self._watch = DirectoryWatch(loop, runtime.bus, self.look)

    @property
    def must_look_often(self) -> bool:
        """Whether nobody tells of removals, or what was removed is still to be made again."""
        return self._lost or not self._watch.works

    def look(self) -> None:
        """See whether all is there, and make it again if not."""
        detector = next(process for process in self._processes if process.name == "detector")
        if self._stopping() or detector.state is not ProcessState.SERVING:
            return
        if self._runtime.holds_sockets_of(detector.generation):
            self._lost = False
            return
        try:
            self._runtime.restore()
            self._watch.begin()
        except (OSError, UserError) as error:
            if not self._lost:
                self._lost = True
                text = f"the runtime directory '{self._runtime.path}' was removed and cannot be made again: {error}"
                self._log("ERR", text)
            return
        for process in self._processes:
            if process.role in BINDING_ROLES:
                process.kill_reason = "its sockets were removed from the runtime directory"
                process.signal(signal.SIGKILL)

    def close(self) -> None:
        """Watch no more."""
        self._watch.close()
