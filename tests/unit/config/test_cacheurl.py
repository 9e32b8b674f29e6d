from __future__ import annotations

import pytest

from nixfetch.config import CacheUrl, CacheUrlError, without_secrets


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://cache.nixos.org/", "https://cache.nixos.org"),
        ("HTTP://host:8080/sub/path//", "http://host:8080/sub/path"),
        ("http://[::1]:80", "http://[::1]:80"),
        ("https://user:pw@host/x", "https://user:pw@host/x"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
        ("file:///var/cache", "file:///var/cache"),
        ("file:///", "file:///"),
        ("/var/my%20cache", "file:///var/my%2520cache"),
        ("/", "file:///"),
    ],
)
def test_the_url_is_what_a_transport_needs(text: str, url: str) -> None:
    assert CacheUrl.parse(text) == CacheUrl(url=url)


def test_parameters_that_we_heed() -> None:
    cache = CacheUrl.parse("https://host/x?priority=10&trusted=1&want-mass-query=true")
    assert cache == CacheUrl(url="https://host/x", priority=10, trusted=True)
    assert str(cache) == "https://host/x?priority=10&trusted=true"


def test_s3_parameters_are_decoded_and_go_to_the_transport() -> None:
    cache = CacheUrl.parse(
        "s3://b?region=eu-west-1&endpoint=http%3A%2F%2F127.0.0.1%3A9&storage-class=X&profile=a%26b"
    )
    assert dict(cache.s3) == {
        "region": "eu-west-1",
        "endpoint": "http://127.0.0.1:9",
        "profile": "a&b",
    }
    assert cache.unknown == ()
    assert CacheUrl.parse(str(cache)) == cache


def test_a_token_is_no_name_of_a_parameter() -> None:
    assert CacheUrl.parse("https://h?aHVudGVyMg==&x%00y=1").unknown == ("(without a name)",) * 2


def test_parameters_that_we_cannot_heed_are_named() -> None:
    cache = CacheUrl.parse("https://h?region=x&&versionId=1&ToKeN&compression=zstd")
    assert cache.unknown == ("(without a name)", "region", "versionId")
    assert dict(cache.s3) == {}


def test_the_first_of_equal_parameters_counts_as_in_nix() -> None:
    assert CacheUrl.parse("https://h?priority=1&priority=2").priority == 1


def test_the_usual_store_directory_may_be_said() -> None:
    assert CacheUrl.parse("https://h?store=/nix/store/").url == "https://h"
    with pytest.raises(CacheUrlError, match="another store directory"):
        CacheUrl.parse("https://h?store=/gnu/store")


@pytest.mark.parametrize(
    "text",
    [
        "daemon",
        "local",
        "auto",
        "local?root=/x",
        "ssh://user@host",
        "ssh-ng://host",
        "unix:///socket",
        "cache.nixos.org",
        "./dir",
        "",
    ],
)
def test_other_kinds_are_refused_with_what_is_supported(text: str) -> None:
    with pytest.raises(CacheUrlError, match="not a kind of cache") as caught:
        CacheUrl.parse(text)
    assert "s3://bucket" in str(caught.value)
    assert caught.value.exit_code == 78


@pytest.mark.parametrize(
    "text",
    [
        "https://",
        "https:///path",
        "https://host:port",
        "https://host:99999",
        "https://host:0",
        "https://[::1",
        "https://host/a b",
        "https://host/\n",
        "https://host/#fragment",
        "file://host/dir",
        "file:dir",
        "s3://",
        "s3://key:secret@bucket",
        "https://host/" + "x" * 5000,
    ],
)
def test_malformed_urls_are_refused(text: str) -> None:
    with pytest.raises(CacheUrlError, match="malformed"):
        CacheUrl.parse(text)


@pytest.mark.parametrize("query", ["priority=x", "priority=", "trusted=maybe"])
def test_unfit_parameters_are_refused(query: str) -> None:
    with pytest.raises(CacheUrlError, match="unusable parameter") as caught:
        CacheUrl.parse(f"https://h?{query}")
    assert caught.value.facts["parameter"] == query.partition("=")[0]


@pytest.mark.parametrize(
    "text",
    [
        "https://user:hunter2@host/x?token=hunter2",
        "s3://b?endpoint=http://user:hunter2@minio",
        "s3://b?endpoint=user:hunter2@minio:9000&secret-key=hunter2",
    ],
)
def test_text_forms_hold_no_secrets(text: str) -> None:
    cache = CacheUrl.parse(text)
    assert "hunter2" not in f"{cache} {cache!r} {cache.display} {cache.unknown}"


@pytest.mark.parametrize(
    "text",
    [
        "https://user:hunter2@host:port/x",
        "https://user:hun/hunter2@host#",
        "ssh://user:hunter2@host",
        "user:hunter2@host",
        "https://h/?hunter2 ",
        "s3://key:hunter2@bucket?a=hunter2",
    ],
)
def test_errors_hold_no_secrets(text: str) -> None:
    assert "hunter2" not in without_secrets(text)
    with pytest.raises(CacheUrlError) as caught:
        CacheUrl.parse(text)
    assert "hunter2" not in str(caught.value)


def test_values_can_be_keys_of_a_table() -> None:
    assert len({CacheUrl.parse("s3://b?region=x"), CacheUrl.parse("s3://b?region=x")}) == 1
