"""What may go wrong between a client and an agent. Every error's text can be shown to the operator as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from serfmp.errors import RemoteError

if TYPE_CHECKING:
    from serfmp.client.records import KeyResult


class ClientError(RemoteError):
    """Base of the errors of this package."""


class ConnectError(ClientError):
    """There is no connection: bad address, nobody listens, no answer."""


class ConnectionLostError(ClientError):
    """The connection ended while an answer or a record was due."""


class DeadlineError(ClientError):
    """No answer came within the deadline of the call. The connection stays usable."""


class ProtocolError(ClientError):
    """The agent sent what the protocol does not allow; the connection is closed."""


class AgentError(ClientError):
    """The agent answered with this error."""


class JoinError(AgentError):
    """The agent could not join; `reached` is how many addresses it had reached before."""

    def __init__(self, text: str, reached: int) -> None:
        super().__init__(text)
        self.reached = reached


class KeysError(AgentError):
    """Not all nodes did what was asked about keys; `result` says who did what."""

    def __init__(self, text: str, result: KeyResult) -> None:
        super().__init__(text)
        self.result = result
