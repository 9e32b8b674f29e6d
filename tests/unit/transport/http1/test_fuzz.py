"""Whatever a remote says, it is an answer or a `TransportError`."""

from __future__ import annotations

import socket
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from nixfetch.errors import TransportError
from nixfetch.transport import Pace
from nixfetch.transport.http1.connection import PIECE, Connection

ANSWERS = [
    b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\nETag: "a"\r\n\r\n0123456789',
    b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n4;a=b\r\n0123\r\nA\n0123456789\n0\nX: y\n\n",
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nuntil the end",
    b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 404 Not Found\nContent-Length: 0\n\n",
]
PIECES = [
    b"\r\n",
    b"\n",
    b":",
    b" ",
    b"HTTP/1.1 ",
    b"Content-Length: ",
    b"chunked",
    b"0",
    b"-",
    b"f",
]

edits = st.lists(
    st.tuples(
        st.integers(0, 120),
        st.integers(0, 8),
        st.sampled_from(PIECES) | st.binary(max_size=4),
    ),
    max_size=4,
)


def edited(answer: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for position, removed, added in changes:
        at = position % (len(answer) + 1)
        answer = answer[:at] + added + answer[at + removed :]
    return answer


@settings(deadline=None)
@given(answer=st.sampled_from(ANSWERS) | st.binary(max_size=60), changes=edits)
def test_damaged_answers(answer: bytes, changes: list[tuple[int, int, bytes]]) -> None:
    ours, remote = socket.socketpair()
    connection = Connection(ours)
    with remote:
        remote.sendall(edited(answer, changes))
        remote.shutdown(socket.SHUT_WR)
        with suppress(TransportError):
            body, _ = connection.body(connection.ask(b"GET / HTTP/1.1\r\n\r\n", Pace(stall=10)))
            assert all(0 < len(piece) <= PIECE for piece in body)
    connection.close()
