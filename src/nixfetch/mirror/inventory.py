"""All that a mirror says it has: every narinfo, read."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from nixfetch.errors import FormatError, NixfetchError, TrustError
from nixfetch.transport.base import NotFoundError
from nixfetch.verify.work import Stop, run_jobs

if TYPE_CHECKING:
    from collections.abc import Callable

    from nixfetch.formats.narinfo import NarInfo
    from nixfetch.formats.storepath import StorePath
    from nixfetch.mirror.destination import Destination

_LOOKUPS = 24  # narinfos read at a time


@dataclass(frozen=True, slots=True)
class BadNarInfo:
    """A narinfo that is none, or about another path."""

    hash_part: str
    error: NixfetchError


@dataclass(slots=True)
class Inventory:
    """About a kilobyte a path."""

    infos: dict[StorePath, NarInfo] = field(default_factory=dict)
    bad: list[BadNarInfo] = field(default_factory=list)


def take_inventory(
    mirror: Destination, *, keep: Callable[[NarInfo], NarInfo] = lambda info: info
) -> Inventory:
    """Read every narinfo of `mirror`.

    Args:
        mirror: to read.
        keep: what of each is to be kept in memory.

    Raises:
        DestinationError: it cannot be read.
    """
    found = Inventory()
    jobs = (partial(_read, mirror, part) for part in mirror.hash_parts())
    for outcome in run_jobs("nixfetch-inventory", jobs, threads=_LOOKUPS, stop=Stop()):
        if isinstance(outcome, BadNarInfo):
            found.bad.append(outcome)
        elif outcome is not None:
            found.infos[outcome.path] = keep(outcome)
    found.bad.sort(key=lambda bad: bad.hash_part)
    return found


def _read(mirror: Destination, hash_part: str) -> NarInfo | BadNarInfo | None:
    try:
        return mirror.claim(hash_part)
    except NotFoundError:  # removed meanwhile
        return None
    except (FormatError, TrustError) as error:
        return BadNarInfo(hash_part, error)
