"""Errors as people read them, and as JSON.

error: PROBLEM: WHAT IT IS ABOUT
  fact: value
  URL OF A CACHE: what it answered
hint: what to do
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nixfetch.cli.output import Output
    from nixfetch.errors import NixfetchError

_SUBJECTS = ("path", "file", "url", "cache", "store")  # the first one known ends the first line
_MOST_VALUES = 8  # of a list; the rest is counted


def show(error: NixfetchError, output: Output, *, log_format: str | None) -> None:
    """Write `error` to stderr."""
    if log_format == "json":
        output.error(json.dumps({"level": "error", **as_json(error)}))
        return
    text = "\n".join(render(error))
    if log_format == "internal-json":
        output.error("@nix " + json.dumps({"action": "msg", "level": 0, "msg": text}))
        return
    output.error(text)


def as_json(error: NixfetchError) -> dict[str, Any]:
    """`error` as a JSON value."""
    facts = {name: _plain(value) for name, value in error.facts.items()}
    document = {"error": error.problem, "exit_code": error.exit_code, "facts": facts}
    answers = getattr(error, "errors", ())
    if answers:
        document["caches"] = [{"url": url, **as_json(answer)} for url, answer in answers]
    if error.hint:
        document["hint"] = error.hint
    return document


def render(error: NixfetchError) -> list[str]:
    """`error` as lines of text."""
    report = getattr(error, "report", None)
    if report is not None:
        return _render_failures(report.failures)
    subject = next((name for name in _SUBJECTS if error.facts.get(name)), None)
    about = f": {_shown(error.facts[subject])}" if subject else ""
    lines = [f"error: {error.problem}{about}"]
    lines += [
        f"  {name.replace('_', ' ')}: {_shown(value)}"
        for name, value in error.facts.items()
        if name != subject and value is not None
    ]
    for url, answer in getattr(error, "errors", ()):
        details = ", ".join(
            f"{name.replace('_', ' ')}: {_shown(value)}"
            for name, value in answer.facts.items()
            if value is not None and name not in {"cache", "path"}
        )
        lines.append(f"  {url}: {answer.problem}" + (f" ({details})" if details else ""))
    if error.hint:
        lines.append(f"hint: {error.hint}")
    return lines


def _render_failures(failures: list[Any]) -> list[str]:
    """The reasons first; paths that lack only what failed anyway are counted."""
    from nixfetch.fetch.closure import MissingReferencesError

    reasons: list[Any] = []
    consequences: list[Any] = []
    for failure in failures:
        is_consequence = (
            isinstance(failure.error, MissingReferencesError) and not failure.error.hint
        )
        (consequences if is_consequence else reasons).append(failure)
    lines = [line for failure in reasons for line in render(failure.error)]
    if consequences:
        shown = [str(failure.path) for failure in consequences]
        lines.append(f"error: not registered, since what they refer to failed: {_shown(shown)}")
    return lines


def _shown(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace").replace("\n", "\\n")
    if isinstance(value, list | tuple | set | frozenset):
        items = [_shown(item) for item in value]
        more = len(items) - _MOST_VALUES
        text = ", ".join(items[:_MOST_VALUES]) or "none"
        return f"{text} and {more} more" if more > 0 else text
    return str(value).replace("\n", "\\n")


def _plain(value: object) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return _shown(value)
