"""Joining: from address texts to push/pulls with whoever is there (spec swim.md 11.1 and 11.2).

Rules:

* An address text is `[name/]host[:port]`; brackets around an IPv6 address that has a port. Without a port the own port
  counts.
* `srv:NAME[@SERVER[:PORT]]` are the hosts and ports of DNS service records, asked anew for each join; of SERVER, if one
  is named. An extension of ours.
* The addresses of a join are tried one after another, and every address that a name resolves to; joins wait for each
  other.
* A join succeeded if one address answered; else its error lists what went wrong, in the form that Serf's users know.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from serfmp.detector.effects import Endpoint, Resolve
from serfmp.detector.swim.context import Context
from serfmp.detector.swim.push_pull import PushPull
from serfmp.errors import UserError
from serfmp.wire.address import from_text, to_text

PORT_LIMIT: Final = 1 << 16

SRV: Final = "srv:"
"""Begins an address text that means service records."""

Joined = Callable[[int, str], None]
"""Told how a join ended: how many addresses answered, and the error text if none did."""


@dataclass(frozen=True, slots=True)
class JoinAddress:
    """A parsed address text. `literal`: the host is an IP address."""

    text: str
    name: str
    host: str
    port: int
    literal: bool


def parse_join_address(text: str, default_port: int) -> JoinAddress:
    """Parse `[name/]host[:port]`, or `srv:NAME…`, whose host is the whole text.

    Raises `UserError` with what Serf writes behind the address in its log line.
    """
    if text.startswith(SRV):
        if text.removeprefix(SRV).partition("@")[0] == "":
            raise UserError("no name of service records behind 'srv:'")
        return JoinAddress(text, "", text, default_port, literal=False)
    name, slash, rest = text.partition("/")
    if not slash:
        name, rest = "", text
    elif not name:
        raise UserError("empty node name provided")
    has_port = rest.rfind(":") > rest.rfind("]") if rest.startswith("[") else rest.count(":") == 1
    host, port = rest, default_port
    if has_port:
        host, _, number = rest.rpartition(":")
        port = _parse_port(number)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not host:
        raise UserError(f"no host in the address '{text}'")
    try:
        host, literal = to_text(from_text(host)), True
    except UserError:
        literal = False
    return JoinAddress(text, name, host, port, literal)


def _parse_port(number: str) -> int:
    if not (number.isascii() and number.isdigit()):
        raise UserError(f'strconv.ParseUint: parsing "{number}": invalid syntax')
    if int(number) >= PORT_LIMIT:
        raise UserError(f'strconv.ParseUint: parsing "{number}": value out of range')
    return int(number)


def combine_errors(errors: list[str]) -> str:
    """Several errors as one text, in the form that Serf prints (spec agent.md 1.8)."""
    if not errors:
        return ""
    count = "1 error" if len(errors) == 1 else f"{len(errors)} errors"
    return f"{count} occurred:\n" + "".join(f"\t* {error}\n" for error in errors) + "\n"


@dataclass(slots=True)
class _Job:
    addresses: deque[str]
    begun: Callable[[], None]
    joined: Joined
    contacted: int = 0
    errors: list[str] = field(default_factory=list)
    endpoints: deque[Endpoint] = field(default_factory=deque)
    resolving: JoinAddress | None = None
    token: int = 0


class Joiner:
    """Carries joins out, one at a time. See the module."""

    __slots__ = ("_context", "_jobs", "_push_pull")

    def __init__(self, context: Context, push_pull: PushPull) -> None:
        self._context = context
        self._push_pull = push_pull
        self._jobs: deque[_Job] = deque()

    def join(self, addresses: tuple[str, ...], begun: Callable[[], None], joined: Joined) -> None:
        """Join these addresses; `begun` is told when it is this join's turn, `joined` how it ended."""
        self._jobs.append(_Job(deque(addresses), begun, joined))
        if len(self._jobs) == 1:
            self._begin()

    def _begin(self) -> None:
        self._jobs[0].begun()
        self._step(self._jobs[0])

    def _step(self, job: _Job) -> None:
        while True:
            if job.endpoints:
                self._contact(job, job.endpoints.popleft())
                return
            if not job.addresses:
                break
            text = job.addresses.popleft()
            try:
                address = parse_join_address(text, self._context.config.port)
            except UserError as fault:
                self._unresolved(job, text, str(fault))
                continue
            if not address.literal:
                self._resolve(job, address)
                return
            job.endpoints.append((address.host, address.port))
        self._jobs.popleft()
        job.joined(job.contacted, "" if job.contacted else combine_errors(job.errors))
        if self._jobs:
            self._begin()

    def _resolve(self, job: _Job, address: JoinAddress) -> None:
        job.resolving = address
        job.token = self._context.next_token()
        self._context.effects.append(Resolve(job.token, address.host, address.port))

    def resolved(self, token: int, addresses: tuple[str, ...], error: str) -> None:
        """A name was resolved, or not."""
        if not self._jobs or self._jobs[0].token != token or self._jobs[0].resolving is None:
            return
        job = self._jobs[0]
        address, job.resolving = self._jobs[0].resolving, None
        if address is None:
            return
        if error or not addresses:
            self._unresolved(job, address.text, error or "no address")
        if address.host.startswith(SRV):
            found = [parse_join_address(text, address.port) for text in addresses]
            job.endpoints.extend((each.host, each.port) for each in found)
        else:
            job.endpoints.extend((host, address.port) for host in addresses)
        self._step(job)

    def _unresolved(self, job: _Job, text: str, error: str) -> None:
        self._context.log("WARN", "memberlist", f"Failed to resolve {text}: {error}")
        job.errors.append(f"Failed to resolve {text}: {error}")

    def _contact(self, job: _Job, endpoint: Endpoint) -> None:
        def done(error: str) -> None:
            if error:
                self._context.log("DEBUG", "memberlist", f"Failed to join {endpoint[0]}:{endpoint[1]}: {error}")
                job.errors.append(f"Failed to join {endpoint[0]}: {error}")
            else:
                job.contacted += 1
            self._step(job)

        self._push_pull.exchange(endpoint, done, join=True)

    def cancel(self) -> None:
        """The process that resolves names is a new one: ask again."""
        if self._jobs and self._jobs[0].resolving is not None:
            self._resolve(self._jobs[0], self._jobs[0].resolving)
