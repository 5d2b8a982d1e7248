"""Lanes: order and exclusion for each key, credits for each worker, bounds with the oldest dropped."""

from __future__ import annotations

from collections import defaultdict, deque
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serfmp.errors import InternalError
from serfmp.events.invocation import Invocation
from serfmp.events.lanes import AHEAD_QUICK, AHEAD_SIZE, SIZE_LIMIT, Lanes, worker_of
from serfmp.events.policy import Order, Overflow, QueuePolicy

if TYPE_CHECKING:
    from collections.abc import Iterable


PLAIN = QueuePolicy()


def invocation(number: int, handler: int = 0, size: int = 0, lane: str = "", deadline: float = 0.0) -> Invocation:
    group = f"h{handler}"
    return Invocation(number, number, group, lane or group, group, "user", {}, b"x" * size, deadline)


class Simple(Lanes):
    """Lanes with one policy for everything."""

    def __init__(
        self, workers: int, policy: QueuePolicy = PLAIN, size_limit: int = SIZE_LIMIT, *, ahead: bool = False
    ) -> None:
        super().__init__(workers, size_limit, ahead=ahead)
        self.policy = policy

    def put(self, one: Invocation) -> list[Invocation]:
        return self.push(one, self.policy)

    def go(self, now: float = 0.0) -> list[tuple[int, Invocation]]:
        return self.take(now)


def numbers(taken: Iterable[tuple[int, Invocation]]) -> list[int]:
    return [one.number for _worker, one in taken]


def lanes_with_credits(
    workers: int = 1,
    credits: int = 100,
    policy: QueuePolicy = PLAIN,
    size_limit: int = SIZE_LIMIT,
    *,
    ahead: bool = False,
) -> Simple:
    lanes = Simple(workers, policy, size_limit, ahead=ahead)
    for worker in range(workers):
        lanes.set_credits(worker, credits)
    return lanes


def test_one_of_a_lane_runs_at_a_time_and_in_order() -> None:
    lanes = lanes_with_credits()
    for number in (1, 2, 3):
        lanes.put(invocation(number))
    assert numbers(lanes.go()) == [1]
    assert numbers(lanes.go()) == []
    assert lanes.finished(1) == invocation(1)
    assert numbers(lanes.go()) == [2]


def test_a_hung_lane_holds_up_no_other() -> None:
    lanes = lanes_with_credits()
    lanes.put(invocation(1, handler=0))
    assert numbers(lanes.go()) == [1]
    lanes.put(invocation(2, handler=0))
    lanes.put(invocation(3, handler=1))
    assert numbers(lanes.go()) == [3]


def test_credits_bound_what_runs_and_lanes_take_turns() -> None:
    lanes = lanes_with_credits(credits=1)
    for number in range(6):
        lanes.put(invocation(number, handler=number % 3))
    order = []
    while taken := numbers(lanes.go()):
        assert len(taken) == 1
        order += taken
        lanes.finished(taken[0])
    assert order == [0, 1, 2, 3, 4, 5]


def test_a_worker_without_credits_gets_nothing_and_the_other_goes_on() -> None:
    lanes = Simple(2)
    keys = [next(key for key in range(100) if worker_of(f"h{key}", 2) == worker) for worker in (0, 1)]
    for number, key in enumerate(keys):
        lanes.put(invocation(number, handler=key))
    assert lanes.go() == []
    lanes.set_credits(1, 1)
    assert lanes.go() == [(1, invocation(1, handler=keys[1]))]


def test_what_was_not_run_is_the_next_of_its_lane() -> None:
    lanes = lanes_with_credits()
    for number in (1, 2):
        lanes.put(invocation(number))
    lanes.go()
    lanes.put_back(1)
    assert numbers(lanes.go()) == [1]
    with pytest.raises(InternalError):
        lanes.put_back(2)


