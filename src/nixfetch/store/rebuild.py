"""A new database in the place of a damaged or missing one.

    big-lock, exclusively     nobody else has the store open
    copy of the old one       what can be read of it, and whether it is damaged at all
    fresh one, beside it      filled, closed, on disk
    old one gets a name       db.sqlite.corrupt-TIME, with its log
    fresh one gets its name   one rename: a crash leaves the old one or the fresh one

An old database that is sound is not replaced: what it lacks is added to it. Trees are never
touched here. Knows nothing of why a registration is good.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import secrets
import shutil
import time
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nixfetch.errors import FormatError, StoreError
from nixfetch.formats.storepath import StorePath
from nixfetch.store import journal
from nixfetch.store.database import Database
from nixfetch.store.disk import disk_errors, is_there
from nixfetch.store.journal import is_staging_name
from nixfetch.store.links import Links, open_links
from nixfetch.store.local import NotAStoreError
from nixfetch.store.locks import LOCK_SUFFIX
from nixfetch.store.opening import make_directories, open_store
from nixfetch.store.refusals import REBUILD, DatabaseError
from nixfetch.store.salvage import salvage
from nixfetch.store.schema import SchemaError, check_schema, write_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from nixfetch.store.database import Registration
    from nixfetch.store.layout import Layout

_log = logging.getLogger(__name__)
_LOCK_FILE = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
_NAME = "db.sqlite"
_BESIDE = "rebuild."  # a directory in that of the database
_LOST = frozenset({errno.EIO, errno.EUCLEAN, errno.EBADMSG})  # what a bad disk says
_ROWS_PER_TREE = 16  # numbers of rows go up with every path that was ever valid


class BusyStoreError(StoreError):
    """Somebody has the store open."""

    exit_code = 75


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebuilding:
    """A store that nobody else has open, and what its old database says."""

    layout: Layout
    fd: int
    """The store directory."""
    valid: list[StorePath] | None
    """What the old database has; None when it is damaged or missing."""
    claims: dict[StorePath, Registration]
    """What could be read of the old database."""
    trees: list[StorePath]
    """What lies in the store directory, ascending."""
    place: Path
    """A directory on the same disk as the database, that goes away."""
    now: Callable[[], float]

    @property
    def sound(self) -> bool:
        """Whether the old database is not damaged."""
        return self.valid is not None

    def finish(self, registrations: Iterable[Registration]) -> Path | None:
        """Have a database with `registrations`, whose references are all among them.

        Returns:
            Where the old database is now, with what can be read of it; None when it was added to,
            or there was none.

        Raises:
            DatabaseError, DiskError: the database is the old one, or (once) the fresh one.
        """
        directory = self.layout.database if self.sound else self.place / "fresh"
        with disk_errors(directory):
            directory.mkdir(exist_ok=True)
        with closing(Database(directory)) as database, database.writing():
            database.register(registrations)
        return None if self.sound else self._replace(directory / _NAME)

    def _replace(self, fresh: Path) -> Path | None:
        old, directory = self.layout.database / _NAME, self.layout.database
        with disk_errors(fresh):
            # Closing it has left no log behind: the file is all there is.
            assert not fresh.with_name(f"{_NAME}-wal").exists()
            _sync(fresh)
        kept = self._kept_name()
        with disk_errors(old):
            was_there = _keep(old, kept)
            fresh.replace(old)
            with suppress(FileNotFoundError):
                (directory / "schema").unlink()
            write_schema(directory)
            _sync(directory)
        return kept if was_there else None

    def _kept_name(self) -> Path:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self.now()))
        kept = self.layout.database / f"{_NAME}.corrupt-{stamp}"
        while kept.exists():
            kept = kept.with_name(f"{kept.name}.again")
        return kept


@contextmanager
def rebuilding(layout: Layout, *, now: Callable[[], float] = time.time) -> Iterator[Rebuilding]:
    """Have the store to ourselves, and see what there is.

    Raises:
        NotAStoreError: there is none.
        BusyStoreError: another process has it open.
        SchemaError: its database is of a version that we do not know.
        DiskError: something cannot be read or made.
    """
    if not is_there(layout.store):
        raise NotAStoreError("there is no store here", store=str(layout.root))
    make_directories(layout, durable=True)
    try:
        check_schema(layout.database)
    except SchemaError as error:
        if error.hint != REBUILD:
            raise
    with ExitStack() as stack:
        stack.callback(os.close, _lock_alone(layout.database / "big-lock"))
        fd = open_store(layout)
        stack.callback(os.close, fd)
        with disk_errors(layout.store):
            links = open_links(fd)
        stack.callback(os.close, links)
        journal.sweep(layout.inflight, fd, Links(links))
        trees = _trees(layout.store)
        place = stack.enter_context(_place(layout.database))
        copy = _copy(layout.database, place)
        valid = _valid_if_sound(copy, layout.store)
        claims, odd = salvage(copy, at_least=_ROWS_PER_TREE * len(trees))
        if valid is not None and len(valid) != len(claims) + odd:
            valid = None  # a row that makes no sense is a damage that SQLite does not see
        yield Rebuilding(
            layout=layout, fd=fd, valid=valid, claims=claims, trees=trees, place=place, now=now
        )


def _lock_alone(file: Path) -> int:
    with disk_errors(file):
        fd = os.open(file, _LOCK_FILE, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(fd)
            raise BusyStoreError(
                "another process has the store open",
                hint="run it again when no other nixfetch or Nix uses the store",
                file=str(file),
            ) from error
        except BaseException:
            os.close(fd)
            raise
    return fd


def _trees(directory: Path) -> list[StorePath]:
    found = []
    with disk_errors(directory):
        names = [entry.name for entry in directory.iterdir()]
    for name in names:
        if not (name.endswith(LOCK_SUFFIX) or is_staging_name(name)):
            with suppress(FormatError):
                found.append(StorePath.parse(name))
    return sorted(found)


@contextmanager
def _place(directory: Path) -> Iterator[Path]:
    """A private directory; what earlier runs left behind goes first."""
    place = directory / f"{_BESIDE}{secrets.token_hex(8)}"
    with disk_errors(place):
        for left in directory.glob(f"{_BESIDE}*"):
            shutil.rmtree(left)
        place.mkdir(mode=0o700)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _copy(directory: Path, place: Path) -> Path:
    """The old database and its log, for us to open; what is not there is not copied."""
    old = place / "old"
    for suffix in ("", "-wal"):
        source = directory / f"{_NAME}{suffix}"
        with disk_errors(source):
            copied(source, place / f"old{suffix}")
    return old


def copied(
    source: Path, target: Path, *, copy: Callable[[Path, Path], object] = shutil.copyfile
) -> bool:
    """Copy a file that may be missing, or that its disk may have lost; whether it is there now.

    Raises:
        OSError: for any other reason.
    """
    try:
        copy(source, target)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno not in _LOST:
            raise
        _log.warning("cannot read %s: %s", source, error.strerror)
        target.unlink(missing_ok=True)
        return False
    return True


def _valid_if_sound(copy: Path, store: Path) -> list[StorePath] | None:
    """The paths of a sound database; one without tables, with paths beside it, is none."""
    directory = copy.parent / "checked"
    with disk_errors(directory):
        directory.mkdir()
        for suffix in ("", "-wal"):
            copied(copy.with_name(f"old{suffix}"), directory / f"{_NAME}{suffix}")
    try:
        with closing(Database(directory, store=store)) as database:
            database.check()
            return database.all_valid()
    except DatabaseError as error:
        if error.hint != REBUILD:
            raise
        return None
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _keep(old: Path, kept: Path) -> bool:
    """Give the old database another name as well, and its log with it; whether there was one.

    Its log must be gone before a fresh database has the name: SQLite would replay it there.
    """
    was_there = old.exists()
    if was_there:
        try:
            kept.hardlink_to(old)
        except OSError:  # no hard links here: for a moment there is no database, which is refused
            old.rename(kept)
    with suppress(FileNotFoundError):
        old.with_name(f"{_NAME}-wal").rename(kept.with_name(f"{kept.name}-wal"))
    with suppress(FileNotFoundError):
        old.with_name(f"{_NAME}-shm").unlink()
    return was_there


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
