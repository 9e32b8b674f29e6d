"""Errors as the stand-ins print them: Nix's sentences where it has one, then all that is known.

nix-snapshotter logs the whole of stderr as one message, so what is long is cut.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import nixfetch
from snapshotter.errors import SnapshotterError

if TYPE_CHECKING:
    from collections.abc import Iterator

SETTINGS = "/etc/nixfetch/config.toml, and variables NIXFETCH_…"
MAX_REASONS = 10  # of paths and caches that failed; the rest is a number


def lines(error: nixfetch.NixfetchError) -> Iterator[str]:
    """What to print of `error`."""
    hinted = False
    for line in _lines(error):
        yield line
        hinted = hinted or (" --" in line and line.lstrip().startswith("hint: "))
    if hinted and not isinstance(error, SnapshotterError):
        yield "hint: there are no such flags here, but settings of these names in " + SETTINGS


def _lines(error: nixfetch.NixfetchError) -> Iterator[str]:
    if isinstance(error, nixfetch.FetchFailedError):
        yield from _of_report(error.report)
        return
    yield from _one("error: ", error)
    for answer in _answers(error):
        yield from _one("  ", answer)


def _of_report(report: nixfetch.Report) -> Iterator[str]:
    lost = {failure.path for failure in report.failures}
    for path in report.requested:
        if path in lost:
            yield (
                f"error: path '{path}' is required, but there is no substituter that can build it"
            )
    reasons: list[nixfetch.NixfetchError] = []
    for failure in report.failures:
        # What lacks a reference lacks what failed for a reason of its own.
        if failure.error is not None and "references" not in failure.error.facts:
            failure.error.facts = {"path": failure.path, **failure.error.facts}
            reasons += [failure.error, *_answers(failure.error)]
    for reason in reasons[:MAX_REASONS]:
        yield from _one("  ", reason)
    if (more := len(reasons) - MAX_REASONS) > 0:
        yield f"  and {more} more"


def _answers(error: nixfetch.NixfetchError) -> Iterator[nixfetch.NixfetchError]:
    """What each cache said, where several were asked."""
    for url, answer in getattr(error, "errors", ()):
        answer.facts = {"cache": url, **answer.facts}
        yield answer


def _one(head: str, error: nixfetch.NixfetchError) -> Iterator[str]:
    known = ", ".join(
        f"{name} {_value(value)}" for name, value in error.facts.items() if value is not None
    )
    yield f"{head}{_value(error.problem)}{f' ({known})' if known else ''}"
    if error.hint:
        yield f"{' ' * (len(head) - len(head.lstrip()))}hint: {error.hint}"


def _value(value: object) -> str:
    if isinstance(value, list | tuple | set | frozenset):
        return " ".join(map(_value, value)) or "none"
    text = str(value)
    return text if text.isprintable() else json.dumps(text)
