"""The MessagePack dialect of the gossip wire: the form from before text and bytes were told apart.

Rules (spec wire.md 2):

* Emitted: raw strings only, never bin, str8 or ext (old peers drop them); shortest unsigned integers; keys in ascending
  order.
* Accepted: every width of every integer and string that fits the field, nil as the zero value of any field, unknown
  fields of any value, keys in any order, the last of repeated keys. Bytes after the value are ignored.
* A claimed length or count reserves no memory: arrays are bounded before they are built, text is cut from bytes that
  are there, and nesting is bounded by the parser's own stack of 1024.
* Text is UTF-8; bytes that are not survive a round trip as surrogate escapes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

from msgpack import ExtraData, Unpacker, UnpackException, unpackb

from serfmp.errors import InternalError, UserError
from serfmp.wire.errors import WireError

Record = dict[bytes, Any]
"""A decoded body: field name to a value that is not yet checked."""

MAX_ARRAY: Final = 1024
"""Longest array inside a record. The parser reserves eight bytes per claimed element at each level of nesting."""

MAX_ODD_FIELDS: Final = 256
"""Most fields of a record that the fast parser refuses. Real records have at most eleven."""

U8_MAX: Final = 0xFF
U16_MAX: Final = 0xFFFF
U32_MAX: Final = 0xFFFF_FFFF
U64_MAX: Final = 0xFFFF_FFFF_FFFF_FFFF
LTIME_MAX: Final = U64_MAX - 1
"""The highest Lamport time that is accepted: whoever witnessed the next one would wrap its clock (wire.md 12.7)."""

I64_MAX: Final = 0x7FFF_FFFF_FFFF_FFFF

NIL: Final = b"\xc0"

PARSER_ERRORS: Final = (ValueError, TypeError, OverflowError, UnpackException)
"""Everything that the parser is known to raise."""


class _Unreadable:
    """Stands for a value that the parser can step over but not build: fit for an unknown field only."""


_UNREADABLE: Final = _Unreadable()


# --- reading ----------------------------------------------------------------------------------------------------------


def read_record(data: bytes | memoryview) -> Record:
    """The record that `data` begins with; a nil body is an empty record. Raises `WireError`."""
    try:
        body = unpackb(data, raw=True, max_array_len=MAX_ARRAY)
    except ExtraData as error:
        body = error.unpacked
    except PARSER_ERRORS:
        return _read_odd_record(data)
    if type(body) is dict:
        return body
    if body is None:
        return {}
    raise WireError(f"a body is a {type(body).__name__}, not a map")


def _read_odd_record(data: bytes | memoryview) -> Record:
    """The same, field by field: an unknown field may hold what the fast parser refuses (odd keys, ext, long arrays)."""
    body: Record = {}
    for key, (start, end) in read_extents(data).items():
        try:
            body[key] = unpackb(data[start:end], raw=True, max_array_len=MAX_ARRAY)
        except PARSER_ERRORS:
            body[key] = _UNREADABLE
    return body


def read_extents(data: bytes | memoryview) -> dict[bytes, tuple[int, int]]:
    """Where the value of each field of a record begins and ends, without building any. Raises `WireError`."""
    if data[:1] == NIL:
        return {}
    unpacker = new_unpacker()
    extents: dict[bytes, tuple[int, int]] = {}
    try:
        unpacker.feed(data)
        count = unpacker.read_map_header()
        if count > MAX_ODD_FIELDS and len(data) > count:
            raise WireError(f"a body has {count} fields", "limit")
        for _ in range(count):
            key = unpacker.unpack()
            if type(key) is not bytes:
                raise WireError(f"a field name is a {type(key).__name__}, not text")
            start = unpacker.tell()
            unpacker.skip()
            extents[key] = start, unpacker.tell()
    except PARSER_ERRORS as error:
        raise unparsable(error) from None
    return extents


def read_value(data: bytes | memoryview) -> Any:
    """The value of any type that `data` begins with. Raises `WireError`."""
    try:
        return unpackb(data, raw=True, max_array_len=MAX_ARRAY)
    except ExtraData as error:
        return error.unpacked
    except PARSER_ERRORS as error:
        raise unparsable(error) from None


def unparsable(error: Exception) -> WireError:
    """Our error for one of the parser's."""
    return WireError(f"a body cannot be parsed: {str(error) or type(error).__name__}")


def record_length(data: bytes | memoryview) -> int:
    """How many bytes of `data` its first value takes. Raises `WireError` if it is not complete."""
    unpacker = new_unpacker()
    try:
        unpacker.feed(data)
        unpacker.skip()
    except PARSER_ERRORS as error:
        raise unparsable(error) from None
    return int(unpacker.tell())


def new_unpacker() -> Any:
    """An incremental parser of this dialect. It reserves no memory beyond what it is fed."""
    return Unpacker(raw=True, strict_map_key=True, max_array_len=MAX_ARRAY, max_buffer_size=0, read_size=64)


def text(value: Any) -> str:
    """A text field."""
    if type(value) is bytes:
        return value.decode("utf-8", "surrogateescape")
    if value is None:
        return ""
    raise _wrong(value, "text")


def raw(value: Any) -> bytes:
    """A field of bytes; an array of small integers counts as bytes."""
    if type(value) is bytes:
        return value
    if value is None:
        return b""
    if type(value) is list:
        try:
            return bytes(value)
        except (TypeError, ValueError):
            raise _wrong(value, "bytes") from None
    raise _wrong(value, "bytes")