def test_what_is_adopted_blocks_its_lane_until_it_has_finished() -> None:
    lanes = lanes_with_credits()
    lanes.adopt(invocation(1), lanes.policy)
    lanes.put(invocation(2))
    assert lanes.go() == []
    lanes.finished(1)
    assert numbers(lanes.go()) == [2]


def test_beyond_the_bound_the_oldest_of_the_same_lane_goes() -> None:
    lanes = lanes_with_credits(policy=QueuePolicy(limit=2))
    lanes.put(invocation(1))
    lanes.go()
    assert [lanes.put(invocation(number)) for number in (2, 3)] == [[], []]
    assert lanes.put(invocation(4)) == [invocation(2)]
    assert lanes.put(invocation(5, handler=1)) == []
    assert (lanes.waiting, lanes.under_way) == (3, 1)


def test_beyond_the_bytes_the_oldest_of_the_largest_lane_goes() -> None:
    lanes = lanes_with_credits(size_limit=10_000)
    assert lanes.put(invocation(1, handler=1, size=100)) == []
    assert lanes.put(invocation(2, handler=0, size=5000)) == []
    assert [one.number for one in lanes.put(invocation(3, handler=0, size=5000))] == [2]
    assert [one.number for one in lanes.put(invocation(4, handler=1, size=20_000))] == [1, 4]
    assert numbers(lanes.go()) == [3]


class Model:
    """The plainest thing that keeps the rules: a list a key, one under way a key, no bounds."""

    def __init__(self, workers: int, credits: int) -> None:
        self.workers, self.credits = workers, credits
        self.waiting: dict[int, deque[int]] = defaultdict(deque)
        self.under_way: dict[int, int] = {}

    def check(self, taken: list[tuple[int, Invocation]]) -> None:
        for worker, one in taken:
            assert worker == worker_of(one.lane, self.workers)
            key = int(one.handler[1:])
            assert key not in self.under_way, "two of a lane"
            assert self.waiting[key].popleft() == one.number, "out of order"
            self.under_way[key] = one.number
        for worker in range(self.workers):
            used = sum(worker_of(f"h{key}", self.workers) == worker for key in self.under_way)
            could = [
                key
                for key, queue in self.waiting.items()
                if queue and key not in self.under_way and worker_of(f"h{key}", self.workers) == worker
            ]
            assert used <= self.credits
            assert used == self.credits or not could, "a lane was forgotten"


STEPS = st.lists(
    st.tuples(st.sampled_from(["push", "push", "take", "finish", "put_back"]), st.integers(0, 5)), max_size=150
)


@given(steps=STEPS, workers=st.integers(1, 3), credits=st.integers(1, 3))
def test_any_run_keeps_order_and_exclusion_and_forgets_nothing(
    steps: list[tuple[str, int]], workers: int, credits: int
) -> None:
    lanes, model = lanes_with_credits(workers, credits), Model(workers, credits)
    for number, (step, key) in enumerate(steps):
        if step == "push":
            assert lanes.put(invocation(number, key)) == []
            model.waiting[key].append(number)
        elif step == "take":
            model.check(lanes.go())
        elif key in model.under_way:
            ended = model.under_way.pop(key)
            if step == "finish":
                assert lanes.finished(ended) == invocation(ended, key)
            else:
                lanes.put_back(ended)
                model.waiting[key].appendleft(ended)
        assert lanes.waiting == sum(map(len, model.waiting.values()))
        assert lanes.under_way == len(model.under_way)


