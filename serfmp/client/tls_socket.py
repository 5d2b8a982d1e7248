"""TLS for both clients: contexts, a blocking socket, and what is told when it does not come about.

Rules:

* TLS 1.2 at least. The agent's certificate is checked, and that it is for the name that was called.
* What an agent has against a client's certificate comes behind the handshake, with the first answer (TLS 1.3): until
  something has come, an error is one of connecting.
* An error says what is wrong on which side, and the flag or setting that mends it.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Final

from serfmp.client.address import split_host_port
from serfmp.client.calls import DIAL_LIMIT_S
from serfmp.client.dial import dial
from serfmp.client.errors import ClientError, ConnectError, ConnectionLostError
from serfmp.client.tls import Tls
from serfmp.errors import UserError
from serfmp.wire.host_port import TLS_SCHEME

_NO_TLS: Final = (
    "the agent does not answer as one that speaks TLS: leave -rpc-tls out, or give the agent rpc_tls_cert; it ends "
    "connections, too, when it has too many clients"
)
_WANTS_CERTIFICATE: Final = (
    "the agent wants a certificate of its clients: give one with -rpc-tls-cert, and its key with -rpc-tls-key"
)
_ALERTS: Final = (
    ("CERTIFICATE_REQUIRED", _WANTS_CERTIFICATE),
    ("ALERT_HANDSHAKE_FAILURE", f"the agent refuses the TLS handshake; perhaps {_WANTS_CERTIFICATE}"),
    ("ALERT_UNKNOWN_CA", "the agent does not know the authority that signed the certificate of -rpc-tls-cert"),
    ("CERTIFICATE_EXPIRED", "the certificate of -rpc-tls-cert has expired: renew it"),
    ("ALERT_UNSUPPORTED_CERTIFICATE", "the certificate of -rpc-tls-cert is not one for clients"),
    ("ALERT_DECRYPT_ERROR", "the agent does not know the authority that signed the certificate of -rpc-tls-cert"),
    ("ALERT_BAD_CERTIFICATE", "the agent refuses the certificate of -rpc-tls-cert; its log says why"),
    ("CERTIFICATE_UNKNOWN", "the agent refuses the certificate of -rpc-tls-cert; its log says why"),
    ("ALERT_PROTOCOL_VERSION", "the agent speaks no version of TLS that this client does (1.2 and later)"),
    ("WRONG_VERSION_NUMBER", _NO_TLS),
    ("UNEXPECTED_EOF", _NO_TLS),
)
"""Parts of OpenSSL's reasons, the more special first, and what they mean here."""

_EXPIRED: Final = 10
_NOT_YET_VALID: Final = 9
_UNTRUSTED: Final = frozenset({2, 7, 18, 19, 20, 21})
"""OpenSSL's numbers of what can be wrong with a certificate (`X509_V_ERR_…`)."""
_OTHER_NAME: Final = frozenset({62, 64})


def context_of(tls: Tls | ssl.SSLContext) -> ssl.SSLContext:
    """What connections are made with. Raises `ConnectError` for files that cannot be used."""
    if isinstance(tls, ssl.SSLContext):
        return tls
    try:
        context = ssl.create_default_context(cafile=tls.ca or None)
    except OSError as error:
        raise ConnectError(_file_fault("authority's certificate", tls.ca, error)) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not tls.cert:
        if tls.key:
            raise ConnectError(f"tls: -rpc-tls-key without -rpc-tls-cert: which certificate is '{tls.key}' for?")
        return context
    for path in filter(None, (tls.cert, tls.key)):
        try:
            Path(path).open("rb").close()
        except OSError as error:
            raise ConnectError(_file_fault("client's certificate", path, error)) from None
    try:
        context.load_cert_chain(tls.cert, tls.key or None, password=_refuse_passphrase)
    except OSError as error:
        shown = f"{tls.cert}' with the key '{tls.key or tls.cert}"
        raise ConnectError(_file_fault("client's certificate", shown, error)) from None
    return context


def _refuse_passphrase() -> str:
    raise ConnectError(
        "tls: the client's private key has a passphrase; write it without one, readable for you alone: "
        "openssl pkey -in KEY -out NEW"
    )


