"""The own ring of keys, and rounds over all nodes (spec serf.md 11, 20.16)."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from serfmp.detector.effects import KeysChanged, KeysRequest, Log, StoreKeys
from serfmp.detector.records import RecordKind
from serfmp.wire.internal_queries import KeyRequest, KeyResponse, decode_key_response
from serfmp.wire.messages import User
from serfmp.wire.serf_messages import Query, QueryResponse, decode_serf, encode_serf
from tests.detector.rig import PORT, Rig

OLD, NEW, OTHER = (bytes((number,)) * 32 for number in (1, 2, 3))
ASKER = ("127.0.0.9", PORT)


def text(key: bytes) -> str:
    return base64.b64encode(key).decode()


def asked(rig: Rig, operation: str, key: bytes = b"", id: int = 7) -> KeyResponse | None:
    """What the node answers another one that asks for a change; None: nothing yet."""
    name = "_serf_list-keys" if operation == "list" else f"_serf_{operation}-key"
    rig.take()
    rig.serf(Query(id, id, bytes((127, 0, 0, 9)), PORT, "asker", (), 0, 0, 10**10, name, encode_serf(KeyRequest(key))))
    return told(rig)


def told(rig: Rig) -> KeyResponse | None:
    """The answer that has gone to the asker since the last look."""
    answers = []
    for to, messages in rig.sent():
        for message in messages:
            if to == ASKER and isinstance(message, User):
                response = decode_serf(message.payload)
                if isinstance(response, QueryResponse):
                    answers.append(decode_key_response(response.payload))
    assert len(answers) <= 1
    return answers[0] if answers else None


def ring(rig: Rig) -> tuple[bytes, ...]:
    return rig.core._serf.ring.keys


# --- the own ring -----------------------------------------------------------------------------------------------------


def test_keys_are_installed_used_and_removed_and_each_change_is_journaled_and_told() -> None:
    rig = Rig(keys=(OLD,))
    assert asked(rig, "install", NEW, 1) == KeyResponse(result=True)
    assert ring(rig) == (OLD, NEW)
    assert asked(rig, "install", NEW, 2) == KeyResponse(result=True)
    assert asked(rig, "use", NEW, 3) == KeyResponse(result=True)
    assert asked(rig, "remove", OLD, 4) == KeyResponse(result=True)
    assert asked(rig, "remove", OTHER, 5) == KeyResponse(result=True)
    assert ring(rig) == (NEW,)
    changes = [(OLD, NEW), (NEW, OLD), (NEW,)]
    assert [effect.keys for effect in rig.effects if isinstance(effect, KeysChanged)] == changes
    journaled = [fields[1] for fields in rig.journal if fields[0] == RecordKind.KEYS.value]
    assert journaled == [list(keys) for keys in changes]


@pytest.mark.parametrize(
    ("operation", "key", "error"),
    [
        ("install", b"short", "key size must be 16, 24 or 32 bytes"),
        ("install", b"", "key size must be 16, 24 or 32 bytes"),
        ("use", NEW, "Requested key is not in the keyring"),
        ("remove", OLD, "Removing the primary key is not allowed"),
    ],
)
def test_a_wrong_change_is_refused_in_serfs_words_and_changes_nothing(operation: str, key: bytes, error: str) -> None:
    rig = Rig(keys=(OLD,))
    assert asked(rig, operation, key) == KeyResponse(False, error)
    assert ring(rig) == (OLD,)


@pytest.mark.parametrize("operation", ["install", "use", "remove"])
def test_without_encryption_there_is_no_ring(operation: str) -> None:
    rig = Rig()
    answer = asked(rig, operation, NEW)
    assert answer == KeyResponse(False, "No keyring to modify (encryption not enabled)")
    assert asked(rig, "list", id=8) == KeyResponse(False, "Keyring is empty (encryption not enabled)")
    assert ring(rig) == ()


def test_a_change_holds_once_the_file_has_it_and_not_at_all_if_that_fails() -> None:
    rig = Rig(keys=(OLD,), keyring_file=True)
    assert asked(rig, "install", NEW, 1) is None
    assert asked(rig, "use", NEW, 2) is None
    first, *rest = [effect for effect in rig.effects if isinstance(effect, StoreKeys)]
    assert (first.keys, rest) == ((OLD, NEW), [])
    assert ring(rig) == (OLD,)
    rig.core.keys_stored(first.token + 1, "", rig.now)
    assert ring(rig) == (OLD,)
    rig.core.keys_stored(first.token, "no space left on device", rig.now)
    answers = [
        decode_key_response(decode_serf(message.payload).payload)  # type: ignore[union-attr]
        for to, messages in rig.sent()
        for message in messages
        if to == ASKER and isinstance(message, User)
    ]
    assert answers == [
        KeyResponse(False, "Failed to write keyring file: no space left on device"),
        # The one that waited behind it meets the ring as it still is.
        KeyResponse(False, "Requested key is not in the keyring"),
    ]
    assert ring(rig) == (OLD,)
    assert not any(isinstance(effect, KeysChanged) for effect in rig.effects)
    assert asked(rig, "install", NEW, 3) is None
    last = [effect for effect in rig.effects if isinstance(effect, StoreKeys)][-1]
    rig.core.keys_stored(last.token, "", rig.now)
    assert told(rig) == KeyResponse(result=True)
    assert ring(rig) == (OLD, NEW)


def test_a_list_that_is_too_long_is_cut_and_says_so() -> None:
    keys = tuple(bytes((number,)) * 32 for number in range(1, 60))
    rig = Rig(keys=keys)
    answer = asked(rig, "list")
    assert answer is not None
    shown = len(answer.keys)
    assert 10 < shown < 59
    assert answer.keys == tuple(map(text, keys[:shown]))
    assert answer.primary_key == text(keys[0])
    assert answer.result
    assert answer.message == f"truncated key list response, showing first {shown} of 59 keys"
    whole = QueryResponse(7, 7, "own", 0, encode_serf(answer))
    assert len(encode_serf(whole)) <= 1024
    longer = KeyResponse(True, answer.message, tuple(map(text, keys[: shown + 1])), text(keys[0]))
    assert len(encode_serf(QueryResponse(7, 7, "own", 0, encode_serf(longer)))) > 1024


# --- rounds -----------------------------------------------------------------------------------------------------------


def rig_of_three() -> Rig:
    rig = Rig(keys=(OLD, NEW))
    rig.alive("a")
    rig.alive("b")
    rig.take()
    return rig


def begin(rig: Rig, operation: str, key: bytes = b"", force: bool = False) -> None:
    rig.core.request(("rpc", 1, 1), KeysRequest(operation, text(key) if key else "", 0, force), rig.now)


def outcome(rig: Rig) -> tuple[Any, str]:
    rig.pass_time(0.0)
    [answer] = rig.answers()
    return answer.value, answer.error


def test_a_round_ends_when_everybody_has_answered() -> None:
    rig = rig_of_three()
    begin(rig, "list")
    for node, primary in (("a", OLD), ("b", OLD)):
        assert rig.answers() == []
        rig.answer_query(node, encode_serf(KeyResponse(True, "", (text(OLD),), text(primary))))
    value, error = outcome(rig)
    assert error == ""
    assert value == {
        "messages": {},
        "nodes": 3,
        "responses": 3,
        "errors": 0,
        "keys": {text(OLD): 3, text(NEW): 1},
    }


def test_who_does_not_answer_is_named_when_the_time_is_over() -> None:
    rig = rig_of_three()
    begin(rig, "install", OTHER)
    rig.answer_query("a", encode_serf(KeyResponse(result=True)))
    rig.answer_query("a", encode_serf(KeyResponse(result=True)))
    rig.pass_time(30.0)
    value, error = outcome(rig)
    assert error == "2/3 nodes reported success"
    assert (value["nodes"], value["responses"], value["errors"]) == (3, 2, 0)
    logs = [effect.text for effect in rig.effects if isinstance(effect, Log)]
    assert "No answer about keys from: b" in logs


@pytest.mark.parametrize("payload", [b"", b"\x08\xc1", b"\x07junk"])
def test_an_answer_that_is_none_counts_as_a_failure(payload: bytes) -> None:
    rig = rig_of_three()
    begin(rig, "install", OTHER)
    rig.answer_query("a", payload)
    rig.answer_query("b", encode_serf(KeyResponse(False, "disk full")))
    value, error = outcome(rig)
    assert error == "2/3 nodes reported failure"
    assert value["messages"]["b"] == "disk full"
    assert "key query response" in value["messages"]["a"]


def test_a_key_is_not_taken_from_a_node_that_still_uses_it() -> None:
    rig = rig_of_three()
    begin(rig, "remove", NEW)
    for node, primary in (("a", OLD), ("b", NEW)):
        rig.answer_query(node, encode_serf(KeyResponse(True, "", (text(OLD), text(NEW)), text(primary))))
    value, error = outcome(rig)
    assert error == "the key is not removed, because of b; see there, or force it"
    assert value["messages"] == {"b": "still uses it"}
    assert ring(rig) == (OLD, NEW)


def test_a_key_is_not_removed_while_a_living_node_is_silent_unless_forced() -> None:
    rig = rig_of_three()
    begin(rig, "remove", NEW)
    rig.answer_query("a", encode_serf(KeyResponse(True, "", (text(OLD),), text(OLD))))
    rig.pass_time(30.0)
    value, error = outcome(rig)
    assert error == "the key is not removed, because of b; see there, or force it"
    assert value["messages"] == {"b": "did not answer"}
    assert ring(rig) == (OLD, NEW)
    begin(rig, "remove", NEW, force=True)
    assert ring(rig) == (OLD,)


def test_a_key_that_nobody_needs_is_removed_everywhere() -> None:
    rig = rig_of_three()
    begin(rig, "remove", NEW)
    for node in ("a", "b"):
        rig.answer_query(node, encode_serf(KeyResponse(True, "", (text(OLD), text(NEW)), text(OLD))))
    rig.pass_time(0.0)
    for node in ("a", "b"):
        rig.answer_query(node, encode_serf(KeyResponse(result=True)))
    value, error = outcome(rig)
    assert (value["responses"], error) == (3, "")
    assert ring(rig) == (OLD,)


def test_changes_wait_for_each_other() -> None:
    rig = rig_of_three()
    begin(rig, "install", OTHER)
    rig.core.request(("rpc", 1, 2), KeysRequest("use", text(OTHER), 0, False), rig.now)
    assert ring(rig) == (OLD, NEW, OTHER)
    for node in ("a", "b"):
        rig.answer_query(node, encode_serf(KeyResponse(result=True)))
    rig.pass_time(0.0)
    assert [answer.request for answer in rig.answers()] == [("rpc", 1, 1)]
    assert ring(rig) == (OTHER, OLD, NEW)
