"""The garbage collector: deletes the paths that no root reaches.

    lock out other collectors, listen for new roots       `newroots`
    names in the store directory, then valid paths        in this order: see `leftovers`
    roots: permanent, of running processes, temporary     `roots`, `runtime`, `temproots`
    leftovers of dead processes go
    dead paths go, some at a time, referrers first        `plan.liveness`
        claim them, or spare what a new root keeps
        delete their rows in one transaction; it is on disk before any file goes
        give their trees other names, named in a journal first
        release the claim: who waits for one of them may fetch it anew
        remove the trees
    links that nobody uses any more go

A crash at any point leaves trees that no row names, never rows without trees: garbage, which the
next process that opens the store, or the next collector, removes.

Source: nix, src/libstore/gc.cc, `LocalStore::collectGarbage`.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from nixfetch.errors import FormatError
from nixfetch.formats.storepath import HASH_LENGTH, STORE_DIR, StorePath, is_hash_part
from nixfetch.plan.liveness import Liveness
from nixfetch.store.database import Database
from nixfetch.store.disk import DiskError, disk_error, disk_errors
from nixfetch.store.journal import Journal, is_staging_name, staging_name
from nixfetch.store.leftovers import is_locked, leftovers
from nixfetch.store.locks import LOCK_SUFFIX, STALE, remove_stale_lock
from nixfetch.store.meter import Meter
from nixfetch.store.newroots import collecting
from nixfetch.store.reserve import keep_reserve
from nixfetch.store.roots import find_roots
from nixfetch.store.runtime import runtime_roots
from nixfetch.store.temproots import find_temp_roots
from nixfetch.store.trees import remove_tree
from nixfetch.store.unregistered import note_unregistered, refuse_to_collect, unregistered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from nixfetch.store.layout import Layout
    from nixfetch.store.local import LocalStore
    from nixfetch.store.newroots import NewRoots
    from nixfetch.store.roots import Root

_log = logging.getLogger(__name__)
_PROC = Path("/proc")
_FORBIDDEN = frozenset({errno.EPERM, errno.EACCES})
_FORBIDDEN_HINT = (
    "it is another user's, or immutable (lsattr); the next `nixfetch gc` that may remove it does"
)
AT_ONCE = 64  # paths: a fetcher waits for the transaction and the renames of so many
_LINK_IN_THE_MAKING = ".tmp-link"  # what Nix calls a link that it is about to rename
_SOON = 3600.0  # seconds in which it surely does


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What a collector did; of a dry run, what it would do."""

    paths: tuple[StorePath, ...] = ()
    """Deleted, in this order."""
    leftovers: tuple[str, ...] = ()
    """Names in the store directory that were no valid path, removed."""
    bytes_freed: int = 0
    """On the disk. A dry run cannot see what else shares a file, and tells the least."""
    links_removed: int = 0
    """Entries of .links."""
    failures: tuple[DiskError, ...] = ()
    """What could not be removed, or not all of it. It is not among `paths` and `leftovers`; a path
    is not valid any more all the same."""


def collect(
    store: LocalStore,
    *,
    dry_run: bool = False,
    keep_free: int | None = None,
    max_delete: int | None = None,
    on_deleted: Callable[[StorePath], None] = lambda _: None,
    at_once: int = AT_ONCE,
    unregistered_too: bool = False,
    proc: Path = _PROC,
) -> Collected:
    """Delete the paths that no root reaches, the oldest first, and what dead processes left.

    Args:
        store: open for writing; for a dry run, reading is enough.
        dry_run: change nothing.
        keep_free: bytes: delete no more paths than it takes to have so much free on the disk.
        max_delete: bytes: delete no more paths when so much is freed. Leftovers go in any case.
        on_deleted: called with each path when its files are gone.
        at_once: paths whose rows go in one transaction.
        unregistered_too: do without the trees that a rebuild of the database did not register.
        proc: where the kernel says what processes use.

    Raises:
        CollectorRunningError: another collector works on the store.
        UnregisteredTreesError: there are such trees, and nobody said to do without them.
        ReadOnlyStoreError: the store was opened for reading, and this is no dry run.
        DiskError: the roots cannot all be read, so nothing can be called garbage.
        DatabaseError: the store cannot be asked, or changed. What was deleted is.
        Whatever `on_deleted` raises.
    """
    if not unregistered_too:
        refuse_to_collect(store)
    budget = _budget(store, keep_free, max_delete)
    with ExitStack() as stack:
        database = Database(store.layout.database, read_only=dry_run)
        stack.callback(database.close)
        if dry_run:
            return _foresee(store, database, budget, on_deleted, proc)
        store.check_writable()
        new_roots = stack.enter_context(collecting(store.layout))
        journal = stack.enter_context(_journaling(store.layout))
        collector = _Collector(store, database, new_roots, journal, budget=budget, at_once=at_once)
        collected = collector.run(on_deleted, proc)
        note_unregistered(store.layout, unregistered(store))
        return collected


