"""Where the agent's log goes: standard output, the feed of rpc, and, where they are asked for, a file and syslog.

Rules: all belongs to the supervisor, and none of it waits for anybody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from serfmp.agent.line_feed import LineFeed
from serfmp.agent.log_hub import LogHub
from serfmp.agent.syslog import SOCKETS, Syslog, find_daemon
from serfmp.agent.terminal import Terminal
from serfmp.errors import UserError

if TYPE_CHECKING:
    from serfmp.agent.config import AgentConfig
    from serfmp.bus.loop import Loop


class LogOutlets:
    """See the module."""

    def __init__(self, loop: Loop, config: AgentConfig) -> None:
        self.hub = LogHub()
        self.terminal = Terminal(loop, level=config.log_level, json_node=config.node if config.log_json else None)
        self.rpc_feed = LineFeed(loop)
        self.hub.takers += [self.terminal.log, self.rpc_feed.add]
        self.file_feed: LineFeed | None = None
        if config.log_file:
            self.file_feed = LineFeed(loop, config.log_level)
            self.hub.takers.append(self.file_feed.add)
        self.syslog: Syslog | None = None
        if config.syslog:
            path = config.syslog_socket or _usual_socket()
            self.syslog = Syslog(loop, path, config.syslog_facility, config.log_level, self.hub.say)
            self.hub.takers.append(self.syslog.log)

    def totals(self) -> dict[str, int]:
        """Lines that each outlet has lost, by the names of counters."""
        return {
            "serfmp.log.dropped.stdout": self.terminal.dropped,
            "serfmp.log.dropped.rpc": self.rpc_feed.dropped,
            "serfmp.log.dropped.file": self.file_feed.dropped if self.file_feed is not None else 0,
            "serfmp.log.dropped.syslog": self.syslog.dropped if self.syslog is not None else 0,
        }

    def set_level(self, level: str) -> None:
        """The agent has this level from now on."""
        self.terminal.set_level(level)
        if self.file_feed is not None:
            self.file_feed.set_level(level)
        if self.syslog is not None:
            self.syslog.set_level(level)


def _usual_socket() -> str:
    try:
        return find_daemon("")
    except UserError:  # it was there when the configuration was checked, and may come back
        return SOCKETS[0]