@given(
    pushes=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 400)), max_size=60),
    queue_limit=st.integers(1, 6),
    size_limit=st.integers(200, 3000),
)
def test_what_is_pushed_is_dropped_or_waits_within_the_bounds(
    pushes: list[tuple[int, int]], queue_limit: int, size_limit: int
) -> None:
    lanes = lanes_with_credits(policy=QueuePolicy(limit=queue_limit), size_limit=size_limit)
    waiting: dict[int, Invocation] = {}
    for number, (key, size) in enumerate(pushes):
        waiting[number] = invocation(number, key, size)
        for one in lanes.put(waiting[number]):
            assert one.number == min(other for other, held in waiting.items() if held.handler == one.handler)
            del waiting[one.number]
        assert lanes.waiting == len(waiting)
        assert sum(one.size for one in waiting.values()) <= size_limit
        assert all(sum(one.handler == f"h{key}" for one in waiting.values()) <= queue_limit for key in range(4))
    seen = []
    while taken := numbers(lanes.go()):
        seen += taken
        for ended in taken:
            lanes.finished(ended)
    assert sorted(seen) == sorted(waiting)


def test_an_end_of_something_unknown_changes_nothing() -> None:
    lanes = lanes_with_credits()
    assert lanes.finished(7) is None


def test_a_handler_with_more_places_starts_in_order_and_keeps_to_them() -> None:
    lanes = lanes_with_credits(policy=QueuePolicy(concurrency=2))
    for number in range(4):
        lanes.put(invocation(number))
    assert numbers(lanes.go()) == [0, 1]
    lanes.finished(1)
    assert numbers(lanes.go()) == [2]


def test_lanes_of_one_handler_share_its_places() -> None:
    lanes = lanes_with_credits(policy=QueuePolicy(Order.NODE, concurrency=2))
    for number, lane in enumerate(["a", "a", "b", "c"]):
        lanes.put(invocation(number, lane=lane))
    assert numbers(lanes.go()) == [0, 2]
    lanes.finished(2)
    assert numbers(lanes.go()) == [3]
    lanes.finished(0)
    assert numbers(lanes.go()) == [1]
    assert lanes.counts("h0") == (0, 2)
    for number in (1, 3):
        lanes.finished(number)
    assert not lanes._lanes
    assert not lanes._groups


def test_the_newest_is_refused_where_the_handler_says_so() -> None:
    lanes = lanes_with_credits(policy=QueuePolicy(limit=1, overflow=Overflow.DROP_NEWEST))
    assert lanes.put(invocation(1)) == []
    assert lanes.put(invocation(2)) == [invocation(2)]
    assert numbers(lanes.go()) == [1]


def test_a_query_whose_time_is_over_is_not_started_and_holds_up_nobody() -> None:
    lanes = lanes_with_credits()
    lanes.put(invocation(1, deadline=5.0))
    lanes.put(invocation(2, deadline=50.0))
    assert numbers(lanes.go(now=10.0)) == [2]
    assert lanes.take_late() == [invocation(1, deadline=5.0)]
    assert lanes.take_late() == []


def test_one_that_rests_keeps_its_place_but_not_its_worker() -> None:
    lanes = lanes_with_credits(credits=1)
    for number, handler in ((1, 0), (2, 0), (3, 1)):
        lanes.put(invocation(number, handler))
    assert numbers(lanes.go()) == [1]
    lanes.rest(1)
    assert not lanes.busy
    assert numbers(lanes.go()) == [3]
    lanes.finished(3)
    assert lanes.go() == []
    lanes.put_back(1, invocation(9))
    assert numbers(lanes.go()) == [9]
    lanes.finished(9)
    assert numbers(lanes.go()) == [2]


def test_the_last_that_waits_can_be_replaced() -> None:
    lanes = lanes_with_credits()
    for number in (1, 2):
        lanes.put(invocation(number))
    assert lanes.last_waiting(invocation(3)) == invocation(2)
    lanes.replace_last(invocation(2, size=7))
    assert numbers(lanes.go()) == [1]
    assert lanes.last_waiting(invocation(3, handler=5)) is None


