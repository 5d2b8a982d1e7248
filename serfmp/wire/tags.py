"""The tags of a member, as they travel in the metadata of the gossip layer.

Rules (spec wire.md 9):

* From Serf protocol 3 on: a marker byte and a map of text to text. Before: the bare text of the tag `role`.
* Anyone may gossip any metadata, so reading never fails: without the marker all of it is the role, garbage after the
  marker is no tags.
* Order is free on the wire, but metadata is compared as bytes; ours is sorted, so equal tags give equal bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from serfmp.errors import UserError
from serfmp.wire.errors import WireError
from serfmp.wire.messages import META_MAX
from serfmp.wire.msgpack_raw import put_map_header, put_text, read_record, text

MARKER: Final = 0xFF
"""First byte of metadata that holds a map of tags."""

MAP_SINCE_PROTOCOL: Final = 3
"""The first Serf protocol that carries all tags."""


def encode_tags(tags: Mapping[str, str], protocol: int = 5) -> bytes:
    """The metadata for these tags under this Serf protocol; `UserError` if it would be longer than 512 bytes."""
    if protocol < MAP_SINCE_PROTOCOL:
        meta = tags.get("role", "").encode("utf-8", "surrogateescape")
    else:
        pairs = [put_text(key) + put_text(value) for key, value in sorted(tags.items())]
        meta = bytes((MARKER,)) + put_map_header(len(pairs)) + b"".join(pairs)
    if len(meta) > META_MAX:
        raise UserError(f"Encoded length of tags exceeds limit of {META_MAX} bytes")
    return meta


def decode_tags(meta: bytes) -> dict[str, str]:
    """The tags in this metadata. Never raises: without the marker all is the role, garbage behind it is no tags."""
    if not meta or meta[0] != MARKER:
        return {"role": meta.decode("utf-8", "surrogateescape")}
    try:
        return {text(key): text(value) for key, value in read_record(meta[1:]).items()}
    except WireError:
        return {}
