"""Errors as people read them, and as JSON.

error: PROBLEM: WHAT IT IS ABOUT
  needed by: WHAT WAS ASKED FOR
          -> WHAT THAT REFERS TO
  FACT: VALUE
  URL OF A CACHE: what it answered
hint: what to do
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

from nixfetch.cli.sizes import STEP, amount
from nixfetch.errors import FormatError, NixfetchError, TrustError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nixfetch.cli.output import Output
    from nixfetch.fetch.report import PathReport

# The first one known ends the first line.
_SUBJECTS = ("path", "file", "url", "cache", "store", "origin")
_SIGNATURES = {"good": "good signatures", "needed": "good signatures needed"}  # of a `TrustError`
_BYTES = "_bytes"  # what the name of a size ends in
_MOST_VALUES = 8  # of a list; the rest is counted
_MOST_LINKS = 12  # of a chain of references; the middle is left out
_MOST_FAILURES = 10  # paths whose failure is told in full; a dead network fails at hundreds


def show(error: NixfetchError, output: Output, *, log_format: str) -> None:
    """Write `error` to stderr."""
    if log_format == "json":
        output.error(json.dumps({"level": "error", **as_json(error)}))
        return
    text = "\n".join(render(error))
    if log_format == "internal-json":
        from nixfetch.cli import logs

        message = {"action": "msg", "level": 0, "msg": text, "raw_msg": error.problem}
        output.error(logs.nix(message))
        return
    output.error(text)


def show_traceback(error: BaseException, output: Output, *, log_format: str = "text") -> None:
    """Write where `error` came from to stderr, for whoever looks for a bug."""
    import traceback

    inner: list[BaseException] = [
        failure.error for failure in _failures(error) if failure.error is not None
    ]
    for each in inner[:_MOST_FAILURES] or [error]:
        text = "".join(traceback.format_exception(each)).rstrip()
        output.error(_traceback_line(text, str(each), log_format))


def _traceback_line(text: str, problem: str, log_format: str) -> str:
    from nixfetch.cli import logs

    match log_format:
        case "json":
            line = {"level": "debug", "logger": "nixfetch.cli", "message": problem}
            return json.dumps({**line, "traceback": text})
        case "internal-json":
            return logs.line(log_format, logging.DEBUG, text)
        case _:
            return text


def unforeseen(error: BaseException) -> NixfetchError:
    """The error to show for one that nobody foresaw."""
    if isinstance(error, MemoryError):
        return NixfetchError("out of memory")
    return NixfetchError(
        f"internal error: {type(error).__name__}: {error}",
        hint="this is a bug in nixfetch; please report it, with what it prints with -vv",
    )


def as_json(error: NixfetchError) -> dict[str, Any]:
    """`error` as a JSON value."""
    facts = {name: _plain(value) for name, value in error.facts.items()}
    document: dict[str, Any] = {
        "error": error.problem,
        "exit_code": error.exit_code,
        "facts": facts,
    }
    if answers := getattr(error, "errors", ()):
        document["caches"] = [{"url": url, **as_json(answer)} for url, answer in answers]
    if failures := _failures(error):
        document["failures"] = [
            {"path": str(failure.path), **as_json(failure.error)}
            for failure in failures
            if failure.error is not None
        ]
    if error.hint:
        document["hint"] = error.hint
    return document


def render(error: NixfetchError) -> list[str]:
    """`error` as lines of text."""
    failures = _failures(error)
    return _render_failures(failures) if failures else [*_render_one(error)]


def _render_one(error: NixfetchError) -> Iterator[str]:
    facts = {name: value for name, value in error.facts.items() if value is not None}
    subject = next((name for name in _SUBJECTS if facts.get(name)), None)
    about = f": {_shown(facts.pop(subject))}" if subject else ""
    yield _one_line(f"error: {_problem(error)}{about}")
    chain = facts.pop("needed_by", None)
    if isinstance(chain, list | tuple):
        yield from _chain(chain)
    answers: Sequence[tuple[str, NixfetchError]] = getattr(error, "errors", ())
    if answers:
        facts.pop("caches", None)
    if facts.get("tries") == 1:
        del facts["tries"]
    for name, value in facts.items():
        yield f"  {_fact(error, name, value)}"
    for url, answer in answers:
        yield f"  {url}: {_answer(url, answer)}"
    if hint := error.hint or _advice(error):
        yield _one_line(f"hint: {hint}")


def _chain(links: Sequence[object]) -> Iterator[str]:
    """From what was asked for, link by link."""
    left_out = len(links) - _MOST_LINKS
    shown = [str(link) for link in links]
    if left_out > 0:
        half = _MOST_LINKS // 2
        shown = [*shown[:half], f"{left_out} more", *shown[-half:]]
    for number, link in enumerate(shown):
        yield f"  {'needed by:' if number == 0 else '       ->'} {_one_line(link)}"


def _problem(error: NixfetchError) -> str:
    what = error.what if isinstance(error, FormatError) else None
    return f"malformed {what}: {error.problem}" if what else error.problem


def _advice(error: NixfetchError) -> str | None:
    """What can be done about bytes that are not what they should be."""
    from nixfetch.streams.codecs import UnsupportedCompressionError

    if isinstance(error, UnsupportedCompressionError):
        return None
    if isinstance(error, FormatError | TrustError) and "cache" in error.facts:
        return "what this cache has is damaged or was tampered with; another one (--from) may do"
    return None


def _answer(url: str, answer: NixfetchError) -> str:
    known = {"cache": answer.facts.get("cache"), "tries": 1, "path": answer.facts.get("path")}
    details = ", ".join(
        _fact(answer, name, value)
        for name, value in answer.facts.items()
        if value is not None and known.get(name) != value and not str(value).startswith(url)
    )
    return f"{_problem(answer)} ({details})" if details else _problem(answer)


def _failures(error: BaseException) -> list[PathReport]:
    report = getattr(error, "report", None)
    return [] if report is None else report.failures


def _render_failures(failures: list[PathReport]) -> list[str]:
    """The reasons first; paths that lack only what failed anyway are counted."""
    from nixfetch.fetch.closure import MissingReferencesError

    reasons: list[NixfetchError] = []
    consequences: list[str] = []
    for failure in failures:
        error = failure.error
        if isinstance(error, MissingReferencesError) and not error.hint:
            consequences.append(str(failure.path))
        elif error is not None:
            reasons.append(error)
    reasons.sort(key=lambda error: error.exit_code == 3)  # noqa: PLR2004 - in no cache: the mildest
    lines = [line for error in reasons[:_MOST_FAILURES] for line in _render_one(error)]
    if (more := len(reasons) - _MOST_FAILURES) > 0:
        paths = "path" if more == 1 else "paths"
        lines.append(f"error: {more} more {paths} failed; --json lists all")
    if consequences:
        lines.append(
            f"error: not registered, since what they refer to failed: {_shown(consequences)}"
        )
    return lines


def _fact(error: NixfetchError, name: str, value: object) -> str:
    if name.endswith(_BYTES) and isinstance(value, int):
        exact = f" ({value} bytes)" if value >= STEP else ""
        return f"{name.removesuffix(_BYTES).replace('_', ' ')}: {amount(value)}{exact}"
    label = _SIGNATURES.get(name) if isinstance(error, TrustError) else None
    return f"{label or name.replace('_', ' ')}: {_shown(value)}"


def _one_line(text: str) -> str:
    return text.replace("\n", "\\n")


def _shown(value: object) -> str:
    if isinstance(value, bytes):
        return _one_line(value.decode("utf-8", "backslashreplace"))
    if isinstance(value, list | tuple | set | frozenset):
        items = [_shown(item) for item in value]
        more = len(items) - _MOST_VALUES
        text = ", ".join(items[:_MOST_VALUES]) or "none"
        return f"{text} and {more} more" if more > 0 else text
    return _one_line(str(value))


def _plain(value: object) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return _shown(value)
