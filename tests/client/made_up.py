"""Made-up agents for tests of both clients: what no real one does at will."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Final

import msgpack

HANDSHAKE: Final = msgpack.packb({"Error": "", "Seq": 0})


@contextlib.contextmanager
def server(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """One connection to a made-up agent, which the client may end at any time; the address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            sock, _ = listener.accept()
            with sock, contextlib.suppress(OSError):
                talk(sock)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        host, port = listener.getsockname()
        yield f"{host}:{port}"
        thread.join(10)
        assert not thread.is_alive()


def end_a_query_with_nobody(sock: socket.socket) -> None:
    """As real agents do at times."""
    sock.recv(65536)
    sock.sendall(HANDSHAKE)
    sock.recv(65536)
    header = msgpack.packb({"Error": "", "Seq": 1})
    told = [("ack", "a", None), ("response", "a", b"x"), ("ack", "", None), ("response", "", None), ("done", "", None)]
    sock.sendall(header)
    for kind, node, payload in told:
        sock.sendall(header + msgpack.packb({"Type": kind, "From": node, "Payload": payload}))
    sock.recv(65536)