@given(
    steps=st.lists(st.tuples(st.sampled_from(["push", "push", "take", "finish"]), st.integers(0, 8)), max_size=120),
    order=st.sampled_from([Order.HANDLER, Order.NODE, Order.NONE]),
    concurrency=st.integers(1, 3),
)
def test_no_handler_exceeds_its_places_and_none_is_forgotten(
    steps: list[tuple[str, int]], order: Order, concurrency: int
) -> None:
    lanes = lanes_with_credits(2, policy=QueuePolicy(order, concurrency))
    running: dict[int, Invocation] = {}
    pushed = ended = 0
    for number, (step, choice) in enumerate(steps):
        handler = choice % 3
        lane = {Order.HANDLER: "", Order.NODE: f"h{handler} {choice}", Order.NONE: f"h{handler} {number}x"}[order]
        if step == "push":
            lanes.put(invocation(number, handler, lane=lane))
            pushed += 1
        elif step == "take":
            for _worker, one in lanes.go():
                running[one.number] = one
        elif running:
            ended += 1
            lanes.finished(running.pop(sorted(running)[choice % len(running)]).number)
        for group in range(3):
            mine = [one for one in running.values() if one.handler == f"h{group}"]
            assert len(mine) <= concurrency
            if order is Order.NODE:
                assert len({one.lane for one in mine}) == len(mine)
    while True:
        running.update({one.number: one for _worker, one in lanes.go()})
        if not running:
            break
        ended += 1
        lanes.finished(running.popitem()[1].number)
    assert ended == pushed
    assert not lanes._lanes


def put_in(lanes: Simple, number: int, group: str, lane: str, policy: QueuePolicy) -> list[Invocation]:
    one = Invocation(number, number, group, lane, group, "user", {}, b"")
    return lanes.push(one, policy)


def test_a_blocked_lane_whose_invocation_was_dropped_gives_its_place_to_the_next() -> None:
    lanes = lanes_with_credits(2, policy=QueuePolicy(Order.NODE, concurrency=1, limit=2))
    names = [next(f"{n}" for n in range(100) if worker_of(f"{n}", 2) == worker) for worker in (0, 1)]
    lanes.put(invocation(0, lane="running"))
    assert numbers(lanes.go()) == [0]
    lanes.put(invocation(1, lane=names[1]))
    lanes.put(invocation(2, lane=names[0]))
    assert lanes.go() == []
    assert numbers((0, one) for one in lanes.put(invocation(3, lane="other"))) == [1]
    lanes.finished(0)
    assert numbers(lanes.go()) == [2]
    lanes.finished(2)
    assert numbers(lanes.go()) == [3]


def test_lanes_get_their_places_in_the_order_in_which_they_came() -> None:
    lanes = lanes_with_credits(policy=QueuePolicy(Order.NONE, concurrency=2))
    order: list[int] = []
    for number in range(40):
        lanes.put(invocation(number, lane=f"l{number}"))
        order += numbers(lanes.go())
        if number % 2:
            lanes.finished(order[number // 2])
    while lanes.under_way:
        lanes.finished(min(lanes._under_way))
        order += numbers(lanes.go())
    assert order == list(range(40))


def test_handlers_that_share_a_lane_run_in_turn_and_keep_bounds_of_their_own() -> None:
    lanes = lanes_with_credits()
    small, large = QueuePolicy(Order.AGENT, limit=1), QueuePolicy(Order.AGENT, limit=9)
    put_in(lanes, 1, "a", "agent", large)
    assert numbers(lanes.go()) == [1]
    for number, group, policy in ((2, "a", large), (3, "b", small), (4, "a", large)):
        assert put_in(lanes, number, group, "agent", policy) == []
    assert [one.number for one in put_in(lanes, 5, "b", "agent", small)] == [3]
    assert (lanes.counts("a"), lanes.counts("b")) == ((2, 1), (1, 0))
    order = []
    for number in (1, 2, 4, 5):
        lanes.finished(number)
        order += numbers(lanes.go())
    assert order == [2, 4, 5]
    assert not lanes._lanes
    assert not lanes._groups


def test_a_handler_that_gets_more_places_uses_them_at_once() -> None:
    lanes = lanes_with_credits()
    for number in range(4):
        put_in(lanes, number, "a", f"l{number}", QueuePolicy(Order.NODE, concurrency=1))
    assert numbers(lanes.go()) == [0]
    put_in(lanes, 4, "a", "l4", QueuePolicy(Order.NODE, concurrency=4))
    assert numbers(lanes.go()) == [1, 2, 3]


LANE_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["push", "push", "push", "take", "finish", "rest", "put_back", "later", "credits"]),
        st.integers(0, 30),
    ),
    max_size=150,
)


