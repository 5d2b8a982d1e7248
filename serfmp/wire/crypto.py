"""The keyring, and the encrypted form of packets and stream frames.

Rules (spec wire.md 5):

* AES-GCM with keys of 16, 24 or 32 bytes; a blob is a version byte, a nonce of 12 bytes, the ciphertext and a tag of 16
  bytes. The version byte is authenticated by nothing.
* Version 1 seals the plaintext as it is and is what we write. Version 0 pads it first and is only read; all of its
  padding is checked, because peers that do not check can be killed.
* The first key is the primary: it seals. Opening tries all keys in order.
* An authentic but empty plaintext is refused: nothing may be empty inside.
* The library is imported when the first key exists, not before: it costs 11 MB. Likewise OpenSSL for nonces, 4 MB.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from serfmp.errors import UserError
from serfmp.wire.errors import WireError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_LENGTHS: Final = (16, 24, 32)
NONCE_LENGTH: Final = 12
TAG_LENGTH: Final = 16
BLOCK_LENGTH: Final = 16
"""Version 0 pads to a multiple of this."""

OVERHEAD: Final = 1 + NONCE_LENGTH + TAG_LENGTH
"""Bytes that sealing adds in version 1."""

OVERHEAD_V0: Final = OVERHEAD + BLOCK_LENGTH
"""Most bytes that sealing adds in version 0, and the shortest blob of that version."""


def _unpredictable(size: int) -> bytes:
    """That many bytes which nobody can guess."""
    from secrets import token_bytes

    return token_bytes(size)


class Keyring:
    """The keys of a cluster, the primary first. Empty means that nothing is encrypted.

    `nonces` gives that many unpredictable bytes; it exists so that a simulation can be repeated.
    """

    __slots__ = ("_ciphers", "_nonces")

    def __init__(self, keys: Sequence[bytes] = (), nonces: Callable[[int], bytes] = _unpredictable) -> None:
        self._ciphers: dict[bytes, AESGCM] = {}
        self._nonces = nonces
        for key in keys:
            self.add(key)

    def __len__(self) -> int:
        """The number of keys."""
        return len(self._ciphers)

    @property
    def keys(self) -> tuple[bytes, ...]:
        """All keys, the primary first."""
        return tuple(self._ciphers)

    @property
    def primary(self) -> bytes | None:
        """The key that seals."""
        return next(iter(self._ciphers), None)

    def add(self, key: bytes) -> None:
        """Append a key; nothing happens if it is there. `UserError` if its length is none of a key's."""
        if key in self._ciphers:
            return
        if len(key) not in KEY_LENGTHS:
            raise UserError("key size must be 16, 24 or 32 bytes")
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._ciphers[bytes(key)] = AESGCM(key)

    def use(self, key: bytes) -> None:
        """Make an installed key the primary; `UserError` if it is not installed."""
        cipher = self._ciphers.get(key)
        if cipher is None:
            raise UserError("Requested key is not in the keyring")
        self._ciphers = {bytes(key): cipher, **self._ciphers}

    def remove(self, key: bytes) -> None:
        """Remove a key; nothing happens if it is not there. `UserError` for the primary."""
        if key == self.primary:
            raise UserError("Removing the primary key is not allowed")
        self._ciphers.pop(key, None)

    def replace(self, keys: Sequence[bytes]) -> None:
        """Hold exactly these keys, the primary first. `UserError` for one of a wrong length; then nothing changes."""
        old, self._ciphers = self._ciphers, {}
        try:
            for key in keys:
                self.add(key)
        except UserError:
            self._ciphers = old
            raise

    def seal(self, plaintext: bytes, aad: bytes, version: int = 1) -> bytes:
        """Seal with the primary key; `aad` is authenticated beside the text."""
        nonce = self._nonces(NONCE_LENGTH)
        cipher = next(iter(self._ciphers.values()))
        if version == 0:
            padding = BLOCK_LENGTH - len(plaintext) % BLOCK_LENGTH
            plaintext += bytes((padding,)) * padding
        return bytes((version,)) + nonce + cipher.encrypt(nonce, plaintext, aad)

    def open(self, blob: bytes, aad: bytes) -> bytes:
        """The plaintext of a blob, which is never empty. Raises `WireError` of kind `encrypt`."""
        if not blob:
            raise WireError("an encrypted message is empty", "encrypt")
        version = blob[0]
        if version > 1:
            raise WireError("it is not encrypted, and this agent has a key; has the other side one?", "encrypt")
        if len(blob) < (OVERHEAD if version else OVERHEAD_V0):
            raise WireError(
                f"{len(blob)} bytes are too few for an encrypted message; has the other side a key, as this agent has?",
                "encrypt",
            )
        plaintext = self._decrypt(blob, aad)
        if version == 0:
            plaintext = _without_padding(plaintext)
        if not plaintext:
            raise WireError("an encrypted message holds nothing", "encrypt")
        return plaintext

    def _decrypt(self, blob: bytes, aad: bytes) -> bytes:
        from cryptography.exceptions import InvalidTag

        nonce, sealed = blob[1 : 1 + NONCE_LENGTH], blob[1 + NONCE_LENGTH :]
        for cipher in self._ciphers.values():
            try:
                return cipher.decrypt(nonce, sealed, aad)
            except InvalidTag:
                continue
        raise WireError(
            f"it does not decrypt with any of our {len(self)} keys; does the other side use another key, or none?",
            "encrypt",
        )


def _without_padding(padded: bytes) -> bytes:
    count = padded[-1] if padded else 0
    if not 0 < count <= min(BLOCK_LENGTH, len(padded)) or padded[-count:] != bytes((count,)) * count:
        raise WireError("an encrypted message has bad padding", "encrypt")
    return padded[:-count]
