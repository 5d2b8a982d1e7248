"""The transmit-limited queue: what to gossip next (spec swim.md 7.1-7.4).

Rules:

* Items are ordered by transmissions ascending, length descending, age ascending (the newest first). A draw goes through
  the tiers of equal transmissions and takes in each the largest item that still fits, again and again.
* A draw of what was never transmitted takes the oldest first: what waited for a moment must not come behind what is so
  much newer that receivers hold it for old (spec serf.md 8).
* An item that reached the retransmit limit leaves the queue; so does a named item when another of its name comes, and
  the last in order when the queue is full. Leaving calls `finished`, if given.
* What a draw took counts its transmissions and stays aside until `settle`, so that the packets to one target never hold
  an item twice.

Cost: each tier keeps its items by length, each length a list in order of age; taking, adding, removing cost O(log n)
plus a small memmove.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable
from operator import attrgetter
from typing import Final

NO_LIMIT: Final = 1 << 62
EXTRA_TRANSMITS: Final = 4
"""Added to the logarithm's transmissions, which are too few just below powers of ten (spec swim.md 15 B7)."""


class _Item:
    __slots__ = ("finished", "message", "name", "number", "transmits")

    def __init__(self, message: bytes, name: str | None, number: int, finished: Callable[[], None] | None) -> None:
        self.message = message
        self.name = name
        self.number = number
        self.finished = finished
        self.transmits = 0


_age = attrgetter("number")


class _Tier:
    """Items of equal transmissions: lengths ascending, and per length the items by number ascending."""

    __slots__ = ("by_length", "lengths")

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self.by_length: dict[int, list[_Item]] = {}

    def add(self, item: _Item) -> None:
        length = len(item.message)
        items = self.by_length.get(length)
        if items is None:
            self.by_length[length] = [item]
            insort(self.lengths, length)
        elif items[-1].number < item.number:
            items.append(item)
        else:
            insort(items, item, key=_age)

    def drop_length(self, length: int) -> None:
        del self.by_length[length]
        del self.lengths[bisect_left(self.lengths, length)]

    def remove(self, item: _Item) -> None:
        length = len(item.message)
        items = self.by_length[length]
        del items[bisect_left(items, item.number, key=_age)]
        if not items:
            self.drop_length(length)

    def pop_last(self) -> _Item:
        """Take out the last in order: the shortest, the oldest of these."""
        length = self.lengths[0]
        items = self.by_length[length]
        item = items.pop(0)
        if not items:
            self.drop_length(length)
        return item


class TransmitQueue:
    """See the module. `population` gives the nodes for the retransmit limit; `depth_limit` bounds the items."""

    __slots__ = (
        "_aside",
        "_counted",
        "_fresh",
        "_limit",
        "_mult",
        "_named",
        "_number",
        "_population",
        "_tiers",
        "depth_limit",
        "name",
        "size",
    )

    def __init__(self, name: str, mult: int, population: Callable[[], int], depth_limit: int = NO_LIMIT) -> None:
        self.name = name
        self.depth_limit = depth_limit
        self.size = 0
        """Items in the queue, those set aside by a draw included."""
        self._mult = mult
        self._population = population
        self._counted = self._limit = 0
        """The population for which the limit was last computed, and the limit."""
        self._number = 0
        self._tiers: list[_Tier] = [_Tier()]
        self._named: dict[str, _Item] = {}
        self._fresh: dict[int, _Item] = {}
        """What was never transmitted, the oldest first."""
        self._aside: list[_Item] = []

    @property
    def transmit_limit(self) -> int:
        """Mult × ceil(log10(n + 1)), or mult × log10(n + 1) and some more; for n ≥ 1 ceil(log10) counts the digits."""
        population = self._population()
        if population != self._counted:
            self._counted, self._limit = population, 0
            if population > 0:
                smooth = math.ceil(self._mult * math.log10(population + 1))
                self._limit = max(self._mult * len(str(population)), smooth + EXTRA_TRANSMITS)
        return self._limit

    @property
    def has_fresh(self) -> bool:
        """Whether an item was never transmitted."""
        return bool(self._fresh)

    def push(self, message: bytes, name: str | None = None, finished: Callable[[], None] | None = None) -> int:
        """Add an item; a named one replaces that of its name. Returns how many items the bound pushed out."""
        if name is not None:
            self.discard(name)
        self._number += 1
        item = _Item(message, name, self._number, finished)
        if name is not None:
            self._named[name] = item
        self._tiers[0].add(item)
        self._fresh[self._number] = item
        self.size += 1
        return self.prune(self.depth_limit) if self.size > self.depth_limit else 0

    def discard(self, name: str) -> None:
        """Finish and remove the item of this name, if any."""
        item = self._named.get(name)
        if item is not None:
            self.settle()
            if self._named.get(name) is item:
                self._remove(item)
                self._finish(item)

    def draw(self, parts: list[bytes], overhead: int, limit: int, copies: int = 1, fresh_only: bool = False) -> int:
        """Append messages to `parts` while `overhead` + length fit into `limit` bytes; returns the bytes used.

        Each message taken counts `copies` transmissions. `fresh_only`: only what was never transmitted. Call `settle`
        afterwards.
        """
        used = 0
        aside = self._aside
        if fresh_only:
            return self._draw_fresh(parts, overhead, limit, copies)
        for transmits, tier in enumerate(self._tiers):
            lengths, by_length = tier.lengths, tier.by_length
            while lengths:
                place = bisect_right(lengths, limit - used - overhead)
                if not place:
                    break
                length = lengths[place - 1]
                items = by_length[length]
                item = items.pop()
                if not items:
                    del by_length[length], lengths[place - 1]
                if not transmits:
                    del self._fresh[item.number]
                parts.append(item.message)
                used += overhead + length
                item.transmits = transmits + copies
                aside.append(item)
            if limit - used <= overhead:
                break
        return used

    def _draw_fresh(self, parts: list[bytes], overhead: int, limit: int, copies: int) -> int:
        used = 0
        while self._fresh:
            item = next(iter(self._fresh.values()))
            size = overhead + len(item.message)
            if size > limit - used:
                break
            self._remove(item)
            parts.append(item.message)
            used += size
            item.transmits = copies
            self._aside.append(item)
        return used

    def _remove(self, item: _Item) -> None:
        """Take an item out of its tier."""
        self._tiers[item.transmits].remove(item)
        if not item.transmits:
            del self._fresh[item.number]

    def settle(self) -> None:
        """Put what draws set aside back into the order; what reached the limit leaves."""
        if not self._aside:
            return
        aside, self._aside = self._aside, []
        # By age: most are appended to their length then, which costs less than to find a place.
        aside.sort(key=_age)
        limit = self.transmit_limit
        tiers = self._tiers
        for item in aside:
            if item.transmits >= limit:
                self._finish(item)
                continue
            while len(tiers) <= item.transmits:
                tiers.append(_Tier())
            tiers[item.transmits].add(item)
            if not item.transmits:  # copies that do not count
                self._fresh[item.number] = item

    def prune(self, keep: int) -> int:
        """Finish the last in order until at most `keep` are left; returns how many."""
        self.settle()
        dropped = 0
        for tier in reversed(self._tiers):
            while self.size > keep and tier.lengths:
                item = tier.pop_last()
                self._fresh.pop(item.number, None)
                self._finish(item)
                dropped += 1
        return dropped

    def _finish(self, item: _Item) -> None:
        self.size -= 1
        if item.name is not None:
            del self._named[item.name]
        if item.finished is not None:
            item.finished()
