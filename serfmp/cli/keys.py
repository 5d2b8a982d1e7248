"""`serfmp keys`: the keys of the whole cluster (spec agent.md 3.6).

Rules: exactly one operation. Rows of nodes that failed come before the error, sorted by name.
"""

from __future__ import annotations

from typing import Any, Final

from serfmp.cli.connection import CommandError, connected, require_format, rpc_flags
from serfmp.cli.flags import BOOLEAN, GoCommand, flag, format_flag
from serfmp.cli.output import complain, go_json, say, table, visible
from serfmp.client import Client, ClientError, KeyResult, KeysError

COMMAND: Final = GoCommand(
    "keys",
    "keys [options]",
    "Manages the keys that encrypt gossip, on all living nodes at once. To change the key of a cluster: install the "
    "new one, use it, remove the old one; each step may be repeated.",
    [
        flag("force", "With -remove: though a node may still need the key.", kind=BOOLEAN, default=False),
        format_flag(),
        flag("install", "Give a key to all nodes; it decrypts from then on.", shown="install=key"),
        flag("list", "Show all keys, and how many nodes have each.", kind=BOOLEAN, default=False),
        flag("remove", "Take a key from all nodes; not the one that is in use.", shown="remove=key"),
        flag("use", "Let all nodes encrypt with a key that they have.", shown="use=key"),
        *rpc_flags(),
    ],
)

_ASKED: Final = {
    "list": "Asking all members for installed keys...",
    "install": "Installing key on all members...",
    "use": "Changing primary key on all members...",
    "remove": "Removing key on all members...",
}
_DONE: Final = {
    "install": "Successfully installed key!",
    "use": "Successfully changed primary key!",
    "remove": "Successfully removed key!",
}
_FAILED: Final = {
    "list": "Failed to gather member keys",
    "install": "Error installing key",
    "use": "Error changing primary key",
    "remove": "Error removing key",
}


def run(values: dict[str, Any], _words: list[str]) -> int:
    """Ask for it. Returns the exit code."""
    wanted = [operation for operation in _ASKED if values[operation]]
    if not wanted:
        say(COMMAND.help_text())
        return 1
    if len(wanted) > 1:
        raise CommandError("Only one of -install, -use, -remove, or -list allowed")
    operation = wanted[0]
    require_format(values)
    if values["format"] != "text":
        return _formatted(values, operation)
    with connected(values) as client:
        say(f"==> {_ASKED[operation]}")
        try:
            result = _ask(client, operation, values)
        except KeysError as error:
            rows = [["failed:", visible(node), visible(text)] for node, text in sorted(error.result.messages.items())]
            if rows:
                say(table(rows))
            say()
            raise CommandError(f"{_FAILED[operation]}: {error}") from error
        except ClientError as error:
            say()
            raise CommandError(f"{_FAILED[operation]}: {error}") from error
    if operation != "list":
        say(f"==> {_DONE[operation]}")
        return 0
    say("==> Keys gathered, listing cluster keys...\n")
    say(table([key, f"[{count}/{result.nodes}]"] for key, count in sorted(result.keys.items())))
    return 0


def _formatted(values: dict[str, Any], operation: str) -> int:
    """The other formats: the result as it is, also where some nodes failed. Returns the exit code."""
    with connected(values) as client:
        failed = ""
        try:
            result = _ask(client, operation, values)
        except KeysError as error:
            failed, result = str(error), error.result
        except ClientError as error:
            raise CommandError(f"{_FAILED[operation]}: {error}") from error
    if values["format"] == "json":
        told = {
            "operation": operation,
            "nodes": result.nodes,
            "responses": result.responses,
            "errors": result.errors,
            "messages": dict(sorted(result.messages.items())),
            "error": failed,
        }
        say(go_json({**told, "keys": dict(sorted(result.keys.items()))} if operation == "list" else told))
        return 1 if failed else 0
    from serfmp.cli.formats import Rows, show

    if operation == "list" and not failed:
        cells: list[tuple[Any, ...]] = [(key, count, result.nodes) for key, count in sorted(result.keys.items())]
        show(values["format"], Rows(("key", "holders", "nodes"), cells))
    else:
        cells = [(node, text) for node, text in sorted(result.messages.items())]
        show(values["format"], Rows(("node", "message"), cells))
    if failed:
        complain(f"{_FAILED[operation]}: {failed}")
    return 1 if failed else 0


def _ask(client: Client, operation: str, values: dict[str, Any]) -> KeyResult:
    match operation:
        case "list":
            return client.list_keys()
        case "install":
            return client.install_key(values["install"])
        case "use":
            return client.use_key(values["use"])
        case _:
            return client.remove_key(values["remove"], force=values["force"])