@contextmanager
def _journaling(layout: Layout) -> Iterator[Journal]:
    """A journal; when the run does not come to its end, somebody else sees to what it names."""
    journal, clean = Journal(layout.inflight), False
    try:
        yield journal
        clean = True
    finally:
        journal.close(clean=clean)


def _budget(store: LocalStore, keep_free: int | None, max_delete: int | None) -> int | None:
    """Bytes to free; None for all there is."""
    limits = [] if max_delete is None else [max_delete]
    if keep_free is not None:
        limits.append(max(0, keep_free - store.free_space()))
    return min(limits, default=None)


def _mark(store: LocalStore, database: Database, temporary: Iterable[str], proc: Path) -> _Marked:
    """Look for roots, and for what they reach. Temporary ones were looked for before.

    In this order: who exits has made its temporary root a permanent one, and whoever has a root
    registered its path before, or has a temporary one still.
    """
    roots = list(find_roots(store.layout))
    running = runtime_roots(store.layout, proc=proc)
    liveness = Liveness(database.nodes())
    liveness.keep(root.path for root in roots if root.path is not None)
    liveness.keep(running)
    liveness.keep_hash_parts(temporary)
    return _Marked(liveness, [root for root in roots if root.is_stale])


class _Marked(NamedTuple):
    liveness: Liveness
    stale: list[Root]  # of gcroots/auto


def _foresee(
    store: LocalStore,
    database: Database,
    budget: int | None,
    on_deleted: Callable[[StorePath], None],
    proc: Path,
) -> Collected:
    left = tuple(leftovers(store))
    liveness, _ = _mark(store, database, find_temp_roots(store.layout), proc)
    meter = Meter(store.fd)
    with disk_errors(store.layout.store):
        meter.foresee(left)
        meter.start()
        paths: list[StorePath] = []
        for path in (path for group in liveness.dead() for path in group):
            if budget is not None and meter.spent >= budget:
                break
            meter.foresee([path.base])
            paths.append(path)
    for path in paths:
        on_deleted(path)
    return Collected(paths=tuple(paths), leftovers=left, bytes_freed=meter.expected)


