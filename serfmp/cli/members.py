"""`serfmp members`: lists the members that the agent knows (spec agent.md 3.4).

Rules: rows are sorted by name and tags by key. The format is looked at only when there is something to print, and the
warning about `-role` comes before everything, as in Serf.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from serfmp.cli.connection import CommandError, connected, explained, rpc_flags
from serfmp.cli.flags import BOOLEAN, ROW_FORMATS, GoCommand, flag, format_flag, parse_tag
from serfmp.cli.output import go_json, say, table, visible
from serfmp.errors import UserError
from serfmp.wire.host_port import join_host_port

if TYPE_CHECKING:
    from serfmp.client import Member

COMMAND: Final = GoCommand(
    "members",
    "members [options]",
    "Lists the members that the running agent knows. Expressions are RE2; they must match the whole value, and a "
    "member is shown if all of them match.",
    [
        flag("detailed", "Also show protocol versions (text format).", kind=BOOLEAN, default=False),
        format_flag(),
        flag("name", "Only members whose name matches.", shown="name=<regexp>"),
        flag("role", "Deprecated: use -tag role=<regexp>.", shown="role=<regexp>"),
        flag("status", "Only members whose status matches: alive, leaving, left, failed.", shown="status=<regexp>"),
        flag(
            "tag",
            "Only members whose tag matches; a missing tag counts as empty. May be given several times.",
            many=True,
            shown="tag <key>=<regexp>",
        ),
        *rpc_flags(),
    ],
)


COLUMNS: Final = ("name", "address", "status", "tags", "protocol", "protocol_min", "protocol_max")


def run(values: dict[str, Any], _words: list[str]) -> int:
    """List them. Returns the exit code."""
    try:
        tags = dict(parse_tag(text) for text in values["tag"])
    except UserError as error:
        raise CommandError(f"Error: {error}") from error
    if values["role"]:
        say("Deprecation warning: 'Role' has been replaced with 'Tags'")
        tags["role"] = values["role"]
    with connected(values) as client, explained("Error retrieving members"):
        members = client.members_filtered(name=values["name"], status=values["status"], tags=tags)
    rows = sorted(members, key=lambda member: member.name)
    match values["format"]:
        case "text":
            say(table(_row(member, detailed=values["detailed"]) for member in rows))
        case "json":
            say(go_json({"members": [_map(member) for member in rows] or None}))
        case name if name in ROW_FORMATS:
            from serfmp.cli.formats import Rows, show

            show(name, Rows(COLUMNS, [_cells(member) for member in rows], [_map(member) for member in rows]))
        case other:
            raise CommandError(f'Encoding error: Invalid output format "{other}"')
    return 0


def _row(member: Member, *, detailed: bool) -> list[str]:
    tags = ",".join(f"{key}={value}" for key, value in sorted(member.tags.items()))
    row = [visible(member.name), join_host_port(member.address, member.port), visible(member.status), visible(tags)]
    if detailed:
        row += [
            f"Protocol Version: {member.delegate_cur}",
            f"Available Protocol Range: [{member.delegate_min}, {member.delegate_max}]",
        ]
    return row


def _cells(member: Member) -> list[Any]:
    address = join_host_port(member.address, member.port)
    versions = [member.delegate_cur, member.delegate_min, member.delegate_max]
    return [member.name, address, member.status, member.tags, *versions]


def _map(member: Member) -> dict[str, Any]:
    return {
        "name": member.name,
        "addr": join_host_port(member.address, member.port),
        "port": member.port,
        "tags": dict(sorted(member.tags.items())),
        "status": member.status,
        "protocol": {"max": member.delegate_max, "min": member.delegate_min, "version": member.delegate_cur},
    }
