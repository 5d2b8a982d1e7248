"""The certificates of the RPC: reading them, refusing those that cannot serve, and the TLS context made of them.

Rules:

* The files are PEM: the agent's certificate, with those of intermediate authorities behind it; its private key, without
  a passphrase; and, where clients must have certificates, those of the authorities that sign them.
* Everything is read and checked before anything starts or changes: a key that does not fit, a certificate that has
  expired or is not valid yet, an authority's file without one. Errors name the setting, the file and what to do.
* What was read stays in memory: a process that is started again, and the two phases of a reload, need no file. Of the
  agent's processes only rpc gets it.
* The private key is never shown. A file of it that everybody may read is warned of.

Times are UTC. Nothing here is imported by an agent without `rpc_tls_cert`.
"""

from __future__ import annotations

import os
import ssl
import stat
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from serfmp.agent.files import SettingError

FILE_LIMIT: Final = 1024 * 1024
"""Bytes of one file."""

RENEW_DAYS: Final = 14
"""A certificate that expires within so many days is warned of."""

CERT_KEY: Final = "rpc_tls_cert"
KEY_KEY: Final = "rpc_tls_key"
CA_KEY: Final = "rpc_tls_ca"


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM: the certificate, its chain and the private key; and the authorities of clients, empty if any client may."""

    identity: bytes
    authorities: bytes


def read_certificates(cert: str, key: str, ca: str, warn: Callable[[str], None]) -> Certificates:
    """What these files hold. Raises `SettingError`. `warn` gets what is odd about them."""
    chain = _certificates(CERT_KEY, cert)
    _check_dates(cert, chain[0], warn)
    private = _private_key(key)
    if private.public != chain[0].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo):
        raise SettingError(
            KEY_KEY,
            f"{KEY_KEY}: the key in '{key}' does not belong to the certificate in '{cert}'; give the one that the "
            "certificate was made for (the agent's own certificate stands first in its file)",
        )
    if Path(key).stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        warn(f"==> Warning: the private key '{key}' can be read or written by everybody on this host: chmod o= '{key}'")
    authorities = _pem(_certificates(CA_KEY, ca)) if ca else b""
    found = Certificates(_pem(chain) + private.pem, authorities)
    try:
        server_context(found)
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).lower().replace("_", " ")
        raise SettingError(CERT_KEY, f"{CERT_KEY}: '{cert}' cannot serve: {reason}") from None
    return found


def server_context(certificates: Certificates) -> ssl.SSLContext:
    """What the RPC's connections are made with. Raises `ssl.SSLError` for what OpenSSL does not take."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0  # commands are short: no session is taken up again
    # OpenSSL reads keys from files only: this one has no name and is gone when it is closed.
    descriptor = os.memfd_create("rpc-tls")
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(certificates.identity)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    if certificates.authorities:
        context.load_verify_locations(cadata=certificates.authorities.decode("ascii"))
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def describe(pem: bytes) -> str:
    """The first certificate in words; `-` without one."""
    if not pem:
        return "-"
    first = x509.load_pem_x509_certificates(pem)[0]
    until = first.not_valid_after_utc.strftime("%Y-%m-%d")
    return f"{first.subject.rfc4514_string() or 'no name'!r} (serial {first.serial_number:x}, until {until})"


def days_left(path: str) -> int:
    """How many days a certificate is still valid; negative once it has expired. Raises `SettingError`."""
    return (_certificates(CERT_KEY, path)[0].not_valid_after_utc - _now()).days


@dataclass(frozen=True, slots=True)
class _PrivateKey:
    pem: bytes
    public: bytes


def _private_key(path: str) -> _PrivateKey:
    data = _read(KEY_KEY, path)
    try:
        key = load_pem_private_key(data, None)
    except TypeError:
        raise SettingError(
            KEY_KEY,
            f"{KEY_KEY}: the key in '{path}' has a passphrase, which an agent cannot ask for; write one without, "
            f"for the agent's user alone: openssl pkey -in '{path}' -out NEW",
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        raise SettingError(KEY_KEY, f"{KEY_KEY}: '{path}' holds no private key in PEM that can be read") from None
    return _PrivateKey(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    )


def _certificates(setting: str, path: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(_read(setting, path))
    except ValueError:
        raise SettingError(setting, f"{setting}: '{path}' holds no certificate in PEM that can be read") from None


def _pem(certificates: list[x509.Certificate]) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def _check_dates(path: str, certificate: x509.Certificate, warn: Callable[[str], None]) -> None:
    now = _now()
    if now > certificate.not_valid_after_utc:
        raise SettingError(
            CERT_KEY,
            f"{CERT_KEY}: the certificate in '{path}' has expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} "
            "UTC, and no client would take it: renew it",
        )
    if now < certificate.not_valid_before_utc:
        raise SettingError(
            CERT_KEY,
            f"{CERT_KEY}: the certificate in '{path}' is valid from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} "
            f"UTC on, and this host's clock says {now:%Y-%m-%d %H:%M}: wait, or correct the clock",
        )
    days = (certificate.not_valid_after_utc - now).days
    if days < RENEW_DAYS:
        warn(f"==> Warning: the RPC's certificate '{path}' expires in {days} days: renew it, and reload the agent")


def _read(setting: str, path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            data = file.read(FILE_LIMIT + 1)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SettingError(setting, f"{setting}: open {path}: {reason}") from None
    if len(data) > FILE_LIMIT:
        raise SettingError(setting, f"{setting}: '{path}' has more than {FILE_LIMIT} bytes")
    return data


def _now() -> datetime:
    return datetime.now(UTC)
