"""Name resolution on a thread of its own: the system's resolver may take as long as it likes.

One thread, a bounded queue; answers come back to the loop through an eventfd.
"""

from __future__ import annotations

import os
import queue
import socket
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from serfmp.bus.loop import Loop

WAITING_LIMIT: Final = 256
"""Names that wait for the thread; beyond it the answer is an error at once."""


class Resolver:
    """`on_answer(token, addresses, error)` is called on the loop."""

    def __init__(self, loop: Loop, on_answer: Callable[[int, list[str], str], None]) -> None:
        self._on_answer = on_answer
        self._questions: queue.Queue[tuple[int, str, int]] = queue.Queue(WAITING_LIMIT)
        self._answers: queue.SimpleQueue[tuple[int, list[str], str]] = queue.SimpleQueue()
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread: threading.Thread | None = None
        loop.add(self._event, self._collect)

    def resolve(self, token: int, host: str, port: int) -> None:
        """Look the host up; never waits."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="resolver", daemon=True)
            self._thread.start()
        try:
            self._questions.put_nowait((token, host, port))
        except queue.Full:
            self._on_answer(token, [], f"lookup {host}: {WAITING_LIMIT} names wait for the resolver already")

    def _work(self) -> None:
        while True:
            token, host, port = self._questions.get()
            try:
                found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
                self._answers.put((token, addresses, ""))
            except (OSError, UnicodeError) as error:
                reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
                self._answers.put((token, [], f"lookup {host}: {reason}"))
            os.eventfd_write(self._event, 1)

    def _collect(self, _events: int) -> None:
        os.eventfd_read(self._event)
        while True:
            try:
                answer = self._answers.get_nowait()
            except queue.Empty:
                return
            self._on_answer(*answer)
