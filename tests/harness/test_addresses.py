import socket

from tests.harness import LoopbackAllocator


def test_two_allocators_never_give_the_same_address() -> None:
    with LoopbackAllocator() as one, LoopbackAllocator() as other:
        given = [allocator.address() for allocator in (one, other) for _ in range(600)]
    assert len(set(given)) == len(given)


def test_an_endpoint_is_free_for_udp_and_tcp_and_differs_each_time(loopback: LoopbackAllocator) -> None:
    host = loopback.address()
    endpoints = [loopback.endpoint(host) for _ in range(50)]
    assert len(set(endpoints)) == len(endpoints)
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            probe.bind((host, endpoints[-1].port))


def test_a_port_in_use_is_passed_over(loopback: LoopbackAllocator) -> None:
    host = loopback.address()
    taken = loopback.free_port(host) + 1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as blocker:
        blocker.bind((host, taken))
        assert loopback.free_port(host) != taken


def test_an_ipv6_endpoint_is_written_with_brackets(loopback: LoopbackAllocator) -> None:
    endpoint = loopback.endpoint("::1")
    assert str(endpoint) == f"[::1]:{endpoint.port}"
