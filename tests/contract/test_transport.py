"""What every transport must do alike. A new transport joins by adding itself to `remote`."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import boto3
import pytest
from moto.server import ThreadedMotoServer

from nixfetch.errors import FormatError, TransportError
from nixfetch.transport import (
    Body,
    NotFoundError,
    Pace,
    Range,
    Transport,
    TransportOptions,
    UnsatisfiableRangeError,
    UrlError,
    locate,
)
from nixfetch.transport.s3 import connect
from servers import Answer, LoopbackServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BIG = bytes(range(256)) * 3000  # 768,000 bytes: several chunks
OBJECTS = {
    "nix-cache-info": b"StoreDir: /nix/store\n",
    "nar/big.nar": BIG,
    "nar/empty.nar": b"",
    "nar/a+b=c%20d e.nar": b"odd name",
    "nar/ü.nar": b"not ASCII",
}
URLS = {  # how narinfos would name them
    "nix-cache-info": "nix-cache-info",
    "nar/big.nar": "nar/big.nar",
    "nar/empty.nar": "nar/empty.nar",
    "nar/a+b=c%20d e.nar": "nar/a+b=c%2520d%20e.nar",
    "nar/ü.nar": "nar/%C3%BC.nar",
}
OPTIONS = TransportOptions(trust_env=False, pace=Pace(connect=5, stall=5))


@dataclass(frozen=True, slots=True)
class Remote:
    """One remote of a kind, holding `OBJECTS`."""

    transport: Transport
    put: Callable[[str, bytes], None]
    """Replaces an object."""
    truncated: Callable[[], AbstractContextManager[Body]]
    """Opens ``nar/big.nar``, which will end before its announced size."""


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@contextmanager
def file_remote(directory: Path) -> Iterator[Remote]:
    def put(name: str, data: bytes) -> None:
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(data)

    @contextmanager
    def truncated() -> Iterator[Body]:
        with transport.open("nar/big.nar") as body:
            os.truncate(directory / "nar/big.nar", len(BIG) // 2)
            yield body

    for name, data in OBJECTS.items():
        put(name, data)
    transport = locate(directory.as_uri(), options=OPTIONS)
    yield Remote(transport, put, truncated)


@contextmanager
def http_remote() -> Iterator[Remote]:
    with LoopbackServer() as server:

        def put(name: str, data: bytes) -> None:
            server.objects[f"sub/cache/{name}"] = data

        def truncated() -> AbstractContextManager[Body]:
            server.faults["sub/cache/nar/big.nar"] = Answer(BIG, cut=len(BIG) // 2)
            return transport.open("nar/big.nar")

        for name, data in OBJECTS.items():
            put(name, data)
        transport = locate(f"{server.url}/sub/cache/", options=OPTIONS)
        with closing(transport):
            yield Remote(transport, put, truncated)


@pytest.fixture(scope="module")
def session() -> boto3.Session:
    return boto3.Session(aws_access_key_id="key", aws_secret_access_key="secret")


@contextmanager
def s3_remote(endpoint: str, session: boto3.Session) -> Iterator[Remote]:
    url = "s3://cache/some/prefix?endpoint="

    def put(name: str, data: bytes) -> None:
        client.put_object(Bucket="cache", Key=f"some/prefix/{name}", Body=data)

    @contextmanager
    def truncated() -> Iterator[Body]:
        fault = Answer(BIG, cut=len(BIG) // 2)
        with LoopbackServer({"cache/some/prefix/nar/big.nar": fault}) as server:
            alike = connect(url + server.url, options=OPTIONS, session=session)
            with closing(alike), alike.open("nar/big.nar") as body:
                yield body

    with (
        closing(session.client("s3", "us-east-1", endpoint_url=endpoint)) as client,
        closing(connect(url + endpoint, options=OPTIONS, session=session)) as transport,
    ):
        client.create_bucket(Bucket="cache")
        for name, data in OBJECTS.items():
            put(name, data)
        yield Remote(transport, put, truncated)


@pytest.fixture(params=["file", "http", "s3"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Remote]:
    with ExitStack() as stack:
        match request.param:
            case "file":
                yield stack.enter_context(file_remote(tmp_path))
            case "http":
                yield stack.enter_context(http_remote())
            case "s3":
                moto, session = map(request.getfixturevalue, ("moto", "session"))
                yield stack.enter_context(s3_remote(moto, session))
            case kind:
                pytest.fail(f"no such transport: {kind}")


@pytest.mark.parametrize("name", OBJECTS)
def test_whole_object(remote: Remote, name: str) -> None:
    with remote.transport.open(URLS[name]) as body:
        assert (body.size, body.start, body.encoding) == (len(OBJECTS[name]), 0, None)
        chunks = list(body.chunks)
    assert b"".join(chunks) == OBJECTS[name]
    assert all(0 < len(chunk) <= 256 * 1024 for chunk in chunks)


def test_missing_object_is_not_found_and_says_where(remote: Remote) -> None:
    with pytest.raises(NotFoundError) as caught, remote.transport.open("nar/none.nar"):
        pass
    assert caught.value.facts["url"] == f"{remote.transport.url}/nar/none.nar"
    assert not caught.value.retryable


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "/nix-cache-info",
        "//127.0.0.1/nix-cache-info",
        "nar/../nix-cache-info",
        "nar/%2e%2E/nix-cache-info",
        "nar/..%2fnix-cache-info",
        "nar%5c..%5cnix-cache-info",
        "nar\\big.nar",
        "nar//big.nar",
        "./nix-cache-info",
        "nar/",
        "nix-cache-info%00",
        "nix-cache-info\0",
        "nix-cache-info\n",
        "?nix-cache-info",
        "x" * 10_000,
        "file:///etc/passwd",
        "data:text/plain,x",
        "ftp://127.0.0.1/x",
        "javascript:x",
    ],
)
def test_names_that_leave_the_remote_are_refused(remote: Remote, name: str) -> None:
    with pytest.raises(UrlError) as caught, remote.transport.open(name):
        pass
    assert not caught.value.retryable


def test_a_query_means_nothing_to_static_files(remote: Remote) -> None:
    with remote.transport.open("nix-cache-info?hash=abc") as body:
        assert b"".join(body.chunks) == OBJECTS["nix-cache-info"]


@pytest.mark.parametrize(
    "wanted",
    [
        Range(start=0, stop=1),
        Range(start=0),
        Range(start=1),
        Range(start=1000, stop=2000),
        Range(start=len(BIG) - 1),
        Range(start=700_000, stop=10**12),
    ],
    ids=str,
)
def test_ranges(remote: Remote, wanted: Range) -> None:
    expected = BIG[wanted.start : wanted.stop]
    with remote.transport.open("nar/big.nar", wanted) as body:
        assert (body.start, body.size) == (wanted.start, len(expected))
        assert b"".join(body.chunks) == expected


@pytest.mark.parametrize("name", ["nar/big.nar", "nar/empty.nar"])
def test_a_range_behind_the_end_is_an_error_of_its_own(remote: Remote, name: str) -> None:
    wanted = Range(start=len(OBJECTS[name]), stop=10**7)
    with pytest.raises(UnsatisfiableRangeError) as caught, remote.transport.open(name, wanted):
        pass
    assert not caught.value.retryable


def test_a_range_of_the_same_version(remote: Remote) -> None:
    with remote.transport.open("nar/big.nar") as body:
        validator = body.validator
    assert validator is not None
    wanted = Range(start=500_000, validator=validator)
    with remote.transport.open("nar/big.nar", wanted) as body:
        assert (body.start, body.validator) == (500_000, validator)
        assert b"".join(body.chunks) == BIG[500_000:]


def test_a_range_of_another_version_gives_the_whole_object(remote: Remote) -> None:
    with remote.transport.open("nar/big.nar") as body:
        validator = body.validator
    changed = BIG[::-1] + b"more"
    remote.put("nar/big.nar", changed)
    wanted = Range(start=500_000, validator=validator)
    with remote.transport.open("nar/big.nar", wanted) as body:
        assert (body.start, body.size) == (0, len(changed))
        assert body.validator != validator
        assert b"".join(body.chunks) == changed


def test_a_truncated_body_is_retryable(remote: Remote) -> None:
    received: list[bytes] = []
    with pytest.raises(TransportError) as caught, remote.truncated() as body:
        received.extend(body.chunks)
    assert caught.value.retryable
    assert str(caught.value.facts["url"]).endswith("nar/big.nar")
    assert sum(map(len, received)) <= len(BIG) // 2


def test_abandoning_a_body_is_fine(remote: Remote) -> None:
    for _ in range(3):
        with remote.transport.open("nar/big.nar") as body:
            next(body.chunks)
    with remote.transport.open("nix-cache-info") as body:
        assert b"".join(body.chunks) == OBJECTS["nix-cache-info"]


@pytest.mark.parametrize("error", [OSError("disk full"), FormatError("not a NAR", offset=3)])
def test_the_readers_own_errors_pass_untouched(remote: Remote, error: Exception) -> None:
    before = dict(getattr(error, "facts", {}))

    def read() -> None:
        with remote.transport.open("nar/big.nar") as body:
            next(body.chunks)
            raise error

    with pytest.raises(type(error)) as caught:
        read()
    assert caught.value is error
    assert getattr(error, "facts", {}) == before


def test_threads_share_a_transport(remote: Remote) -> None:
    def read(name: str) -> bool:
        with remote.transport.open(URLS[name]) as body:
            return b"".join(body.chunks) == OBJECTS[name]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, [*OBJECTS] * 10))


def test_the_url_is_what_a_user_would_type(remote: Remote) -> None:
    url = remote.transport.url
    assert "?" not in url
    assert not url.endswith("/")
    assert url.startswith(("file:///", "http://127.0.0.1:", "s3://cache/some/prefix"))
