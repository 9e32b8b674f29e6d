from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from nixfetch.streams.limits import TooLargeError, at_most, read_all

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_what_fits_passes_untouched() -> None:
    chunks = [b"ab", b"", b"cde"]
    assert list(at_most(chunks, 5, what="text")) == chunks
    assert read_all(chunks, 5, what="text") == b"abcde"
    assert read_all([], 0, what="text") == b""


def test_one_byte_more_is_refused_before_it_is_passed_on() -> None:
    passed = at_most([b"ab", b"cde"], 4, what="narinfo")
    assert next(passed) == b"ab"
    with pytest.raises(TooLargeError) as caught:
        next(passed)
    assert caught.value.facts == {"what": "narinfo", "limit": 4}
    with pytest.raises(TooLargeError):
        read_all([b"abcde"], 4, what="narinfo")


def test_an_endless_stream_is_read_no_further_than_the_limit() -> None:
    asked = 0

    def endless() -> Iterator[bytes]:
        nonlocal asked
        while True:
            asked += 1
            yield b"x" * 10

    with pytest.raises(TooLargeError):
        read_all(endless(), 95, what="anything")
    assert asked == 10


def test_the_readers_own_errors_pass_untouched() -> None:
    def failing() -> Iterator[bytes]:
        yield b"x"
        raise OSError("connection lost")

    with pytest.raises(OSError, match="connection lost"):
        read_all(failing(), 10, what="anything")
