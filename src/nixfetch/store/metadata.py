"""Modes, owners and times of the files of a tree, which no hash covers.

    directories 0555, files 0444 or 0555, mtime 1; the owner is root, whoever owns the store, or us

Contents and the x bit are the NAR's business. Nix does not look at any of this when it verifies;
but it links no writable file, and what another user owns, that user can change.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nixfetch.store.walk import walk

if TYPE_CHECKING:
    from collections.abc import Iterator

_TIME = 1  # seconds since 1970
_NANOSECONDS = 1_000_000_000
_FILE, _PROGRAM = 0o444, 0o555


@dataclass(frozen=True, slots=True)
class Flaw:
    """One file whose metadata is not canonical."""

    file: bytes
    """Relative to the tree; empty for its root."""
    what: str
    """Such as ``mode 0644``."""


def flaws(directory_fd: int, name: bytes) -> Iterator[Flaw]:
    """What is not canonical in the tree `name` of the directory `directory_fd`.

    Raises:
        OSError: something cannot be read.
    """
    owners = _owners(directory_fd)
    for visit in walk(directory_fd, name):
        if what := _wrong(visit.status, owners):
            yield Flaw(visit.inside, what)


def make_canonical(directory_fd: int, name: bytes) -> int:
    """Put modes, owners and times of a tree right, in place.

    Returns:
        How many files were not canonical.

    Raises:
        OSError: something cannot be changed: it is another user's.
    """
    owners = _owners(directory_fd)
    repaired = 0
    for parent_fd, entry, _, status in walk(directory_fd, name):
        if not _wrong(status, owners):
            continue
        repaired += 1
        if status.st_uid not in owners:
            os.chown(entry, os.geteuid(), os.getegid(), dir_fd=parent_fd, follow_symlinks=False)
        if not stat.S_ISLNK(status.st_mode):
            os.chmod(entry, _mode(status), dir_fd=parent_fd)
        time = _TIME * _NANOSECONDS
        os.utime(entry, ns=(time, time), dir_fd=parent_fd, follow_symlinks=False)
    return repaired


def _owners(directory_fd: int) -> frozenset[int]:
    return frozenset({0, os.geteuid(), os.fstat(directory_fd).st_uid})


def _mode(status: os.stat_result) -> int:
    runnable = stat.S_ISDIR(status.st_mode) or status.st_mode & stat.S_IXUSR
    return _PROGRAM if runnable else _FILE


def _wrong(status: os.stat_result, owners: frozenset[int]) -> str:
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISLNK(status.st_mode) and mode != _mode(status):
        return f"mode {mode:04o}"
    if status.st_uid not in owners:
        return f"owner {status.st_uid}"
    # Whole seconds: not all file systems keep more, and Nix sets no more.
    return "" if int(status.st_mtime) == _TIME else f"mtime {int(status.st_mtime)}"
