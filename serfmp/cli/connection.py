"""What all commands that talk to an agent share: the flags that name it, and the connection (spec agent.md 3.1)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from serfmp.cli.flags import DURATION, flag
from serfmp.client import Client, ClientError, DeadlineError
from serfmp.client.calls import DEFAULT_ADDRESS
from serfmp.errors import UserError

if TYPE_CHECKING:
    import click

    from serfmp.client import Query, QueryAnswer


TIMEOUT_S: Final = 120.0
"""Longer than an agent of ours takes for any answer (a join: 60 s)."""


def rpc_flags() -> list[click.Option]:
    """`-rpc-addr` and `-rpc-auth`, which the environment may set, and `-rpc-timeout`."""
    return [
        flag(
            "rpc-addr",
            "Address of the agent's RPC, host:port or unix:///path; also $SERF_RPC_ADDR.",
            default=DEFAULT_ADDRESS,
            env="SERF_RPC_ADDR",
            shown=f"rpc-addr={DEFAULT_ADDRESS}",
        ),
        flag("rpc-auth", "Token of the agent's RPC; also $SERF_RPC_AUTH.", env="SERF_RPC_AUTH", shown='rpc-auth=""'),
        flag(
            "rpc-timeout",
            "How long each answer of the agent is awaited; 0: without a limit. Default: 2m.",
            kind=DURATION,
            default=TIMEOUT_S,
            shown="rpc-timeout=2m",
        ),
    ]


class CommandError(UserError):
    """The command failed; the text is what it prints."""


def limit_of(values: dict[str, Any]) -> float | None:
    """Seconds for one answer; None without a limit. Raises `CommandError`."""
    limit: float = values["rpc_timeout"]
    if limit < 0:
        raise CommandError(f"Invalid -rpc-timeout: {limit:g}s is negative; 0 means without a limit")
    return limit or None


@contextlib.contextmanager
def connected(values: dict[str, Any]) -> Iterator[Client]:
    """A connection to the agent that the flags name. Raises `CommandError`."""
    try:
        client = Client(values["rpc_addr"], auth=values["rpc_auth"], limit_s=limit_of(values))
    except ClientError as error:
        raise CommandError(f"Error connecting to Serf agent: {error}") from error
    with client:
        yield client


def answers(query: Query, limit_s: float | None) -> Iterator[QueryAnswer]:
    """Acks and responses. Raises `DeadlineError` where nothing comes for so long, though the query is not done."""
    while (answer := query.next_answer(limit_s)) is not None:
        yield answer
    if not query.done:
        raise DeadlineError(f"nothing came from it for {limit_s:g} s")
