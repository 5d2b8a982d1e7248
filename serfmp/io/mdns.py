"""The mdns process: tells the local network of this agent, and joins those of its cluster (spec agent.md 1.9).

Rules:

* Service `_serf_NAME._tcp` in `local.`, instance name = node name, port and address = what the node advertises, one TXT
  string. The zeroconf library does the protocol, with threads of its own; a thread of ours calls it, because its calls
  wait. The main loop only hands on what they find.
* Every address that is found is joined once, one after another, through the supervisor; one that could not be joined is
  tried again every `RETRY`, as long as it is announced. The own address is not joined.
* At most `KNOWN` addresses are remembered; further ones are ignored and counted.
* Who cannot speak mDNS at the start ends the agent. Later troubles, those of a process that was started again among
  them, are logged, and it is tried again every `RETRY`: a host may be without a network for a while.
"""

from __future__ import annotations

import ipaddress
import os
import queue
import re
import socket
import threading
from typing import TYPE_CHECKING, Any, Final

import psutil

from serfmp.bus import frames
from serfmp.errors import UserError
from serfmp.wire.address import to_text
from serfmp.wire.host_port import join_host_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from serfmp.agent.child import Child
    from serfmp.agent.config import AgentConfig

TTL: Final = 120
"""Seconds for which others may remember us."""

RETRY: Final = 60.0
"""Seconds between two tries to join an address, or to speak mDNS at all."""

KNOWN: Final = 1024
"""Addresses that are remembered."""

LOOKUP_LIMIT: Final = 3000
"""Milliseconds for the address of an instance."""

_UNFIT: Final = re.compile(r"[^A-Za-z0-9-]+")


def require_zeroconf() -> None:
    """Raise `UserError` if the library is not installed. It is imported here, before anything forks."""
    try:
        import zeroconf  # noqa: F401
    except ImportError:
        text = "zeroconf is not installed: pip install 'serfmp[mdns]', or leave out -discover"
        raise UserError(f"Error starting mDNS listener: {text}") from None


def service_type(cluster: str) -> str:
    """The type of a cluster's service."""
    return f"_serf_{cluster}._tcp.local."


class Announcer:
    """The thread that speaks to the library. `found`, `failed` and `announced` are called from threads."""

    def __init__(
        self,
        config: AgentConfig,
        announced: Callable[[], None],
        found: Callable[[str], None],
        failed: Callable[[str], None],
    ) -> None:
        self._config = config
        self._announced = announced
        self._found = found
        self._failed = failed
        self._stop = threading.Event()
        self.thread = threading.Thread(target=self._run, name="mdns", daemon=True)

    def stop(self) -> None:
        """Say good-bye and end."""
        self._stop.set()

    def _run(self) -> None:
        try:
            speaker = self._open()
        except Exception as error:  # noqa: BLE001  whatever the library finds is told, and ends the start
            self._failed(_reason(error))
            return
        try:
            import zeroconf

            info = self._info()
            speaker.register_service(info, cooperating_responders=True, strict=False)
            browser = zeroconf.ServiceBrowser(speaker, service_type(self._config.discover), handlers=[self._changed])
            self._announced()
            self._stop.wait()
            browser.cancel()
            speaker.unregister_service(info)
        except Exception as error:  # noqa: BLE001
            self._failed(_reason(error))
        finally:
            speaker.close()

    def _open(self) -> Any:
        import zeroconf

        config = self._config
        name = config.mdns_interface or config.interface
        versions = zeroconf.IPVersion
        only = versions.V4Only if config.mdns_disable_ipv6 else versions.V6Only if config.mdns_disable_ipv4 else None
        where: Any = interface_addresses(name) if name else zeroconf.InterfaceChoice.Default
        if only is None:
            try:
                return zeroconf.Zeroconf(interfaces=where, ip_version=versions.All)
            except (OSError, RuntimeError):  # a host, or an interface, without IPv6
                only = versions.V4Only
        return zeroconf.Zeroconf(interfaces=where, ip_version=only)

    def _info(self) -> Any:
        import zeroconf

        config = self._config
        kind = service_type(config.discover)
        text = f"Serf '{config.discover}' cluster".encode()[:255]
        host = _UNFIT.sub("-", config.node)[:63]
        return zeroconf.ServiceInfo(
            kind,
            f"{config.node}.{kind}",
            port=config.advertise_port,
            addresses=[ipaddress.ip_address(to_text(config.advertise_address)).packed],
            properties=bytes([len(text)]) + text,
            server=f"{host}.local.",
            host_ttl=TTL,
            other_ttl=TTL,
        )

    def _changed(self, zeroconf: Any, service_type: str, name: str, state_change: Any) -> None:
        if state_change.name == "Removed":
            return
        info = zeroconf.get_service_info(service_type, name, LOOKUP_LIMIT)
        if info is None or not info.port:
            return
        for address in info.parsed_addresses():
            self._found(join_host_port(address, info.port))


