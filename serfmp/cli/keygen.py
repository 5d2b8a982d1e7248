"""`serfmp keygen`: makes a new key."""

from __future__ import annotations

import base64
import secrets
from typing import Any, Final

from serfmp.cli.flags import GoCommand
from serfmp.cli.output import say

COMMAND: Final = GoCommand("keygen", "keygen", "Makes a new key for encrypting gossip: base64 of 32 random bytes.", [])

KEY_BYTES: Final = 32


def run(_values: dict[str, Any], _words: list[str]) -> int:
    """Make one. Returns the exit code."""
    say(base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode("ascii"))
    return 0
