"""What can be wrong with a path of a store, and what was found out about one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nixfetch.errors import StoreError, TrustError

if TYPE_CHECKING:
    from nixfetch.errors import NixfetchError
    from nixfetch.formats.storepath import StorePath


class NotRegisteredError(TrustError):
    """Nothing is known of the path in this store."""


class LostPathError(TrustError):
    """The path is registered, but not on disk."""


class LostReferenceError(TrustError):
    """What the path refers to is not registered, or not on disk. Carries `references`."""


class MetadataError(StoreError):
    """Modes, owners or times are not those of a store; the content is good all the same."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found out about one path."""

    path: StorePath
    problems: tuple[NixfetchError, ...] = ()
    """Each `TrustError`: it is not what it should be. Others: it could not be examined, or
    repaired."""
    signed_by: tuple[str, ...] = ()
    """Names of trusted keys that signed it, ascending."""
    content_addressed: bool = False
    warnings: tuple[NixfetchError, ...] = ()
    """What no hash covers, each a `MetadataError`."""
    read: bool = True
    """Whether its files were looked at, not just for."""
    repaired: tuple[NixfetchError, ...] = ()
    """What was wrong, and is not any more."""
    repaired_from: str | None = None
    """The URL of the cache that gave a fresh tree, if one did."""

    @property
    def is_good(self) -> bool:
        """Whether nothing is wrong with it."""
        return not self.problems

    @property
    def is_registered(self) -> bool:
        """Whether it was valid, so that there was something to verify."""
        return not any(isinstance(problem, NotRegisteredError) for problem in self.problems)


def not_registered(path: StorePath) -> Verdict:
    """The verdict on a path that is not valid."""
    return Verdict(path, (NotRegisteredError("path is not valid in this store", path=path),))
