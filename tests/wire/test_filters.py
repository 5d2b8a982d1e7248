from __future__ import annotations

import pytest

from serfmp.wire.errors import WireError
from serfmp.wire.filters import NodeFilter, TagFilter, decode_filter, encode_filter


def test_filters_are_written_as_serf_writes_them() -> None:
    assert encode_filter(NodeFilter(("a", "b"))) == b"\x00\x92\xa1a\xa1b"
    assert encode_filter(TagFilter("role", "^web")) == b"\x01\x82\xa4Expr\xa4^web\xa3Tag\xa4role"


def test_no_names_match_nobody_and_are_no_error() -> None:
    assert decode_filter(b"\x00\x90") == decode_filter(b"\x00\xc0") == NodeFilter(())


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"\x01", b"\x02\x80", b"\x00\x05", b"\x00\x91\x05", b"\x01\x81\xa3Tag\x05"]
)
def test_what_is_no_filter_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        decode_filter(data)