class Discovery:
    """The main loop's part: what was found, what is being joined, what is to be tried again."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._loop = child.loop
        config = child.config
        self._own = join_host_port(to_text(config.advertise_address), config.advertise_port)
        self._events: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._loop.add(self._wake, lambda _events: self._look())
        self._waiting: list[str] = []
        self._tried: dict[str, bool] = {}
        """Addresses, and whether they were joined."""
        self._joining = ""
        self.ignored = 0
        """Addresses beyond what is remembered."""
        self._serves = child.generation > 1
        """Whether troubles are no reason to end the agent."""
        self._stopping = False
        child.on_joined = self._joined
        child.on_stop = self._stop
        self._loop.call_every(RETRY, self._again)
        self._announcer = self._announce()

    def _announce(self) -> Announcer:
        announcer = Announcer(
            self._child.config,
            lambda: self._put("announced", ""),
            lambda address: self._put("found", address),
            lambda reason: self._put("failed", reason),
        )
        announcer.thread.start()
        return announcer

    def _announce_again(self) -> None:
        if not self._stopping:
            self._announcer = self._announce()

    def _put(self, kind: str, text: str) -> None:
        self._events.put((kind, text))
        os.eventfd_write(self._wake, 1)

    def _look(self) -> None:
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            return
        while not self._events.empty():
            kind, text = self._events.get_nowait()
            match kind:
                case "announced":
                    self._serves = True
                    self._child.ready()
                case "found":
                    self._find(text)
                case _ if self._serves:
                    self._child.log("ERR", "agent.mdns", f"Failed to poll for new hosts: {text}")
                    self._child.ready()
                    self._loop.call_later(RETRY, self._announce_again)
                case _:
                    self._child.send_control(frames.CannotStart(f"Error starting mDNS listener: {text}"))

    def _find(self, address: str) -> None:
        if address == self._own or address in self._tried or address in self._waiting:
            return
        if len(self._tried) + len(self._waiting) >= KNOWN:
            self.ignored += 1
            return
        self._waiting.append(address)
        self._join()

    def _join(self) -> None:
        if self._waiting and not self._joining:
            self._joining = self._waiting.pop(0)
            self._child.send_control(frames.Discovered(self._joining))

    def _joined(self, address: str, error: str) -> None:
        if address != self._joining:
            return
        self._joining = ""
        self._tried[address] = not error
        if error:
            self._child.log("ERR", "agent.mdns", f"Failed to join: {error}")
        else:
            self._child.log("INFO", "agent.mdns", "Joined 1 hosts")
        self._join()

    def _again(self) -> None:
        failed = [address for address, joined in self._tried.items() if not joined]
        for address in failed:
            del self._tried[address]
            self._find(address)

    def _stop(self, grace: float) -> None:
        self._stopping = True
        self._announcer.stop()
        until = self._loop.clock() + grace

        def look() -> None:
            if not self._announcer.thread.is_alive() or self._loop.clock() >= until:
                self._loop.stop()
            else:
                self._loop.call_later(0.02, look)

        look()


def interface_addresses(name: str) -> list[str]:
    """The addresses of an interface, IPv4 and IPv6, for multicast."""
    return [
        entry.address
        for entry in psutil.net_if_addrs().get(name, [])
        if entry.family in {socket.AF_INET, socket.AF_INET6}
    ]


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text or type(error).__name__


def main(child: Child) -> None:
    """Be the mdns process."""
    Discovery(child)
    child.loop.run()
