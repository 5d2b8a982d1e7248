"""A journal in shared memory: what a killed process had done, for the one that takes its place.

The memory is a memfd of the supervisor, mapped by one writer. It survives a kill -9 of the writer at any instant; it
does not survive the agent (that is the snapshot's task).

Layout: a header page, then two banks. A bank is a row of records, each length, CRC-32 and a msgpack array. The header
says which bank is the present one, how far each is filled, and how far its last compaction filled it. A record is
written first and counted after, by one aligned store of eight bytes, so a record is there completely or not at all.
Compaction writes the other bank, then turns the header's switch, then gives the old bank's memory back: whoever dies in
between leaves one whole bank.

Bounds: a bank holds `BANK_SIZE` bytes. When a compacted state does not fit, the journal says so
(`JournalOverflowError`) and keeps its old bank.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from typing import TYPE_CHECKING, Any, Final

import msgpack

from serfmp.bus.packing import pack
from serfmp.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

BANK_SIZE: Final = 96 * 1024 * 1024
"""Bytes of a bank; memory is used only as far as it is filled."""

COMPACT_FLOOR: Final = 256 * 1024
"""Below this fill, in bytes, a bank is never worth compacting."""

COMPACT_FACTOR: Final = 3
"""A bank is compacted when it is this many times as full as the last compaction left it."""

_PAGE: Final = 4096
_SIZE: Final = _PAGE + 2 * BANK_SIZE
_RECORD: Final = struct.Struct("<II")
_WORD: Final = struct.Struct("<Q")
_SWITCH_AT: Final = 0
_FILL_AT: Final = (8, 16)
_COMPACTED_AT: Final = (24, 32)


class JournalOverflowError(InternalError):
    """The compacted state is larger than a bank."""


def create(name: str) -> int:
    """A new empty journal. Returns its descriptor, which children inherit."""
    descriptor = os.memfd_create(f"serfmp-{name}", 0)
    os.ftruncate(descriptor, _SIZE)
    return descriptor


def erase(descriptor: int) -> None:
    """Make it empty again, for a writer that shall not see the old state."""
    os.ftruncate(descriptor, 0)
    os.ftruncate(descriptor, _SIZE)


class Journal:
    """The one writer's view."""

    def __init__(self, descriptor: int) -> None:
        self._map = mmap.mmap(descriptor, _SIZE)
        self._bank: int = _WORD.unpack_from(self._map, _SWITCH_AT)[0]
        self._fill: int = _WORD.unpack_from(self._map, _FILL_AT[self._bank])[0]
        self._compact_at = _compact_at(_WORD.unpack_from(self._map, _COMPACTED_AT[self._bank])[0])

    @property
    def size(self) -> int:
        """Bytes in use."""
        return self._fill

    @property
    def full(self) -> bool:
        """Whether it is time to call `compact`."""
        return bool(self._fill > self._compact_at)

    def append(self, fields: Iterable[Any]) -> None:
        """Add one record. Raises `JournalOverflowError` if the bank is full, which `compact` in time prevents."""
        self.extend((fields,))

    def extend(self, records: Iterable[Iterable[Any]]) -> None:
        """Add several records, all or none of them."""
        self._fill = self._write(self._bank, self._fill, records)
        _WORD.pack_into(self._map, _FILL_AT[self._bank], self._fill)

    def replay(self) -> list[list[Any]]:
        """All records in order."""
        return list(self.records())

    def records(self) -> Iterator[list[Any]]:
        """The same, one by one, while nothing is written. A damaged one, which no killed writer leaves, ends them."""
        start = _PAGE + self._bank * BANK_SIZE
        position, end = start, start + self._fill
        while position + _RECORD.size <= end:
            length, checksum = _RECORD.unpack_from(self._map, position)
            position += _RECORD.size
            body = self._map[position : position + length]
            if position + length > end or zlib.crc32(body) != checksum:
                break
            yield msgpack.unpackb(body, unicode_errors="surrogateescape", strict_map_key=False)
            position += length

    def compact(self, records: Iterable[Iterable[Any]]) -> None:
        """Replace all records by these, in one indivisible step. Raises `JournalOverflowError` and changes nothing."""
        other = 1 - self._bank
        fill = self._write(other, 0, records)
        _WORD.pack_into(self._map, _FILL_AT[other], fill)
        _WORD.pack_into(self._map, _COMPACTED_AT[other], fill)
        _WORD.pack_into(self._map, _SWITCH_AT, other)
        old = self._bank
        self._bank, self._fill = other, fill
        self._compact_at = _compact_at(fill)
        self._map.madvise(mmap.MADV_REMOVE, _PAGE + old * BANK_SIZE, BANK_SIZE)

    def _write(self, bank: int, fill: int, records: Iterable[Iterable[Any]]) -> int:
        start = _PAGE + bank * BANK_SIZE
        for fields in records:
            body: bytes = pack(tuple(fields))
            if fill + _RECORD.size + len(body) > BANK_SIZE:
                raise JournalOverflowError(f"the journal's state is larger than {BANK_SIZE} bytes")
            position = start + fill
            _RECORD.pack_into(self._map, position, len(body), zlib.crc32(body))
            position += _RECORD.size
            self._map[position : position + len(body)] = body
            fill += _RECORD.size + len(body)
        return fill


def _compact_at(fill: int) -> int:
    """At which fill a bank that was just compacted to `fill` bytes is compacted again."""
    return max(COMPACT_FLOOR, min(COMPACT_FACTOR * fill, (fill + BANK_SIZE) // 2))
