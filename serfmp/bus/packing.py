"""MessagePack with a buffer that stays: making one costs more than filling it.

Rules: text may hold bytes that are not UTF-8 and is carried with surrogateescape; bytes are bin. A buffer that a large
value has made larger than `KEPT_BUFFER` is given back.
"""

from __future__ import annotations

from typing import Final

import msgpack

KEPT_BUFFER: Final = 1024 * 1024
"""Bytes of a value beyond which the buffer that it was made in is given back."""


class _Packing:
    def __init__(self) -> None:
        self._packer = self._new()

    @staticmethod
    def _new() -> msgpack.Packer:
        return msgpack.Packer(unicode_errors="surrogateescape")

    def pack(self, value: object) -> bytes:
        """The value as bytes."""
        data: bytes = self._packer.pack(value)
        if len(data) > KEPT_BUFFER:
            self._packer = self._new()
        return data


pack: Final = _Packing().pack
"""The value as bytes."""
