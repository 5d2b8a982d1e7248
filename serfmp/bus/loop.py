"""The event loop of every process: one epoll for descriptors, ZeroMQ sockets and timers.

Rules:

* One turn is: wait, descriptors, ZeroMQ sockets, the `after_input` hook, timers, the `before_wait` hooks. Input comes
  before timers, so that after a late wake no timer fires before what had already arrived was seen.
* A ZeroMQ socket's descriptor is edge-triggered: it may stay silent though a message waits. So `EVENTS` is asked again
  before every wait; while a socket has input left the loop does not sleep. Behind the wait only those are looked at
  that had input then, or whose descriptors have fired since. Of the latter a reader is called without being asked: it
  nearly always has a message, and a callback bears to find none.
* Only the use of a socket can make its descriptor miss something, and asking costs 2 µs. Whoever says of each use
  outside its callback (`Watched.used`) may add it with `told`: it is asked only after it was used, and, in case one was
  forgotten, after a wait that no input ended, once a second.
* A callback for input handles a bounded amount and returns. Returning is enough: descriptors are level-triggered,
  sockets are asked again.
* `lateness` is the time since the last look at input that was neither planned as waiting nor used for it: by how much
  the wait overran its plan, and how long the last turn worked. A frozen or starved process sees it here, wherever it
  was stopped.
* What is periodic happens at multiples of its period, counted from `phase`, and so does the end of an idle wait: one
  wake-up serves all that is periodic, in processes that share a phase at one time, while their code is in the caches.
* Nothing in a turn may block. Exceptions of callbacks end the process: the supervisor restarts it.

Times are seconds of the monotonic clock.
"""

from __future__ import annotations

import heapq
import select
import time
from typing import TYPE_CHECKING, Protocol

import zmq

if TYPE_CHECKING:
    from collections.abc import Callable

IDLE_WAIT = 1.0
"""Longest wait of one turn, in seconds: how often an idle process stamps its heartbeat."""

TIDY_AT = 256
"""Timers from which on those that were cancelled are thrown out, whenever there are twice as many as were left."""

EPOLL_BATCH = 256
"""Descriptors handled in one turn at most."""

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
ERROR = select.EPOLLERR | select.EPOLLHUP

# As plain numbers: arithmetic with flags costs a microsecond, and every turn does much of it.
_EVENTS = int(zmq.EVENTS)
_POLLIN = int(zmq.POLLIN)
_POLLOUT = int(zmq.POLLOUT)


class HasDescriptor(Protocol):
    """A socket or a file."""

    def fileno(self) -> int:
        """The descriptor."""
        ...


