"""What a script sees of the agent's environment.

Rules: without a list of names, all but what looks like a secret by its name; with one, exactly these, secret or not.
What the event adds wins over both. `PWD` is there and true, as if a shell had seen to that; not every script has one.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SECRET_NAMES: Final = frozenset({"SERF_RPC_AUTH"})
SECRET_PARTS: Final = ("KEY", "TOKEN", "SECRET", "PASSWORD")
"""Variables of the agent that scripts do not see: by name, and by a part of the name."""


def base_environment(environment: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """The agent's environment without its secrets."""
    return {name: value for name, value in environment.items() if not _is_secret(name)}


class AgentEnvironment:
    """The agent's environment, from which each script's is made."""

    def __init__(self, environment: Mapping[bytes, bytes]) -> None:
        self._all = dict(environment)
        self._directory = _directory(self._all.get(b"PWD", b""))
        if self._directory:
            self._all[b"PWD"] = self._directory
        self._shown = base_environment(self._all)

    def script(self, names: Sequence[str] | None, additions: Mapping[str, str]) -> dict[bytes, bytes]:
        """A script's environment. `names`: what it gets of the agent's; None: all but secrets."""
        if names is None:
            passed = self._shown.copy()
        else:
            passed = {name: self._all[name] for name in map(_encoded, names) if name in self._all}
            if self._directory:
                passed[b"PWD"] = self._directory
        for name, text in additions.items():
            passed[name.encode(errors="surrogateescape")] = text.encode(errors="surrogateescape")
        return passed


def _directory(named: bytes) -> bytes:
    """Where we are: by the name that the environment has for it, if that is true. Empty: it was removed."""
    with suppress(OSError):
        if named.startswith(b"/") and os.path.samefile(named, b"."):  # noqa: PTH121  bytes
            return named
    with suppress(OSError):
        return os.getcwdb()  # noqa: PTH109  bytes
    return b""


def _is_secret(name: bytes) -> bool:
    text = name.decode(errors="replace").upper()
    return text in SECRET_NAMES or any(part in text for part in SECRET_PARTS)


def _encoded(text: str) -> bytes:
    return text.encode(errors="surrogateescape")
