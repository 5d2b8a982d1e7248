"""Service records as addresses to join: order, several targets, errors, and an agent that finds its cluster by them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from serfmp.errors import UserError
from serfmp.io.resolver import service_addresses, split_host_port
from tests.harness import Launcher

dns_message = pytest.importorskip("dns.message")
dns_rrset = pytest.importorskip("dns.rrset")

DEADLINE_S = 20.0
NAME = "_serf._tcp.example.test"


@contextmanager
def name_server(records: Sequence[str]) -> Iterator[str]:
    """A name server with these service records of `NAME`; `address:port`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))

        def serve() -> None:
            while True:
                data, client = sock.recvfrom(4096)
                if not data:
                    return
                query = dns_message.from_wire(data)
                answer = dns_message.make_response(query)
                if records and str(query.question[0].name) == f"{NAME}.":
                    answer.answer.append(dns_rrset.from_text(f"{NAME}.", 5, "IN", "SRV", *records))
                sock.sendto(answer.to_wire(), client)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        host, port = sock.getsockname()
        yield f"{host}:{port}"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", (host, port))
        thread.join(DEADLINE_S)


def test_targets_come_by_priority_and_weight_each_with_its_port() -> None:
    records = ["20 1 1 127.0.0.4.", "10 1 2 127.0.0.2.", "10 5 3 127.0.0.3.", "10 1 2 127.0.0.2."]
    with name_server(records) as server:
        assert service_addresses(f"srv:{NAME}@{server}") == ["127.0.0.3:3", "127.0.0.2:2", "127.0.0.4:1"]


def test_what_goes_wrong_is_told() -> None:
    with name_server([]) as server:
        with pytest.raises(UserError, match=f"^lookup srv:{NAME}@{server}: The DNS response does not contain"):
            service_addresses(f"srv:{NAME}@{server}")
        with pytest.raises(UserError, match=r"lookup srv:a\.\.b@"):
            service_addresses(f"srv:a..b@{server}")
    with pytest.raises(UserError, match=r"lookup srv:x@127\.0\.0\.1:port: invalid literal"):
        service_addresses("srv:x@127.0.0.1:port")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1", ("127.0.0.1", 53)),
        ("127.0.0.1:5", ("127.0.0.1", 5)),
        ("::1", ("::1", 53)),
        ("[::1]", ("::1", 53)),
        ("[::1]:5", ("::1", 5)),
    ],
)
def test_name_servers(text: str, expected: tuple[str, int]) -> None:
    assert split_host_port(text, 53) == expected


def test_an_agent_finds_its_cluster_by_service_records(launch: Launcher) -> None:
    first = launch.serfmp("first")
    with name_server([f"1 1 {first.bind.port} {first.bind.host}."]) as server:
        words = [f"-retry-join=srv:{NAME}@{server}", "-retry-interval=1s"]
        second = launch.serfmp("second", extra=words)
        for agent in (first, second):
            agent.wait_statuses({"first": "alive", "second": "alive"}, DEADLINE_S)
        second.wait_log("[INFO] agent: Join completed. Synced with 1 initial agents", DEADLINE_S)
