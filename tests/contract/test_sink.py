"""What every sink does: objects appear whole or not at all, under safe names."""

from __future__ import annotations

from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING
from urllib.request import Request, urlopen

import boto3
import pytest
from moto.server import ThreadedMotoServer

from nixfetch.transport import NotFoundError, TransportOptions, locate
from nixfetch.transport.destination import locate_sink
from nixfetch.transport.s3.sink import PART
from nixfetch.transport.sink import Entry
from nixfetch.transport.urls import UrlError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import TypeVar

    from nixfetch.transport import Transport
    from nixfetch.transport.sink import Sink

    T = TypeVar("T")


def once(act: Callable[[], T]) -> T:
    return act()


@contextmanager
def opened(url: str) -> Iterator[tuple[Sink, Transport]]:
    options = TransportOptions()
    sink = locate_sink(url, options=options, persist=once)
    transport = locate(url, options=options)
    try:
        yield sink, transport
    finally:
        sink.close()
        transport.close()


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["directory", "bucket"])
def url(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    if request.param == "directory":
        yield f"file://{tmp_path}/mirror"
        return
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    endpoint = request.getfixturevalue("moto")
    # What it holds is the process's, whichever server was asked to.
    urlopen(Request(f"{endpoint}/moto-api/reset", method="POST")).close()
    with closing(boto3.client("s3", "us-east-1", endpoint_url=endpoint)) as client:
        client.create_bucket(Bucket="bucket")
    yield f"s3://bucket/some/prefix?region=us-east-1&endpoint={endpoint}"


@pytest.fixture
def both(url: str) -> Iterator[tuple[Sink, Transport]]:
    with opened(url) as both:
        yield both


def read(transport: Transport, name: str) -> bytes:
    with transport.open(name) as body:
        return b"".join(body.chunks)


def given_up(sink: Sink, name: str, data: bytes) -> None:
    """Write, and have second thoughts."""
    with suppress(KeyError), sink.writing(name) as upload:
        upload.write(data)
        raise KeyError


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 2 * PART + 7])
def test_what_is_written_is_there(both: tuple[Sink, Transport], size: int) -> None:
    sink, transport = both
    data = bytes(range(256)) * (size // 256 + 1)
    data = data[:size]
    with sink.writing("nar/file.nar", size=size) as upload:
        for start in range(0, size, 300_000):
            upload.write(data[start : start + 300_000])
        assert sink.size("nar/file.nar") is None
    assert sink.size("nar/file.nar") == size
    assert read(transport, "nar/file.nar") == data


def test_what_is_given_up_is_not(both: tuple[Sink, Transport]) -> None:
    sink, transport = both
    for size in (10, 2 * PART):
        given_up(sink, "nar/file.nar", bytes(size))
    assert sink.size("nar/file.nar") is None
    assert list(sink.entries("nar")) == []
    with pytest.raises(NotFoundError):
        read(transport, "nar/file.nar")


def test_an_object_is_replaced_whole(both: tuple[Sink, Transport]) -> None:
    sink, transport = both
    assert sink.put("one", b"long enough")
    given_up(sink, "one", b"other")
    assert read(transport, "one") == b"long enough"
    assert sink.put("one", b"other")
    assert read(transport, "one") == b"other"


def test_or_left_alone(both: tuple[Sink, Transport]) -> None:
    sink, transport = both
    assert sink.put("one", b"first", replace=False)
    assert not sink.put("one", b"second", replace=False)
    assert read(transport, "one") == b"first"


def test_entries_are_those_of_one_folder(both: tuple[Sink, Transport]) -> None:
    sink, _ = both
    assert list(sink.entries()) == []
    assert list(sink.entries("nar")) == []
    for number in range(3):
        sink.put(f"{number}.narinfo", bytes(number))
        sink.put(f"nar/{number}+x.nar", bytes(10 + number))
    top = sorted(sink.entries(), key=lambda entry: entry.name)
    assert [(entry.name, entry.size) for entry in top] == [
        (f"{number}.narinfo", number) for number in range(3)
    ]
    below = sorted(sink.entries("nar"), key=lambda entry: entry.name)
    assert [(entry.name, entry.size) for entry in below] == [
        (f"nar/{number}+x.nar", 10 + number) for number in range(3)
    ]
    assert isinstance(top[0], Entry)
    assert top[0].modified > 1.7e9


def test_delete(both: tuple[Sink, Transport]) -> None:
    sink, _ = both
    sink.put("one", b"1")
    sink.put("two", b"2")
    sink.delete(["one", "never-there"])
    assert [entry.name for entry in sink.entries()] == ["two"]


@pytest.mark.parametrize("name", ["../x", "/x", "a//b", "a/%2e%2e/b", "http://host/x", "a\\b"])
def test_names_cannot_climb_out(both: tuple[Sink, Transport], name: str) -> None:
    sink, _ = both
    with pytest.raises(UrlError):
        sink.put(name, b"x")
    with pytest.raises(UrlError):
        sink.size(name)
    with pytest.raises(UrlError):
        sink.delete([name])


def test_it_says_where_it_is(both: tuple[Sink, Transport]) -> None:
    sink, transport = both
    assert sink.url == transport.url


def test_http_is_for_reading() -> None:
    with pytest.raises(UrlError, match="mirrors are buckets or directories"):
        locate_sink("https://cache.example", options=TransportOptions(), persist=once)