def _file_fault(what: str, path: str, error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        if error.reason == "KEY_VALUES_MISMATCH":
            return f"tls: the {what} '{path}' cannot be used: the key is another one's"
        return f"tls: the {what} '{path}' cannot be used: it is no PEM, or not all of it is there"
    return f"tls: the {what} '{path}': {os.strerror(error.errno or 0).lower()}"


def expected_name(address: str, tls: Tls | ssl.SSLContext) -> str:
    """The name that the agent's certificate must be for. Raises `ConnectError` for one that none can be for."""
    try:
        given = tls.server_name if isinstance(tls, Tls) else ""
        name = given or split_host_port(address)[0] or "localhost"
        if name.startswith("."):
            raise ConnectError(f"dial tls {address}: '{name}' is no name of a host: it begins with a dot")
        name.encode("idna")
    except UnicodeError as error:
        raise ConnectError(f"dial tls {address}: no name of a host: {error}") from None
    except UserError as error:
        raise ConnectError(f"dial tls: {error}") from None
    return name


def refused(error: OSError, address: str, name: str) -> ConnectError:
    """What this error of the handshake means. `name` is what the agent's certificate must be for."""
    if isinstance(error, ssl.SSLCertVerificationError):
        text = _certificate_fault(error, name)
    elif isinstance(error, ssl.SSLError):
        text = _meaning(error) or _words(error)
    elif isinstance(error, TimeoutError) or "longer than" in str(error):  # so asyncio says it
        text = f"no answer to the TLS handshake within {DIAL_LIMIT_S:g} s"
    else:
        text = _NO_TLS
    return ConnectError(f"dial tls {address}: {text}")


def ended(error: OSError | None, address: str, *, heard: bool) -> ClientError:
    """What the end of a connection means, or this error of it. `heard`: the agent has answered something before."""
    # What the agent has told, unlike what this side has found, is an alert.
    text = _meaning(error) if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or "") else ""
    if not text and not heard:
        text = "the agent ended the connection after the handshake; its log says why"
    return ConnectError(f"dial tls {address}: {text}") if text else ConnectionLostError("client closed")


def _meaning(error: ssl.SSLError) -> str:
    reason = error.reason or str(error)
    return next((meaning for part, meaning in _ALERTS if part in reason), "")


def _certificate_fault(error: ssl.SSLCertVerificationError, name: str) -> str:
    if error.verify_code in _OTHER_NAME:
        return (
            f"the agent's certificate is not for '{name}': call the agent by the name that it is for, or give that "
            "name with -rpc-tls-server-name"
        )
    if error.verify_code == _EXPIRED:
        return "the agent's certificate has expired: renew it, and reload the agent"
    if error.verify_code == _NOT_YET_VALID:
        return "the agent's certificate is not valid yet: is this host's clock right?"
    if error.verify_code in _UNTRUSTED:
        return (
            f"no authority that is trusted here has signed the agent's certificate ({error.verify_message}): name the "
            "one that has with -rpc-tls-ca"
        )
    return f"the agent's certificate: {error.verify_message}"


def _words(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).lower().replace("_", " ")


class TlsSocket:
    """A connection with TLS around it, for the blocking client. Raises `ConnectError` if it does not come about.

    Its timeouts are those of the socket: TimeoutError, and BlockingIOError for a timeout of 0.
    """

    def __init__(self, address: str, tls: Tls | ssl.SSLContext) -> None:
        context = context_of(tls)
        self._address = address.removeprefix(TLS_SCHEME)
        name = expected_name(self._address, tls)
        self._heard = False
        connection = dial(address)
        try:
            self._tls = context.wrap_socket(connection, server_hostname=name)
        except OSError as error:
            connection.close()
            raise refused(error, self._address, name) from None

    def settimeout(self, limit_s: float | None) -> None:
        """Seconds that the next calls may take."""
        self._tls.settimeout(limit_s)

    def sendall(self, data: bytes) -> None:
        """Send all of it. Raises `ClientError`."""
        try:
            self._tls.sendall(data)
        except OSError as error:
            raise ended(error, self._address, heard=self._heard) from None

    def recv(self, size: int) -> bytes:
        """What comes, and something always does. Raises `ClientError` at the end, TimeoutError, BlockingIOError."""
        try:
            data = self._tls.recv(size)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise BlockingIOError from None
        except TimeoutError:
            raise
        except OSError as error:
            raise ended(error, self._address, heard=self._heard) from None
        if not data:
            raise ended(None, self._address, heard=self._heard)
        self._heard = True
        return data

    def close(self) -> None:
        """End the connection."""
        self._tls.close()
