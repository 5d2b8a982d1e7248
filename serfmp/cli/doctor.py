"""`serfmp doctor`: looks for what keeps an agent from its cluster.

Rules: each check says what was tried, what was seen, and what to do. The exit code is 1 if something does not work; a
warning alone is none. Nothing is changed: the pings and the look at member lists are those of any other agent. Without
a running agent only the host is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from serfmp.cli.connection import CommandError, connected, require_format, rpc_flags
from serfmp.cli.flags import INTEGER, GoCommand, flag, format_flag
from serfmp.cli.output import go_json, say, visible
from serfmp.client import ClientError
from serfmp.doctor import cluster, host
from serfmp.doctor.finding import Finding, Status
from serfmp.doctor.subject import ask

PEERS: Final = 16
"""Members that are asked, by default."""
PEERS_MAX: Final = 1000

COMMAND: Final = GoCommand(
    "doctor",
    "doctor [options]",
    "Looks for what keeps the agent from its cluster: ports both ways by UDP and TCP, packet size, addresses, keys, "
    "names, the host's clock and limits, the programs of handlers. Says what was tried, what was seen, and what to do.",
    [
        flag(
            "config-file",
            "Configuration file to look at where no agent runs, or a real Serf agent does. May be given several times.",
            many=True,
            shown="config-file=path",
        ),
        format_flag(),
        flag("keyring-file", "Keys of encrypted gossip. Default: the agent's.", shown="keyring-file=path"),
        flag("label", "Label of gossip. Default: the agent's.", shown="label=text"),
        flag(
            "peers",
            f"How many members are asked at most. Default: {PEERS}.",
            kind=INTEGER,
            default=PEERS,
            shown="peers=16",
        ),
        *rpc_flags(),
    ],
)


def run(values: dict[str, Any], _words: list[str]) -> int:
    """Look and tell. Returns the exit code."""
    require_format(values)
    if not 1 <= values["peers"] <= PEERS_MAX:
        raise CommandError(f"Invalid number of peers: {values['peers']}. It must be in range: [1, {PEERS_MAX}]")
    settings = _from_files(values["config_file"])
    findings: list[Finding] = []
    tried = f"asked the agent at {values['rpc_addr']}"
    try:
        with connected(values) as client:
            subject = ask(client, values["keyring_file"], values["label"])
            seen = f"'{subject.node}' with {len(subject.members)} members"
            findings.append(Finding("rpc", Status.OK, tried, seen))
            findings += cluster.look(subject, client, values["peers"])
            settings = subject.settings if subject.settings is not None else settings
    except (CommandError, ClientError) as error:
        advice = "is an agent running, is -rpc-addr right, does it want -rpc-auth, -rpc-tls? Only the host is looked at"
        findings.append(Finding("rpc", Status.ERROR, tried, str(error), advice))
    findings += host.look(settings)
    _show(values["format"], findings)
    return 1 if any(finding.status is Status.ERROR for finding in findings) else 0


def _from_files(paths: Sequence[str]) -> Mapping[str, Any]:
    if not paths:
        return {}
    from serfmp.agent.files import read_sources

    return read_sources(paths).values


def _show(form: str, findings: Sequence[Finding]) -> None:
    columns = ("check", "status", "tried", "seen", "advice")
    cells = [(f.check, f.status.value, f.tried, f.seen, f.advice) for f in findings]
    if form == "json":
        say(go_json({"findings": [dict(zip(columns, row, strict=True)) for row in cells]}))
    elif form != "text":
        from serfmp.cli.formats import Rows, show

        show(form, Rows(columns, cells))
    else:
        width = max(len(finding.check) for finding in findings)
        for finding in findings:
            say(f"{finding.status.value:7}  {finding.check:{width}}  {visible(finding.tried)}: {visible(finding.seen)}")
            if finding.advice and finding.status is not Status.OK:
                say(f"{'':7}  {'':{width}}  → {visible(finding.advice)}")
