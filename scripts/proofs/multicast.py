"""A neighbour on the loopback device that speaks mDNS: what an agent announces, and whether it finds others.

Rules:

* A neighbour remembers nothing: an answer that it gets comes from a process that lives.
* What it announces is an address where nobody listens, so that an agent that finds it can only fail to join.
* Needs the library zeroconf, as agents that discover do; `can_discover` tells.
"""

from __future__ import annotations

import importlib
import uuid
from types import TracebackType
from typing import Any, Self

import psutil

LOOPBACK = "127.0.0.1"
LOOK_MS = 500
"""For one look at what an agent announces."""


def can_discover() -> bool:
    """Whether the library is installed. It is loaded by this, which no measurement should contain."""
    try:
        importlib.import_module("zeroconf")
    except ImportError:
        return False
    return True


def new_cluster() -> str:
    """The name of a cluster that nobody else on this network has."""
    return f"c{uuid.uuid4().hex[:10]}"


def loopback_name() -> str:
    """The name of the loopback interface."""
    for name, found in psutil.net_if_addrs().items():
        if any(entry.address == LOOPBACK for entry in found):
            return name
    message = f"no interface has the address {LOOPBACK}"
    raise OSError(message)


class Neighbour:
    """From its making until `close`."""

    def __init__(self, cluster: str) -> None:
        import zeroconf

        self._kind = f"_serf_{cluster}._tcp.local."
        self._library = zeroconf
        self._speaker: Any = zeroconf.Zeroconf(interfaces=[LOOPBACK], ip_version=zeroconf.IPVersion.V4Only)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._speaker.close()

    def sees(self, node: str) -> bool:
        """Whether an agent of this name answers; takes half a second at most."""
        info = self._speaker.get_service_info(self._kind, f"{node}.{self._kind}", LOOK_MS)
        return info is not None and bool(info.port)

    def announce(self, node: str, port: int) -> None:
        """Announce an agent of the cluster at this port of the loopback address."""
        info = self._library.ServiceInfo(
            self._kind, f"{node}.{self._kind}", port=port, addresses=[b"\x7f\0\0\1"], server=f"{node}.local."
        )
        self._speaker.register_service(info, cooperating_responders=True, strict=False)
