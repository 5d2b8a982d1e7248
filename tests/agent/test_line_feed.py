"""Lines for rpc never hold the supervisor up, and what is lost shows."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from serfmp.agent.line_feed import PACE, WAITING_LINES, LineFeed
from serfmp.agent.log_hub import RING_LINES, LogHub
from serfmp.agent.logging import LINE_BYTES, ChildLog, decode_lines
from serfmp.bus import frames
from serfmp.bus.loop import Loop

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def feed(loop: Loop) -> Iterator[LineFeed]:
    made = LineFeed(loop)
    yield made
    made.close()


def read(feed: LineFeed, loop: Loop) -> list[frames.LogLine]:
    """All that is there, while the loop goes on."""
    found: list[frames.LogLine] = []
    over: list[bool] = []
    loop.call_later(2 * PACE, lambda: over.append(True))
    while True:
        try:
            message = feed.reader.recv(LINE_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            if over:
                return found
            loop.turn()
        else:
            found += frames.decode(message).lines()


def test_a_reader_that_does_not_read_costs_a_bounded_number_of_lines(loop: Loop, feed: LineFeed) -> None:
    hub = LogHub()
    hub.takers.append(feed.add)
    for number in range(20_000):
        hub.say("INFO", "agent", f"line {number}")
    assert len(hub.ring) == RING_LINES
    in_the_kernel = 10_000
    assert feed.dropped > 20_000 - WAITING_LINES - in_the_kernel
    numbers = [line.number for line in read(feed, loop)]
    assert numbers[-WAITING_LINES:] == list(range(20_001 - WAITING_LINES, 20_001))
    assert len(numbers) == 20_000 - feed.dropped
    assert numbers == sorted(set(numbers))


def test_a_new_reader_gets_the_ring_and_nothing_that_was_left_for_the_one_before(loop: Loop, feed: LineFeed) -> None:
    hub = LogHub()
    hub.takers.append(feed.add)
    for _ in range(2000):
        hub.say("INFO", "agent", "x")
    feed.begin(hub.ring)
    hub.say("INFO", "agent", "new")
    assert [line.number for line in read(feed, loop)] == list(range(2001 - RING_LINES, 2002))


def test_a_feed_with_a_level_leaves_lines_out_without_a_gap(loop: Loop) -> None:
    feed = LineFeed(loop, "INFO")
    hub = LogHub()
    hub.takers.append(feed.add)
    for level in ("INFO", "DEBUG", "ERR", "TRACE", "odd"):
        hub.say(level, "agent", "x")
    feed.set_level("ERR")
    for level in ("WARN", "ERR"):
        hub.say(level, "agent", "x")
    assert [(line.number, line.level) for line in read(feed, loop)] == [(1, "INFO"), (2, "ERR"), (3, "odd"), (4, "ERR")]
    feed.close()


def test_a_line_that_no_socket_takes_is_counted_and_holds_nothing_up(loop: Loop, feed: LineFeed) -> None:
    hub = LogHub()
    hub.takers.append(feed.add)
    hub.say("INFO", "agent", "x" * 1_000_000)
    hub.say("INFO", "agent", "after")
    assert [line.text for line in read(feed, loop)] == ["after"]
    assert feed.dropped == 1


def test_lines_that_only_monitors_want_leave_room_for_the_others() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
    with ours, theirs:
        log = ChildLog(theirs, "gossip", "WARN")
        for _ in range(5000):
            log.write("DEBUG", "agent", "x" * 100)
        log.write("TRACE", "agent", "nobody wants it")
        log.write("WARN", "agent", "the one that counts")
        assert log.dropped_for_monitors > 0
        assert log.dropped == 0
        ours.setblocking(False)
        lines: list[tuple[float, str, str, str]] = []
        while True:
            try:
                lines += decode_lines(ours.recv(LINE_BYTES))
            except BlockingIOError:
                break
        assert lines[-1][1:] == ("WARN", "agent", "the one that counts")
        assert {line[1] for line in lines[:-1]} == {"DEBUG"}


def test_lines_wait_for_each_other_and_never_leave_behind_a_later_one(loop: Loop) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        log = ChildLog(theirs, "gossip", "INFO")
        log.call_later = loop.call_later
        loop.before_wait.append(log.end_turn)
        log.write("DEBUG", "agent", "1")
        log.end_turn()
        ours.setblocking(False)
        with pytest.raises(BlockingIOError):
            ours.recv(LINE_BYTES)
        log.write("INFO", "agent", "2")
        log.end_turn()
        assert [line[3] for line in decode_lines(ours.recv(LINE_BYTES))] == ["1", "2"]
        messages: list[list[str]] = []
        loop.add(ours, lambda _events: messages.append([line[3] for line in decode_lines(ours.recv(LINE_BYTES))]))
        for level, text in (("DEBUG", "3"), ("DEBUG", "4"), ("INFO", "5"), ("DEBUG", "6")):
            log.write(level, "agent", text)
        while not messages:
            loop.turn()
        log.write("DEBUG", "agent", "7")
        while len(messages) < 2:
            loop.turn()
        assert messages == [["3", "4", "5", "6"], ["7"]]
