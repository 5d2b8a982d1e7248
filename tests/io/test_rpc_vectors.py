"""Connections recorded from the real agent, played against ours: what is equal, and the table of what is not."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgpack
import pytest

from tests.harness import Agent, Launcher, LoopbackAllocator, eventually
from tests.io.rpc_stage import RpcStage, member

DATA: Final = json.loads((Path(__file__).parent.parent / "data" / "rpc-vectors.json").read_text())
VECTORS: Final = {vector["name"]: vector for vector in DATA["vectors"]}

DIFFERENT: Final = {
    "members-filtered-bad-regex": "answered with an error instead of a closed connection",
    "header-missing-fields": "a missing field is zero instead of what the header before had",
    "auth-required-with-body": "the body is read, so there is one refusal instead of two",
}
ABSENT: Final = {
    "stream-member": "repeats updates of members that did not change; played without them",
    "slow-client": "only a log; see test_rpc.py",
}
EQUAL: Final = [name for name in VECTORS if name not in DIFFERENT and name not in ABSENT]

GUARDED: Final = [name for name in EQUAL if name.startswith("auth-") and name != "auth-without-key"]
"""Vectors of an agent with a token."""

ADDRESS: Final = b"127.0.0.1:21191"
PIECE: Final = b"\x82\xa7Com"
"""What `split-write` sent before its recorded bytes."""

SILENCE_S: Final = 0.15
"""How long an answer is waited for that must not come."""


@dataclass(frozen=True)
class Target:
    """An agent's RPC, and its gossip address with five digits of port, as in the vectors."""

    rpc: tuple[str, int]
    bind: bytes


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with LoopbackAllocator() as loopback, Launcher(tmp_path_factory.mktemp("agents"), loopback) as launch:
        bind = loopback.endpoint("127.0.0.1")
        started: Agent = launch.serfmp("rpc1", tags={"role": "web"}, bind=bind)
        yield Target((started.options.rpc.host, started.options.rpc.port), str(bind).encode())


def normal(value: Any) -> Any:
    """Without what is different in every run: times, ports, names of nodes, figures."""
    if isinstance(value, list):
        return [normal(item) for item in value]
    if not isinstance(value, dict):
        return value
    if set(value) >= {"agent", "runtime", "serf"}:
        return {section: sorted(value[section]) for section in ("agent", "runtime", "serf")}
    volatile = {"LTime": int, "Port": int, "Tags": dict}
    found = {key: normal(item) for key, item in value.items()}
    for key, kind in volatile.items():
        if key in found:
            assert isinstance(found[key], kind), found
            found[key] = kind.__name__
    if "Addr" in found:
        found["Name"], found["Addr"] = "node", "address"
    return found


