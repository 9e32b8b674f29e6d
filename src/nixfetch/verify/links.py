"""Whether the files in ``.links`` are what their names say.

An entry that is not would be linked into whatever is added next. It can go at any time: the
paths that share its inode keep it, and are bad themselves.
"""

from __future__ import annotations

import itertools
import os
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from nixfetch.errors import NixfetchError, StoreError, TrustError
from nixfetch.store.disk import DiskError, disk_errors
from nixfetch.store.dump import UnsupportedFileError
from nixfetch.store.links import NAME, content_name
from nixfetch.store.trees import remove_tree
from nixfetch.verify.work import Stop, run_jobs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from nixfetch.store import LocalStore

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_AT_ONCE = 64  # entries a job: most are small


class WrongLinkError(TrustError):
    """The content of an entry is not what its name says."""


@dataclass(frozen=True, slots=True)
class BadLink:
    """An entry that is not good."""

    name: str
    """In ``.links``."""
    problem: NixfetchError
    """`WrongLinkError`, or why it could not be read."""


def verify_links(
    store: LocalStore,
    *,
    jobs: int | None = None,
    on_result: Callable[[BadLink], None] = lambda _: None,
) -> list[BadLink]:
    """Read all entries of ``.links``, several at a time.

    Args:
        store: may be open for reading only.
        jobs: threads; None for one a core.
        on_result: called in the calling thread with each bad entry as it comes.

    Returns:
        The bad ones, by name.

    Raises:
        DiskError: the directory cannot be read.
        Whatever `on_result` raises.
    """
    found: list[BadLink] = []
    with _opened(store) as fd:
        if fd is None:
            return found
        with disk_errors(NAME):
            names = iter(os.listdir(fd))  # noqa: PTH208 - a descriptor
        stop = Stop()
        batches = iter(lambda: list(itertools.islice(names, _AT_ONCE)), [])
        work = (partial(_examine, fd, batch, stop) for batch in batches)
        threads = jobs or os.cpu_count() or 1
        for bad in itertools.chain.from_iterable(
            run_jobs("verify-links", work, threads=threads, stop=stop)
        ):
            found.append(bad)
            on_result(bad)
    return sorted(found, key=lambda bad: bad.name)


def repair_links(store: LocalStore, bad: Iterable[BadLink]) -> list[BadLink]:
    """Forget entries that are still bad; a repaired path may have put a good one there.

    Args:
        store: open for writing.
        bad: entries.

    Returns:
        Those that are still there, and why.
    """
    left: list[BadLink] = []
    with _opened(store) as fd:
        if fd is None:
            return left
        for entry in _examine(fd, [entry.name for entry in bad], Stop()):
            try:
                with disk_errors(f"{NAME}/{entry.name}"):
                    remove_tree(fd, os.fsencode(entry.name))
            except DiskError as error:
                left.append(BadLink(entry.name, error))
    return left


@contextmanager
def _opened(store: LocalStore) -> Iterator[int | None]:
    try:
        with disk_errors(NAME):
            fd = os.open(NAME, _DIRECTORY, dir_fd=store.fd)
    except DiskError as error:
        if error.facts.get("errno") != "ENOENT":
            raise
        yield None
        return
    try:
        yield fd
    finally:
        os.close(fd)


def _examine(fd: int, names: list[str], stop: Stop) -> list[BadLink]:
    found: list[BadLink] = []
    for name in names:
        stop.check()
        try:
            actual = content_name(fd, name)
        except UnsupportedFileError as error:
            problem = WrongLinkError(
                "no shared file, but something else",
                file=f"{NAME}/{name}",
                kind=error.facts["kind"],
            )
            found.append(BadLink(name, problem))
            continue
        except StoreError as error:
            if error.facts.get("errno") != "ENOENT":  # else it was collected meanwhile
                found.append(BadLink(name, error))
            continue
        if actual != name:
            problem = WrongLinkError(
                "shared file is not what its name says", file=f"{NAME}/{name}", actual=actual
            )
            found.append(BadLink(name, problem))
    return found
