"""What can go wrong, in four families that answer "what should the caller do now?".

    NixfetchError
    ├── FormatError      the bytes are malformed         -> give up on this object
    ├── TrustError       well-formed, not to be believed -> try another cache, never retry
    ├── TransportError   the remote did not answer well  -> retry when `retryable`
    └── StoreError       this machine's disk or registry -> an operator must look

Leaf classes live beside the code that raises them.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class NixfetchError(Exception):
    """Base of every error this library raises on purpose.

    A layer raises with the facts it knows (an offset, a status code); the layers
    above add theirs (a URL, a store path) with `facts()` as the error passes.

    Attributes:
        problem: short, lower-case and constant: what is wrong.
        facts: what is known about this one case; logs, JSON and tests read it.
        hint: what to do about it, where there is something to do.
        exit_code: what the command line exits with.
    """

    exit_code: int = 1

    def __init__(self, problem: str, *, hint: str | None = None, **facts: object) -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint
        self.facts = facts

    def __str__(self) -> str:
        known = ", ".join(f"{name}={value}" for name, value in self.facts.items())
        return f"{self.problem} ({known})" if known else self.problem


class FormatError(NixfetchError):
    """The bytes do not follow the format.

    Attributes:
        what: is malformed, in a word, where the problem alone would leave one guessing.
    """

    exit_code = 4
    what: str | None = None


class TrustError(NixfetchError):
    """The bytes are well-formed, but nothing we trust vouches for them."""

    exit_code = 4


class TransportError(NixfetchError):
    """The remote refused, failed or went silent.

    Attributes:
        retryable: whether the same request may well succeed a little later.
        retry_after: seconds the remote asked us to wait, where it did.
    """

    exit_code = 5

    def __init__(
        self,
        problem: str,
        *,
        retryable: bool = False,
        retry_after: float | None = None,
        hint: str | None = None,
        **facts: object,
    ) -> None:
        super().__init__(problem, hint=hint, **facts)
        self.retryable = retryable
        self.retry_after = retry_after


class StoreError(NixfetchError):
    """The local store is not in the state we need."""

    exit_code = 6


@contextmanager
def facts(**known: object) -> Iterator[None]:
    """Add `known` to any `NixfetchError` that passes; a fact set deeper down wins."""
    try:
        yield
    except NixfetchError as error:
        error.facts = {**known, **error.facts}
        raise
