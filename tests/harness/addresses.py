"""Loopback addresses of its own for every test, so that tests may run side by side on one machine.

Rules:

* A process claims a block 127.a.b.0/24 by binding an abstract unix socket named after it. The kernel keeps the claim
  unique and drops it when the process ends, however it ends. The first block tried follows from the process id.
* Addresses of a block are handed out once each; ports are checked for UDP and TCP, and never handed out twice either.
* Ports lie below the kernel's range for outgoing connections, which could otherwise take one between check and use.
"""

import itertools
import os
import socket
import zlib
from dataclasses import dataclass
from types import TracebackType
from typing import Self

FIRST_PORT, PORTS = 20_000, 10_000
"""Where the harness's ports lie: below 32768, where Linux begins with outgoing connections."""

BLOCKS = 254 * 256
"""Blocks 127.1.0.0/24 to 127.254.255.0/24: 127.0.x.x is left to everybody else."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An IP address as text and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class LoopbackAllocator:
    """Hands out loopback addresses and ports that nobody else on this machine is using."""

    def __init__(self) -> None:
        seed = zlib.crc32(f"{os.environ.get('PYTEST_XDIST_WORKER', '')}:{os.getpid()}".encode())
        self._blocks = (1 + (seed + step) % BLOCKS for step in range(BLOCKS))
        self._claims: list[socket.socket] = []
        self._free: list[str] = []
        start = seed % PORTS
        self._ports = (FIRST_PORT + (start + step) % PORTS for step in itertools.count())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the blocks back. Whatever uses the addresses must have ended."""
        for claim in self._claims:
            claim.close()
        self._claims.clear()
        self._free.clear()

    def address(self) -> str:
        """An IPv4 loopback address that was not handed out before."""
        if not self._free:
            self._free = self._claim_block()
        return self._free.pop()

    def endpoint(self, host: str | None = None) -> Endpoint:
        """A new address, or `host` (`::1` too), with a port free for UDP and TCP."""
        chosen = self.address() if host is None else host
        return Endpoint(chosen, self.free_port(chosen))

    def free_port(self, host: str) -> int:
        """A port that is free on `host` for UDP and TCP now, and was not handed out before."""
        for port in itertools.islice(self._ports, PORTS):
            if _is_free(host, port):
                return port
        message = f"no port of {FIRST_PORT}-{FIRST_PORT + PORTS - 1} is free on {host}"
        raise OSError(message)

    def _claim_block(self) -> list[str]:
        for block in self._blocks:
            prefix = f"127.{1 + (block - 1) // 256}.{(block - 1) % 256}"
            claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            try:
                claim.bind(f"\0serfmp-tests-{prefix}")
            except OSError:
                claim.close()
                continue
            self._claims.append(claim)
            return [f"{prefix}.{last}" for last in range(254, 0, -1)]
        message = "every loopback block is claimed by some test"
        raise OSError(message)


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as tcp, socket.socket(family, socket.SOCK_DGRAM) as udp:
            # As servers do: a connection of an earlier test in TIME_WAIT is no hindrance.
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tcp.bind((host, port))
            udp.bind((host, port))
    except OSError:
        return False
    return True
