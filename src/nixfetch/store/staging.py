"""From bytes to valid paths, whole or not at all: what a store open for writing does.

    adding(trusted)      bytes -> a finished tree in staging, beside its final name
    settle()             finished trees whose references are valid, or settle with them:
                           data to disk -> rename -> directory to disk -> database commit
                           -> new files into `.links`

A crash before the commit leaves trees that no row names: garbage, to Nix and to us, and named in
the journal. A crash after it finds everything on disk. Staging names are store-path-shaped and
have the hash part of their path, which is a temporary root before they are made: that is what
both of Nix's collectors leave alone.

When settling fails before the commit is asked for, what it placed is removed. When the commit
itself fails, nobody can say whether it happened: the trees stay until `close`; see `doubts`.

Any thread may be adding; one at a time settles. No lock is held across a download. Order of
locks: `_settling`, then the database's own. Locks of paths are never waited for here.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from nixfetch import kernel
from nixfetch.errors import facts
from nixfetch.plan.readiness import Readiness
from nixfetch.store.database import Registration
from nixfetch.store.derivation import outputs_of
from nixfetch.store.disk import disk_error, disk_errors
from nixfetch.store.doubts import not_valid
from nixfetch.store.exchange import exchange
from nixfetch.store.heldlocks import HeldLocks
from nixfetch.store.journal import Journal, staging_name
from nixfetch.store.links import Links, sole_entry
from nixfetch.store.narsink import NarSink
from nixfetch.store.offers import Offers
from nixfetch.store.temproots import TempRoots
from nixfetch.store.trees import remove_tree

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from nixfetch.formats.storepath import StorePath
    from nixfetch.plan.trust import Trusted
    from nixfetch.store.database import Database
    from nixfetch.store.layout import Layout

_log = logging.getLogger(__name__)
_PAUSE = 0.05  # seconds between two looks at a lock that somebody else holds


class _Staged(NamedTuple):
    trusted: Trusted
    name: str  # of the finished tree, in the store directory


class Staging:
    """What one process is adding to one store. Safe to share among threads."""

    def __init__(
        self,
        store_fd: int,
        layout: Layout,
        database: Database,
        *,
        links: Links,
        dedup: bool,
        durable: bool,
        max_depth: int,
    ) -> None:
        """Begin, with temporary roots and a journal of this process's own.

        Raises:
            DiskError: they cannot be made.
        """
        self._fd = store_fd
        self._layout = layout
        self._database = database
        self._links = links
        self._dedup = dedup
        self._durable = durable
        self._max_depth = max_depth
        self._sharing = threading.Lock()
        self._offers: dict[bool, Offers] = {}  # by whether they are for a repair
        self._settling = threading.Lock()
        self._staged: dict[StorePath, _Staged] = {}
        self._readiness = Readiness()
        self._unpacking: set[str] = set()  # staging names of trees that are not finished
        self._doubtful: list[StorePath] = []  # placed, and their commit failed
        self._stuck = False  # something of ours could not be removed
        self.temp_roots = TempRoots(layout)
        try:
            self.journal = Journal(layout.inflight)
        except BaseException:
            self.temp_roots.close()
            raise
        self._locks = HeldLocks(store_fd, layout, self.journal)

    def close(self) -> bool:
        """Drop what is still in staging, give up locks and temporary roots.

        Threads that are still adding are cut off: what they write from here on fails.

        Returns:
            Whether there were none.
        """
        with self._settling:
            self._locks.close()
        # First of all: without a shelf files have no other link, and need not be read for it.
        for offers in self._offers.values():
            self._stuck |= not offers.close()
        self.abandon()
        clean = not self._unpacking
        while self._unpacking:
            self._remove(self._unpacking.pop())
        if self._doubtful:  # their locks are held
            for path in not_valid(self._database, self._layout, self._doubtful):
                self._remove(path.base)
        self._locks.release_all()
        self.temp_roots.close()
        self.journal.close(clean=clean and not (self._stuck or self._locks.stuck))
        return clean

    def hold(self, paths: Collection[StorePath]) -> set[StorePath]:
        """Those of `paths` that are valid, and stay so until `close`."""
        self.temp_roots.add(paths)
        return self._database.valid(paths)

    def notice(self, paths: Collection[StorePath]) -> set[StorePath]:
        """Those of `paths` that are valid by now; what waits for them is ready to settle."""
        valid = self._database.valid(paths)
        with self._settling:
            for path in valid:
                self._readiness.valid(path)
        return valid

    def try_lock(self, path: StorePath) -> bool:
        """Take the right to make `path` valid, until it is settled, or `unlock`.

        Returns:
            False at once when another process has it.

        Raises:
            DiskError: the lock cannot be made.
            StoreClosedError: after `close`.
        """
        return self._locks.acquire(path)

    def unlock(self, path: StorePath) -> None:
        """Give the right up; without it nothing happens."""
        self._locks.release(path)

    @contextmanager
    def adding(self, trusted: Trusted) -> Iterator[NarSink]:
        """See `LocalStore.adding`."""
        path = trusted.info.path
        self.temp_roots.add([path])
        had_lock = path in self._locks
        while not self.try_lock(path):
            time.sleep(_PAUSE)
        name = staging_name(path.hash_part)
        with facts(path=path):
            self.journal.add([name])
            sink = NarSink(
                trusted,
                self._fd,
                name.encode(),
                links=self.offers(path),
                max_depth=self._max_depth,
            )
            self._unpacking.add(name)
            try:
                yield sink
                sink.finish()
                sink.close()
                self._stage(trusted, name)
            except BaseException:
                sink.close()
                self._remove(name)
                if not had_lock:
                    self.unlock(path)
                raise
            finally:
                self._unpacking.discard(name)

    def settle(self) -> list[StorePath]:
        """See `LocalStore.settle`."""
        with self._settling:
            batch = [self._staged[path] for path in self._readiness.ready() if path in self._staged]
            if not batch:
                return []
            self._turn_over()
            if self._durable:
                self._sync()
            self._register(batch)
            self._publish()
            settled = [staged.trusted.info.path for staged in batch]
            for path in settled:
                del self._staged[path]
                self.unlock(path)
            return settled

    def unsettled(self) -> list[StorePath]:
        """Finished paths that wait in staging for a reference."""
        return list(self._staged)

    def abandon(self) -> None:
        """Remove everything that is still in staging."""
        with self._settling:
            self._abandon()

    def _abandon(self) -> None:
        while self._staged:
            path, staged = self._staged.popitem()
            self._remove(staged.name)
            self.unlock(path)

    def _sync(self) -> None:
        """See to it that all that was written is on disk.

        After a failure nobody can say what is, and asking again would say yes: the trees go.
        """
        try:
            with disk_errors(self._layout.store):
                kernel.syncfs(self._fd)
        except BaseException:
            self._locks.close()
            self._abandon()
            raise

    def _stage(self, trusted: Trusted, name: str) -> None:
        """Let a finished tree wait for `settle`."""
        path = trusted.info.path
        with self._settling:
            self._locks.check_open()
            if path in self._staged:  # added twice: the first one stays
                self._remove(name)
                return
            references = trusted.info.references
            unknown = [other for other in references if not self._readiness.knows(other)]
            for other in self.hold(unknown):
                self._readiness.valid(other)
            self._staged[path] = _Staged(trusted, name)
            self._readiness.finished(path, references)

    def _register(self, batch: list[_Staged]) -> None:
        """Place `batch` and commit it."""
        placed: list[StorePath] = []
        committing = False
        try:
            with self._database.writing():
                paths = [staged.trusted.info.path for staged in batch]
                taken = self._database.valid(paths)
                for staged in batch:
                    if staged.trusted.info.path in taken:
                        self._compare(staged.trusted)
                        self._remove(staged.name)
                    else:
                        self._place(staged, placed)
                if self._durable:
                    with disk_errors(self._layout.store):
                        os.fsync(self._fd)
                fresh = [each for each in batch if each.trusted.info.path not in taken]
                self._database.register(self._registration(each.trusted) for each in fresh)
                committing = True
        except BaseException:
            for path in placed:
                if committing:
                    del self._staged[path]
                    self._doubtful.append(path)
                else:
                    self._remove(path.base)
            raise

    def _compare(self, trusted: Trusted) -> None:
        """Say so when somebody else registered another build of the same path. Theirs stays."""
        there = self._database.get(trusted.info.path)
        if there is not None and there.nar_hash != trusted.info.nar_hash:
            _log.warning(
                "%s is valid already with another content: %s, not %s",
                trusted.info.path,
                there.nar_hash,
                trusted.info.nar_hash,
            )

    def _place(self, staged: _Staged, placed: list[StorePath]) -> None:
        """Give a finished tree its name."""
        path = staged.trusted.info.path
        try:
            # A tree of that name that no row names is left over from a crash.
            remove_tree(self._fd, path.base.encode())
            os.rename(staged.name, path.base, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except OSError as error:
            raise disk_error(error, self._layout.store / path.base) from error
        placed.append(path)

    def _registration(self, trusted: Trusted) -> Registration:
        info = trusted.info
        return Registration(
            path=info.path,
            nar_hash=info.nar_hash,
            nar_size=info.nar_size,
            references=info.references,
            deriver=info.deriver,
            signatures=info.signatures,
            ca=info.ca,
            registered=int(time.time()),
            outputs=outputs_of(self._fd, info.path) if info.path.is_derivation else (),
        )

    def _remove(self, name: str) -> None:
        """Remove a staging tree; a failure is logged, the error that led here matters more.

        What cannot be removed stays in the journal: whoever opens the store next tries again.
        """
        try:
            remove_tree(self._fd, name.encode(), farewell=self._withdraw)
        except OSError as error:
            self._stuck = True
            _log.warning("cannot remove %s: %s", self._layout.store / name, error.strerror)

    # For `replacing`.

    @contextmanager
    def unpacking(self, path: StorePath) -> Iterator[str]:
        """A staging name for a tree of `path`; what has it in the end is removed."""
        name = staging_name(path.hash_part)
        self.journal.add([name])
        self._unpacking.add(name)
        try:
            yield name
        finally:
            self._unpacking.discard(name)
            self._remove(name)

    def exchange(self, name: str, path: StorePath) -> None:
        """Give a finished tree in staging the name of `path`, durably; remove what had it."""
        with self._settling:
            self._locks.check_open()
            self._turn_over()
            with disk_errors(self._layout.store / path.base):
                exchange(self._fd, name.encode(), path.base.encode())
            self._publish()
        try:
            # No farewell: it reads files, and these may be what the disk has lost.
            remove_tree(self._fd, name.encode())
        except OSError as error:
            self._stuck = True
            _log.warning("cannot remove %s: %s", self._layout.store / name, error.strerror)

    @property
    def store_fd(self) -> int:
        """The store directory."""
        return self._fd

    def offers(self, path: StorePath, *, repairing: bool = False) -> Offers | None:
        """Where a tree of `path`, a temporary root, looks for equal files, if it does.

        Args:
            path: the path.
            repairing: bad entries of ``.links`` are what is expected.
        """
        if not self._dedup:
            return None
        with self._sharing:
            if repairing not in self._offers:
                self._offers[repairing] = Offers(
                    self._fd,
                    Links(self._links.fd, repairing=repairing),
                    path.hash_part,
                    announce=self.journal.add,
                )
            return self._offers[repairing]

    def _turn_over(self) -> None:
        """Let new files wait for `_publish`; then see to it that they get to disk."""
        for offers in list(self._offers.values()):
            offers.turn_over()

    def _publish(self) -> None:
        """Put the files that wait into ``.links``."""
        for offers in list(self._offers.values()):
            offers.publish()

    def _withdraw(self, dir_fd: int, name: bytes) -> None:
        """Take back what was offered of a file that goes."""
        entry = sole_entry(dir_fd, name)
        if entry is not None:
            for offers in self._offers.values():
                if offers.withdraw(entry):
                    return
            self._links.withdraw(entry)

    @property
    def max_depth(self) -> int:
        """Levels of nodes that a NAR may have."""
        return self._max_depth
