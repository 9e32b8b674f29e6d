from __future__ import annotations

import base64

import pytest

from nixfetch.transport import UrlError
from nixfetch.transport.http1.proxies import Proxies, Proxy, parse


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("http://proxy:3128", Proxy("proxy", 3128)),
        ("proxy:3128", Proxy("proxy", 3128)),
        ("http://PROXY/", Proxy("proxy", 80)),
        ("http://[::1]:8080", Proxy("::1", 8080)),
        ("http://user:p%40%3Aw@proxy:1", Proxy("proxy", 1, basic("user:p@:w"))),
        ("user@proxy:1", Proxy("proxy", 1, basic("user:"))),
        ("http://\u00fc:\u00fc@proxy:1", Proxy("proxy", 1, basic("\u00fc:\u00fc"))),
    ],
)
def test_proxies(url: str, proxy: Proxy) -> None:
    assert parse(url) == proxy
    assert "Basic" not in repr(parse(url))


@pytest.mark.parametrize(
    "url",
    [
        "gopher://user:hush@proxy",
        "socks5://user:hush@proxy:1080",
        "https://user:hush@proxy",
        "http://user:hush@:80",
        "http://user:hush@proxy:port",
        "http://user:hush@[proxy",
        "http://user:hush@proxy:99999",
    ],
)
def test_what_is_no_proxy_of_ours(url: str) -> None:
    with pytest.raises(UrlError) as caught:
        parse(url)
    assert "hush" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert "HTTPS_PROXY" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("environment", "scheme", "expected"),
    [
        ({}, "http", None),
        ({"http": "a:1"}, "http", Proxy("a", 1)),
        ({"http": "a:1"}, "https", None),
        ({"https": "b:1", "all": "c:1"}, "https", Proxy("b", 1)),
        ({"https": "b:1", "all": "c:1"}, "http", Proxy("c", 1)),
        ({"http": "a:1", "no": "*"}, "http", None),
        ({"http": "a:1", "no": "other, .example"}, "http", None),
        ({"http": "a:1", "no": "cache.example:80"}, "http", None),
        ({"http": "a:1", "no": "cache.example:81"}, "http", Proxy("a", 1)),
        ({"http": "a:1", "no": "ache.example"}, "http", Proxy("a", 1)),
        ({"http": "socks5://a:1", "no": "cache.example"}, "http", None),
    ],
)
def test_who_is_asked_through_which(
    environment: dict[str, str], scheme: str, expected: Proxy | None
) -> None:
    assert Proxies(environment).towards(scheme, "cache.example", 80) == expected


def test_our_own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    proxies = Proxies()
    assert proxies.towards("https", "cache.example", 443) == Proxy("proxy", 3128)
    assert proxies.towards("http", "cache.example", 80) is None
