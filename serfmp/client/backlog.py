"""What came for a subscription and nobody has taken yet, for both clients: no input, no output, no waiting.

Rules:

* At most `QUEUE_LIMIT` items wait; beyond it the oldest go, and `dropped` counts them.
* What comes after the end is not kept. What came before can still be taken.
"""

from __future__ import annotations

from collections import deque
from typing import Final, Generic, TypeVar

QUEUE_LIMIT: Final = 65536
"""Records that wait in one stream."""

T = TypeVar("T")


class Backlog(Generic[T]):
    """See the module."""

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self.ended = False
        """No more will come."""
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._items)

    @property
    def oldest(self) -> T | None:
        """What is taken next; None if nothing waits."""
        return self._items[0] if self._items else None

    @property
    def done(self) -> bool:
        """Whether all was taken and no more will come."""
        return self.ended and not self._items

    def put(self, item: T) -> None:
        """One came."""
        if self.ended:
            return
        if len(self._items) >= QUEUE_LIMIT:
            self._items.popleft()
            self.dropped += 1
        self._items.append(item)

    def take(self) -> T | None:
        """The oldest one; None if nothing waits."""
        return self._items.popleft() if self._items else None

    def clear(self) -> None:
        """Nobody wants what waits."""
        self._items.clear()
