"""`serfmp query`: asks the nodes of the cluster and shows their answers (spec agent.md 3.3).

Rules: answers are shown as they come (text) or together at the end (JSON). The command ends when every living member
that it addressed has responded, at the latest with the query's time; `-wait` always takes the whole time, as Serf does.
If the agent goes away meanwhile, that is told, and the exit code is 1.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any, Final

from serfmp.cli.connection import CommandError, answers, connected, explained, limit_of, require_format, rpc_flags
from serfmp.cli.flags import BOOLEAN, DURATION, INTEGER, ROW_FORMATS, GoCommand, flag, format_flag, parse_tag
from serfmp.cli.formats import Rows, json_line, show
from serfmp.cli.output import complain, go_json, say, visible
from serfmp.client import AgentError, Client, ClientError
from serfmp.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from serfmp.client import Query

RELAY_FACTOR_MAX: Final = 255

COMMAND: Final = GoCommand(
    "query",
    "query [options] name [payload]",
    "Asks all nodes, or those that the filters match, and shows who got the question and who answered. Ends when every "
    "living member that was asked has answered, at the latest after the time-out.",
    [
        format_flag(),
        flag("no-ack", "Do not ask nodes to say that they got it.", kind=BOOLEAN, default=False),
        flag("node", "Ask only the node of this name. May be given several times.", many=True, shown="node=name"),
        flag(
            "relay-factor",
            "Through how many other nodes each answer comes as well (0 to 255).",
            kind=INTEGER,
            default=0,
            shown="relay-factor=0",
        ),
        flag(
            "tag",
            "Ask only nodes in whose tag the expression (RE2) is found. May be given several times.",
            many=True,
            shown="tag <key>=<regexp>",
        ),
        flag(
            "timeout",
            "How long answers are awaited. Default: what fits the size of the cluster.",
            kind=DURATION,
            default=0.0,
            shown="timeout=15s",
        ),
        flag("wait", "Wait for the whole time, even if everybody has answered.", kind=BOOLEAN, default=False),
        *rpc_flags(),
    ],
)


def run(values: dict[str, Any], words: list[str]) -> int:
    """Ask and show. Returns the exit code."""
    if not words:
        say(f"A query name must be specified.\n\n{COMMAND.help_text()}")
        return 1
    if len(words) > 2:
        text = "Too many command line arguments. Only a name and payload must be specified."
        say(f"{text}\n\n{COMMAND.help_text()}")
        return 1
    if not 0 <= values["relay_factor"] <= RELAY_FACTOR_MAX:
        raise CommandError(f"Relay factor must be between 0 and {RELAY_FACTOR_MAX}")
    require_format(values)
    try:
        tags = dict(parse_tag(text) for text in values["tag"])
    except UserError as error:
        raise CommandError(f"Error: {error}") from error
    payload = words[1].encode("utf-8", "surrogateescape") if len(words) > 1 else b""
    with connected(values) as client:
        addressed = None if values["wait"] else _addressed(client, values["node"], tags)
        with explained("Error sending query"):
            query = client.query(
                words[0],
                payload,
                nodes=values["node"],
                tags=tags,
                ack=not values["no_ack"],
                relay_factor=values["relay_factor"],
                timeout_s=values["timeout"],
            )
        form = values["format"]
        limit_s = limit_of(values)
        if limit_s is not None:
            limit_s += values["timeout"]
        as_text = form == "text"
        if as_text:
            say(f"Query '{visible(words[0])}' dispatched")
        on_ack, on_response = _TELLING.get(form, (None, None))
        acks, responses, lost = collect(query, addressed, on_ack, on_response, limit_s)
    if form in ROW_FORMATS:
        if form != "jsonl":
            _show(form, acks, responses)
        if lost:
            complain(f"The agent ended before the query was done: {lost}")
    elif as_text:
        if not values["no_ack"]:
            say(f"Total Acks: {len(acks)}")
        say(f"Total Responses: {len(responses)}")
    else:
        texts = {node: answer.decode("utf-8", "replace") for node, answer in responses.items()}
        say(go_json({"Acks": acks or None, "Responses": texts}))
    if lost and form not in ROW_FORMATS:
        say(f"The agent ended before the query was done: {lost}")
    return 1 if lost else 0


def _addressed(client: Client, nodes: Sequence[str], tags: Mapping[str, str]) -> set[str] | None:
    """The living members that the filters match; None if that cannot be told, as for a bad expression."""
    # The agent anchors these expressions; those of a query are searched anywhere in the value.
    anywhere = {tag: f"(?s:.*)(?:{expression})(?s:.*)" for tag, expression in tags.items()}
    if any(re.search(r"\(\?|\\[zA]|[\^$]", expression) for expression in tags.values()):
        return None
    try:
        members = client.members_filtered(status="alive", tags=anywhere)
    except AgentError:
        return None
    except ClientError as error:
        raise CommandError(f"Error sending query: {error}") from error
    return {member.name for member in members if not nodes or member.name in nodes}


def collect(
    query: Query,
    addressed: set[str] | None,
    on_ack: Callable[[str], None] | None,
    on_response: Callable[[str, bytes], None] | None,
    limit_s: float | None,
) -> tuple[list[str], dict[str, bytes], str]:
    """Acks and responses as they come, until all addressed have responded; and why the connection was lost."""
    acks: list[str] = []
    responses: dict[str, bytes] = {}
    try:
        for answer in answers(query, limit_s):
            if answer.kind == "ack":
                acks.append(answer.node)
                if on_ack is not None:
                    on_ack(answer.node)
            elif answer.kind == "response":
                responses[answer.node] = answer.payload
                if on_response is not None:
                    on_response(answer.node, answer.payload)
            if addressed and addressed <= responses.keys():
                query.close()
                break
    except ClientError as error:
        return acks, responses, str(error)
    return acks, responses, ""


def _show(form: str, acks: Sequence[str], responses: Mapping[str, bytes]) -> None:
    cells: list[tuple[str, str, str | None]] = [(node, "ack", None) for node in sorted(acks)]
    cells += [(node, "response", _text(payload)) for node, payload in sorted(responses.items())]
    show(form, Rows(("node", "kind", "payload"), cells))


def _text(payload: bytes) -> str:
    return payload.decode("utf-8", "replace")


def _line_of_ack(node: str) -> None:
    say(json_line({"node": node, "kind": "ack"}))
    sys.stdout.flush()


def _line_of_response(node: str, payload: bytes) -> None:
    say(json_line({"node": node, "kind": "response", "payload": _text(payload)}))
    sys.stdout.flush()


def _say_ack(node: str) -> None:
    say(f"Ack from '{visible(node)}'")


def _say_response(node: str, payload: bytes) -> None:
    text = payload.removesuffix(b"\n").decode("utf-8", "replace")
    say(f"Response from '{visible(node)}': {text}")


_TELLING: Final[dict[str, tuple[Callable[[str], None], Callable[[str, bytes], None]]]] = {
    "text": (_say_ack, _say_response),
    "jsonl": (_line_of_ack, _line_of_response),
}
"""What is told as it comes."""
