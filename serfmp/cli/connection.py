"""What all commands that talk to an agent share: the flags that name it, the connection, errors (spec agent.md 3.1).

Rule for TLS: `-rpc-tls`, any flag of its files and name, or an address `tls://…` switches it on; `-rpc-tls=false`
switches off what the environment has set.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any, Final

from serfmp.cli.flags import BOOLEAN, DURATION, FORMATS, flag
from serfmp.client import Client, ClientError, DeadlineError
from serfmp.client.calls import DEFAULT_ADDRESS
from serfmp.errors import UserError
from serfmp.wire.host_port import TLS_SCHEME

if TYPE_CHECKING:
    import click

    from serfmp.client import Query, QueryAnswer, Tls


TLS_FLAGS: Final = (
    ("ca", "path", "Authorities (PEM) of the agent's certificate. Default: the system's", "SERF_RPC_TLS_CA"),
    ("cert", "path", "Own certificate (PEM), for agents that want one", "SERF_RPC_TLS_CERT"),
    ("key", "path", "Its private key (PEM). Default: in the same file", "SERF_RPC_TLS_KEY"),
    (
        "server-name",
        "name",
        "Name that the agent's certificate must be for. Default: the host of -rpc-addr",
        "SERF_RPC_TLS_SERVER_NAME",
    ),
)
"""Flags of TLS: name, what it takes, help, variable of the environment."""

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
        flag(
            "rpc-tls",
            "Speak TLS with the agent, as an address tls://host:port and the flags below do; also $SERF_RPC_TLS.",
            kind=BOOLEAN,
            default=None,
            env="SERF_RPC_TLS",
        ),
        *(
            flag(f"rpc-tls-{name}", f"{text}; also ${env}.", env=env, shown=f"rpc-tls-{name}={value}")
            for name, value, text, env in TLS_FLAGS
        ),
    ]


class CommandError(UserError):
    """The command failed; the text is what it prints."""


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Let an error of the agent, or of the way to it, end the command with these words before it."""
    try:
        yield
    except ClientError as error:
        raise CommandError(f"{what}: {error}") from error


def require_format(values: dict[str, Any], known: Collection[str] = FORMATS) -> None:
    """Raises `CommandError` for a format that the command does not have."""
    if values["format"] not in known:
        raise CommandError(f"Invalid format: {values['format']}")


def limit_of(values: dict[str, Any]) -> float | None:
    """Seconds for one answer; None without a limit. Raises `CommandError`."""
    limit: float = values["rpc_timeout"]
    if limit < 0:
        raise CommandError(f"Invalid -rpc-timeout: {limit:g}s is negative; 0 means without a limit")
    return limit or None


def tls_of(values: dict[str, Any]) -> Tls | None:
    """How TLS is spoken; None if not. Raises `CommandError` where flags contradict the address."""
    given = [values[f"rpc_tls_{name.replace('-', '_')}"] for name, *_ in TLS_FLAGS]
    wanted: bool | None = values["rpc_tls"]
    if wanted is False and values["rpc_addr"].startswith(TLS_SCHEME):
        raise CommandError(f"Invalid -rpc-tls: false contradicts the address '{values['rpc_addr']}'; write host:port")
    if not (any(given) if wanted is None else wanted):
        return None
    from serfmp.client.tls import Tls

    return Tls(*given)


@contextlib.contextmanager
def connected(values: dict[str, Any]) -> Iterator[Client]:
    """A connection to the agent that the flags name. Raises `CommandError`."""
    with explained("Error connecting to Serf agent"):
        client = Client(values["rpc_addr"], auth=values["rpc_auth"], limit_s=limit_of(values), tls=tls_of(values))
    with client:
        yield client


def answers(query: Query, limit_s: float | None) -> Iterator[QueryAnswer]:
    """Acks and responses. Raises `DeadlineError` where nothing comes for so long, though the query is not done."""
    while (answer := query.next_answer(limit_s)) is not None:
        yield answer
    if not query.done:
        raise DeadlineError(f"nothing came from it for {limit_s:g} s")
