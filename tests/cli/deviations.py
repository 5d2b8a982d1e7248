"""Which recorded cases serfmp does not repeat, and why; which ones are not played, and what holds them instead.

"Deviations" is docs/deviations.md.
"""

from __future__ import annotations

from typing import Final

_VERSION: Final = "the version is ours"
_REGEX: Final = "deviations: a bad regular expression for `members`"
_TAGS_FILE: Final = "deviations: the tags file; tests/agent/test_tags_file.py"
_CONTRADICTS: Final = "a living node contradicts a force-leave and stays alive; Serf's stays `leaving`"

DEVIATIONS: Final[dict[str, str]] = {
    **dict.fromkeys(
        (f"toplevel/{key}" for key in ("dashv", "dashdashversion", "version-v-anywhere", "version", "version-extra")),
        _VERSION,
    ),
    "members/bad-regex": _REGEX,
    "members/bad-regex-tag": _REGEX,
    "agent-start/compress-config": "deviations: `enable_compression: false` in a file",
    "agent-start/bind-zeroport": "deviations: port 0",
    "agent-start/rpc-zeroport": "deviations: port 0",
    "agent-start/cfg-durneg": "deviations: configuration files",
    "agent-start/cfg-dash": "deviations: configuration files",
    "agent-start/discoord-info": "deviations: `disable_coordinates`",
    "agent-start/tagsfile-badtype": "the words of a library: Serf's names Go types, ours the key",
    "agent-start/syslogfac": "deviations: configuration files",
    "agent-start/discover-lo": "a log line of Serf about IPv6, which its interface lacks; tests/io/test_mdns.py",
    "agent-start/cfg-mdns": "deviations: the key `mdns`",
    "agent-signals/hup": "deviations: SIGHUP",
    "agent-signals/hup-info": "deviations: `info` after a reload",
    "leave-wan/int-wan": "deviations: SIGINT during a slow leave",
    "members-cluster/after-force-leave": _CONTRADICTS,
    "members-cluster/after-prune-left": _CONTRADICTS,
}

NOT_PLAYED: Final[dict[str, str]] = {
    "agent-start/bind-ipv6-noport": "the default port of ::1 belongs to no test alone",
    "agent-start/cfg-validate": "deviations: `validate_node_names`",
    "agent-signals/int-frozen-peer": "tests/detector/serf/test_leaving.py",
    "agent-signals/hup-tags-before": "deviations: SIGHUP; tests/agent/test_reload.py",
    "agent-signals/hup-tags-after": "deviations: SIGHUP; tests/agent/test_reload.py",
    "agent-signals/hup-tagsfile": _TAGS_FILE,
    "agent-signals/usr1": "figures of the recording's own; tests/agent/test_metrics.py",
    "event-handlers/env-stdin": "tests/events/test_invocation.py with tests/data/handlers.json",
    "event-handlers/query-two": "deviations: two handlers of one query",
    "event-handlers/serial": "no run, but a figure; tests/events/test_lanes.py",
    "misc/tagsfile-toolong": _TAGS_FILE,
    "misc/tagsfile-toolong-restart": _TAGS_FILE,
    "misc/query-int": "an interrupt at a moment of the recording's own",
    "misc/reachability-int": "an interrupt at a moment of the recording's own",
    "misc/query-agent-dies": "deviations: the agent dies during `query`",
    "misc/conflict-noresolve": "tests/detector/serf/test_conflicts.py",
    "misc/conflict-reach": "nobody listened at its address",
    "misc/leave-twice": "deviations: a second `leave` while leaving",
    "misc/during-leave": "nobody listened at its address",
    "misc/leave-twice-agent": "deviations: a second `leave` while leaving",
    **dict.fromkeys((f"monitor/{key}" for key in ("info", "debug", "agent-dies")), "tests/cli/test_monitor.py"),
}
