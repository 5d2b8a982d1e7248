"""Members as the RPC writes them, read again."""

from __future__ import annotations

from dataclasses import replace

from serfmp.detector.effects import Member, MemberStatus
from serfmp.io import rpc_records

ROW = Member("a\udcff", b"\x7f\0\0\1", 7946, {"role": "web", "Tags": "\udcfe"}, MemberStatus.ALIVE, (1, 5, 2, 3, 4, 6))


def test_a_member_that_was_encoded_is_read_again_as_it_was() -> None:
    for status in MemberStatus:
        row = replace(ROW, status=status)
        assert rpc_records.member_of(rpc_records.member(row)) == row
    assert rpc_records.member_of(rpc_records.member(replace(ROW, tags={}))) == replace(ROW, tags={})
    assert rpc_records.tags_of(rpc_records.tags(ROW)) == ROW.tags
    assert rpc_records.member(ROW).endswith(rpc_records.tags(ROW))
