"""What a check came to."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Status(Enum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    """It works, and may not go on doing so."""
    ERROR = "error"
    """It does not work."""
    SKIPPED = "skipped"
    """It could not be looked at."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was tried, what was seen, and what to do about it (empty if nothing)."""

    check: str
    status: Status
    tried: str
    seen: str
    advice: str = ""
