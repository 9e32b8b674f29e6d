"""HTTP over real sockets: connections, timeouts, TLS, and servers that misbehave."""

from __future__ import annotations

import socket
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from nixfetch.errors import TransportError
from nixfetch.transport import (
    NotFoundError,
    Pace,
    Range,
    Transport,
    TransportOptions,
    UrlError,
    locate,
)
from nixfetch.transport.tls import CertificateFileError
from nixfetch.transport.waiting import SlowRemoteError
from servers import Answer, LoopbackServer, certified, once

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OPTIONS = TransportOptions(trust_env=False, pace=Pace(connect=5, stall=5))
DATA = bytes(range(256)) * 2000


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer({"x": DATA}) as server:
        yield server


@contextmanager
def client(url: str, options: TransportOptions = OPTIONS) -> Iterator[Transport]:
    with closing(locate(url, options=options)) as transport:
        yield transport


def read(transport: Transport, name: str = "x", wanted: Range | None = None) -> bytes:
    with transport.open(name, wanted) as body:
        return b"".join(body.chunks)


def failure(url: str, name: str = "x", options: TransportOptions = OPTIONS) -> TransportError:
    with client(url, options) as transport, pytest.raises(TransportError) as caught:
        read(transport, name)
    return caught.value


def test_one_connection_serves_many_objects_missing_ones_too(server: LoopbackServer) -> None:
    server.faults["moved"] = Answer(b"there", 302, {"Location": "/x"})
    with client(server.url) as transport:
        for _ in range(3):
            assert read(transport) == DATA
            assert read(transport, "moved") == DATA
            with pytest.raises(NotFoundError):
                read(transport, "none")
    assert server.connections == 1
    assert server.asked("x") == 6


def test_an_endless_error_page_is_not_read(server: LoopbackServer) -> None:
    server.faults["x"] = Answer(b"x" * 100, 404, {"Content-Length": "9999999999"}, delay=0)
    assert isinstance(failure(server.url), NotFoundError)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (Answer(DATA, cut=1000), "body ended early"),
        (Answer(DATA, cut=1000, chunked=True), "body ended early"),
        (Answer(DATA, cut=1000, reset=True), "connection failed"),
        (Answer(reset=True), "connection failed"),
        (Answer(headers={"Content-Length": "-1"}), "answer without a usable Content-Length"),
        (Answer(headers={"Bad Name": "x"}), "malformed header field in the answer"),
    ],
)
def test_broken_answers_are_retryable(server: LoopbackServer, answer: Answer, problem: str) -> None:
    server.faults["x"] = once(answer)
    with client(server.url) as transport:
        with pytest.raises(TransportError) as caught:
            read(transport)
        assert (caught.value.problem, caught.value.retryable) == (problem, True)
        assert caught.value.facts["url"] == f"{server.url}/x"
        assert read(transport) == DATA


@pytest.mark.parametrize(
    ("headers", "problem"),
    [
        ({"X-Bomb": "x" * 200_000}, "head of the answer is too large"),
        ({f"X-Bomb-{n}": "x" for n in range(300)}, "answer has too many header fields"),
    ],
)
def test_a_head_has_its_limits(
    server: LoopbackServer, headers: dict[str, str], problem: str
) -> None:
    server.faults["x"] = Answer(headers=headers)
    error = failure(server.url)
    assert (error.problem, error.retryable) == (problem, False)


def test_chunked_bodies_have_no_size(server: LoopbackServer) -> None:
    server.faults["x"] = Answer(DATA, chunked=True)
    with client(server.url) as transport, transport.open("x") as body:
        assert body.size is None
        assert b"".join(body.chunks) == DATA


def test_plain_http_to_a_tls_port_has_a_hint(server: LoopbackServer) -> None:
    page = b"The plain HTTP request was sent to HTTPS port"  # what nginx says; Go says so, too
    server.faults["x"] = Answer(page, 400)
    error = failure(server.url)
    assert (error.problem, error.facts["status"]) == ("unexpected answer", 400)
    assert "https://" in str(error.hint)


@pytest.mark.parametrize("answer", [Answer(DATA, delay=10), Answer(DATA, pause=10, piece=10)])
def test_silence_ends_after_the_stall_timeout(server: LoopbackServer, answer: Answer) -> None:
    server.faults["x"] = answer
    options = TransportOptions(trust_env=False, pace=Pace(stall=0.1))
    error = failure(server.url, options=options)
    assert isinstance(error, SlowRemoteError)
    assert error.retryable


def test_a_slow_body_is_no_stall(server: LoopbackServer) -> None:
    data = bytes(20_000)
    server.faults["x"] = Answer(data, pause=0.15, piece=2000)
    with client(server.url, TransportOptions(trust_env=False, pace=Pace(stall=1.0))) as transport:
        assert read(transport) == data


def test_a_body_that_drips_is_one(server: LoopbackServer) -> None:
    server.faults["x"] = Answer(b"0123456789", pause=0.05, piece=1)
    options = TransportOptions(trust_env=False, pace=Pace(stall=0.2))
    assert isinstance(failure(server.url, options=options), SlowRemoteError)


def test_a_reader_that_takes_its_time_is_no_stall(server: LoopbackServer) -> None:
    data = bytes(3_000_000)
    server.faults["x"] = Answer(data)
    options = TransportOptions(trust_env=False, pace=Pace(stall=0.2))
    with client(server.url, options) as transport, transport.open("x") as body:
        assert len(next(body.chunks)) > 0
        time.sleep(0.5)
        assert sum(map(len, body.chunks)) > 2_000_000


