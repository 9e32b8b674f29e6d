"""How long to wait before the next try of a request, and when to give up.

Full jitter: a delay is drawn evenly between zero and a bound that doubles with each try, so
that many clients of a cache that comes back do not come all at once. What the server asked
for (Retry-After) counts as the least, up to a cap. The randomness is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass

_MAX_DOUBLINGS = 60  # any bound is far above `longest` by then; 1024 overflow a float


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySchedule:
    """The defaults are Nix's numbers, with jitter."""

    tries: int = 5
    """Requests in all, the first included."""
    base: float = 0.25
    """Seconds: the bound of the first delay."""
    longest: float = 10.0
    """Seconds: no bound grows above it."""
    longest_asked: float = 60.0
    """Seconds: a server that asks for more is not waited for."""

    def delay(
        self, failures: int, *, fraction: float, retry_after: float | None = None
    ) -> float | None:
        """Seconds to wait after the failure number `failures`; None: give up.

        Args:
            failures: tries that failed so far, from 1.
            fraction: a random number, at least 0 and below 1.
            retry_after: seconds that the server asked for, where it did.
        """
        if failures >= self.tries:
            return None
        if retry_after is not None and retry_after > self.longest_asked:
            return None
        return max(retry_after or 0.0, self.bound(failures) * fraction)

    def bound(self, failures: int) -> float:
        """Seconds that a wait after the failure of that number, from 1, is drawn below."""
        doublings = min(failures - 1, _MAX_DOUBLINGS)
        return min(self.longest, self.base * 2.0**doublings)
