"""The filters of a query: which nodes are to answer.

Rules (spec wire.md 10.5):

* A filter is one type byte and a body. All filters of a query must match.
* What cannot be decoded does not match. An empty filter is also never to be passed on, because it kills peers; test for
  that on the bytes, before decoding.
* Expressions are RE2 text, searched unanchored; compiling them is left to whoever matches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from serfmp.wire.errors import WireError
from serfmp.wire.msgpack_raw import items, put_text, put_texts, read_record, read_value, text

NODE_FILTER: Final = 0
TAG_FILTER: Final = 1


@dataclass(frozen=True, slots=True)
class NodeFilter:
    """Matches the nodes with these names."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TagFilter:
    """Matches where `expression` is found in the value of `tag`; a missing tag has the value of an empty text."""

    tag: str
    expression: str


Filter = NodeFilter | TagFilter


def encode_filter(filter_: Filter) -> bytes:
    """The bytes of one filter."""
    if isinstance(filter_, NodeFilter):
        return b"\x00" + put_texts(filter_.names)
    return b"\x01\x82\xa4Expr" + put_text(filter_.expression) + b"\xa3Tag" + put_text(filter_.tag)


def decode_filter(data: bytes) -> Filter:
    """The meaning of one filter. Raises `WireError`; such a filter does not match."""
    if not data:
        raise WireError("a filter is empty", "filter")
    if data[0] == NODE_FILTER:
        return NodeFilter(tuple(map(text, items(read_value(data[1:])))))
    if data[0] == TAG_FILTER:
        body = read_record(data[1:])
        return TagFilter(text(body.get(b"Tag")), text(body.get(b"Expr")))
    raise WireError(f"a filter is of type {data[0]}", "filter")
