from __future__ import annotations

import errno

import grpc
import pytest

import nixfetch
from fake_closures import store_path
from snapshotter import errors
from snapshotter.grpc_errors import MAX_REASONS, MAX_TEXT, status_of, text_of

Status = grpc.StatusCode


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InvalidArgumentError("x"), Status.INVALID_ARGUMENT),
        (errors.NotFoundError("x"), Status.NOT_FOUND),
        (errors.AlreadyExistsError("x"), Status.ALREADY_EXISTS),
        (errors.PreconditionError("x"), Status.FAILED_PRECONDITION),
        (errors.UnavailableError("x"), Status.UNAVAILABLE),
        (errors.InternalError("x"), Status.INTERNAL),
        (nixfetch.FormatError("x"), Status.FAILED_PRECONDITION),
        (nixfetch.TrustError("x"), Status.FAILED_PRECONDITION),
        (nixfetch.TransportError("x"), Status.UNAVAILABLE),
        (nixfetch.MissingError("x"), Status.FAILED_PRECONDITION),
        (nixfetch.StoreError("x"), Status.INTERNAL),
        (nixfetch.CancelledError("x"), Status.CANCELLED),
        (nixfetch.NixfetchError("x"), Status.UNKNOWN),
    ],
)
def test_each_family_has_a_status(error: nixfetch.NixfetchError, status: Status) -> None:
    assert status_of(error) is status


def test_a_full_disk_is_told_apart() -> None:
    error = nixfetch.StoreError("disk")
    error.__cause__ = OSError(errno.ENOSPC, "full")
    assert status_of(error) is Status.RESOURCE_EXHAUSTED
    assert status_of(failed(error)) is Status.RESOURCE_EXHAUSTED


def failed(*reasons: nixfetch.NixfetchError) -> nixfetch.FetchFailedError:
    report = nixfetch.Report(store="/", requested=())
    for number, reason in enumerate(reasons):
        path = store_path(f"p{number}")
        report.paths[path] = nixfetch.PathReport(
            path=path, status=nixfetch.Status.FAILED, error=reason
        )
    return nixfetch.FetchFailedError(report)


def test_a_fetch_that_failed_names_paths_and_caches() -> None:
    error = failed(
        nixfetch.MissingError("not there"),
        nixfetch.TrustError("no good signature", cache="https://c", keys="k-1", hint="trust it"),
    )
    assert status_of(error) is Status.FAILED_PRECONDITION
    text = text_of(error)
    assert text.startswith("some paths were not fetched (failed=2); no good signature (")
    for part in (str(store_path("p0")), str(store_path("p1")), "cache=https://c", "keys=k-1"):
        assert part in text
    assert text.endswith("; hint: trust it")


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (3, Status.FAILED_PRECONDITION),
        (4, Status.FAILED_PRECONDITION),
        (5, Status.UNAVAILABLE),
        (6, Status.INTERNAL),
    ],
)
def test_a_fetch_has_the_status_of_the_gravest_reason(code: int, status: Status) -> None:
    class Reason(nixfetch.NixfetchError):
        exit_code = code

    assert status_of(failed(Reason("x"), nixfetch.MissingError("y"))) is status


def test_what_each_cache_answered_is_told() -> None:
    class AllError(nixfetch.NixfetchError):
        errors = (("https://a", nixfetch.TransportError("refused")),)

    text = text_of(failed(AllError("no cache could")))
    assert "refused (path=/nix/store/" in text
    assert "cache=https://a" in text


def test_texts_are_one_line_and_short() -> None:
    assert text_of(errors.InternalError("a\nb\x1b[0m")) == "a?b?[0m"
    text = text_of(errors.InternalError("é" * 5000))
    assert len(text.encode()) <= MAX_TEXT
    many = text_of(failed(*(nixfetch.MissingError("no") for _ in range(MAX_REASONS + 3))))
    assert many.endswith("; and 3 more")
