"""Files that handlers and agents write."""

from pathlib import Path


def lines(path: Path) -> list[str]:
    """The lines of a file as it is now; none while it is not there."""
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []
