"""`serfmp agent`: runs an agent in the foreground.

Rules: flags and files become one `AgentConfig` (`serfmp.cli.agent_config`), or one error: on stdout behind `==> `, with
exit code 1 (spec agent.md 1.2, 1.5, 1.6, 2.1). Words behind the flags are ignored.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from serfmp.agent.config import DEFAULT_RPC_ADDRESS
from serfmp.cli.agent_config import check, require_logs, with_files
from serfmp.cli.agent_source import AgentSource
from serfmp.cli.flags import BOOLEAN, INTEGER, GoCommand, flag
from serfmp.cli.output import complain, say
from serfmp.cli.settings import show_settings
from serfmp.errors import UserError

if TYPE_CHECKING:
    import click

HELP_PREFIX: Final = "==> "
"""Stands before the help that follows a flag error."""


def _config_flag() -> click.Option:
    """`-config-file` and `-config-dir` feed one list, in the order of the command line."""
    option = flag(
        "config-file",
        "Configuration file, JSON or TOML, or a directory whose .json and .toml files are read in the order of their "
        "names. May be given several times; later ones win. -config-dir is the same.",
        many=True,
        shown="config-file=path",
    )
    option.opts.append("-config-dir")
    return option


COMMAND: Final = GoCommand(
    "agent",
    "agent [options]",
    "Runs an agent in the foreground until it is interrupted or told to leave. An agent is one node of a cluster.",
    [
        flag(
            "advertise",
            "Address that other nodes shall use for this one, where it is not the bound one.",
            shown="advertise=host[:port]",
        ),
        flag(
            "bind",
            "Address for gossip, UDP and TCP. IPv6 is written as [::1] or [::1]:7946.",
            shown="bind=0.0.0.0:7946",
        ),
        flag(
            "broadcast-timeout",
            "How long a broadcast may take to leave this node, for example before it goes. At least 1s.",
            shown="broadcast-timeout=5s",
        ),
        flag(
            "check",
            "Show the merged configuration and where each value comes from, and end.",
            kind=BOOLEAN,
            default=False,
        ),
        _config_flag(),
        flag(
            "disable-coalescing",
            "Tell each event to handlers and streams at once, instead of collecting events for a short time.",
            kind=BOOLEAN,
            default=False,
        ),
        flag(
            "discover",
            "Name of a cluster whose agents find each other on the local network by multicast (mDNS).",
            shown="discover=cluster",
        ),
        flag("disable-compression", "Send packets as they are.", kind=BOOLEAN, default=False),
        flag(
            "encrypt",
            "Encrypts all gossip with this key: base64 of 16, 24 or 32 bytes. Other users of the host can see a flag "
            "while the agent starts, and the shell remembers it: prefer -keyring-file.",
            shown="encrypt=key",
        ),
        flag(
            "event-handler",
            "Script that runs for events, with or without filters in front, such as member-join,user:deploy=./x.sh. "
            "May be given several times.",
            many=True,
            shown="event-handler=[filters=]script",
        ),
        flag(
            "iface",
            "Network interface to bind to: its first address, or, with -bind, that address, which it must have.",
            shown="iface=name",
        ),
        flag(
            "join",
            "Address of a node to join at the start; the agent ends if none of them answers. May be given several "
            "times.",
            many=True,
            shown="join=address",
        ),
        flag(
            "keyring-file",
            "Encrypts all gossip with the keys of this file: a JSON list of base64 keys. The first one encrypts, all "
            "decrypt.",
            shown="keyring-file=path",
        ),
        flag(
            "label",
            "Separates this cluster from others on the same network: agents with another label, or none, are refused. "
            "Serf's own agents have none.",
            shown="label=text",
        ),
        flag(
            "log-file",
            "File that gets the log, too. It may be rotated at any time; SIGHUP opens it anew.",
            shown="log-file=path",
        ),
        flag("log-json", "Write log lines as JSON objects, one a line.", kind=BOOLEAN, default=False),
        flag("log-level", "Least level of log lines: trace, debug, info, warn or err.", shown="log-level=info"),
        flag(
            "metrics-addr",
            "Serves Prometheus' metrics, /health and /ready: on a loopback address, or unix: and a path.",
            shown="metrics-addr=host:port",
        ),
        flag("mdns-disable-ipv4", "Leave out IPv4 for -discover.", kind=BOOLEAN, default=False),
        flag("mdns-disable-ipv6", "Leave out IPv6 for -discover.", kind=BOOLEAN, default=False),
        flag(
            "mdns-iface",
            "Network interface for -discover. Default: that of -iface, or the system's choice.",
            shown="mdns-iface=name",
        ),
        flag("format", "How -check shows it: text (default) or json.", default="text", shown="format=text"),
        flag("node", "Name of this node, unique in the cluster. Default: the host's name.", shown="node=name"),
        flag("profile", "Timing that fits the network: lan, wan or local.", shown="profile=lan"),
        flag(
            "protocol",
            "Serf protocol that this node tells the others to speak with it: 2 to 5. Default: the latest.",
            kind=INTEGER,
            default=0,
            shown="protocol=5",
        ),
        flag(
            "rejoin",
            "After a graceful leave, too, join the members of the snapshot at the next start.",
            kind=BOOLEAN,
            default=False,
        ),
        flag("replay", "Also deliver user events from before this node joined.", kind=BOOLEAN, default=False),
        flag(
            "retry-interval",
            "Time between two tries of -retry-join. At least 1s.",
            shown="retry-interval=30s",
        ),
        flag(
            "retry-join",
            "Address to join in the background, again and again until one answers. May be given several times.",
            many=True,
            shown="retry-join=address",
        ),
        flag(
            "retry-max",
            "How many further tries of -retry-join there are before the agent ends; 0: no limit.",
            kind=INTEGER,
            default=0,
            shown="retry-max=0",
        ),
        flag("role", "Deprecated: use -tag role=x.", shown="role=x"),
        flag(
            "rpc-addr",
            "Address of the RPC, for the other commands: host:port or unix:///path.",
            shown=f"rpc-addr={DEFAULT_RPC_ADDRESS}",
        ),
        flag(
            "rpc-tls-ca",
            "Certificates (PEM) of the authorities that sign those of the RPC's clients: others are refused. Default: "
            "clients need none.",
            shown="rpc-tls-ca=path",
        ),
        flag(
            "rpc-tls-cert",
            "Certificate (PEM) with which the RPC speaks TLS, and no longer without; SIGHUP reads it again.",
            shown="rpc-tls-cert=path",
        ),
        flag("rpc-tls-key", "Private key (PEM) of -rpc-tls-cert.", shown="rpc-tls-key=path"),
        flag(
            "runtime-dir",
            "Directory for the sockets between this agent's processes. Default: one below the user's runtime "
            "directory.",
            shown="runtime-dir=path",
        ),
        flag(
            "script-grace",
            "How long running handlers may go on when the agent stops, before they are ended: TERM, two seconds, KILL.",
            shown="script-grace=3s",
        ),
        flag(
            "snapshot",
            "File that keeps members and times over a restart: the agent finds the cluster again by itself, and no "
            "event is handled twice.",
            shown="snapshot=path",
        ),
        flag("start-method", "How processes are started: fork or exec.", shown="start-method=fork"),
        flag("syslog", "Send the log to syslog, too.", kind=BOOLEAN, default=False),
        flag("tag", "Tag of this node. May be given several times.", many=True, shown="tag key=value"),
        flag(
            "tags-file",
            "File that keeps the tags of this node (JSON) as they change while it runs. Not together with other tags.",
            shown="tags-file=path",
        ),
        flag("workers", "Processes that run handlers.", kind=INTEGER, default=None, shown="workers=2"),
    ],
)


def _open_standard() -> None:
    """Let nothing else become descriptor 0, 1 or 2 where the caller has closed them: scripts and log write there."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def run(values: dict[str, Any], _words: list[str]) -> int:
    """Run the agent. Returns its exit code."""
    _open_standard()
    source = AgentSource(values)
    if values["check"]:
        return _check(source, values["format"])
    try:
        config = source.start(say)
        require_logs(config)
    except UserError as error:
        say(f"==> {error}")
        return 1
    try:
        config = with_files(config)
    except UserError as error:
        say("==> Starting Serf agent...")
        say(f"==> Failed to setup the Serf agent: {error}")
        return 1
    try:
        check(config)
    except UserError as error:
        say("==> Starting Serf agent...")
        say(f"==> Failed to start the Serf agent: Error creating Serf: {error}")
        return 1
    from serfmp.agent.supervisor import run_agent

    return run_agent(config, source)


def _check(source: AgentSource, form: str) -> int:
    """Show what an agent would be started with, or all that is wrong with it."""
    if form not in {"text", "json"}:
        say(f"==> Invalid format: {form}")
        return 1
    try:
        # JSON stays JSON: what is odd is told beside it.
        config = source.start(complain if form == "json" else say)
        require_logs(config, make=False)
        check(with_files(config))
    except UserError as error:
        say(f"==> {error}")
        return 1
    show_settings(source.given_rows(config), form)
    return 0