class _Collector:
    """One run. Its lock is held, and new roots are listened for."""

    def __init__(
        self,
        store: LocalStore,
        database: Database,
        new_roots: NewRoots,
        journal: Journal,
        *,
        budget: int | None = None,
        at_once: int = AT_ONCE,
    ) -> None:
        self._store, self._database = store, database
        self._new_roots, self._journal = new_roots, journal
        self._budget, self._at_once = budget, at_once
        self._meter = Meter(store.fd)
        self._liveness = Liveness(())
        self._temporary: set[str] = set()
        self._paths: list[StorePath] = []
        self._leftovers: list[str] = []
        self._failures: list[DiskError] = []
        self._kept: set[str] = set()  # names of what could not be removed

    def run(self, on_deleted: Callable[[StorePath], None], proc: Path) -> Collected:
        layout = self._store.layout
        left = leftovers(self._store)
        self._temporary = find_temp_roots(layout, remove_dead=True)
        self._liveness, stale = _mark(self._store, self._database, self._temporary, proc)
        _sweep(layout, stale)
        for start in range(0, len(left), self._at_once):
            self._delete_leftovers(left[start : start + self._at_once])
        self._meter.start()
        groups = self._liveness.dead()
        while some := self._next(groups):
            for path in self._delete(some):
                self._paths.append(path)
                on_deleted(path)
        links_removed = self._meter.remove_links(self._failures.append)
        keep_reserve(layout)
        return Collected(
            paths=tuple(self._paths),
            leftovers=tuple(self._leftovers),
            bytes_freed=self._meter.freed,
            links_removed=links_removed,
            failures=tuple(self._failures),
        )

    def _next(self, groups: Iterator[tuple[StorePath, ...]]) -> list[StorePath]:
        """The paths that go next; none when the budget is spent."""
        some: list[StorePath] = []
        room = None if self._budget is None else self._budget - self._meter.spent
        if room is not None and room <= 0:
            return some
        size = 0
        for group in groups:
            some.extend(group)
            size += sum(map(self._liveness.nar_size, group))
            if len(some) >= self._at_once or (room is not None and size >= room):
                break
        return some

    def _delete(self, paths: list[StorePath]) -> list[StorePath]:
        """Delete those of `paths` that nobody wants after all; give those that are gone."""
        while fresh := self._new_roots.claim([path.hash_part for path in paths]):
            self._liveness.keep_hash_parts(fresh)
            paths = [path for path in paths if not self._liveness.is_live(path)]
        try:
            with self._database.writing():
                gone = self._database.forget(paths)
            away = self._move_away([path.base for path in paths if path in gone])
        finally:
            self._new_roots.release()
        self._remove(away)
        return [path for path in paths if path in gone and path.base not in self._kept]

    def _delete_leftovers(self, names: list[str]) -> None:
        while fresh := self._new_roots.claim({name[:HASH_LENGTH] for name in names}):
            self._liveness.keep_hash_parts(fresh)
        try:
            names = self._still_left(names)
            locks = [name for name in names if _is_lock(self._store.fd, name)]
            trees = [name for name in names if name not in locks]
            away = self._move_away(filter(_has_a_users_name, trees))
            for name in locks:
                with disk_errors(self._store.layout.store / name):
                    remove_stale_lock(self._store.fd, name)
        finally:
            self._new_roots.release()
        self._remove({**away, **{name: name for name in trees if not _has_a_users_name(name)}})
        self._leftovers += [name for name in names if name not in self._kept]

    def _still_left(self, names: list[str]) -> list[str]:
        """Those of `names` that are nobody's, now that they are claimed."""
        paths = {name: path for name in names if (path := _parse(name)) is not None}
        valid = self._database.valid(paths.values())
        return [
            name
            for name in names
            if paths.get(name) not in valid
            and name[:HASH_LENGTH] not in self._temporary
            and not self._new_roots.is_rooted(name[:HASH_LENGTH])
            and not is_locked(self._store.fd, name)
            and not is_locked(self._store.fd, name + LOCK_SUFFIX)
            and not _is_link_in_the_making(self._store.fd, name)
        ]

    def _move_away(self, names: Iterable[str]) -> dict[str, str]:
        """Free `names` for others; what is left to be removed, under other names: those, first."""
        others = {name: staging_name(name[:HASH_LENGTH]) for name in names}
        try:
            self._journal.add(others.values())
        except DiskError as error:
            # No room for a few bytes. Who waits for these names waits for the trees to be gone.
            _log.info("cannot write to the journal: %s", error)
            self._remove({name: name for name in others})
            return {}
        away: dict[str, str] = {}
        for name, other in others.items():
            try:
                os.rename(name, other, src_dir_fd=self._store.fd, dst_dir_fd=self._store.fd)
            except FileNotFoundError:  # a path without a tree
                continue
            except OSError as error:
                self._fail(name, name, error)
            else:
                away[other] = name
        return away

    def _remove(self, names: Mapping[str, str]) -> None:
        """Remove trees.

        Args:
            names: what they are called now, and what they were called before.
        """
        for name, before in names.items():
            try:
                remove_tree(self._store.fd, name.encode(), farewell=self._meter.farewell)
            except OSError as error:
                self._fail(name, before, error)

    def _fail(self, name: str, before: str, error: OSError) -> None:
        self._kept.add(before)
        failure = disk_error(error, self._store.layout.store / name)
        if _parse(before) is not None:
            failure.facts["path"] = f"{STORE_DIR}/{before}"
        if error.errno in _FORBIDDEN:
            failure.hint = _FORBIDDEN_HINT
        self._failures.append(failure)


def _sweep(layout: Layout, stale: Iterable[Root]) -> None:
    """Remove links that keep nothing: those whose link is gone, and those of dead processes."""
    with disk_errors(layout.gc_roots):
        for root in stale:
            if not os.path.lexists(root.link):
                _log.info("removing %s: there is no %s any more", root.entry, root.link)
                root.entry.unlink(missing_ok=True)
    with disk_errors(layout.new_links), suppress(FileNotFoundError):
        for scratch in layout.new_links.iterdir():
            scratch.unlink(missing_ok=True)


def _parse(name: str) -> StorePath | None:
    try:
        return StorePath.parse(name)
    except FormatError:
        return None


def _has_a_users_name(name: str) -> bool:
    """Whether somebody may want `name` for something else: not for what a collector calls so."""
    return is_hash_part(name[:HASH_LENGTH]) and not is_staging_name(name)


def _is_lock(store_fd: int, name: str) -> bool:
    """Whether it is a lock, and not the tree of a path that is called like one."""
    if not name.endswith(LOCK_SUFFIX):
        return False
    try:
        status = os.stat(name, dir_fd=store_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size <= len(STALE)


def _is_link_in_the_making(store_fd: int, name: str) -> bool:
    """Whether Nix is deduplicating this very moment. It has no lock, so time has to tell."""
    if not name.startswith(_LINK_IN_THE_MAKING):
        return False
    try:
        status = os.stat(name, dir_fd=store_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return time.time() - status.st_ctime < _SOON
