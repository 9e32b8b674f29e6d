from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from nixfetch.errors import TransportError
from nixfetch.transport import UrlError
from nixfetch.transport.addresses import Boundary, Kind, kind, resolve

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = {
    "public.example": ["93.184.216.34", "2606:2800:220:1::1"],
    "other.example": ["151.101.1.6"],
    "lan.example": ["10.0.0.7"],
    "lan2.example": ["192.168.1.1", "fd00::1"],
    "here.example": ["127.0.0.1"],
    "metadata.example": ["169.254.169.254"],
    "forged.example": ["93.184.216.34", "127.0.0.1"],
}


def resolver(host: str) -> list[str]:
    return NAMES.get(host, [])


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("93.184.216.34", Kind.PUBLIC),
        ("172.15.255.255", Kind.PUBLIC),
        ("172.16.0.0", Kind.PRIVATE),
        ("172.31.255.255", Kind.PRIVATE),
        ("172.32.0.0", Kind.PUBLIC),
        ("10.1.2.3", Kind.PRIVATE),
        ("192.168.0.1", Kind.PRIVATE),
        ("100.64.0.1", Kind.PRIVATE),
        ("100.128.0.1", Kind.PUBLIC),
        ("127.0.0.1", Kind.LOOPBACK),
        ("127.255.255.254", Kind.LOOPBACK),
        ("0.0.0.0", Kind.LOOPBACK),
        ("169.254.169.254", Kind.LINK_LOCAL),
        ("224.0.0.1", Kind.NEVER),
        ("255.255.255.255", Kind.NEVER),
        ("::", Kind.LOOPBACK),
        ("::1", Kind.LOOPBACK),
        ("fe80::1%eth0", Kind.LINK_LOCAL),
        ("fd00:ec2::254", Kind.PRIVATE),
        ("ff02::1", Kind.NEVER),
        ("2606:4700::1", Kind.PUBLIC),
        ("::ffff:127.0.0.1", Kind.LOOPBACK),
        ("::ffff:93.184.216.34", Kind.PUBLIC),
        ("::7f00:1", Kind.LOOPBACK),
        ("64:ff9b::a9fe:a9fe", Kind.LINK_LOCAL),
        ("2002:0a00:0001::", Kind.PRIVATE),
        ("2002:5db8:d822::", Kind.PUBLIC),
    ],
)
def test_kinds(address: str, found: Kind) -> None:
    assert kind(address) == found


@pytest.mark.parametrize(
    ("home", "target", "allowed"),
    [
        ("public.example", "other.example", True),
        ("public.example", "public.example", True),
        ("public.example", "8.8.8.8", True),
        ("public.example", "lan.example", False),
        ("public.example", "here.example", False),
        ("public.example", "127.0.0.1", False),
        ("public.example", "::1", False),
        ("public.example", "10.0.0.1", False),
        ("public.example", "100.64.0.1", False),
        ("public.example", "0.0.0.0", False),
        ("public.example", "metadata.example", False),
        ("public.example", "forged.example", False),
        ("public.example", "unknown.example", True),  # connecting will say why not
        ("lan.example", "lan2.example", True),
        ("lan.example", "other.example", True),
        ("lan.example", "127.0.0.1", False),
        ("lan.example", "169.254.169.254", False),
        ("127.0.0.1", "here.example", True),
        ("127.0.0.1", "lan.example", True),
        ("127.0.0.1", "169.254.169.254", False),
        ("127.0.0.1", "224.0.0.1", False),
        ("169.254.1.1", "169.254.1.2", True),
        ("169.254.1.1", "127.0.0.1", False),
        ("forged.example", "127.0.0.1", False),
        ("unknown.example", "127.0.0.1", False),
        ("unknown.example", "other.example", True),
    ],
)
def test_what_a_cache_may_name(home: str, target: str, *, allowed: bool) -> None:
    boundary = Boundary(home, resolver)
    if allowed:
        boundary.check(target)
        return
    with pytest.raises(UrlError) as caught:
        boundary.check(target)
    assert caught.value.facts["host"] == target
    assert not caught.value.retryable


def test_the_boundary_is_drawn_once() -> None:
    answers = iter([["93.184.216.34"], ["127.0.0.1"]])
    changing: Callable[[str], list[str]] = lambda host: (  # noqa: E731
        next(answers) if host == "home.example" else resolver(host)
    )
    boundary = Boundary("home.example", changing)
    boundary.check("other.example")
    with pytest.raises(UrlError):
        boundary.check("here.example")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "0x7f000001", "2130706433", "localhost"])
def test_every_spelling_of_loopback_is_seen(host: str) -> None:
    assert {kind(address) for address in resolve(host)} == {Kind.LOOPBACK}


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 70 + ".example", ""])
def test_names_that_do_not_resolve_have_no_addresses(host: str) -> None:
    assert [a for a in resolve(host) if kind(a) != Kind.LOOPBACK] == []


@pytest.mark.parametrize("silent", ["home.example", "other.example"])
def test_a_resolver_that_is_silent_is_not_waited_for_without_end(silent: str) -> None:
    over = threading.Event()

    def resolver(host: str) -> list[str]:
        if host == silent:
            over.wait(60)
        return ["93.184.216.34"]

    boundary = Boundary("home.example", resolver)
    with pytest.raises(TransportError, match="cannot connect") as caught:
        boundary.check("other.example", seconds=0.1)
    assert caught.value.retryable
    assert caught.value.facts["reason"] == "timed out"
    over.set()
    boundary.check("other.example", seconds=60)