def uint(value: Any, limit: int) -> int:
    """An unsigned field of at most `limit`."""
    if type(value) is int and 0 <= value <= limit:
        return value
    if value is None:
        return 0
    raise _wrong(value, f"an integer from 0 to {limit}")


def ltime(value: Any) -> int:
    """A Lamport time that a clock can witness without wrapping."""
    time = uint(value, U64_MAX)
    if time > LTIME_MAX:
        raise WireError("a Lamport time is the highest there is, which would wrap a clock", "ltime")
    return time


def sint(value: Any) -> int:
    """A signed field of 64 bits."""
    if type(value) is int and -I64_MAX - 1 <= value <= I64_MAX:
        return value
    if value is None:
        return 0
    raise _wrong(value, "a signed integer of 64 bits")


def flag(value: Any) -> bool:
    """A field that is true or false; 1 and 0 are accepted."""
    if value is True or value is False:
        return value
    if value is None:
        return False
    if type(value) is int and 0 <= value <= 1:
        return value == 1
    raise _wrong(value, "true or false")


def real(value: Any) -> float:
    """A floating point field; integers are accepted."""
    if type(value) is float:
        return value
    if value is None:
        return 0.0
    if type(value) is int:
        return float(value)
    raise _wrong(value, "a number")


def items(value: Any) -> list[Any]:
    """A field that is a list; its elements are not yet checked."""
    if type(value) is list:
        return value
    if value is None:
        return []
    raise _wrong(value, "a list")


def mapping(value: Any) -> Record:
    """A field that is a map; its values are not yet checked."""
    if type(value) is dict:
        return value
    if value is None:
        return {}
    raise _wrong(value, "a map")


def _wrong(value: Any, wanted: str) -> WireError:
    shown = value if type(value) in {int, float, bool} else type(value).__name__
    return WireError(f"a field should be {wanted} and is {shown}", "field")


# --- writing ----------------------------------------------------------------------------------------------------------

_SMALL: Final = tuple(bytes((number,)) for number in range(128))
_U8: Final = struct.Struct(">BB").pack
_U16: Final = struct.Struct(">BH").pack
_U32: Final = struct.Struct(">BI").pack
_U64: Final = struct.Struct(">BQ").pack
_I64: Final = struct.Struct(">Bq").pack
_F64: Final = struct.Struct(">Bd").pack
_FIXRAW: Final = tuple(bytes((0xA0 + length,)) for length in range(32))
_CACHED: Final = 4096
CACHED_TEXT: Final = 128
"""Longest text whose encoding is remembered: strangers choose texts, and long ones would fill the memory."""

_TRUE: Final = b"\xc3"
_FALSE: Final = b"\xc2"


def put_uint(number: int) -> bytes:
    """The shortest form of an unsigned integer."""
    if 0 <= number < 128:
        return _SMALL[number]
    if 0 <= number <= U8_MAX:
        return _U8(0xCC, number)
    if 0 <= number <= U16_MAX:
        return _U16(0xCD, number)
    if 0 <= number <= U32_MAX:
        return _U32(0xCE, number)
    if 0 <= number <= U64_MAX:
        return _U64(0xCF, number)
    raise InternalError(f"{number} does not fit 64 unsigned bits")


def put_sint(number: int) -> bytes:
    """A signed integer; those not below zero are written like unsigned ones, which every peer accepts."""
    if number >= 0:
        return put_uint(number)
    if number >= -32:
        return bytes((256 + number,))
    return _I64(0xD3, number)


def put_flag(value: bool) -> bytes:
    """True or false."""
    return _TRUE if value else _FALSE


def put_real(number: float) -> bytes:
    """A floating point number, always in 64 bits."""
    return _F64(0xCB, number)


def put_raw(value: bytes) -> bytes:
    """Bytes with their raw header."""
    length = len(value)
    if length < 32:
        return _FIXRAW[length] + value
    if length <= U16_MAX:
        return _U16(0xDA, length) + value
    return _U32(0xDB, length) + value


def put_raw_or_nil(value: bytes) -> bytes:
    """Bytes with their raw header; nil if there are none."""
    return put_raw(value) if value else NIL


def put_text(value: str) -> bytes:
    """Text with its raw header; `UserError` for text that has no UTF-8 form."""
    return _put_short_text(value) if len(value) <= CACHED_TEXT else _put_any_text(value)


@lru_cache(maxsize=_CACHED)
def _put_short_text(value: str) -> bytes:
    return _put_any_text(value)


def _put_any_text(value: str) -> bytes:
    try:
        return put_raw(value.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        raise UserError(f"{value!r} holds a lone surrogate, which cannot be sent; use valid Unicode text") from None


def put_array_header(count: int) -> bytes:
    """The header of an array of `count` elements."""
    if count < 16:
        return bytes((0x90 + count,))
    return _U16(0xDC, count) if count <= U16_MAX else _U32(0xDD, count)


def put_map_header(count: int) -> bytes:
    """The header of a map of `count` pairs."""
    if count < 16:
        return bytes((0x80 + count,))
    return _U16(0xDE, count) if count <= U16_MAX else _U32(0xDF, count)


def put_texts(values: Iterable[str]) -> bytes:
    """An array of texts."""
    parts = [put_text(value) for value in values]
    return put_array_header(len(parts)) + b"".join(parts)
