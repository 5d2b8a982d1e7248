"""The dispatcher's end of the bus to the workers: who is there, in which generation, and frames to and from them.

Rules:

* The dispatcher binds; a worker's identity is its process name. A worker is *live* from its `WorkerReady` to the next
  generation of it; nothing is sent to one that is not.
* A worker's death is known by its successor: from the supervisor or from the successor's own frames, whichever comes
  first. What the dead one had said before is taken in first, so that an end that was reported is no loss.
* Between one generation of each side the connection is one stream, in order; it is made anew with each generation. What
  is lost with it is found out by comparing what the worker holds with what the ledger says it was sent.
* Sends do not block: what a socket does not take waits here for its worker. All frames that one turn has for a worker
  leave together, in one message: a message costs the sending thread and the one behind it a wake-up each.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import zmq

from serfmp.agent.child import process_name
from serfmp.bus import frames
from serfmp.bus.endpoints import CHANNEL_HWM, make_socket

if TYPE_CHECKING:
    from collections.abc import Iterator

    from serfmp.agent.child import Child

FRAMES_PER_TURN: Final = 64
"""Frames taken from workers in one turn."""

TOGETHER_BYTES: Final = 256 * 1024
"""Frames that are larger together are several parts of a message."""

LAST_WORDS: Final = 4096
"""Frames taken at most before a worker is given up."""

RETRY_PERIOD: Final = 0.02
"""Seconds before a frame that the socket did not take is tried again."""


class PoolOwner(Protocol):
    """What the pool tells."""

    def on_worker(self, worker: int, generation: int, credits: int, held: frozenset[int]) -> None:
        """A worker is there and holds these invocations; its answer goes out after this call."""

    def on_worker_gone(self, worker: int, generation: int) -> None:
        """All generations of this worker before this one are dead."""

    def on_finished(self, worker: int, frame: frames.Finished) -> None:
        """A script has ended."""


@dataclass(slots=True)
class _Worker:
    name: str
    generation: int
    live: bool = False
    outgoing: list[bytes] = field(default_factory=list)


class Pool:
    """See the module. Nothing is received before the loop runs."""

    def __init__(self, child: Child, owner: PoolOwner) -> None:
        self._child = child
        self._owner = owner
        names = [process_name("worker", index) for index in range(child.config.workers)]
        self._workers = [_Worker(name, child.generations.get(name, 0)) for name in names]
        self._index = {name: index for index, name in enumerate(names)}
        self.stale = 0
        """Frames of or for dead generations that were dropped."""
        self._retrying = False
        self._socket = make_socket(child.context, zmq.ROUTER, hwm=CHANNEL_HWM)
        self._socket.bind(child.endpoints.workers)
        self._watched = child.loop.add_socket(self._socket, lambda: self._receive(FRAMES_PER_TURN), told=True)
        child.on_generation.append(self._on_generation)

    def generation(self, worker: int) -> int:
        """The latest known generation of a worker; 0: none was heard of."""
        return self._workers[worker].generation

    def live(self, worker: int) -> bool:
        """Whether it is there."""
        return self._workers[worker].live

    def send(self, worker: int, frame: object) -> None:
        """Send a frame to a live worker, with the next `flush`; to one that is not live, nothing."""
        to = self._workers[worker]
        if to.live:
            to.outgoing.append(frames.encode(frame))

    def flush(self) -> None:
        """Send what the turn collected."""
        for worker in self._workers:
            self._flush(worker)

    # --- inner part ---------------------------------------------------------------------------------------------------

    def _flush(self, worker: _Worker) -> None:
        if not worker.outgoing:
            return
        self._watched.used = True
        try:
            self._socket.send_multipart((worker.name.encode(), *self._parts(worker)), zmq.NOBLOCK)
        except zmq.ZMQError:  # full (EAGAIN) or not connected (EHOSTUNREACH)
            self._retry_soon()
            return
        worker.outgoing.clear()

    def _parts(self, worker: _Worker) -> Iterator[bytes]:
        """All that waits for it, sealed, in parts of a bounded size."""
        part: list[bytes] = []
        size = 0
        for place, body in enumerate(worker.outgoing, 1):
            part.append(body)
            size += len(body)
            if size >= TOGETHER_BYTES or place == len(worker.outgoing):
                yield frames.seal(frames.encode(frames.Together(part)), self._child.generation, worker.generation)
                part, size = [], 0

    def _retry_soon(self) -> None:
        if not self._retrying:
            self._retrying = True
            self._child.loop.call_later(RETRY_PERIOD, self._retry)

    def _retry(self) -> None:
        self._retrying = False
        self.flush()

    def _on_generation(self, name: str, generation: int) -> None:
        index = self._index.get(name)
        if index is not None and generation > self._workers[index].generation:
            self._watched.used = True
            self._receive(LAST_WORDS)
            self._begin(index, generation)

    def _begin(self, index: int, generation: int) -> None:
        worker = self._workers[index]
        if generation > worker.generation:
            worker.generation = generation
            worker.live = False
            worker.outgoing.clear()
            self._owner.on_worker_gone(index, generation)

    def _receive(self, limit: int) -> None:
        for _ in range(limit):
            try:
                identity, *messages = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            for message in messages:
                self._take(identity, message)
            if not self._watched.ready():  # cheaper than to be refused a message
                return

    def _take(self, identity: bytes, message: bytes) -> None:
        index = self._index.get(identity.decode(errors="replace"))
        envelope, frame = frames.open_sealed(message)
        if index is None or envelope.receiver != self._child.generation:
            self.stale += 1
            return
        self._begin(index, envelope.sender)
        if envelope.sender != self._workers[index].generation:
            self.stale += 1
            return
        if isinstance(frame, frames.Together):
            for body in frame.frames:
                self._handle(index, frames.decode(body))
        else:
            self._handle(index, frame)

    def _handle(self, index: int, frame: Any) -> None:
        worker = self._workers[index]
        match frame:
            case frames.WorkerReady(_shard, credits, held):
                if not worker.live:
                    worker.live = True
                    self._owner.on_worker(index, worker.generation, credits, frozenset(held))
                self.send(index, frames.Recorded([]))
            case frames.Finished() if worker.live:
                self._owner.on_finished(index, frame)
