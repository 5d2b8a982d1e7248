"""Strategies for messages, and for bytes that look like the wire."""

from __future__ import annotations

import msgpack
from hypothesis import strategies as st

from serfmp.wire.messages import (
    META_MAX,
    Ack,
    Alive,
    Dead,
    IndirectPing,
    Nack,
    Ping,
    PushPullNode,
    Suspect,
    User,
    version_fault,
)
from serfmp.wire.msgpack_raw import I64_MAX, LTIME_MAX, U8_MAX, U16_MAX, U32_MAX
from serfmp.wire.serf_messages import (
    ConflictResponse,
    EventSlot,
    JoinIntent,
    KeyRequest,
    KeyResponse,
    LeaveIntent,
    NodeFilter,
    PushPullState,
    Query,
    QueryResponse,
    Relay,
    TagFilter,
    UserEvent,
)
from tests.wire import vectors

u8 = st.integers(0, U8_MAX)
u16 = st.integers(0, U16_MAX)
u32 = st.integers(0, U32_MAX)
ltimes = st.integers(0, LTIME_MAX)
names = st.binary(max_size=40).map(lambda data: data.decode("utf-8", "surrogateescape"))
"""Text as it can arrive: with bytes that are not UTF-8."""

member_names = names.filter(lambda name: name != "" and "\n" not in name)
addresses = st.binary(min_size=4, max_size=4) | st.binary(min_size=16, max_size=16)
payloads = st.binary(max_size=300)
metas = st.binary(max_size=META_MAX)
six = st.binary(min_size=6, max_size=6)

pings = st.builds(Ping, u32, names, addresses | st.just(b""), u16, names)
acks = st.builds(Ack, u32, payloads)
messages = st.one_of(
    pings,
    acks,
    st.builds(IndirectPing, u32, addresses, u16, names, st.booleans(), addresses | st.just(b""), u16, names),
    st.builds(Nack, u32),
    st.builds(Suspect, u32, names, names),
    st.builds(Dead, u32, names, names),
    st.builds(Alive, u32, member_names, addresses, u16, metas, six.filter(lambda data: not version_fault(data))),
    st.builds(User, st.binary(min_size=1, max_size=300)),
)
nodes = st.builds(PushPullNode, member_names, addresses, u16, metas, u32, st.integers(0, 3), six)

filters = st.builds(NodeFilter, st.lists(names, max_size=20).map(tuple)) | st.builds(TagFilter, names, names)
serf_messages = st.one_of(
    st.builds(LeaveIntent, ltimes, names, st.booleans()),
    st.builds(JoinIntent, ltimes, names),
    st.builds(UserEvent, ltimes, names, payloads, st.booleans()),
    st.builds(
        Query,
        ltimes,
        u32,
        addresses,
        u16,
        names,
        st.lists(st.binary(min_size=1, max_size=50), max_size=20).map(tuple),
        u32,
        u8,
        st.integers(-I64_MAX - 1, I64_MAX),
        names,
        payloads,
    ),
    st.builds(QueryResponse, ltimes, u32, names, u32, payloads),
    st.builds(Relay, addresses, u16, names, payloads.map(lambda data: b"\x05" + data)),
    st.just(ConflictResponse()),
    st.builds(
        ConflictResponse,
        member_names,
        addresses,
        u16,
        st.dictionaries(names, names, max_size=20),
        st.integers(0, 4),
        st.tuples(u8, u8, u8, u8, u8, u8),
    ),
    st.builds(KeyRequest, st.binary(max_size=32)),
    st.builds(KeyResponse, st.booleans(), names, st.lists(names, max_size=20).map(tuple), names),
)
states = st.builds(
    PushPullState,
    ltimes,
    st.dictionaries(names, ltimes, max_size=20),
    st.lists(names, max_size=20).map(tuple),
    ltimes,
    st.lists(
        st.builds(EventSlot, ltimes, st.lists(st.tuples(names, payloads), max_size=4).map(tuple)), max_size=20
    ).map(tuple),
    ltimes,
)

_KEYS = (
    b"Addr Algo Buf CC DestAddr EventLTime Events Filters Flags From ID Incarnation Join LTime LeftMembers Meta Nack "
    b"Name Node Nodes Payload Port SeqNo SourceAddr State StatusLTimes Tags Target UserMsgLen UserStateLen Vec Vsn"
).split()
_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-I64_MAX - 1, 2 * I64_MAX + 1)
    | st.integers(0, 8)
    | st.floats()
    | st.binary(max_size=20)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=9)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(_KEYS) | st.binary(max_size=4), inner),
    max_leaves=12,
)
_bodies = st.dictionaries(st.sampled_from(_KEYS), _values, max_size=8) | _values
_records = st.builds(
    lambda kind, body, binary, rest: bytes((kind,)) + msgpack.packb(body, use_bin_type=binary) + rest,
    st.integers(0, 13),
    _bodies,
    st.booleans(),
    st.binary(max_size=20),
)

_CAPTURED = [
    bytes.fromhex(vector["hex"])
    for name in ("messages", "hostile")
    for vector in vectors.load(name)
    if len(vector["hex"]) < 6000
]


@st.composite
def _damaged(draw: st.DrawFn) -> bytes:
    """A captured packet or stream with a few bytes changed, cut out or put in."""
    data = bytearray(draw(st.sampled_from(_CAPTURED)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(data)


wire_bytes = st.one_of(st.binary(max_size=200), _records, st.builds(lambda data: b"\x08" + data, _records), _damaged())
"""Bytes of every degree of likeness to the wire."""
