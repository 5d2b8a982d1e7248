"""The one error that bytes from a peer may raise.

Rules:

* Whatever a peer sends, the codec either gives a value or raises `WireError`; nothing else may come out.
* `kind` says which rule was broken, in a word that serves as the name of a counter. The text is for the log.
* Where the protocol asks for an answer on a stream (spec wire.md 3.8), `reply` holds the bytes to send, ready framed.
"""

from __future__ import annotations

from typing import Literal

from serfmp.errors import RemoteError

Kind = Literal[
    "address",
    "alive_address",
    "alive_meta",
    "alive_name",
    "alive_versions",
    "checksum",
    "compound",
    "compress",
    "coordinate",
    "empty",
    "encrypt",
    "field",
    "filter",
    "label",
    "limit",
    "ltime",
    "malformed",
    "relay",
    "type",
]


class WireError(RemoteError):
    """Bytes from a peer that break the protocol.

    `kind` names the broken rule; `reply` is None, or the complete answer to send before the stream is closed.
    """

    def __init__(self, text: str, kind: Kind = "malformed", reply: bytes | None = None) -> None:
        super().__init__(text)
        self.kind: Kind = kind
        self.reply = reply
