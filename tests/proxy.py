"""A small HTTP proxy on loopback that wants a password."""

from __future__ import annotations

import base64
import socket
import socketserver
import threading
from typing import Self


class Proxy:
    """Lets those through who say the password: CONNECT, and requests in absolute form."""

    def __init__(self, user: str, password: str) -> None:
        login = base64.b64encode(f"{user}:{password}".encode()).decode()
        self._field = f"proxy-authorization: basic {login}".lower()  # whose letters may be any
        proxy = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                proxy.serve(self.request, self.rfile.readline, self.wfile.write)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.lines: list[str] = []
        self.address = f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def serve(self, client: socket.socket, readline, write) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001
        first = readline().decode()
        fields = list(iter(lambda: readline().strip().decode(), ""))
        if not first:
            return
        self.lines.append(first.strip())
        if self._field not in [field.lower() for field in fields]:
            write(b"HTTP/1.1 407 Who are you?\r\nContent-Length: 0\r\n\r\n")
            return
        method, target, _ = first.split()
        host, _, port = target.removeprefix("http://").partition("/")[0].partition(":")
        with socket.create_connection((host, int(port)), timeout=60) as server:
            if method == "CONNECT":
                write(b"HTTP/1.1 200 Go on\r\n\r\n")
            else:
                path = "/" + target.removeprefix("http://").partition("/")[2]
                kept = [
                    field
                    for field in fields
                    if not field.lower().startswith(("proxy-", "connection"))
                ]
                head = [f"GET {path} HTTP/1.1", *kept, "connection: close", "", ""]
                server.sendall("\r\n".join(head).encode())
            _join(client, server)


def _join(one: socket.socket, other: socket.socket) -> None:
    def pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    back = threading.Thread(target=pump, args=(other, one))
    back.start()
    pump(one, other)
    back.join()
