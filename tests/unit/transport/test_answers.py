from __future__ import annotations

import pytest

from nixfetch.errors import TransportError
from nixfetch.transport import (
    AuthenticationError,
    ForbiddenError,
    NotFoundError,
    Range,
    UnsatisfiableRangeError,
)
from nixfetch.transport.answers import (
    BrokenAnswerError,
    content_range,
    encoding,
    range_field,
    refusal,
    retry_after,
    strong,
)

DATE = "Sun, 06 Nov 1994 08:49:37 GMT"
EPOCH = 784111777.0  # the same


def now() -> float:
    return EPOCH


@pytest.mark.parametrize(
    ("statuses", "kind", "retryable"),
    [
        ((404, 410), NotFoundError, False),
        ((403,), ForbiddenError, False),
        ((401, 407), AuthenticationError, False),
        ((408, 425, 429, 500, 502, 503, 504, 507, 520, 522, 524, 530, 599), TransportError, True),
        ((416,), UnsatisfiableRangeError, False),
        ((100, 204, 300, 304, 305, 400, 402, 405, 418, 501, 505, 511, 600), TransportError, False),
    ],
)
def test_what_a_status_means(
    statuses: tuple[int, ...], kind: type[TransportError], *, retryable: bool
) -> None:
    for status in statuses:
        error = refusal(status, {}, now=now)
        assert (type(error), error.retryable) == (kind, retryable)
        assert error.facts["status"] == status


def test_who_wants_credentials_is_said() -> None:
    assert "user and password" in str(refusal(401, {}, now=now).hint)
    assert "proxy" in str(refusal(407, {}, now=now).hint)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": " 120 "}, 120.0),
        ({"retry-after": "86400"}, 86400.0),
        ({"retry-after": "9" * 400}, 1e9),
        ({"retry-after": "Sun, 06 Nov 1994 08:50:37 GMT"}, 60.0),
        ({"retry-after": "Sunday, 06-Nov-94 08:50:37 GMT"}, 60.0),
        ({"retry-after": "Sun Nov  6 08:50:37 1994"}, 60.0),
        ({"retry-after": "Sun, 06 Nov 1994 08:49:00 GMT"}, 0.0),
        ({"retry-after": DATE, "date": "Sun, 06 Nov 1994 08:49:07 GMT"}, 30.0),
        ({"retry-after": DATE, "date": "yesterday"}, 0.0),
        ({"retry-after": "Fri, 31 Dec 99999 23:59:59 GMT"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "1.5"}, None),
        ({"retry-after": "٣"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
    ],
)
def test_how_long_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, now=now) == seconds
    assert refusal(503, headers, now=now).retry_after == seconds


def test_the_clock_is_not_asked_when_the_answer_has_a_date() -> None:
    def broken() -> float:
        raise AssertionError

    assert retry_after({"retry-after": DATE, "date": DATE}, now=broken) == 0


@pytest.mark.parametrize(
    ("field", "found"),
    [
        (None, None),
        ("", None),
        ("identity", None),
        ("aws-chunked", None),
        ("gzip", "gzip"),
        ("GZip", "gzip"),
        ("x-gzip", "gzip"),
        ("aws-chunked, zstd", "zstd"),
        (" br ,", "br"),
    ],
)
def test_content_encodings(field: str | None, found: str | None) -> None:
    assert encoding(field) == found


@pytest.mark.parametrize("field", ["gzip, br", "br,gzip", "exi", "gzip;q=1"])
def test_encodings_that_cannot_be_undone_are_named(field: str) -> None:
    with pytest.raises(TransportError) as caught:
        encoding(field)
    assert caught.value.facts["encoding"] == field.replace(",g", ", g")
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("tag", "kept"),
    [
        ('"abc"', True),
        ('""', True),
        ('W/"abc"', False),
        ("abc", False),
        ('"a"b"', False),
        ('"ü"', False),
        ('"a\r\nb"', False),
        ("", False),
        (None, False),
    ],
)
def test_only_strong_etags_name_a_version(tag: str | None, *, kept: bool) -> None:
    assert strong(tag) == (tag if kept else None)


def test_range_fields() -> None:
    assert range_field(Range(start=5)) == "bytes=5-"
    assert range_field(Range(start=0, stop=1)) == "bytes=0-0"


@pytest.mark.parametrize(
    ("field", "wanted", "size"),
    [
        ("bytes 5-9/10", Range(start=5), 5),
        ("bytes 5-9/*", Range(start=5), 5),
        ("bytes 5-6/10", Range(start=5, stop=7), 2),
        ("bytes 5-9/10", Range(start=5, stop=70), 5),
        ("bytes 5-6/*", Range(start=5, stop=7), 2),
    ],
)
def test_the_part_that_was_asked_for(field: str, wanted: Range, size: int) -> None:
    assert content_range(field, wanted) == size


@pytest.mark.parametrize(
    "field",
    [
        None,
        "",
        "bytes */10",
        "bytes 5-/10",
        "items 5-6/10",
        "bytes 4-6/10",
        "bytes 6-6/10",
        "bytes 5-5/10",
        "bytes 5-9/10",
        "bytes 5-4/10",
        "bytes 5-6/6",
        f"bytes 5-{'9' * 30}/*",
    ],
)
def test_another_part_is_refused(field: str | None) -> None:
    with pytest.raises(BrokenAnswerError) as caught:
        content_range(field, Range(start=5, stop=7))
    assert caught.value.retryable


@pytest.mark.parametrize(("start", "stop"), [(-1, None), (3, 3), (3, 2)])
def test_ranges_without_bytes_cannot_be_made(start: int, stop: int | None) -> None:
    with pytest.raises(ValueError, match="no bytes"):
        Range(start=start, stop=stop)
