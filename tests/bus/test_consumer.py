"""Both ends of the stream between detector and consumers: nothing lost, nothing twice, whoever is started again."""

from __future__ import annotations

import random
import tempfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import pytest
import zmq

from serfmp.bus import frames, plain
from serfmp.bus.consumer import DetectorLink
from serfmp.bus.dealer import TAKING_TIME
from serfmp.bus.endpoints import Endpoints
from serfmp.bus.loop import Loop
from serfmp.detector.effects import Event, EventRequest, Member, MemberStatus, UserEventReceived
from serfmp.detector.hub import EVENT_WINDOW, PACES, ROWS_PER_SLICE, Hub
from tests.harness import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from serfmp.agent.child import Child


@dataclass
class Side:
    """What hub and link need of the process around them."""

    name: str
    generation: int
    loop: Loop
    context: zmq.Context[zmq.Socket[bytes]]
    endpoints: Endpoints
    generations: dict[str, int] = field(default_factory=dict)
    on_generation: list[Callable[[str, int], None]] = field(default_factory=list)

    def announce(self, generation: int) -> None:
        for callback in self.on_generation:
            callback("detector", generation)


def member(number: int, status: MemberStatus = MemberStatus.ALIVE) -> Member:
    return Member(f"n{number}", b"\x7f\0\0\1", number, {"role": "web"}, status, (1, 5, 2, 2, 5, 5))


class Pair:
    """A detector's hub and one consumer; `events`, `members` and acknowledgements outlive both, as the journal does."""

    def __init__(self, directory: str) -> None:
        self.loop = Loop()
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.endpoints = Endpoints(directory)
        self.events: list[Event] = []
        self.members: list[Member] = []
        self.acknowledged = {"rpc": 0, "dispatcher": 0}
        self.asked: list[tuple[str, int, frames.Ask]] = []
        self.delivered: list[Event] = []
        self.frames: list[Any] = []
        self.generation = 0
        self.hub: Hub
        self.start_detector()
        self.consumer = Side("rpc", 1, self.loop, self.context, self.endpoints, {"detector": 1})
        self.link = self.new_link(-1)

    def start_detector(self) -> None:
        """A new generation; the old one is dead: its socket is closed and its loop entry gone."""
        if self.generation:
            self.loop.remove_socket(self.hub._socket)
            self.hub._socket.close(0)
        self.generation += 1
        side = Side("detector", self.generation, self.loop, self.context, self.endpoints)
        self.hub = Hub(
            cast("Child", side),
            self.acknowledged.__getitem__,
            lambda after: iter([event for event in self.events if event.sequence > after]),
            lambda: list(self.members),
            lambda name, generation, ask: self.asked.append((name, generation, ask)),
            self.acknowledged.__setitem__,
        )

    def restart_detector(self) -> None:
        self.start_detector()
        self.consumer.announce(self.generation)

    def new_link(self, after: int, *, members: bool = True) -> DetectorLink:
        return DetectorLink(
            cast("Child", self.consumer),
            members=members,
            on_event=self.delivered.append,
            on_frame=self.frames.append,
            after=after,
        )

    def publish(self, count: int) -> None:
        start = len(self.events)
        self.events += [UserEventReceived(start + number + 1, 5, "e", b"p", False) for number in range(count)]
        self.hub.pump()

    def until(self, condition: Callable[[], object]) -> None:
        for _ in range(4000):
            if condition():
                return
            if self.hub.go_on():
                self.loop.call_soon(lambda: None)
            self.loop.call_later(0.001, lambda: None)
            self.loop.turn()
        pytest.fail("not reached in 4000 turns")


@pytest.fixture
def pair() -> Iterator[Pair]:
    with tempfile.TemporaryDirectory(prefix="s") as directory:
        made = Pair(directory)
        yield made
        made.context.destroy(linger=0)


def test_a_subscriber_gets_the_member_table_in_slices_then_changes_in_order(pair: Pair) -> None:
    pair.members = [member(number) for number in range(3 * ROWS_PER_SLICE - 1)]
    pair.until(lambda: pair.frames)
    pair.hub.row_changed(member(7, MemberStatus.FAILED))
    pair.hub.row_gone("n8")
    pair.until(lambda: len(pair.frames) >= 5)
    rows = [frame for frame in pair.frames if isinstance(frame, frames.MemberRows)]
    assert [(frame.first, frame.last) for frame in rows] == [(True, False), (False, False), (False, True)]
    assert [plain.member_from_plain(row) for frame in rows for row in frame.rows] == pair.members
    assert pair.frames[3:] == [
        frames.MemberRow(plain.member_to_plain(member(7, MemberStatus.FAILED))),
        frames.MemberGone("n8"),
    ]


def test_events_beyond_the_window_wait_for_acknowledgements(pair: Pair) -> None:
    pair.until(lambda: pair.link.live)
    pair.publish(3 * EVENT_WINDOW)
    pair.until(lambda: len(pair.delivered) == EVENT_WINDOW)
    pair.link.acknowledge(EVENT_WINDOW)
    pair.until(lambda: len(pair.delivered) == 2 * EVENT_WINDOW)
    assert pair.acknowledged["rpc"] == EVENT_WINDOW
    pair.link.acknowledge(2 * EVENT_WINDOW)
    pair.until(lambda: len(pair.delivered) == 3 * EVENT_WINDOW)
    assert pair.delivered == pair.events


