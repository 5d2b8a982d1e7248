"""TLS around one connection of the RPC: bytes of the socket go in and out of memory, so that nothing ever blocks.

Rules:

* The handshake comes first (`handshake`, as often as something has come); requests and answers go through afterwards.
* At most `UNSENT_LIMIT` bytes of the other side's next bytes are encrypted in advance: what a slow client does not take
  waits outside of here, under the limits of `serfmp.io.rpc_connection`.
* All that has come is decrypted at once. What cannot be decrypted ends the connection, as an OSError.
* The end of the TCP connection is the end, with or without a farewell: requests and answers carry their own length.
* A client that begins without TLS is known by its first byte, before anything is made of it.

`serfmp.agent.certificates` makes the context.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
from collections.abc import Sequence
from typing import Any, Final

from serfmp.errors import RemoteError

HELLO: Final = 0x16
"""The first byte of each handshake of TLS."""

UNSENT_LIMIT: Final = 64 * 1024
"""Bytes that are encrypted at once, before the socket has taken what was encrypted earlier."""

_RECORD: Final = 16 * 1024
"""Bytes that one record of TLS holds at most."""


class TlsError(RemoteError):
    """The handshake failed; the text says why. `kind` is `plain`, `certificate` or `protocol`."""

    def __init__(self, kind: str, text: str, received: bytes = b"") -> None:
        super().__init__(text)
        self.kind = kind
        self.received = received
        """What a client without TLS has sent."""


class TlsChannel:
    """See the module. A channel (`serfmp.io.rpc_channel`) once `handshake` has given True."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._unsent = memoryview(b"")
        self._begun = False
        """Something has come."""
        self.answered = False
        """Something was sent: the client's first message was whole."""

    @property
    def unsent(self) -> bool:
        """Whether encrypted bytes have still to be sent."""
        return bool(self._unsent) or self._outgoing.pending > 0

    def fileno(self) -> int:
        """The descriptor."""
        return self._sock.fileno()

    def describe(self) -> str:
        """The version of TLS and the client's certificate, for the log."""
        certificate: dict[str, Any] = self._tls.getpeercert() or {}
        names = [f"{key}={value!r}" for part in certificate.get("subject", ()) for key, value in part]
        return f"{self._tls.version()}{', ' + ', '.join(names) if names else ''}"

    # --- the handshake ------------------------------------------------------------------------------------------------

    def handshake(self, size: int) -> bool:
        """Take what has come, `size` bytes at most, and go on; whether the handshake is done.

        Raises `TlsError`, BlockingIOError where nothing has come, other OSErrors, and EOFError at the end.
        """
        data = self._sock.recv(size)
        if not data:
            raise EOFError
        if not self._begun and data[0] != HELLO:
            raise TlsError("plain", "it does not speak TLS", data)
        self._begun = True
        self._incoming.write(data)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLCertVerificationError as error:
            raise TlsError("certificate", f"its certificate: {error.verify_message}") from None
        except ssl.SSLError as error:
            kind = "certificate" if error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE" else "protocol"
            raise TlsError(kind, f"TLS: {_reason(error)}") from None
        finally:
            with contextlib.suppress(OSError):  # found again by whoever reads or writes next
                self.push()
        return True

    def refuse(self, answer: bytes) -> None:
        """Send this as it is, behind TLS' own alert, if there is one, and nothing more."""
        with contextlib.suppress(OSError):
            if answer:
                self._sock.send(answer)
            self._sock.shutdown(socket.SHUT_WR)

    def discard(self, size: int) -> None:
        """Throw away what has come. Raises OSError, and EOFError at the end."""
        if not self._sock.recv(size):
            raise EOFError

    def abort(self) -> None:
        """End the connection without a farewell."""
        self._sock.close()

    # --- the channel --------------------------------------------------------------------------------------------------

    def receive(self, size: int) -> bytes:
        """What has come, decrypted; empty at the end. Raises OSError."""
        ended = False
        try:
            data = self._sock.recv(size)
        except BlockingIOError:
            pass  # the handshake may have left something
        else:
            ended = not data
            self._incoming.write(data)
        found = []
        try:
            while chunk := self._tls.read(_RECORD):
                found.append(chunk)
            # A farewell. Behind it the descriptor tells of the end, as that of a plain socket does.
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RD)
            ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            raise ConnectionAbortedError(errno.EPROTO, f"TLS: {_reason(error)}") from None
        if not found and not ended:
            raise BlockingIOError
        return b"".join(found)

    def send(self, parts: Sequence[memoryview]) -> int:
        """Encrypt some of this and send it, unless what was encrypted earlier has still to go. Raises OSError."""
        self.push()
        if self._unsent:
            raise BlockingIOError
        taken = 0
        for part in parts:
            if taken >= UNSENT_LIMIT:
                break
            taken += self._encrypt(part[: UNSENT_LIMIT - taken])
        self.push()
        return taken

    def push(self) -> None:
        """Send what is encrypted, as far as the socket takes it. Raises OSError."""
        while True:
            if not self._unsent:
                self._unsent = memoryview(self._outgoing.read())
                if not self._unsent:
                    return
            try:
                sent = self._sock.send(self._unsent)
            except BlockingIOError:
                return
            self.answered = True
            self._unsent = self._unsent[sent:]

    def close(self) -> None:
        """Say farewell, if the socket takes it, and end the connection."""
        with contextlib.suppress(ssl.SSLError, OSError):
            self._tls.unwrap()
        with contextlib.suppress(OSError):
            self.push()
        self._sock.close()

    def _encrypt(self, data: memoryview) -> int:
        try:
            return self._tls.write(data)
        except ssl.SSLError as error:
            raise ConnectionAbortedError(errno.EPROTO, f"TLS: {_reason(error)}") from None


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).lower().replace("_", " ")
