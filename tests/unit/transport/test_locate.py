from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from nixfetch.transport import TransportOptions, UrlError, locate
from nixfetch.transport.file import FileTransport
from nixfetch.transport.http import HttpTransport

if TYPE_CHECKING:
    from pathlib import Path

OPTIONS = TransportOptions()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://cache.example", "https://cache.example"),
        ("HTTP://cache.example:8080/a/b//", "http://cache.example:8080/a/b"),
        ("https://user:pw@cache.example/", "https://cache.example"),
        ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
    ],
)
def test_http(url: str, shown: str) -> None:
    with closing(locate(url, options=OPTIONS)) as transport:
        assert isinstance(transport, HttpTransport)
        assert transport.url == shown


@pytest.mark.parametrize(
    "url", ["file:///srv/a%20b", "file://localhost/srv/a%20b", "file:/srv/a%20b", "/srv/a b"]
)
def test_directories(url: str) -> None:
    transport = locate(url, options=OPTIONS)
    assert isinstance(transport, FileTransport)
    assert transport.url == "file:///srv/a%20b"


def test_a_path_is_taken_as_it_is(tmp_path: Path) -> None:
    directory = tmp_path / "50%20?x#y"
    directory.mkdir()
    (directory / "x").write_bytes(b"data")
    with locate(str(directory), options=OPTIONS).open("x") as body:
        assert b"".join(body.chunks) == b"data"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "cache.example",
        "ssh://host",
        "daemon",
        "ftp://user:pw@host/",
        "data:,x",
        "file://host/dir",
        "file:dir",
        "file:///dir?x=pw",
        "file:///a%00b",
        "file://[::1",
        "/a\0b",
        "https://",
        "https:///path",
        "https://user:pw@",
        "https://host:pw/",
        "https://user:pw/d@host/",
        "https://host/?x=pw",
        "https://host/#pw",
        "https://a..b/",
        f"https://{'a' * 64}.example/",
        "https://ho st/",
        "https://host\\@evil/",
        "s3://",
        "s3://user:pw@bucket",
        "s3://bucket?x=pw",
    ],
)
def test_what_is_no_cache_is_refused_and_nothing_secret_is_shown(url: str) -> None:
    with pytest.raises(UrlError) as caught:
        locate(url, options=OPTIONS)
    assert not caught.value.retryable
    assert "pw" not in str(caught.value)


def test_an_unknown_kind_names_the_known_ones() -> None:
    with pytest.raises(UrlError) as caught:
        locate("ssh://host", options=OPTIONS)
    assert "s3://BUCKET" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("url", "absent"),
    [
        ("/srv", {"httpx", "boto3", "botocore", "ssl"}),
        ("https://cache.example", {"boto3", "botocore"}),
        ("s3://bucket?profile=none-of-that-name", {"httpx"}),
    ],
)
def test_only_what_is_needed_is_imported(url: str, absent: set[str]) -> None:
    script = (
        "import sys, contextlib, nixfetch.transport as t\n"
        "print(*{'httpx', 'boto3', 'botocore', 'ssl'} & sys.modules.keys())\n"
        "with contextlib.suppress(t.AuthenticationError):\n"
        "    t.locate(sys.argv[1], options=t.TransportOptions()).close()\n"
        "print(*sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script, url], check=True, capture_output=True, text=True
    )
    before, after = ran.stdout.splitlines()
    assert before == ""
    assert not absent & set(after.split())