def test_many_events_wait_for_each_other_but_not_in_the_last_turn_nor_before_an_answer(pair: Pair) -> None:
    pair.until(lambda: pair.link.live)
    now = pair.loop.clock() + 1.0
    pair.loop.clock = lambda: now

    def delivered(count: int) -> None:
        def look() -> bool:
            turn()
            return len(pair.delivered) == count

        eventually(look, 20.0, f"{count} events", interval_s=0.0)

    def turn() -> None:
        pair.loop.call_soon(lambda: None)
        pair.loop.turn()

    def waits() -> bool:
        """Whether an event that comes now stays where it is."""
        sent = pair.hub._consumers["rpc"].sent
        pair.publish(1)
        turn()
        return pair.hub._consumers["rpc"].sent == sent

    assert not waits()
    assert waits()
    assert waits()
    now += PACES["rpc"]
    delivered(3)
    assert waits()
    pair.hub.answer("rpc", 1, frames.Answered(77, None, ""))
    delivered(4)
    turn()
    assert pair.hub._consumers["rpc"].later is None, "nobody is woken for what has left"
    assert waits()
    pair.hub.hurry()
    delivered(5)


def test_an_answer_comes_after_what_the_request_caused(pair: Pair) -> None:
    answers: list[tuple[Any, str]] = []
    pair.until(lambda: pair.link.live)
    pair.link.ask(EventRequest("e", b"", False), lambda value, error: answers.append((value, error)))
    pair.until(lambda: pair.asked)
    name, generation, ask = pair.asked[0]
    assert plain.request_from_plain(ask.kind, ask.fields) == EventRequest("e", b"", False)
    seen_before: list[int] = []

    def answered() -> bool:
        if answers:
            seen_before.append(len(pair.delivered))
        return bool(answers)

    pair.publish(1)
    pair.hub.answer(name, generation, frames.Answered(ask.number, 3, ""))
    pair.until(answered)
    assert answers == [(3, "")]
    assert seen_before == [1]


def test_a_request_without_answer_goes_to_the_next_detector_with_its_number(pair: Pair) -> None:
    answers: list[str] = []
    pair.until(lambda: pair.link.live)
    pair.link.ask(EventRequest("e", b"", False), lambda _value, error: answers.append(error))
    pair.until(lambda: pair.asked)
    pair.restart_detector()
    pair.until(lambda: len(pair.asked) == 2)
    assert pair.asked[0] == pair.asked[1]
    pair.hub.answer("rpc", 1, frames.Answered(pair.asked[1][2].number, None, "done"))
    pair.until(lambda: answers)
    assert answers == ["done"]


def test_answers_for_a_dead_generation_of_the_consumer_are_dropped(pair: Pair) -> None:
    pair.until(lambda: pair.link.live)
    pair.hub.answer("rpc", 7, frames.Answered(1, "for another", ""))
    pair.publish(1)
    pair.until(lambda: pair.delivered)
    assert not any(isinstance(frame, frames.Answered) for frame in pair.frames)


@pytest.mark.parametrize("seed", range(6))
def test_over_any_restarts_of_the_detector_each_event_is_delivered_once_and_in_order(pair: Pair, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(30):
        match rng.randrange(4):
            case 0:
                pair.restart_detector()
            case 1:
                pair.publish(rng.randrange(1, 200))
            case 2 if pair.delivered:
                pair.link.acknowledge(pair.delivered[-rng.randrange(1, 1 + min(50, len(pair.delivered)))].sequence)
            case _:
                pair.loop.call_soon(lambda: None)
                pair.loop.turn()
    pair.publish(1)

    def everything() -> bool:
        if pair.delivered:
            pair.link.acknowledge(pair.delivered[-1].sequence)
        return len(pair.delivered) >= len(pair.events)

    pair.until(everything)
    assert pair.delivered == pair.events


def test_a_new_consumer_goes_on_where_the_old_one_had_acknowledged(pair: Pair) -> None:
    pair.until(lambda: pair.link.live)
    pair.publish(10)
    pair.until(lambda: len(pair.delivered) == 10)
    pair.link.acknowledge(6)
    pair.until(lambda: pair.acknowledged["rpc"] == 6)
    assert pair.link._dealer._socket is not None
    pair.loop.remove_socket(pair.link._dealer._socket)
    pair.link._dealer._socket.close(0)
    pair.link._dealer._socket = None
    pair.delivered.clear()
    pair.consumer.generation = 2
    pair.consumer.on_generation.clear()
    pair.consumer.generations["detector"] = pair.generation
    pair.link = pair.new_link(-1)
    pair.until(lambda: len(pair.delivered) == 4)
    assert [event.sequence for event in pair.delivered] == [7, 8, 9, 10]


def test_frames_that_take_long_are_taken_in_turns_of_their_own(pair: Pair) -> None:
    pair.until(lambda: pair.frames)
    taken: list[int] = []

    def slow(_frame: Any) -> None:
        taken[-1] += 1
        began = pair.loop.clock()
        while pair.loop.clock() < began + TAKING_TIME:
            pass

    pair.frames.clear()
    pair.link._on_frame = slow
    for number in range(3):
        pair.hub.row_changed(member(number))
        pair.hub.flush()

    def turns() -> bool:
        taken.append(0)
        return sum(taken) == 3

    pair.until(turns)
    assert max(taken) == 1
