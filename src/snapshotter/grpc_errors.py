"""What gRPC says of an error: one status, and one text that names all we know.

    InvalidArgumentError  INVALID_ARGUMENT        FormatError     FAILED_PRECONDITION
    NotFoundError         NOT_FOUND               TrustError      FAILED_PRECONDITION
    AlreadyExistsError    ALREADY_EXISTS          TransportError  UNAVAILABLE; in no cache:
    PreconditionError     FAILED_PRECONDITION                     FAILED_PRECONDITION
    UnavailableError      UNAVAILABLE             StoreError      INTERNAL; the disk is full:
    InternalError         INTERNAL                                RESOURCE_EXHAUSTED

Containerd makes its own kinds of errors of the statuses, and acts on some: NOT_FOUND is a parent
or a snapshot to it, so what no cache has is a precondition that failed.
"""

from __future__ import annotations

import errno
import re
import sqlite3
from typing import TYPE_CHECKING

import grpc

import nixfetch
from snapshotter import errors

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_TEXT = 4096  # bytes of a status; HTTP/2 peers take 8 KiB of headers
MAX_REASONS = 5  # of paths and caches that failed; the rest is a number

_STATUSES: tuple[tuple[type[nixfetch.NixfetchError], grpc.StatusCode], ...] = (
    (errors.InvalidArgumentError, grpc.StatusCode.INVALID_ARGUMENT),
    (errors.NotFoundError, grpc.StatusCode.NOT_FOUND),
    (errors.AlreadyExistsError, grpc.StatusCode.ALREADY_EXISTS),
    (errors.PreconditionError, grpc.StatusCode.FAILED_PRECONDITION),
    (errors.UnavailableError, grpc.StatusCode.UNAVAILABLE),
    (errors.InternalError, grpc.StatusCode.INTERNAL),
    (nixfetch.FormatError, grpc.StatusCode.FAILED_PRECONDITION),
    (nixfetch.TrustError, grpc.StatusCode.FAILED_PRECONDITION),
    (nixfetch.StoreError, grpc.StatusCode.INTERNAL),
)
_BY_EXIT_CODE = {
    3: grpc.StatusCode.FAILED_PRECONDITION,  # in no cache
    4: grpc.StatusCode.FAILED_PRECONDITION,  # not to be believed
    5: grpc.StatusCode.UNAVAILABLE,
    6: grpc.StatusCode.INTERNAL,
}
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def status_of(error: nixfetch.NixfetchError) -> grpc.StatusCode:
    """The status that says what to do about `error`."""
    if isinstance(error, nixfetch.CancelledError):
        return grpc.StatusCode.CANCELLED
    reasons = _reasons(error)
    if any(_is_full(reason) for reason in (error, *reasons)):
        return grpc.StatusCode.RESOURCE_EXHAUSTED
    for kind, status in _STATUSES:
        if isinstance(error, kind):
            return status
    # Several things went wrong; the gravest has given its exit code to the whole.
    return _BY_EXIT_CODE.get(error.exit_code, grpc.StatusCode.UNKNOWN)


def text_of(error: nixfetch.NixfetchError) -> str:
    """One line: the problem, what is known of it, what it comes from, and what to do."""
    reasons = _reasons(error)
    parts = [str(error), *map(str, reasons[:MAX_REASONS])]
    if len(reasons) > MAX_REASONS:
        parts.append(f"and {len(reasons) - MAX_REASONS} more")
    hint = next((each.hint for each in (error, *reasons) if each.hint), None)
    if hint:
        parts.append(f"hint: {hint}")
    text = _CONTROL.sub("?", "; ".join(parts)).encode(errors="replace")
    return text[:MAX_TEXT].decode(errors="ignore")


def _reasons(error: nixfetch.NixfetchError) -> list[nixfetch.NixfetchError]:
    """What `error` comes from, each with the path and the cache that it is about."""
    found: list[nixfetch.NixfetchError] = []
    if isinstance(error, nixfetch.FetchFailedError):
        for path in error.report.failures:
            if path.error is not None:
                found += _of_caches(path.error, {"path": path.path})
        found.sort(key=lambda reason: reason.exit_code != error.exit_code)
    else:
        found += _of_caches(error, {})
    return [reason for reason in found if reason is not error]


def _of_caches(
    error: nixfetch.NixfetchError, known: dict[str, object]
) -> Iterator[nixfetch.NixfetchError]:
    """`error`, or what each cache answered, where that is known."""
    error.facts = {**known, **error.facts}
    yield error
    for url, answer in getattr(error, "errors", ()):
        answer.facts = {**known, "cache": url, **answer.facts}
        yield answer


def _is_full(error: BaseException) -> bool:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _FULL:
            return True
        if isinstance(cause, sqlite3.Error) and _sqlite_name(cause) == "SQLITE_FULL":
            return True
        cause = cause.__cause__
    return False


def _sqlite_name(error: sqlite3.Error) -> str:
    return str(getattr(error, "sqlite_errorname", ""))  # SQLite's own errors have it
