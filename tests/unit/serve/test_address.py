"""HOST:PORT."""

from __future__ import annotations

import pytest

from nixfetch.serve import Address, AddressError


@pytest.mark.parametrize(
    ("text", "host", "port", "url"),
    [
        ("127.0.0.1:5000", "127.0.0.1", 5000, "http://127.0.0.1:5000"),
        ("localhost:0", "localhost", 0, "http://localhost:0"),
        ("[::1]:65535", "::1", 65535, "http://[::1]:65535"),
    ],
)
def test_addresses(text: str, host: str, port: int, url: str) -> None:
    address = Address.parse(text)
    assert address == (host, port)
    assert address.url == url


@pytest.mark.parametrize(
    "text",
    ["", "5000", ":5000", "host", "host:", "host:x", "host:65536", "host:-1", "::1:80", "[]:80"],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(AddressError):
        Address.parse(text)


@pytest.mark.parametrize("port", ["\u0663", "000000", "+1", " 1"])
def test_what_is_no_port(port: str) -> None:
    with pytest.raises(AddressError):
        Address.parse(f"host:{port}")