def plain(value: Any) -> Any:
    """As the vectors show bytes: as text where it is text."""
    if isinstance(value, bytes):
        try:
            return value.decode("ascii")
        except UnicodeDecodeError:
            return {"hex": value.hex()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def play(vector: dict[str, Any], target: Target) -> list[tuple[Any, Any]]:
    """What was recorded and what came, for every step."""
    outcome = []
    with socket.create_connection(target.rpc) as sock:
        unpacker = msgpack.Unpacker(unicode_errors="surrogateescape", strict_map_key=False)
        for step in vector["steps"]:
            if step.get("note") == "unsolicited data":
                continue
            data = bytes.fromhex(step.get("send_hex", "")).replace(ADDRESS, target.bind)
            if vector["name"] == "split-write":
                sock.sendall(PIECE)
            if data:
                sock.sendall(data)
            elif "server_closed" in step:
                sock.shutdown(socket.SHUT_WR)
            expected, closes = step["recv"], "server_closed" in step
            came, closed = receive(sock, unpacker, len(expected), closes=closes)
            outcome.append(((in_any_order(expected), closes), (in_any_order(came), closed)))
            if closed:
                break
    return outcome


def in_any_order(values: list[Any]) -> list[str]:
    """Records may come before or behind an answer."""
    return sorted(json.dumps(normal(plain(value)), sort_keys=True) for value in values)


def receive(sock: socket.socket, unpacker: Any, count: int, *, closes: bool) -> tuple[list[Any], bool]:
    values: list[Any] = []
    sock.settimeout(10 if count or closes else SILENCE_S)
    while len(values) < count or closes or not count:
        try:
            data = sock.recv(65536)
        except TimeoutError:
            return values, False
        except ConnectionResetError:
            data = b""
        if not data:
            return values, True
        unpacker.feed(data)
        values += list(unpacker)
    return values, False


ANSWERED: Final = ["query", "query-interleaved", "tags", "keys-unencrypted", "get-coordinate"]
"""Vectors of an agent with a tag and a handler that answers, or that change the agent."""


@pytest.mark.parametrize("name", ANSWERED)
def test_recorded_queries_and_changes_are_equal(launch: Launcher, name: str) -> None:
    answering = launch.serfmp("rpc1", tags={"k": "v"}, handlers=["query:load=echo answer"])
    target = Target((answering.options.rpc.host, answering.options.rpc.port), str(answering.bind).encode())
    for recorded, came in play(VECTORS[name], target):
        assert came == recorded


def test_recorded_changes_of_keys_are_equal(launch: Launcher) -> None:
    sealed = launch.serfmp("rpc4", extra=["-encrypt=HvY8ubRZMgafUOWvrOadwOckVa1wN3QWAo46FVKbVN8="])
    target = Target((sealed.options.rpc.host, sealed.options.rpc.port), str(sealed.bind).encode())
    for recorded, came in play(VECTORS["keys-encrypted"], target):
        assert came == recorded


@pytest.mark.parametrize(
    "name", [name for name in EQUAL if name not in {*GUARDED, *ANSWERED, "leave", "keys-encrypted", "monitor"}]
)
def test_recorded_connections_are_equal(agent: Target, name: str) -> None:
    for recorded, came in play(VECTORS[name], agent):
        assert came == recorded


@pytest.mark.parametrize("name", GUARDED)
def test_recorded_connections_to_an_agent_with_a_token_are_equal(name: str) -> None:
    with RpcStage(member("rpc1"), auth="sekrit") as stage:
        for recorded, came in play(VECTORS[name], Target(stage.address, ADDRESS)):
            assert came == recorded


def about(node: str, values: list[Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Kinds of the records, each with its members of this name; without what does not concern it."""
    events = [(value["Event"], value["Members"]) for value in map(plain, values) if "Event" in value]
    found = [(kind, [row for row in rows if row["Name"] == node]) for kind, rows in events]
    for _, rows in found:
        for row in rows:
            row.pop("Port")
            row.pop("Addr")
    return [(kind, rows) for kind, rows in found if rows]


def test_the_recorded_stream_of_member_events_is_equal_but_for_repeated_updates(launch: Launcher) -> None:
    """Serf tells updates of a member again with every later batch; what is told of the peer is compared."""
    one = launch.serfmp("rpc1", tags={"k": "v"})
    steps = {step.get("note", number): step for number, step in enumerate(VECTORS["stream-member"]["steps"])}
    peer: list[Agent] = []
    actions: dict[Any, Callable[[], Any]] = {
        "join of a peer": lambda: peer.append(launch.serfmp("rpc2", tags={"role": "db"}, join=[one])),
        "peer tags changed": lambda: peer[0].client().call("tags", {"Tags": {"z": "1"}, "DeleteTags": []}),
        "peer killed": lambda: peer[0].kill(),  # noqa: PLW0108  it is not there yet
        "force-leave of the failed peer": lambda: one.client().call("force-leave", {"Node": "rpc2", "Prune": False}),
    }
    with socket.create_connection((one.options.rpc.host, one.options.rpc.port)) as sock:
        unpacker = msgpack.Unpacker(unicode_errors="surrogateescape", strict_map_key=False)
        for note, step in steps.items():
            sock.sendall(bytes.fromhex(step.get("send_hex", "")))
            if note in actions:
                actions[note]()
            expected = about("rpc2", step["recv"])
            came: list[Any] = []

            def complete(came: list[Any] = came, count: int = len(expected), answers: int = len(step["recv"])) -> bool:
                sock.settimeout(0.05)
                with contextlib.suppress(TimeoutError):
                    unpacker.feed(sock.recv(65536))
                    came += list(unpacker)
                return len(about("rpc2", came)) >= count and bool(came or not answers)

            eventually(complete, 20, f"the records of {note!r}")
            assert about("rpc2", came) == expected, note


LOG_LINE: Final = re.compile(
    r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d \[(?P<level>[A-Z]+)\] (agent|agent\.ipc|serf|memberlist): .+", re.DOTALL
)


def log_lines(values: list[Any]) -> tuple[list[Any], list[str], set[int]]:
    """Answers, and the lines of the records among them, and the numbers that these came under."""
    answers: list[Any] = []
    lines: list[str] = []
    numbers: set[int] = set()
    before: Any = None
    for value in values:
        if "Log" in value:
            answers.pop()
            lines.append(value["Log"])
            numbers.add(before["Seq"])
        else:
            answers.append(value)
        before = value
    return answers, lines, numbers


def test_the_recorded_monitor_is_equal_but_for_the_lines(launch: Launcher) -> None:
    """The recorded log is that of all connections before it: here two of them are played."""
    watched = launch.serfmp("rpc1")
    target = Target((watched.options.rpc.host, watched.options.rpc.port), ADDRESS)
    for name in ("handshake-required", "unsupported-command"):
        play(VECTORS[name], target)
    with socket.create_connection(target.rpc) as sock:
        unpacker = msgpack.Unpacker()
        for step in VECTORS["monitor"]["steps"]:
            expected, wanted, under = log_lines(step["recv"])
            sock.sendall(bytes.fromhex(step["send_hex"]))
            came: list[Any] = []

            def complete(wanted: list[str] = wanted, came: list[Any] = came) -> bool:
                sock.settimeout(0.01)
                with contextlib.suppress(TimeoutError):
                    unpacker.feed(sock.recv(65536))
                    came += list(unpacker)
                if wanted:
                    return bool(came) and "Log" in came[-1] and any("'bogus'" in line for line in log_lines(came)[1])
                return bool(came)

            eventually(complete, 10, f"the answer to {step['send']}")
            answers, lines, numbers = log_lines(came)
            assert (answers, numbers) == (expected, under)
            matches = [LOG_LINE.fullmatch(line) for line in lines]
            assert None not in matches
            recorded_levels = {match["level"] for line in wanted if (match := LOG_LINE.fullmatch(line))}
            assert {match["level"] for match in matches if match} <= recorded_levels
            if wanted:
                # What the bad connections caused is told in the recorded words.
                assert {line[20:] for line in lines} & {line[20:] for line in wanted}


def test_the_recorded_leave_is_equal_and_ends_the_agent(launch: Launcher) -> None:
    leaving = launch.serfmp("rpc1")
    target = Target((leaving.options.rpc.host, leaving.options.rpc.port), ADDRESS)
    for recorded, came in play(VECTORS["leave"], target):
        assert came == recorded
    assert leaving.wait_exit(10) == VECTORS["leave"]["agent_exit_code"]


@pytest.mark.parametrize("name", [name for name in DIFFERENT if not name.startswith("auth-")])
def test_the_table_of_differences_is_true(agent: Target, name: str) -> None:
    assert any(recorded != came for recorded, came in play(VECTORS[name], agent)), DIFFERENT[name]


def test_most_of_the_vectors_are_equal() -> None:
    assert len(EQUAL) == 52, f"{len(EQUAL)} of {len(VECTORS)} equal"
    assert DIFFERENT.keys() | ABSENT.keys() < VECTORS.keys()


IMPLEMENTED: Final = [
    exchange
    for exchange in DATA["cli_exchanges"][:-3]
    if exchange["argv"][1] in {"members", "join", "event", "force-leave", "tags", "info", "keys", "reachability"}
    and "-name=(" not in exchange["argv"]
]
"""Without those that other tests hold: tokens (the last three), a bad expression, monitor, leave, queries."""


@pytest.mark.parametrize("exchange", IMPLEMENTED, ids=lambda exchange: " ".join(exchange["argv"][1:]))
def test_the_bytes_of_the_real_command_line_get_the_answers_that_it_got(
    agent: Target, exchange: dict[str, Any]
) -> None:
    steps: list[dict[str, Any]] = []
    for part in exchange["exchange"]:
        if part["from"] == "client" and "hex" in part:
            steps.append({"send_hex": part["hex"].replace(b"127.0.0.1:21197".hex(), ADDRESS.hex()), "recv": []})
        elif "decoded" in part:
            steps[-1]["recv"] += json.loads(json.dumps(part["decoded"]).replace('"cli1"', '"rpc1"'))
    # The filter of the second one names its own node and tag.
    if any(word.startswith("-name") for word in exchange["argv"]):
        steps[-1]["send_hex"] = steps[-1]["send_hex"].replace(b"c.*".hex(), b"r.*".hex())
    for recorded, came in play({"name": "", "steps": steps}, agent):
        assert came == recorded