POLICIES = st.builds(
    QueuePolicy,
    order=st.sampled_from(list(Order)),
    concurrency=st.integers(1, 3),
    limit=st.integers(1, 4),
    overflow=st.sampled_from([Overflow.DROP_OLDEST, Overflow.DROP_NEWEST]),
)


class Everything:
    """All orders, drops, late queries, retries, workers that come and go, at once: what was put in, and what became."""

    def __init__(self, policies: list[QueuePolicy]) -> None:
        self.lanes = lanes_with_credits(2, 2)
        self.policies = policies
        self.running: list[int] = []
        self.resting: list[int] = []
        self.pushed: list[int] = []
        self.ended: list[int] = []
        self.now = 0.0

    def push(self, choice: int) -> None:
        number, handler = len(self.pushed), choice % 3
        policy, group = self.policies[handler], f"h{handler}"
        names = {Order.HANDLER: group, Order.AGENT: "agent", Order.NONE: f"{group} {number}n"}
        lane = names.get(policy.order, f"{group} {choice}")
        deadline = 0.0 if choice % 5 else self.now + 2
        one = Invocation(number, number, group, lane, group, "user", {}, b"", deadline)
        self.pushed.append(number)
        self.ended += [dropped.number for dropped in self.lanes.push(one, policy)]

    def take(self, _choice: int) -> None:
        for _worker, one in self.lanes.take(self.now):
            assert not 0.0 < one.deadline < self.now
            self.running.append(one.number)
        self.ended += [late.number for late in self.lanes.take_late()]

    def later(self, _choice: int) -> None:
        self.now += 1.0

    def credits(self, choice: int) -> None:
        self.lanes.set_credits(choice % 2, choice % 3)

    def finish(self, choice: int) -> None:
        if self.running:
            number = self.running.pop(choice % len(self.running))
            self.lanes.finished(number)
            self.ended.append(number)

    def rest(self, choice: int) -> None:
        if self.running:
            number = self.running.pop(choice % len(self.running))
            self.lanes.rest(number)
            self.resting.append(number)

    def put_back(self, choice: int) -> None:
        for held in (self.resting, self.running):
            if held:
                self.lanes.put_back(held.pop(choice % len(held)))

    def check(self) -> None:
        counts = [self.lanes.counts(f"h{handler}") for handler in range(3)]
        assert all(count[1] <= policy.concurrency for count, policy in zip(counts, self.policies, strict=True))
        assert self.lanes.under_way == sum(count[1] for count in counts) == len(self.running) + len(self.resting)
        assert self.lanes.waiting == sum(count[0] for count in counts)
        assert self.lanes.waiting == len(self.pushed) - len(self.ended) - self.lanes.under_way


@given(steps=LANE_STEPS, policies=st.lists(POLICIES, min_size=3, max_size=3))
def test_whatever_happens_each_invocation_ends_once_and_every_bound_holds(
    steps: list[tuple[str, int]], policies: list[QueuePolicy]
) -> None:
    run = Everything(policies)
    for step, choice in steps:
        getattr(run, step)(choice)
        run.check()
    for worker in range(2):
        run.lanes.set_credits(worker, 100)
    while run.resting:
        run.put_back(0)
    run.take(0)
    while run.running:
        run.finish(0)
        run.take(0)
    assert sorted(run.ended) == run.pushed
    assert not run.lanes._lanes
    assert not run.lanes._groups


