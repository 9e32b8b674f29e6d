"""The store: add a path whole or not at all.

    adding(trusted)      bytes -> a finished tree in staging, beside its final name
    settle()             finished trees whose references are valid, or settle with them:
                           data to disk -> rename -> directory to disk -> database commit

A crash before the commit leaves trees that no row names: garbage, to Nix and to us. A crash
after it finds everything on disk. Staging names are store-path-shaped and have the hash part
of their path, which is a temporary root before they are made: that is what both of Nix's
collectors leave alone.

Any thread may be adding; `settle` is called by one thread at a time. No lock is held across
a download. Order of locks: `_settling`, then the database's own.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

from nixfetch import kernel
from nixfetch.errors import StoreError, facts
from nixfetch.formats.nar import wire
from nixfetch.formats.storepath import MAX_NAME
from nixfetch.plan.readiness import Readiness
from nixfetch.store.database import Database, Registration
from nixfetch.store.derivation import outputs_of
from nixfetch.store.disk import disk_error, disk_errors
from nixfetch.store.layout import Layout
from nixfetch.store.narsink import NarSink
from nixfetch.store.temproots import StoreClosedError, TempRoots
from nixfetch.store.trees import remove_tree

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from types import TracebackType

    from nixfetch.formats.signing import Signature
    from nixfetch.formats.storepath import StorePath
    from nixfetch.plan.trust import Trusted

_log = logging.getLogger(__name__)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_LOCK_FILE = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC


class NotAStoreError(StoreError):
    """There is no store below that root."""


class ReadOnlyStoreError(StoreError):
    """The store was opened for reading."""


class _Staged(NamedTuple):
    trusted: Trusted
    name: str  # of the finished tree, in the store directory


class LocalStore:
    """One store below one root, open. Close it, or leave its ``with`` block."""

    def __init__(
        self, root: Path | str, *, read_only: bool = False, max_depth: int = wire.MAX_DEPTH
    ) -> None:
        """Open the store below `root`; make it where there is none, unless `read_only`.

        Args:
            root: the directory that holds ``nix/store``; ``/`` is the machine's own.
            read_only: change nothing, not even a lock file. (SQLite may leave its empty ``-wal``
                and ``-shm`` beside the database, where it may write.)
            max_depth: levels of nodes that NARs may have.

        Raises:
            NotAStoreError: `read_only`, and there is none.
            DiskError: a directory cannot be made or opened.
            DatabaseError, SchemaError: the database cannot be used.
        """
        self.layout = Layout(Path(root).absolute())
        self._max_depth = max_depth
        self._read_only = read_only
        self._settling = threading.Lock()
        self._staged: dict[StorePath, _Staged] = {}
        self._unpacking: set[str] = set()  # staging names of trees that are not finished
        self._closed = False
        self._readiness = Readiness()
        self._temp_roots: TempRoots | None = None
        self._big_lock = -1
        if read_only and not (self.layout.database / "db.sqlite").exists():
            raise NotAStoreError(
                "there is no store here", store=str(root), hint="`nixfetch fetch` makes one"
            )
        try:
            if not read_only:
                self._make_directories()
            with disk_errors(self.layout.store):
                self._fd = os.open(self.layout.store, _DIRECTORY)
        except StoreError:
            self._close_lock()
            raise
        try:
            self._database = Database(self.layout.database, read_only=read_only)
            if not read_only:
                self._temp_roots = TempRoots(self.layout)
        except BaseException:
            os.close(self._fd)
            self._close_lock()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop what is still in staging, give up temporary roots, let go of files.

        Threads that are still adding are cut off: what they write from here on fails.
        """
        with self._settling:
            self._closed = True
        self.abandon()
        cut_off = bool(self._unpacking)
        while self._unpacking:
            self._remove(self._unpacking.pop())
        if self._temp_roots is not None:
            self._temp_roots.close()
        self._database.close()
        if not cut_off:  # else a thread may yet use the number, which could be another's by then
            os.close(self._fd)
        self._close_lock()

    @property
    def root(self) -> Path:
        """The directory that holds ``nix/store``."""
        return self.layout.root

    @property
    def fd(self) -> int:
        """A descriptor of the store directory, open as long as the store."""
        return self._fd

    def physical(self, path: StorePath) -> Path:
        """Where `path` lies on this machine, whether it is valid or not."""
        return self.layout.physical(path)

    # What is there.

    def hold(self, paths: Collection[StorePath]) -> set[StorePath]:
        """Those of `paths` that are valid, and stay so until `close` whatever is collected.

        Raises:
            DiskError, DatabaseError: the store cannot be asked.
        """
        if self._temp_roots is not None:
            self._temp_roots.add(paths)
        return self.valid(paths)

    def valid(self, paths: Collection[StorePath]) -> set[StorePath]:
        """Those of `paths` that are valid right now."""
        return self._database.valid(paths)

    def all_valid(self) -> list[StorePath]:
        """All valid paths, ascending."""
        return self._database.all_valid()

    def get(self, path: StorePath) -> Registration | None:
        """What is known of `path`; None when it is not valid."""
        return self._database.get(path)

    def by_hash_part(self, hash_part: str) -> StorePath | None:
        """The valid path whose hash part this is."""
        return self._database.by_hash_part(hash_part)

    # Making it be there.

    @contextmanager
    def adding(self, trusted: Trusted) -> Iterator[NarSink]:
        """Add one path: write its NAR to the sink, leave the block, then `settle`.

            with store.adding(trusted) as sink:
                for chunk in nar:
                    sink.write(chunk)
            store.settle()

        Leaving normally checks size, hash and content address, and leaves a finished tree in
        staging. Leaving by an exception leaves nothing.

        Raises:
            ContentMismatchError, WrongContentError: it is not what `trusted` vouches for.
            NarError: it is not a NAR.
            DiskError: the disk refused.
            ReadOnlyStoreError: the store was opened for reading.
        """
        if self._temp_roots is None:
            raise ReadOnlyStoreError("the store is open for reading only", store=str(self.root))
        path = trusted.info.path
        self._temp_roots.add([path])
        name = f"{path.hash_part}-nixfetch.{secrets.token_hex(8)}"
        assert len(name) <= MAX_NAME
        with facts(path=path):
            sink = NarSink(trusted, self._fd, name.encode(), max_depth=self._max_depth)
            self._unpacking.add(name)
            try:
                yield sink
                sink.finish()
                sink.close()
                self._stage(trusted, name)
            except BaseException:
                sink.close()
                self._remove(name)
                raise
            finally:
                self._unpacking.discard(name)

    def settle(self) -> list[StorePath]:
        """Make valid what is finished and has all its references, references first.

        Returns:
            The paths that are valid now and were not before this call; in staging stays what
            lacks a reference.

        Raises:
            DiskError, DatabaseError: nothing of this call is valid. Close the store.
        """
        with self._settling:
            batch = [self._staged[path] for path in self._readiness.ready()]
            if not batch:
                return []
            with disk_errors(self.layout.store):
                kernel.syncfs(self._fd)
            with self._database.writing():
                taken = self._database.valid([staged.trusted.info.path for staged in batch])
                for staged in batch:
                    self._place(staged, taken=staged.trusted.info.path in taken)
                with disk_errors(self.layout.store):
                    os.fsync(self._fd)
                self._database.register(self._registration(staged.trusted) for staged in batch)
            for staged in batch:
                del self._staged[staged.trusted.info.path]
            return [staged.trusted.info.path for staged in batch]

    def unsettled(self) -> list[StorePath]:
        """Finished paths that wait in staging for a reference."""
        return list(self._staged)

    def abandon(self) -> None:
        """Remove everything that is still in staging."""
        with self._settling:
            while self._staged:
                _, staged = self._staged.popitem()
                self._remove(staged.name)

    def set_signatures(self, path: StorePath, signatures: Iterable[Signature]) -> None:
        """Replace the signatures of the valid `path`."""
        if self._read_only:
            raise ReadOnlyStoreError("the store is open for reading only", store=str(self.root))
        with self._database.writing():
            self._database.set_signatures(path, signatures)

    def _stage(self, trusted: Trusted, name: str) -> None:
        """Let a finished tree wait for `settle`."""
        path = trusted.info.path
        with self._settling:
            if self._closed:
                raise StoreClosedError("the store was closed meanwhile", store=str(self.root))
            if path in self._staged:  # added twice: the first one stays
                self._remove(name)
                return
            self._know(trusted.info.references)
            self._staged[path] = _Staged(trusted, name)
            self._readiness.finished(path, trusted.info.references)

    def _know(self, references: Iterable[StorePath]) -> None:
        unknown = [path for path in references if not self._readiness.knows(path)]
        for path in self.hold(unknown):
            self._readiness.valid(path)

    def _place(self, staged: _Staged, *, taken: bool) -> None:
        """Give a finished tree its name. `taken`: another process was first, and registered it."""
        final = staged.trusted.info.path.base
        if taken:
            self._remove(staged.name)
            return
        try:
            # A tree of that name that no row names is left over from a crash.
            remove_tree(self._fd, final.encode())
            os.rename(staged.name, final, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except OSError as error:
            raise disk_error(error, self.layout.store / final) from error

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
        """Remove a staging tree; a failure is logged, the error that led here matters more."""
        try:
            remove_tree(self._fd, name.encode())
        except OSError as error:
            _log.warning("cannot remove %s: %s", self.layout.store / name, error)

    def _make_directories(self) -> None:
        layout = self.layout
        try:
            for directory in (layout.store, layout.database, layout.temp_roots, layout.gc_roots):
                directory.mkdir(parents=True, exist_ok=True)
            # Held for as long as the store is open: Nix upgrades the schema under it.
            self._big_lock = os.open(layout.database / "big-lock", _LOCK_FILE, 0o600)
            fcntl.flock(self._big_lock, fcntl.LOCK_SH)
        except OSError as error:
            raise disk_error(error, error.filename or layout.root) from error

    def _close_lock(self) -> None:
        if self._big_lock >= 0:
            with suppress(OSError):
                os.close(self._big_lock)
            self._big_lock = -1