def test_resuming_from_where_a_body_broke_off(server: LoopbackServer) -> None:
    server.faults["x"] = once(Answer(DATA, cut=300_000, headers={"ETag": '"v1"'}))
    server.objects["x"] = Answer(DATA, headers={"ETag": '"v1"'})
    received: list[bytes] = []
    with client(server.url) as transport:
        with pytest.raises(TransportError), transport.open("x") as body:
            received.extend(body.chunks)
        offset = sum(map(len, received))
        assert 0 < offset <= 300_000
        with transport.open("x", Range(start=offset, validator=body.validator)) as rest:
            assert rest.start == offset
            received.extend(rest.chunks)
    assert b"".join(received) == DATA


def test_nobody_listens() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        error = failure(url)
    assert (error.problem, error.retryable) == ("cannot connect", True)
    assert error.facts == {"url": f"{url}/x", "reason": "connection refused"}


def test_a_name_that_does_not_resolve() -> None:
    error = failure("http://nowhere.invalid")
    assert (error.problem, error.retryable) == ("cannot connect", True)
    assert "name" in str(error.facts["reason"])


def test_a_proxy_that_cannot_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "gopher://user:hush@proxy")
    monkeypatch.delenv("no_proxy", raising=False)
    error = failure("http://cache.example", options=TransportOptions())
    assert isinstance(error, UrlError)
    assert "hush" not in str(error)


def test_proxies_of_the_environment(
    server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.delenv("no_proxy", raising=False)
    server.faults["*"] = Answer(b"by proxy")
    with client("http://cache.invalid", TransportOptions()) as transport:
        assert read(transport) == b"by proxy"
    assert server.requests[0].target == "http://cache.invalid/x"


# TLS


def test_a_server_that_we_believe(tmp_path: Path, server: LoopbackServer) -> None:
    context, ca_file = certified(tmp_path)
    options = TransportOptions(trust_env=False, ca_file=str(ca_file))
    with LoopbackServer({"x": DATA}, tls=context) as secure:
        server.faults["x"] = Answer(status=302, headers={"Location": f"{secure.url}/x"})
        for url in (secure.url, server.url):  # at once, and by a redirect from plain HTTP
            with client(url, options) as transport:
                assert read(transport) == DATA
        server.faults.clear()
        secure.faults["x"] = Answer(status=302, headers={"Location": f"{server.url}/x"})
        assert failure(secure.url, options=options).problem == "redirect from https to http"


def test_a_server_that_we_do_not_believe(tmp_path: Path) -> None:
    context, _ = certified(tmp_path)
    with LoopbackServer({"x": DATA}, tls=context) as secure:
        error = failure(secure.url)
    assert (error.problem, error.retryable) == ("cannot connect", False)
    assert str(error.facts["reason"]).startswith("certificate verify failed: self-signed")
    assert "NIX_SSL_CERT_FILE" in str(error.hint)


def test_a_certificate_for_another_host(tmp_path: Path) -> None:
    context, ca_file = certified(tmp_path, host="cache.example")
    options = TransportOptions(trust_env=False, ca_file=str(ca_file))
    with LoopbackServer({"x": DATA}, tls=context) as secure:
        error = failure(secure.url, options=options)
    assert not error.retryable
    assert "IP address mismatch" in str(error.facts["reason"])


def test_plain_http_on_a_tls_port(server: LoopbackServer) -> None:
    error = failure(server.url.replace("http:", "https:"))
    assert error.problem == "cannot connect"
    assert error.facts["reason"] == "remote does not talk TLS on this port"
    assert "http://" in str(error.hint)


def test_tls_on_a_plain_port(tmp_path: Path) -> None:
    context, _ = certified(tmp_path)
    with LoopbackServer({"x": DATA}, tls=context) as secure:
        error = failure(secure.url.replace("https:", "http:"))
    # OpenSSL says so with an alert, or hangs up: what comes first is the network's to choose.
    assert error.problem in {
        "remote talks TLS on this port",
        "remote hung up without an answer",
        "connection failed",
    }


@pytest.mark.parametrize("content", [None, "not a certificate"])
def test_certificate_authorities_are_read_when_needed(
    tmp_path: Path, server: LoopbackServer, content: str | None
) -> None:
    ca_file = tmp_path / "none.pem"
    if content is not None:
        ca_file.write_text(content)
    options = TransportOptions(trust_env=False, ca_file=str(ca_file))
    with client(server.url, options) as transport:
        assert read(transport) == DATA
    context, _ = certified(tmp_path)
    with LoopbackServer({"x": DATA}, tls=context) as secure:
        error = failure(secure.url, options=options)
    assert isinstance(error, CertificateFileError)
    assert error.facts["file"] == str(ca_file)
    assert not error.retryable


def test_how_long_an_answer_took_to_begin_is_told(server: LoopbackServer) -> None:
    server.faults["late"] = Answer(DATA, delay=0.2)
    server.faults["moved"] = Answer(b"there", 302, {"Location": "/late"}, delay=0.1)
    server.faults["gone"] = Answer(b"", 404, delay=0.2)
    told: list[float] = []
    pace = Pace(stall=60, answered=told.append)
    with client(server.url) as transport:
        with transport.open("moved", pace=pace) as body:
            assert len(told) == 2
            assert b"".join(body.chunks) == DATA
        with pytest.raises(NotFoundError), transport.open("gone", pace=pace):
            pass
    assert [seconds >= least for seconds, least in zip(told, (0.1, 0.2, 0.2), strict=True)] == [
        True
    ] * 3
