"""What one look at something found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nixfetch.errors import NixfetchError

MISSING = 3  # exit code: something is in no cache
_GRAVEST_FIRST = (6, 4, 5, 3)  # exit codes


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What was looked at, what was found, and the fix."""

    name: str
    """What was looked at, in a word or two."""
    state: Literal["ok", "warn", "fail"] = "ok"
    found: str
    """In words, without secrets."""
    fix: str | None = None
    """What to do about it."""
    facts: Mapping[str, object] = field(default_factory=dict)
    """The same for programs."""
    exit_code: int = 0
    """Of the command, if nothing graver was found."""

    @classmethod
    def failed(cls, name: str, error: NixfetchError, *, fix: str | None = None) -> Self:
        """The check that ended with `error`."""
        known = {key: value for key, value in error.facts.items() if value not in (None, "", [])}
        shown = [f"{key.replace('_', ' ')} {_shown(value)}" for key, value in known.items()]
        return cls(
            name=name,
            state="fail",
            found=f"{error.problem} ({', '.join(shown)})" if shown else error.problem,
            fix=error.hint or fix,
            facts={key: _shown(value) for key, value in known.items()},
            exit_code=error.exit_code,
        )


def _shown(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def exit_code(checks: Iterable[Check]) -> int:
    """What the command exits with: the code of the gravest failure, 0 where there is none."""
    codes = {check.exit_code for check in checks if check.state == "fail"}
    return next((code for code in _GRAVEST_FIRST if code in codes), max(codes, default=0))
