"""Of each name the newest: the rule by which user events are collected (spec serf.md 9), on plain data.

A higher Lamport time replaces what is kept under a name, an equal one is put beside it, a lower one is superseded
itself. Names stand in the order in which they came.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class LatestByName(Generic[T]):
    """See the module."""

    __slots__ = ("_latest", "_size")

    def __init__(self) -> None:
        self._latest: dict[str, tuple[int, list[T]]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[T]:
        """All that is kept."""
        for _, items in self._latest.values():
            yield from items

    def put(self, name: str, ltime: int, item: T) -> list[T]:
        """Keep an item; returns what is superseded by it, or itself."""
        highest, items = self._latest.get(name, (ltime, []))
        if ltime < highest:
            return [item]
        superseded: list[T] = []
        if ltime > highest:
            superseded, items = items, []
        items.append(item)
        self._latest[name] = (ltime, items)
        self._size += 1 - len(superseded)
        return superseded

    def drop(self, name: str, item: T) -> None:
        """Forget one item."""
        ltime, items = self._latest.get(name, (0, []))
        if item in items:
            left = [other for other in items if other != item]
            self._size -= len(items) - len(left)
            if left:
                self._latest[name] = (ltime, left)
            else:
                del self._latest[name]

    def take(self) -> list[T]:
        """All that is kept, which is forgotten."""
        taken = list(self)
        self._latest, self._size = {}, 0
        return taken
