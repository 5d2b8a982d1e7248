from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serfmp.errors import UserError
from serfmp.wire.tags import decode_tags, encode_tags
from tests.wire.strategies import names


def test_no_tags_are_an_empty_map_behind_the_marker() -> None:
    assert encode_tags({}) == b"\xff\x80"


def test_equal_tags_give_equal_bytes_in_any_order() -> None:
    assert encode_tags({"b": "2", "a": "1"}) == encode_tags({"a": "1", "b": "2"}) == b"\xff\x82\xa1a\xa11\xa1b\xa12"


def test_the_oldest_protocol_carries_the_bare_role() -> None:
    assert encode_tags({"role": "web", "dc": "east"}, protocol=2) == b"web"


def test_tags_over_the_limit_are_the_users_error() -> None:
    assert len(encode_tags({"k": "v" * 505})) == 512
    with pytest.raises(UserError, match=r"^Encoded length of tags exceeds limit of 512 bytes$"):
        encode_tags({"k": "v" * 506})


@pytest.mark.parametrize(
    ("meta", "tags"),
    [
        (b"", {"role": ""}),
        (b"web", {"role": "web"}),
        (b"\x80", {"role": "\udc80"}),
        (b"\xff", {}),
        (b"\xff\x80", {}),
        (b"\xff\xc1", {}),
        (b"\xff\x81\xa1a\x05", {}),
        (b"\xff\x81\xa1a\xc0", {"a": ""}),
        (b"\xff\x81\xa1a\xa1b and more", {"a": "b"}),
    ],
)
def test_any_metadata_gives_tags(meta: bytes, tags: dict[str, str]) -> None:
    assert decode_tags(meta) == tags


@given(st.dictionaries(names, names, max_size=5))
def test_tags_are_read_back(tags: dict[str, str]) -> None:
    assert decode_tags(encode_tags(tags)) == tags
