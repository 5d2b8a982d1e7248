"""The loop: input before timers, edge-triggered sockets never forgotten, lateness seen."""

from __future__ import annotations

import gc
import os
import socket
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import pytest
import zmq

from serfmp.bus.endpoints import make_socket
from serfmp.bus.loop import READ, TIDY_AT, WRITE, Loop, Timer
from tests.harness.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    made: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield made
    made.destroy(linger=0)


def turns_until(loop: Loop, condition: object, limit: int = 400) -> None:
    """Take turns until the list or set is not empty."""
    for _ in range(limit):
        if condition:
            return
        loop.turn()
    pytest.fail(f"nothing happened in {limit} turns")


def test_input_is_handled_before_a_timer_that_is_due() -> None:
    loop = Loop()
    left, right = socket.socketpair()
    seen: list[str] = []
    loop.add(right, lambda _events: seen.append(right.recv(10).decode()))
    loop.after_input = lambda _now: seen.append("after input") if len(seen) == 1 else None
    loop.call_at(loop.clock() - 10, lambda: seen.append("timer"))
    left.send(b"input")
    loop.turn()
    assert seen == ["input", "after input", "timer"]
    left.close()
    right.close()


def test_cancelled_timers_do_not_stay_until_their_time() -> None:
    loop = Loop()
    fired: list[int] = []
    before = timers()
    for number in range(3 * TIDY_AT):
        loop.call_at(loop.clock() - 1.0, partial(fired.append, number))
    for _ in range(20 * TIDY_AT):
        loop.call_later(300.0, lambda: None).cancel()
    assert timers() - before <= 2 * 3 * TIDY_AT + 1
    loop.call_soon(lambda: None)
    loop.turn()
    assert fired == list(range(3 * TIDY_AT))


def timers() -> int:
    """How many there are in this process."""
    return sum(type(thing) is Timer for thing in gc.get_objects())


def test_a_cancelled_timer_never_fires_and_others_do() -> None:
    loop = Loop()
    seen: list[int] = []
    first = loop.call_later(0.0, lambda: seen.append(1))
    loop.call_later(0.0, lambda: seen.append(2))
    first.cancel()
    turns_until(loop, seen)
    loop.turn()
    assert seen == [2]


def test_a_descriptor_can_be_changed_and_removed() -> None:
    loop = Loop()
    left, right = socket.socketpair()
    seen: list[int] = []
    loop.add(right, seen.append, WRITE)
    loop.turn()
    assert seen
    loop.change(right, READ)
    seen.clear()
    left.send(b"x")
    turns_until(loop, seen)
    loop.remove(right)
    loop.remove(right)
    seen.clear()
    loop.call_later(0.0, lambda: None)
    loop.turn()
    assert not seen
    left.close()
    right.close()


def test_every_message_of_a_socket_is_taken_though_the_callback_takes_one_at_a_time(
    context: zmq.Context[zmq.Socket[bytes]], tmp_path: os.PathLike[str]
) -> None:
    """ZeroMQ's descriptor tells only of the first: the rest must be found by asking."""
    loop = Loop()
    address = f"ipc://{os.fspath(tmp_path)}/s"
    pull, push = make_socket(context, zmq.PULL, hwm=5000), make_socket(context, zmq.PUSH, hwm=5000)
    pull.bind(address)
    push.connect(address)
    seen: list[bytes] = []

    def take() -> None:
        with suppress(zmq.Again):  # the descriptor told of a connection
            seen.append(pull.recv(zmq.NOBLOCK))

    loop.add_socket(pull, take)
    loop.add_socket(push, None)
    wanted = [b"%d" % number for number in range(1500)]
    waiting = list(wanted)

    def send() -> None:
        while waiting:
            try:
                push.send(waiting[0], zmq.NOBLOCK)
            except zmq.Again:
                loop.when_writable(push, send)
                return
            waiting.pop(0)

    send()
    for _ in range(20_000):
        if len(seen) == len(wanted):
            break
        loop.turn()
    assert seen == wanted


