"""Name resolution on a thread of its own: the system's resolver may take as long as it likes.

One thread, a bounded queue; answers come back to the loop through an eventfd. Service records (`srv:NAME`) are asked of
the system's name servers, or of the one named behind `@`; of each target the addresses follow, in the order of priority
and weight. That needs dnspython.
"""

from __future__ import annotations

import importlib.util
import os
import queue
import socket
import threading
from typing import TYPE_CHECKING, Final

from serfmp.detector.swim.join import SRV
from serfmp.errors import UserError
from serfmp.wire.host_port import join_host_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from serfmp.bus.loop import Loop

WAITING_LIMIT: Final = 256
"""Names that wait for the thread; beyond it the answer is an error at once."""


DNS_LIMIT: Final = 5.0
"""Seconds for the answer of name servers about service records."""

DNS_PORT: Final = 53


def require_dns() -> None:
    """Raise `UserError` if service records cannot be asked for, because dnspython is not installed."""
    if importlib.util.find_spec("dns") is None:
        raise UserError("addresses 'srv:…' need dnspython, which is not installed: pip install 'serfmp[dns]'")


def service_addresses(text: str) -> list[str]:
    """The `address:port` of all targets of the service records that `srv:NAME[@SERVER[:PORT]]` names.

    Raises `UserError` with what went wrong.
    """
    require_dns()
    import dns.exception
    import dns.resolver

    name, _, server = text.removeprefix(SRV).partition("@")
    try:
        resolver = dns.resolver.Resolver(configure=not server)
        if server:
            host, port = split_host_port(server, DNS_PORT)
            resolver.nameservers, resolver.port = _addresses(host, port), port
        resolver.lifetime = DNS_LIMIT
        records = resolver.resolve(name, "SRV", search=not server)
    except (dns.exception.DNSException, OSError, ValueError) as error:
        raise UserError(f"lookup {text}: {' '.join(str(error).split()) or type(error).__name__}") from None
    found: list[str] = []
    for record in sorted(records, key=lambda record: (record.priority, -record.weight)):
        target = str(record.target).rstrip(".")
        try:
            found += [join_host_port(address, record.port) for address in _addresses(target, record.port)]
        except OSError:
            continue
    if not found:
        raise UserError(f"lookup {text}: no target of its records has an address")
    return list(dict.fromkeys(found))


def split_host_port(text: str, default: int) -> tuple[str, int]:
    """Host and port of `host`, `host:port`, `[v6]` or `[v6]:port`. Raises ValueError."""
    host, colon, number = text.rpartition(":")
    if colon and not number.endswith("]") and (host.endswith("]") or ":" not in host):
        return host.strip("[]"), int(number)
    return text.strip("[]"), default


def _addresses(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class Resolver:
    """`on_answer(token, addresses, error)` is called on the loop."""

    def __init__(self, loop: Loop, on_answer: Callable[[int, list[str], str], None]) -> None:
        self._on_answer = on_answer
        self._questions: queue.Queue[tuple[int, str, int]] = queue.Queue(WAITING_LIMIT)
        self._answers: queue.SimpleQueue[tuple[int, list[str], str]] = queue.SimpleQueue()
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread: threading.Thread | None = None
        loop.add(self._event, self._collect)

    def resolve(self, token: int, host: str, port: int) -> None:
        """Look the host up; never waits."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="resolver", daemon=True)
            self._thread.start()
        try:
            self._questions.put_nowait((token, host, port))
        except queue.Full:
            self._on_answer(token, [], f"lookup {host}: {WAITING_LIMIT} names wait for the resolver already")

    def _work(self) -> None:
        while True:
            token, host, port = self._questions.get()
            try:
                addresses = service_addresses(host) if host.startswith(SRV) else _addresses(host, port)
                self._answers.put((token, addresses, ""))
            except UserError as error:
                self._answers.put((token, [], str(error)))
            except (OSError, UnicodeError) as error:
                reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
                self._answers.put((token, [], f"lookup {host}: {reason}"))
            os.eventfd_write(self._event, 1)

    def _collect(self, _events: int) -> None:
        os.eventfd_read(self._event)
        while True:
            try:
                answer = self._answers.get_nowait()
            except queue.Empty:
                return
            self._on_answer(*answer)