class Timer:
    """A call at a time, which may be cancelled. Late is possible, early is not."""

    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Never call it; harmless when it was called already."""
        self.callback = None


class Watched:
    """A ZeroMQ socket and what to call when it can be read or, on request, written."""

    __slots__ = ("_told", "on_readable", "on_writable", "socket", "used")

    def __init__(self, socket: zmq.Socket[bytes], on_readable: Callable[[], None] | None, *, told: bool) -> None:
        self.socket = socket
        self.on_readable = on_readable
        self.on_writable: Callable[[], None] | None = None
        self._told = told or on_readable is None
        self.used = True
        """It was used since it was last asked, or may have been: set it after each use outside the callback."""

    def handle(self) -> None:
        """Call whoever waits for what has happened."""
        if self.on_readable is not None and self.on_writable is None:
            self.used = True
            self.on_readable()
            return
        happened = self.ready()
        if happened & _POLLIN and self.on_readable is not None:
            self.on_readable()
        if happened & _POLLOUT and self.on_writable is not None:
            callback_once, self.on_writable = self.on_writable, None
            callback_once()

    def ready(self) -> int:
        """The events that somebody waits for and that have happened."""
        wanted = (_POLLIN if self.on_readable else 0) | (_POLLOUT if self.on_writable else 0)
        events = int(self.socket.getsockopt(_EVENTS)) & wanted
        self.used = bool(events) or not self._told or self.on_writable is not None
        return events


class Loop:
    """See the module's rules. One loop a process; it is used from one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.lateness = 0.0
        """See the module; in seconds."""
        self.looked_at = self._wake_at = clock()
        """When the present turn looked for input."""
        self._worked = 0.0
        self._doubt_at = 0.0
        """Until then nobody asks whether a use of a socket was not told."""
        self.phase = 0.0
        """See the module; set it before anything periodic begins."""
        self.on_look: Callable[[float], None] | None = None
        """Called once a turn with the time, after the look for input and before anything is handled: for the
        heartbeat."""
        self.after_input: Callable[[float], None] | None = None
        """Called once a turn, after input and before timers, with the time."""
        self.before_wait: list[Callable[[], None]] = []
        """Called at the end of each turn: to flush what the turn collected."""
        self.next_deadline: Callable[[], float | None] | None = None
        """Asked before each wait for a deadline that is kept elsewhere (the core's timers)."""
        self._epoll = select.epoll()
        self._descriptors: dict[int, Callable[[int], None]] = {}
        self._watched: dict[int, Watched] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._timer_count = 0
        self._tidy_at = TIDY_AT
        self._running = False
        self._soon: list[Callable[[], None]] = []

    # --- descriptors --------------------------------------------------------------------------------------------------

    def add(self, source: int | HasDescriptor, callback: Callable[[int], None], events: int = READ) -> None:
        """Call `callback(events)` while the descriptor has one of `events` (READ, WRITE) or an error."""
        number = source if isinstance(source, int) else source.fileno()
        self._descriptors[number] = callback
        self._epoll.register(number, events)

    def change(self, source: int | HasDescriptor, events: int) -> None:
        """Wait for other events from now on."""
        self._epoll.modify(source if isinstance(source, int) else source.fileno(), events)

    def remove(self, source: int | HasDescriptor) -> None:
        """Forget a descriptor; call it before closing. Unknown ones are ignored."""
        number = source if isinstance(source, int) else source.fileno()
        if self._descriptors.pop(number, None) is not None:
            self._epoll.unregister(number)

    # --- ZeroMQ sockets -----------------------------------------------------------------------------------------------

    def add_socket(
        self, socket: zmq.Socket[bytes], on_readable: Callable[[], None] | None, *, told: bool = False
    ) -> Watched:
        """Call `on_readable()` while the socket has messages. It takes a bounded number of them, without blocking.

        There may be none: then it does nothing.

        `told`: every use of the socket outside the callback is told by setting `used` of what this returns.
        """
        number = _descriptor(socket)
        watched = self._watched[number] = Watched(socket, on_readable, told=told)
        self._epoll.register(number, READ)
        return watched

    def when_writable(self, socket: zmq.Socket[bytes], callback: Callable[[], None] | None) -> None:
        """Call `callback()` once the socket takes messages again, then forget it; None cancels."""
        watched = self._watched[_descriptor(socket)]
        watched.on_writable = callback
        watched.used = True

    def remove_socket(self, socket: zmq.Socket[bytes]) -> None:
        """Forget a socket; call it before closing."""
        number = _descriptor(socket)
        if self._watched.pop(number, None) is not None:
            self._epoll.unregister(number)

    # --- timers -------------------------------------------------------------------------------------------------------

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call once at or after the monotonic time `when`."""
        timer = Timer(when, callback)
        self._timer_count += 1
        if len(self._timers) >= self._tidy_at:
            # Limits are long and what they limit is short: nearly all are cancelled, and would wait for their time.
            self._timers = [entry for entry in self._timers if entry[2].callback is not None]
            heapq.heapify(self._timers)
            self._tidy_at = max(TIDY_AT, 2 * len(self._timers))
        heapq.heappush(self._timers, (when, self._timer_count, timer))
        return timer

    def call_later(self, delay: float, callback: Callable[[], None]) -> Timer:
        """Call once after `delay` seconds."""
        return self.call_at(self.clock() + delay, callback)

    def call_every(self, period: float, callback: Callable[[], None]) -> None:
        """Call every `period` seconds for the life of the loop; calls that were missed are not made up for.

        The first call comes sooner: see the module.
        """

        def again() -> None:
            self.call_at(self.next_multiple(period), again)
            callback()

        self.call_at(self.next_multiple(period), again)

    def next_multiple(self, period: float) -> float:
        """When something of this period, in seconds, is due next: see the module."""
        now = self.clock()
        return now + period - (now - self.phase) % period

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call in the next turn, which then does not wait."""
        self._soon.append(callback)

    # --- running ------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """End `run` after this turn."""
        self._running = False

    def run(self) -> None:
        """Take turns until `stop`."""
        self._running = True
        while self._running:
            self.turn()

    def turn(self) -> None:
        """One turn, by the rules at the top of the module."""
        watched = self._watched
        ready = [number for number, known in watched.items() if known.used and known.ready()]
        planned = self._plan(busy=bool(ready or self._soon))
        found = self._epoll.poll(planned, EPOLL_BATCH)
        now = self.clock()
        if not found and now >= self._doubt_at:
            self._doubt_at = now + IDLE_WAIT
            for known in watched.values():
                known.used = True
        self.lateness = max(0.0, now - self._wake_at) + self._worked
        self.looked_at = now
        if self.on_look is not None:
            self.on_look(now)
        if self._soon:
            soon, self._soon = self._soon, []
            for callback in soon:
                callback()
        for number, events in found:
            handler = self._descriptors.get(number)
            if handler is not None:
                handler(events)
            elif number in watched and number not in ready:
                ready.append(number)
        # The others had nothing when they were looked at, and their descriptors have been silent since. What the
        # callbacks above have brought about is found before the next wait.
        if ready:
            for number in [number for number in watched if number in ready]:
                socket = watched.get(number)
                if socket is not None:
                    socket.handle()
        if self.after_input is not None:
            self.after_input(now)
        self._fire(now)
        for hook in self.before_wait:
            hook()

    def _plan(self, *, busy: bool) -> float:
        """How long to wait, in seconds; sets the time at which the wait should end."""
        now = self.clock()
        self._worked = now - self.looked_at
        wake_at = now + IDLE_WAIT - (now - self.phase) % IDLE_WAIT
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        if self._timers:
            wake_at = min(wake_at, self._timers[0][0])
        if self.next_deadline is not None:
            deadline = self.next_deadline()
            if deadline is not None:
                wake_at = min(wake_at, deadline)
        if busy:
            wake_at = now
        self._wake_at = max(now, wake_at)
        # Rounded up to whole milliseconds by epoll; a deadline is never missed by waking before it.
        return self._wake_at - now

    def _fire(self, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            callback, timer.callback = timer.callback, None
            if callback is not None:
                callback()


def _descriptor(socket: zmq.Socket[bytes]) -> int:
    return int(socket.getsockopt(zmq.FD))
