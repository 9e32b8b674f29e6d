from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest

Handler = Callable[[socket.socket], None]
Listen = Callable[[Handler], int]


@pytest.fixture
def listen() -> Iterator[Listen]:
    """Starts a server that hands each connection to a function, and gives its port."""
    with ExitStack() as stack:

        def start(handler: Handler) -> int:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            threads: list[threading.Thread] = []
            accepted: list[socket.socket] = []

            def run(connection: socket.socket) -> None:
                with connection, suppress(OSError):
                    connection.settimeout(10)
                    handler(connection)

            def accept() -> None:
                with suppress(OSError):
                    while True:
                        connection, _ = listener.accept()
                        accepted.append(connection)
                        threads.append(threading.Thread(target=run, args=(connection,)))
                        threads[-1].start()

            def stop() -> None:
                with suppress(OSError):
                    listener.shutdown(socket.SHUT_RDWR)  # which wakes accept() up
                acceptor.join()
                for connection in accepted:
                    with suppress(OSError):
                        connection.shutdown(socket.SHUT_RDWR)
                for thread in threads:
                    thread.join()

            acceptor = threading.Thread(target=accept)
            acceptor.start()
            stack.callback(stop)
            return int(listener.getsockname()[1])

        yield start
