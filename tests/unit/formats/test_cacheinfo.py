from __future__ import annotations

import pytest

from nixfetch.formats.cacheinfo import MAX_SIZE, CacheInfo, CacheInfoError


def test_a_real_one() -> None:
    raw = b"StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n"
    info = CacheInfo.parse(raw)
    assert info == CacheInfo("/nix/store", want_mass_query=True, priority=40)
    assert info.render() == raw


def test_defaults() -> None:
    # A file that names no priority comes first, one that is missing late, as in Nix.
    assert CacheInfo.parse(b"") == CacheInfo("/nix/store", want_mass_query=False, priority=0)
    assert CacheInfo().render() == b"StoreDir: /nix/store\nPriority: 50\n"
    assert CacheInfo.parse(b"StoreDir:\nPriority:\n") == CacheInfo(priority=0)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"StoreDir: /gnu/store \r\n", CacheInfo(store_dir="/gnu/store", priority=0)),
        (b"WantMassQuery: 0\n", CacheInfo(priority=0)),
        (b"WantMassQuery: yes\n", CacheInfo(priority=0)),
        (b"Priority: -5\n", CacheInfo(priority=-5)),
        (b"no colon\nUnknown: x\n\xff: y\nPriority:30", CacheInfo(priority=30)),
    ],
)
def test_as_nix_reads_it(raw: bytes, expected: CacheInfo) -> None:
    assert CacheInfo.parse(raw) == expected


@pytest.mark.parametrize("text", ["x", "1.5", "-", "--1", "1234567890", "٣"])
def test_a_priority_is_a_number(text: str) -> None:
    with pytest.raises(CacheInfoError, match="priority is not a number"):
        CacheInfo.parse(f"Priority: {text}\n".encode())


def test_html_is_named() -> None:
    with pytest.raises(CacheInfoError, match="this is HTML") as caught:
        CacheInfo.parse(b"\r\n<html>")
    assert caught.value.hint == "a proxy or a log-in page answers in place of the cache"


def test_too_large() -> None:
    CacheInfo.parse(b"x" * MAX_SIZE)
    with pytest.raises(CacheInfoError, match="too large"):
        CacheInfo.parse(b"x" * (MAX_SIZE + 1))
