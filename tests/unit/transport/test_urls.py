from __future__ import annotations

import pytest

from nixfetch.transport import UrlError
from nixfetch.transport.urls import parameters, redacted, scheme, segments


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://cache.example/x", "https://cache.example/x"),
        ("https://user:pw@cache.example:8443/x", "https://cache.example:8443/x"),
        ("https://to%20ken@cache.example", "https://cache.example"),
        ("https://u:a@b@cache.example/", "https://cache.example/"),
        ("https://u:p@[::1]:80/", "https://[::1]:80/"),
        ("https://u:p/w@cache.example/", "https:…"),
        ("https:user:pw@cache.example", "https:…"),
        ("https://h/x?a=1&X-Amz-Signature=ff&b", "https://h/x?a=1&X-Amz-Signature=REDACTED&b"),
        ("https://h/?X-Amz-Credential=k", "https://h/?X-Amz-Credential=REDACTED"),
        ("https://h/?X-Amz-Security-Token=k", "https://h/?X-Amz-Security-Token=REDACTED"),
        ("https://h/?AWSAccessKeyId=k", "https://h/?AWSAccessKeyId=REDACTED"),
        ("https://h/?sv=1&sig=k%3D", "https://h/?sv=1&sig=REDACTED"),
        ("https://h/?Policy=k&Key-Pair-Id=j", "https://h/?Policy=REDACTED&Key-Pair-Id=REDACTED"),
        ("nar/x.nar?hash=1#token", "nar/x.nar?hash=1"),
        ("nar/a@b.nar", "nar/a@b.nar"),
        ("file:///a@b", "file:///a@b"),
    ],
)
def test_what_is_shown_of_a_url(url: str, shown: str) -> None:
    assert redacted(url) == shown


def test_segments_are_decoded_once() -> None:
    assert segments("nar/a+b=c%2520%20d?x#y") == (b"nar", b"a+b=c%20 d")
    assert segments("%C3%BC%ff") == (b"\xc3\xbc\xff",)
    assert segments("100%/x%zz") == (b"100%", b"x%zz")


@pytest.mark.parametrize("name", ["", "a//b", "a/./b", "a/%2E%2e", "/a", "a\\b", "a%0ab", "x:y"])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(UrlError):
        segments(name)


def test_schemes() -> None:
    assert scheme("HTTPS://h") == "https"
    assert scheme("svn+ssh:x") == "svn+ssh"
    assert scheme("nar/x:y") is None
    assert scheme("1x:y") is None


def test_unknown_parameters_are_named_and_their_values_are_not() -> None:
    with pytest.raises(UrlError) as caught:
        parameters("region=x&endpiont=secret", frozenset({"region", "endpoint"}))
    assert caught.value.facts == {"parameter": "endpiont"}
    assert caught.value.hint == "known here: endpoint, region"
    assert parameters("a=1&a=%2B+", frozenset("a")) == {"a": "+ "}
