"""Each end of a child is told once, however many come at once and whoever started it."""

from __future__ import annotations

import os
from collections import Counter

from serfmp.bus.loop import Loop
from serfmp.events.children import ENDS_PER_TURN, Children
from tests.harness.waiting import eventually


def test_the_ends_of_many_children_are_told_once_each_with_their_status() -> None:
    loop = Loop()
    ended: Counter[tuple[int, int]] = Counter()

    def told(pid: int, status: int) -> None:
        ended[pid, os.waitstatus_to_exitcode(status)] += 1

    children = Children(loop, told)
    try:
        held, gate = os.pipe()
        codes = [number % 7 for number in range(2 * ENDS_PER_TURN + 5)]
        pids = [_waiting_for(held, code) for code in codes]
        os.close(held)
        loop.call_later(0.01, lambda: None)
        loop.turn()
        assert not ended
        os.close(gate)  # now they end all at once

        def all_told() -> bool:
            loop.call_later(0.01, lambda: None)
            loop.turn()
            return ended.total() >= len(pids)

        eventually(all_told, 20.0, "all ends are told", interval_s=0.0)
        assert ended == Counter(zip(pids, codes, strict=True))
    finally:
        children.close()


def _waiting_for(gate: int, code: int) -> int:
    """Start a process that ends with this code when the pipe does."""
    arguments = ["/bin/sh", "-c", "read -r _; exit $0", str(code)]
    return os.posix_spawn("/bin/sh", arguments, dict(os.environ), file_actions=((os.POSIX_SPAWN_DUP2, gate, 0),))
