"""Limits of the system that an agent needs to know of."""

from __future__ import annotations

import resource
from typing import Final

DESCRIPTORS: Final = 1280
"""Open files with which no process of an agent meets the system's limit before its own (rpc: 1024 clients)."""


def allow_descriptors(wanted: int) -> int:
    """Raise this process' soft limit of open files, as far as the hard one lets it. Returns how many there may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed


def descriptor_warning() -> str:
    """What to tell the operator at the start; empty where the limit is high enough."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard == resource.RLIM_INFINITY or hard >= DESCRIPTORS:
        return ""
    return (
        f"a process may open {hard} files at most; beyond that connections and scripts wait; "
        f"{DESCRIPTORS} are enough (ulimit -n, or LimitNOFILE= of its service)"
    )
