"""A store below a root: ask what is valid, and make more of it so.

Layout, database, locks and temporary roots are Nix's own, and real Nix may use the store at the
same time. `staging` has the story of how a path becomes valid; this is the front of the room.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

from nixfetch.errors import StoreError
from nixfetch.formats.nar import wire
from nixfetch.store import journal, temproots
from nixfetch.store.database import Database
from nixfetch.store.disk import disk_errors, is_there
from nixfetch.store.gone import gone
from nixfetch.store.layout import Layout
from nixfetch.store.links import Links, open_links
from nixfetch.store.linktree import link_tree
from nixfetch.store.opening import lock_store, make_directories, open_store
from nixfetch.store.refusals import refuse_to_forget
from nixfetch.store.replacing import Replacement, replacing
from nixfetch.store.reserve import keep_reserve, lend_reserve
from nixfetch.store.staging import Staging

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from contextlib import AbstractContextManager
    from types import TracebackType

    from nixfetch.formats.signing import Signature
    from nixfetch.formats.storepath import StorePath
    from nixfetch.plan.trust import Trusted
    from nixfetch.store.database import Registration
    from nixfetch.store.gone import TreeGoneError
    from nixfetch.store.narsink import NarSink


class NotAStoreError(StoreError):
    """There is no store below that root."""


class ReadOnlyStoreError(StoreError):
    """The store was opened for reading."""


class LocalStore:
    """One store below one root, open. Close it, or leave its ``with`` block.

    Safe to share among threads.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        read_only: bool = False,
        durable: bool = True,
        dedup: bool = True,
        max_depth: int = wire.MAX_DEPTH,
    ) -> None:
        """Open the store below `root`; make it where there is none, unless `read_only`.

        What dead processes left unfinished in it is removed.

        Args:
            root: the directory that holds ``nix/store``; ``/`` is the machine's own.
            read_only: change nothing, not even a lock file. (SQLite may leave its empty ``-wal``
                and ``-shm`` beside the database, where it may write.)
            durable: what was said to be valid is so after a power cut. Without it, a power cut
                may leave valid paths with empty files.
            dedup: equal files become one inode, by way of ``.links``.
            max_depth: levels of nodes that NARs may have.

        Raises:
            NotAStoreError: `read_only`, and there is none.
            LinkedStoreError: the store directory is a symbolic link.
            DiskError: a directory cannot be made or opened.
            DatabaseError, SchemaError: the database cannot be used.
        """
        self.layout = Layout(Path(root).absolute())
        self._staging: Staging | None = None
        database = self.layout.database / "db.sqlite"
        if read_only and not is_there(database):
            refuse_to_forget(self.layout.store, database)
            raise NotAStoreError(
                "there is no store here", store=str(root), hint="`nixfetch fetch` makes one"
            )
        self._cut_off = False  # threads were still adding when the store was closed
        with ExitStack() as stack:
            if not read_only:
                make_directories(self.layout, durable=durable)
                stack.callback(os.close, lock_store(self.layout))
            self._fd = open_store(self.layout)
            stack.callback(self._let_go, self._fd)
            if not read_only:
                stack.callback(keep_reserve, self.layout)  # if it was lent
            self._database = Database(
                self.layout.database,
                read_only=read_only,
                durable=durable,
                store=self.layout.store,
            )
            stack.callback(self._database.close)
            if not read_only:
                stack.callback(lend_reserve, self.layout)
                with disk_errors(self.layout.store / ".links"):
                    links = Links(open_links(self._fd))
                stack.callback(self._let_go, links.fd)
                journal.sweep(self.layout.inflight, self._fd, links)
                temproots.sweep(self.layout)
                self._staging = Staging(
                    self._fd,
                    self.layout,
                    self._database,
                    links=links,
                    dedup=dedup,
                    durable=durable,
                    max_depth=max_depth,
                )
                stack.callback(self._end_staging)
            self._clean_up = stack.pop_all()

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
        self._clean_up.close()

    def _end_staging(self) -> None:
        self._cut_off = not self._writable.close()

    def _let_go(self, fd: int) -> None:
        # A thread that was cut off may yet use the number, which could be another file's by then.
        if not self._cut_off:
            os.close(fd)

    @property
    def _writable(self) -> Staging:
        if self._staging is None:
            raise ReadOnlyStoreError("the store is open for reading only", store=str(self.root))
        return self._staging

    def check_writable(self) -> None:
        """Make sure that the store may be changed.

        Raises:
            ReadOnlyStoreError: it was opened for reading.
        """
        _ = self._writable

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
        return self.valid(paths) if self._staging is None else self._staging.hold(paths)

    def valid(self, paths: Collection[StorePath]) -> set[StorePath]:
        """Those of `paths` that are valid right now."""
        return self._database.valid(paths)

    def gone(self, paths: Collection[StorePath]) -> dict[StorePath, TreeGoneError]:
        """Those of `paths`, valid ones, whose trees are not on the disk, and the error for each.

        Raises:
            DiskError: the disk cannot be asked.
        """
        return gone(self.layout.store, self._fd, paths)

    def link_into(self, path: StorePath, directory_fd: int) -> None:
        """Give the tree of `path`, by hard links, the same name in another directory.

        For readers: whoever wrote to it there would write to the store. It is no root of `path`.

        Args:
            path: is there, and stays meanwhile.
            directory_fd: on the file system of the store; nothing there is called so.

        Raises:
            DiskError: the tree cannot be read or linked (EXDEV: the directory is on another file
                system). What was made by then stays.
            UnsupportedFileError: something in it is no file, directory or symbolic link.
        """
        with disk_errors(self.physical(path)):
            link_tree(path.base.encode(), self._fd, directory_fd)

    def all_valid(self) -> list[StorePath]:
        """All valid paths, ascending."""
        return self._database.all_valid()

    def get(self, path: StorePath) -> Registration | None:
        """What is known of `path`; None when it is not valid."""
        return self._database.get(path)

    def closure(self, paths: Collection[StorePath]) -> dict[StorePath, tuple[StorePath, ...]]:
        """The valid ones of `paths` and all that they refer to, with what each refers to.

        Raises:
            DatabaseError: the store cannot be asked.
        """
        return self._database.closure(paths)

    def by_hash_part(self, hash_part: str) -> StorePath | None:
        """The valid path whose hash part this is."""
        return self._database.by_hash_part(hash_part)

    def free_space(self) -> int:
        """Bytes that we could write to the disk of the store.

        Raises:
            DiskError: the disk cannot be asked.
        """
        with disk_errors(self.layout.store):
            disk = os.fstatvfs(self._fd)
        return disk.f_bavail * disk.f_frsize

    # Making it be there.

    def try_lock(self, path: StorePath) -> bool:
        """Take the right to make `path` valid, until it is settled, `unlock` or `close`.

        Returns:
            False at once when another process has it: it is making the path valid.

        Raises:
            DiskError: the lock cannot be made.
            ReadOnlyStoreError: the store was opened for reading.
        """
        return self._writable.try_lock(path)

    def unlock(self, path: StorePath) -> None:
        """Give up the right to make `path` valid; without it nothing happens."""
        if self._staging is not None:
            self._staging.unlock(path)

    def notice(self, paths: Collection[StorePath]) -> set[StorePath]:
        """Those of `paths` that others made valid; what waits for them is ready to settle."""
        return self._writable.notice(paths)

    def adding(self, trusted: Trusted) -> AbstractContextManager[NarSink]:
        """Add one path: write its NAR to the sink, leave the block, then `settle`.

        Example::

            with store.adding(trusted) as sink:
                for chunk in nar:
                    sink.write(chunk)
            store.settle()

        Leaving normally checks size, hash and content address, and leaves a finished tree in
        staging. Leaving by an exception leaves nothing. Waits while another process makes the
        same path valid, unless `try_lock` was asked before.

        Raises:
            ContentMismatchError, WrongContentError: it is not what `trusted` vouches for.
            NarError: it is not a NAR.
            DiskError: the disk refused.
            ReadOnlyStoreError: the store was opened for reading.
        """
        return self._writable.adding(trusted)

    def settle(self) -> list[StorePath]:
        """Make valid what is finished and has all its references, references first.

        Returns:
            The paths of this call, all valid now; in staging stays what lacks a reference.

        Raises:
            DiskError, DatabaseError: nothing of this call is valid. Close the store.
        """
        return self._writable.settle()

    def unsettled(self) -> list[StorePath]:
        """Finished paths that wait in staging for a reference."""
        return [] if self._staging is None else self._staging.unsettled()

    def abandon(self) -> None:
        """Remove everything that is still in staging."""
        if self._staging is not None:
            self._staging.abandon()

    def add_signatures(self, path: StorePath, signatures: Iterable[Signature]) -> bool:
        """Add to the signatures of a valid path.

        Returns:
            Whether one of them is new; False too when the path is not valid any more.
        """
        if self._staging is None:
            raise ReadOnlyStoreError("the store is open for reading only", store=str(self.root))
        with self._database.writing():
            return self._database.add_signatures(path, signatures)

    # Keeping it whole.

    def check_database(self) -> None:
        """Read the whole database, and look whether it is sound.

        Raises:
            DatabaseError: it is not.
        """
        self._database.check()

    def replacing(self, trusted: Trusted) -> AbstractContextManager[Replacement]:
        """Give a valid path a fresh tree: write its NAR to the sink, leave the block.

            with store.replacing(trusted) as fresh:
                for chunk in nar:
                    fresh.sink.write(chunk)

        For whoever holds the path and its lock. Leaving normally checks as `adding` does, and
        exchanges the trees in one step; leaving by an exception leaves the old one. Nothing of
        the fresh tree is linked to anything that was not read. The registration stays.

        Raises:
            As `adding`.
        """
        return replacing(self._writable, trusted)
