"""What all commands that talk to an agent share: the flags that name it, and the connection (spec agent.md 3.1)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from serfmp.cli.flags import flag
from serfmp.client import Client, ClientError
from serfmp.client.sync import DEFAULT_ADDRESS
from serfmp.errors import UserError

if TYPE_CHECKING:
    import click


def rpc_flags() -> list[click.Option]:
    """`-rpc-addr` and `-rpc-auth`, which the environment may set."""
    return [
        flag(
            "rpc-addr",
            "Address of the agent's RPC; also $SERF_RPC_ADDR.",
            default=DEFAULT_ADDRESS,
            env="SERF_RPC_ADDR",
            shown=f"rpc-addr={DEFAULT_ADDRESS}",
        ),
        flag("rpc-auth", "Token of the agent's RPC; also $SERF_RPC_AUTH.", env="SERF_RPC_AUTH", shown='rpc-auth=""'),
    ]


class CommandError(UserError):
    """The command failed; the text is what it prints."""


@contextlib.contextmanager
def connected(values: dict[str, Any]) -> Iterator[Client]:
    """A connection to the agent that the flags name. Raises `CommandError`. Waits for answers without a limit."""
    try:
        client = Client(values["rpc_addr"], auth=values["rpc_auth"], limit_s=None)
    except ClientError as error:
        raise CommandError(f"Error connecting to Serf agent: {error}") from error
    with client:
        yield client
