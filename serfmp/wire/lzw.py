"""LZW in the variant of the gossip wire, byte for byte what the reference writes.

Rules (spec wire.md 4.5):

* Codes are packed with the lowest bit first; literals have 8 bits, 256 clears the table, 257 ends; widths go from 9 to
  12 bits.
* The width grows when the next free code needs it, not one code earlier as TIFF does. The writer clears when 4095 would
  be used.
* The end code is required; what follows it is ignored.
* A short input can stand for a huge output (about 1 : 2500), so a decompressor has a limit, and works in steps:
  `budget` bounds the output of one step, and a clear, which gives no output, costs some of it too.
"""

from __future__ import annotations

from typing import Final

from serfmp.wire.errors import WireError

CLEAR: Final = 256
END: Final = 257
FIRST_FREE: Final = 258
MIN_WIDTH: Final = 9
MAX_WIDTH: Final = 12
TABLE_SIZE: Final = 1 << MAX_WIDTH
WRITER_FULL: Final = TABLE_SIZE - 1
"""The writer clears its table when this code would be assigned."""

STEP: Final = 65536
"""Output bytes of one step where the caller sets no budget."""

_CLEAR_COST: Final = 4
"""What a clear takes from the budget of a step."""

_LITERALS: Final = [bytes((value,)) for value in range(256)]
_REFILL: Final = 6
"""Bytes taken from the input at a time: 48 bits and what is left over stay within two digits of a Python integer."""


def compress(data: bytes) -> bytes:
    """The compressed form of `data`, with its end code."""
    out = bytearray()
    table: dict[int, int] = {}
    get = table.get
    bits, filled, width, threshold, last_code = CLEAR, MIN_WIDTH, MIN_WIDTH, 1 << MIN_WIDTH, END
    code = -1
    for byte in data:
        if code < 0:
            code = byte
            continue
        key = code << 8 | byte
        known = get(key)
        if known is not None:
            code = known
            continue
        bits |= code << filled
        filled += width
        if filled >= 32:
            out += (bits & 0xFFFF_FFFF).to_bytes(4, "little")
            bits >>= 32
            filled -= 32
        last_code += 1
        if last_code == threshold:
            width += 1
            threshold <<= 1
        if last_code == WRITER_FULL:
            bits |= CLEAR << filled
            filled += width
            width, threshold, last_code = MIN_WIDTH, 1 << MIN_WIDTH, END
            table.clear()
        else:
            table[key] = last_code
        code = byte
    if code >= 0:
        bits |= code << filled
        filled += width
        last_code += 1
        if last_code == threshold:
            width += 1
        if last_code == WRITER_FULL:
            bits |= CLEAR << filled
            filled += width
            width = MIN_WIDTH
    bits |= END << filled
    filled += width
    out += bits.to_bytes((filled + 7) // 8, "little")
    return bytes(out)


class Decompressor:
    """Decompresses `data` in steps, to at most `limit` bytes. Every error is a `WireError` of kind `compress`."""

    __slots__ = (
        "_bits",
        "_data",
        "_filled",
        "_finished",
        "_last",
        "_limit",
        "_out",
        "_position",
        "_table",
        "_width",
    )

    def __init__(self, data: bytes, limit: int) -> None:
        self._data = data
        self._limit = limit
        self._out = bytearray()
        self._position = 0
        self._bits = 0
        self._filled = 0
        self._width = MIN_WIDTH
        self._table: list[bytes] = [*_LITERALS, b"", b""]
        self._last = b""
        self._finished = False

    def step(self, budget: int) -> bool:
        """Go on until about `budget` more bytes are out. True when finished."""
        if self._finished:
            return True
        data, table, position, width, last = self._data, self._table, self._position, self._width, self._last
        bits, filled = self._bits, self._filled
        free = len(table)
        mask = (1 << width) - 1
        stop = min(budget, self._limit + 1 - len(self._out))
        spent = clears = 0
        chunks: list[bytes] = []
        add, grow, integer = chunks.append, table.append, int.from_bytes
        while spent < stop:
            if filled < width:
                piece = data[position : position + _REFILL]
                position += _REFILL
                bits |= integer(piece, "little") << filled
                filled += len(piece) * 8
                if filled < width:
                    raise WireError("compressed data has no end", "compress")
            code = bits & mask
            bits >>= width
            filled -= width
            if code < free:
                entry = table[code]
                if not entry:
                    if code == END:
                        self._finished = True
                        break
                    del table[FIRST_FREE:]
                    free, width, last = FIRST_FREE, MIN_WIDTH, b""
                    mask = (1 << MIN_WIDTH) - 1
                    clears += 1
                    spent += _CLEAR_COST
                    continue
            elif code == free and last:
                entry = last + last[:1]
            else:
                raise WireError(f"compressed data holds the code {code} where {free} is the next", "compress")
            add(entry)
            spent += len(entry)
            if last:
                grow(last + entry[:1])
                free += 1
                if free > mask:
                    if width == MAX_WIDTH:
                        # Full: decoding goes on with the table as it is until a clear comes.
                        last = b""
                        continue
                    width += 1
                    mask = (1 << width) - 1
            elif free == TABLE_SIZE:
                continue
            last = entry
        self._out += b"".join(chunks)
        if len(self._out) > self._limit:
            raise WireError(f"compressed data stands for more than {self._limit} bytes", "compress")
        self._position, self._width, self._last, self._bits, self._filled = position, width, last, bits, filled
        return self._finished

    def release(self) -> bytearray:
        """The output itself instead of a copy; the decompressor is of no more use."""
        out, self._out = self._out, bytearray()
        return out

    def result(self) -> bytes:
        """What came out so far; all of it once a step said that it is finished."""
        return bytes(self._out)


def decompress(data: bytes, limit: int) -> bytes:
    """Decompress all at once, to at most `limit` bytes. Raises `WireError` of kind `compress`."""
    decompressor = Decompressor(data, limit)
    while not decompressor.step(STEP):
        pass
    return decompressor.result()