def test_a_socket_whose_uses_are_told_misses_no_answer(
    context: zmq.Context[zmq.Socket[bytes]], tmp_path: os.PathLike[str]
) -> None:
    """Sending takes in what the descriptor would have told: only who says so is asked again."""
    loop = Loop()
    address = f"ipc://{os.fspath(tmp_path)}/s"
    one, other = make_socket(context, zmq.DEALER, hwm=100), make_socket(context, zmq.DEALER, hwm=100)
    one.bind(address)
    other.connect(address)
    seen: list[bytes] = []

    def answered() -> None:
        with suppress(zmq.Again):
            seen.append(one.recv(zmq.NOBLOCK))
            ask()

    def ask() -> None:
        watched.used = True
        for _ in range(1 + len(seen) % 3):
            try:
                one.send(b"%d" % len(seen), zmq.NOBLOCK)
            except zmq.Again:
                loop.call_soon(ask)
                return

    def answer() -> None:
        with suppress(zmq.Again):  # nothing there, or full: others are under way
            other.send(other.recv(zmq.NOBLOCK), zmq.NOBLOCK)

    watched = loop.add_socket(one, answered, told=True)
    loop.add_socket(other, answer, told=True)
    ask()
    for _ in range(20_000):
        if len(seen) >= 1500:
            break
        loop.turn()
    assert len(seen) >= 1500


def test_a_use_that_was_not_told_is_made_up_for_by_the_next_idle_wait(
    context: zmq.Context[zmq.Socket[bytes]], tmp_path: os.PathLike[str]
) -> None:
    loop = Loop()
    address = f"ipc://{os.fspath(tmp_path)}/s"
    one, other = make_socket(context, zmq.DEALER, hwm=100), make_socket(context, zmq.DEALER, hwm=100)
    one.bind(address)
    other.connect(address)
    seen: list[bytes] = []
    watched = loop.add_socket(one, lambda: seen.append(one.recv(zmq.NOBLOCK)), told=True)
    other.send(b"missed")
    eventually(
        lambda: int(one.getsockopt(zmq.EVENTS)) & zmq.POLLIN, 10.0, "it is there, and its descriptor has told it"
    )
    watched.used = False

    def taken() -> bool:
        loop.turn()
        return seen == [b"missed"]

    eventually(taken, 10.0, "it is taken")
    one.close()
    other.close()


def test_time_spent_working_or_frozen_shows_as_lateness() -> None:
    now = 100.0
    loop = Loop(clock=lambda: now)
    late: list[float] = []
    loop.after_input = lambda _now: late.append(loop.lateness)
    loop.call_soon(lambda: None)
    loop.turn()
    assert late == [0.0]

    def work() -> None:
        nonlocal now
        now += 3.0

    loop.call_soon(work)
    loop.turn()
    loop.call_soon(lambda: None)
    loop.turn()
    assert late[-1] == pytest.approx(3.0)
    loop.call_soon(lambda: None)
    loop.turn()
    assert late[-1] == 0.0


def test_a_deadline_kept_elsewhere_ends_the_wait() -> None:
    loop = Loop()
    start = loop.clock()
    loop.next_deadline = lambda: start + 0.01
    loop.turn()
    assert start + 0.01 <= loop.clock()
    assert loop.lateness < 0.2


def test_an_exception_of_a_callback_leaves_the_loop() -> None:
    loop = Loop()

    def broken() -> None:
        raise RuntimeError("broken")

    loop.call_soon(broken)
    with pytest.raises(RuntimeError, match="broken"):
        loop.run()


def test_what_is_periodic_happens_at_multiples_of_its_period() -> None:
    now = 1000.3

    def clock() -> float:
        return now

    loop = Loop(clock)
    loop.phase = 7.2
    seen: list[str] = []
    loop.call_every(0.5, lambda: seen.append("half"))
    loop.call_every(1.0, lambda: seen.append("whole"))
    told = []
    for when in (1000.5, 1000.71, 1001.19, 1001.21, 1004.6, 1004.71, 1005.21):
        now = when
        loop.call_soon(lambda: None)
        loop.turn()
        told.append(sorted(seen))
        seen.clear()
    both = ["half", "whole"]
    # What was missed for three seconds comes once.
    assert told == [[], ["half"], [], both, both, ["half"], both]


def test_loops_of_one_phase_end_their_idle_waits_at_one_time() -> None:
    now = 1000.3

    def clock() -> float:
        return now

    one, other = Loop(clock), Loop(clock)
    one.phase = other.phase = 7.2
    assert one._plan(busy=False) == pytest.approx(0.9)
    now = 1000.9
    assert other._plan(busy=False) == pytest.approx(0.3)


def test_the_look_for_input_is_told_before_anything_is_handled() -> None:
    loop = Loop()
    seen: list[str] = []
    loop.on_look = lambda now: seen.append("look" if now <= loop.clock() else "too early")
    loop.call_at(loop.clock() - 1, lambda: seen.append("timer"))
    loop.turn()
    assert seen == ["look", "timer"]
