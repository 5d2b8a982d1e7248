"""Connecting to an agent for the asyncio client, with or without TLS.

Rules: files are read and connections made on a thread, as the blocking client does it; the TLS handshake is the event
loop's. A connection that nobody waits for any more is closed.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Final

from serfmp.client.calls import DIAL_LIMIT_S
from serfmp.client.dial import dial
from serfmp.wire.host_port import TLS_SCHEME

if TYPE_CHECKING:
    import ssl

    from serfmp.client.tls import Tls

FAREWELL_LIMIT_S: Final = 2.0
"""For the agent's part of ending TLS; then the connection is closed all the same."""

_Dialled = tuple[socket.socket, "ssl.SSLContext | None"]


async def open_streams(
    address: str, tls: Tls | ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect; `tls` is None for a connection without it. Raises `ConnectError`."""
    if tls is None:
        return await asyncio.open_connection(sock=(await _dial(address, None))[0])
    from serfmp.client.tls_socket import expected_name, refused

    host_port = address.removeprefix(TLS_SCHEME)
    name = expected_name(host_port, tls)
    connection, context = await _dial(address, tls)
    try:
        return await asyncio.open_connection(
            sock=connection,
            ssl=context,
            server_hostname=name,
            ssl_handshake_timeout=DIAL_LIMIT_S,
            ssl_shutdown_timeout=FAREWELL_LIMIT_S,
        )
    except OSError as error:
        connection.close()
        raise refused(error, host_port, name) from None


async def _dial(address: str, tls: Tls | ssl.SSLContext | None) -> _Dialled:
    running = asyncio.get_running_loop().run_in_executor(None, _dial_now, address, tls)
    try:
        connection, context = await asyncio.shield(running)
    except asyncio.CancelledError:
        running.add_done_callback(_close)
        raise
    connection.setblocking(False)
    return connection, context


def _dial_now(address: str, tls: Tls | ssl.SSLContext | None) -> _Dialled:
    if tls is None:
        return dial(address), None
    from serfmp.client.tls_socket import context_of

    context = context_of(tls)
    return dial(address), context


def _close(dialled: asyncio.Future[_Dialled]) -> None:
    if not dialled.cancelled() and dialled.exception() is None:
        dialled.result()[0].close()