@pytest.mark.parametrize("order", list(Order))
def test_what_was_dropped_leaves_no_lane_behind(order: Order) -> None:
    lanes = lanes_with_credits(policy=QueuePolicy(order, concurrency=1, limit=3))
    for number in range(500):
        lane = "" if order in {Order.HANDLER, Order.AGENT} else f"l{number}"
        lanes.put(invocation(number, lane=lane))
        lanes.go()
        if number == 250:
            lanes.set_credits(0, 0)
        assert len(lanes._lanes) <= 4
        assert len(lanes._rows[0]) + len(lanes._groups["h0"].blocked) <= 3


def test_the_next_of_a_lane_may_be_at_its_worker_ahead_and_is_shown_as_waiting() -> None:
    lanes = lanes_with_credits(ahead=True)
    for number in range(1, 5):
        lanes.put(invocation(number))
    assert numbers(lanes.go()) == [1, 2]
    assert lanes.in_turn(invocation(2)) == "h0"
    assert lanes.counts("h0") == (3, 1)
    lanes.finished(1)
    assert numbers(lanes.go()) == [3]
    for number in (2, 3):
        lanes.finished(number)
    assert numbers(lanes.go()) == [4]
    lanes.finished(4)
    assert (lanes.waiting, lanes.under_way) == (0, 0)


def test_of_a_quick_handler_several_small_ones_are_ahead_until_one_is_slow() -> None:
    lanes = lanes_with_credits(credits=1000, ahead=True)
    for number in range(1, 100):
        lanes.put(invocation(number))
    assert numbers(lanes.go()) == [1, 2]
    lanes.finished(1, quick=True)
    assert numbers(lanes.go()) == list(range(3, 3 + AHEAD_QUICK))
    assert lanes.counts("h0") == (97, 1)
    lanes.finished(2, quick=False)
    assert numbers(lanes.go()) == []
    for number in range(3, 2 + AHEAD_QUICK):
        lanes.finished(number, quick=False)
    assert numbers(lanes.go()) == [3 + AHEAD_QUICK]


def test_a_large_one_is_not_far_ahead() -> None:
    lanes = lanes_with_credits(credits=1000, ahead=True)
    for number in range(1, 5):
        lanes.put(invocation(number, size=AHEAD_SIZE))
    lanes.go()
    lanes.finished(1, quick=True)
    assert numbers(lanes.go()) == [3]


@pytest.mark.parametrize(
    "policy",
    [
        QueuePolicy(retries=1),
        QueuePolicy(overflow=Overflow.COALESCE),
        QueuePolicy(order=Order.AGENT),
        QueuePolicy(order=Order.NODE),
    ],
)
def test_nothing_is_ahead_where_what_comes_before_may_change_it(policy: QueuePolicy) -> None:
    lanes = lanes_with_credits(policy=policy, ahead=True)
    for number in (1, 2):
        lanes.put(invocation(number))
    assert numbers(lanes.go()) == [1]
    assert lanes.in_turn(invocation(1)) == ""


def test_what_is_ahead_takes_no_place_of_what_could_run() -> None:
    lanes = lanes_with_credits(credits=4, ahead=True)
    for handler in range(4):
        for number in (1, 2):
            lanes.put(invocation(10 * handler + number, handler))
    assert numbers(lanes.go()) == [1, 11, 21, 31]
    for number in (1, 11, 21):
        lanes.finished(number)
    # One runs: of the lanes that go on, those with places to spare.
    assert numbers(lanes.go()) == [2, 12, 22]


def test_what_was_ahead_of_a_dead_worker_goes_back_in_order() -> None:
    lanes = lanes_with_credits(ahead=True)
    for number in (1, 2, 3):
        lanes.put(invocation(number))
    assert numbers(lanes.go()) == [1, 2]
    for number in (2, 1):
        lanes.put_back(number)
    assert numbers(lanes.go()) == [1, 2]
