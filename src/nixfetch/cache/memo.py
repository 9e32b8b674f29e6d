"""What caches said lately: narinfos and nix-cache-infos, in SQLite, shared by processes.

    ~/.cache/nixfetch/memo-v1.sqlite     cache URL, hash part -> raw text, or that there was none

Only the text is kept, as it came: whether to believe it is judged anew each time. The file may go
at any moment and is worth nothing: whatever is wrong with it (foreign, of a later version, locked,
read-only, a full disk) costs a line in the log, and then nothing is remembered. A damaged one is
made anew. Nothing is synced: a power cut may damage it.

Writes are gathered, and made in one transaction by whoever puts the last of them: when there are
enough, when the first has waited long enough, or at the end. Rows are numbered in the order they
were written, and the first go when there are too many: no clock has a say in that.

One lock guards all of an object. It is held while SQLite works, for microseconds as a rule, for
`_BUSY` seconds once where another process does not let go of the file.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import stat
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_log = logging.getLogger(__name__)

POSITIVE_TTL = 30 * 24 * 3600  # seconds; a narinfo hardly ever changes
NEGATIVE_TTL = 600  # seconds; a path that is not there may be there soon
INFO_TTL = 7 * 24 * 3600  # seconds
MAX_RAW = 256 * 1024  # bytes of one text; the largest real narinfo seen has 208 KB
MOST = 64 * 1024 * 1024  # bytes of the file; 40 000 narinfos of the usual size

_BUSY = 2.0  # seconds to wait for other processes, which have a few rows to write each
_GATHER = 256  # rows written together: who writes keeps other processes from it
_GATHER_BYTES = 1024 * 1024  # of text written together
_LINGER = 0.5  # seconds that what is gathered may be lost to a kill
_SHARE = 8  # the part of all rows that goes when there are too many
_LOG_SIZE = 4 * 1024 * 1024  # bytes of the write-ahead log that stay allocated
_INFO = "nix-cache-info"  # in the place of a hash part
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR}  # or no such table
_ERRORS = (sqlite3.Error, UnicodeDecodeError)  # the latter: a message with names that are damaged
_STAMP = (0x6E786D6F, 1)  # application id and version of the schema
_TABLE = (
    "create table said (id integer primary key, cache blob not null, name blob not null,"
    " raw blob, at integer not null, unique (cache, name))"
)
_SELECT = "select raw, at from said where cache = ? and name = ?"
_DELETE = "delete from said where cache = ? and name = ?"
_INSERT = "insert or replace into said (cache, name, raw, at) values (?, ?, ?, ?)"
_SHRINK = (
    "delete from said where id in (select id from said order by id"
    " limit (select count(*) / ? + 1 from said))"
)


_Key = tuple[bytes, bytes]  # cache and name
_Said = tuple[bytes | None, int]  # text and seconds since 1970


@dataclass(frozen=True, slots=True)
class Remembered:
    """What a cache said of a path."""

    raw: bytes | None
    """Its narinfo; None: it had none."""


class Memo:
    """One file of what caches said. Safe to share among threads."""

    def __init__(
        self,
        file: Path,
        *,
        positive_ttl: float = POSITIVE_TTL,
        negative_ttl: float = NEGATIVE_TTL,
        info_ttl: float = INFO_TTL,
        most: int = MOST,
        busy: float = _BUSY,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Use `file`, and make it when it is first needed.

        Args:
            file: where; its directory is made.
            positive_ttl: seconds that a narinfo is believed to stand.
            negative_ttl: seconds that it is believed to be missing.
            info_ttl: seconds for nix-cache-info.
            most: bytes of the file; what was written first goes.
            busy: seconds to wait for other processes.
            now: seconds since 1970.
        """
        self._file = file
        self._positive_ttl = positive_ttl
        self._negative_ttl = negative_ttl
        self._info_ttl = info_ttl
        self._most = most
        self._busy = busy
        self._now = now
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._inode = 0  # of the file that was opened last
        self._given_up = False
        self._made_anew = False
        self._fresh: dict[_Key, _Said | None] = {}  # not written yet; None: forgotten
        self._fresh_bytes = 0
        self._fresh_since = 0.0  # when the first of them came

    def get(self, cache: str, hash_part: str) -> Remembered | None:
        """What `cache` said of a path; None when nothing is remembered.

        Args:
            cache: its URL, without secrets: it is written down.
            hash_part: of the path.
        """
        with self._lock:
            found = self._find(_key(cache, hash_part))
        if found is None:
            return None
        raw, at = found
        ttl = self._negative_ttl if raw is None else self._positive_ttl
        return Remembered(raw) if self._stands(at, ttl) else None

    def put(self, cache: str, hash_part: str, raw: bytes | None) -> None:
        """Remember what `cache` said of a path; None: that it has none."""
        with self._lock:
            self._keep(_key(cache, hash_part), raw)

    def forget(self, cache: str, hash_part: str) -> bool:
        """Forget it; whether it was remembered, for however long."""
        key = _key(cache, hash_part)
        with self._lock:
            found = self._find(key)
            if found is not None:
                self._gather(key, None)
        return found is not None

    def get_info(self, cache: str) -> bytes | None:
        """The nix-cache-info of `cache`; None when it is not remembered."""
        with self._lock:
            found = self._find(_key(cache, _INFO))
        return found[0] if found is not None and self._stands(found[1], self._info_ttl) else None

    def put_info(self, cache: str, raw: bytes) -> None:
        """Remember the nix-cache-info of `cache`."""
        with self._lock:
            self._keep(_key(cache, _INFO), raw)

    def close(self) -> None:
        """Write what is gathered, and let go of the file. Nothing is remembered afterwards."""
        with self._lock:
            self._write()
            self._give_up()

    def _stands(self, at: int, ttl: float) -> bool:
        # What comes from the future was written by another clock: nobody knows how old it is.
        return 0 <= self._now() - at < ttl

    # What follows holds the lock.

    def _find(self, key: _Key) -> _Said | None:
        if key in self._fresh:
            return self._fresh[key]
        connection = self._open()
        if connection is None:
            return None
        try:
            row = connection.execute(_SELECT, key).fetchone()
        except _ERRORS as error:
            self._failed(error)
            return None
        if row is None or not isinstance(row[0], bytes | None) or not isinstance(row[1], int):
            return None  # columns hold anything where somebody else wrote them
        return row[0], row[1]

    def _keep(self, key: _Key, raw: bytes | None) -> None:
        if raw is None or len(raw) <= MAX_RAW:
            self._gather(key, (raw, int(self._now())))
        elif self._find(key) is not None:
            self._gather(key, None)  # what was there before does not hold any more

    def _gather(self, key: _Key, said: _Said | None) -> None:
        if self._given_up:
            return
        now = self._now()
        if not self._fresh:
            self._fresh_since = now
        self._fresh[key] = said
        self._fresh_bytes += len(said[0] or b"") if said else 0
        if (
            len(self._fresh) >= _GATHER
            or self._fresh_bytes >= _GATHER_BYTES
            or not 0 <= now - self._fresh_since < _LINGER
        ):
            self._write()

    def _write(self) -> None:
        fresh, self._fresh, self._fresh_bytes = self._fresh, {}, 0
        if not fresh or (connection := self._open()) is None:
            return
        try:
            connection.execute("begin immediate")
            with connection:  # commits
                connection.executemany(_DELETE, (key for key, said in fresh.items() if not said))
                connection.executemany(
                    _INSERT, ((*key, *said) for key, said in fresh.items() if said)
                )
                while _used(connection) > self._most:
                    if not connection.execute(_SHRINK, (_SHARE,)).rowcount:
                        break
        except _ERRORS as error:
            self._failed(error)

    def _open(self) -> sqlite3.Connection | None:
        while self._connection is None and not self._given_up:
            try:
                self._inode = _made(self._file)
                self._connection = _connected(self._file, self._busy)
            except (OSError, *_ERRORS) as error:
                self._failed(error)
        return self._connection

    def _failed(self, error: Exception) -> None:
        """Go on with a new file, once and where the old one is damaged; else without one."""
        if _is_damage(error) and not self._made_anew:
            self._made_anew = True
            self._disconnect()
            try:
                _remove(self._file, self._inode)
            except OSError as refusal:
                error = refusal
            else:
                _log.info("making %s anew: %s", self._file, error)
                return
        _log.info("remembering nothing of what caches say: %s: %s", self._file, error)
        self._give_up()

    def _give_up(self) -> None:
        self._given_up = True
        self._fresh.clear()
        self._disconnect()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(*_ERRORS):
                connection.close()


def _key(cache: str, name: str) -> _Key:
    # Bytes, as a URL may hold what is no UTF-8.
    return cache.encode("utf-8", "surrogatepass"), name.encode("utf-8", "surrogatepass")


def _is_damage(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return isinstance(error, UnicodeDecodeError) or code in _DAMAGED


def _made(file: Path) -> int:
    """Make sure that the file is there, ours and nobody else's; its inode number.

    It is never opened here: to close a file lets go of the locks that SQLite may have on it in
    this process.

    Raises:
        OSError: it cannot be made, or somebody else may write to it.
    """
    _make_directory(file.parent)
    with suppress(FileExistsError):
        os.mknod(file, 0o600 | stat.S_IFREG)
    status = file.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise PermissionError("not a regular file")
    if status.st_uid != os.geteuid():
        raise PermissionError("it belongs to somebody else")
    return status.st_ino


def _make_directory(directory: Path) -> None:
    # Where root uses the home of somebody else, neither trusts what the other leaves there.
    there = next(place for place in (directory, *directory.parents) if place.exists())
    status = there.stat()
    if status.st_uid not in {0, os.geteuid()}:
        raise PermissionError(f"{there} belongs to somebody else")
    if status.st_mode & (stat.S_IWOTH | stat.S_ISVTX) == stat.S_IWOTH:
        raise PermissionError(f"everybody may write to {there}")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)


def _remove(file: Path, inode: int) -> None:
    """Remove the file that has this number, and what belongs to it.

    Raises:
        OSError: it cannot be, or another process is about to.
    """
    directory = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with suppress(FileNotFoundError):
            if file.lstat().st_ino != inode:
                return  # another process was faster
        # The database last: what is beside it would be taken for a new one's.
        for suffix in ("-wal", "-shm", "-journal", ""):
            file.with_name(file.name + suffix).unlink(missing_ok=True)
    finally:
        os.close(directory)


def _connected(file: Path, busy: float) -> sqlite3.Connection:
    """Open a file that is there; an empty one gets its table.

    Raises:
        OSError: it is another program's, or of a later version.
        sqlite3.Error, UnicodeDecodeError: it cannot be opened.
    """
    connection = sqlite3.connect(
        f"file://{quote(os.fsencode(file.absolute()))}?mode=rw",
        uri=True,
        timeout=busy,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        connection.execute("pragma synchronous = off")
        connection.execute(f"pragma journal_size_limit = {_LOG_SIZE}")
        if _stamp(connection) != _STAMP:
            _make_table(connection)
        if connection.execute("pragma journal_mode").fetchone() != ("wal",):
            with suppress(sqlite3.OperationalError):  # locked; the next process may have more luck
                connection.execute("pragma journal_mode = wal")
        connection.execute(_SELECT, _key("", "")).fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _make_table(connection: sqlite3.Connection) -> None:
    connection.execute("begin immediate")
    with connection:  # commits
        stamp = _stamp(connection)
        if stamp == _STAMP:
            return  # another process was faster
        if stamp != (0, 0) or connection.execute("select 1 from sqlite_master").fetchone():
            raise PermissionError("another program's, or of a later version")
        connection.execute(_TABLE)
        connection.execute(f"pragma application_id = {_STAMP[0]}")
        connection.execute(f"pragma user_version = {_STAMP[1]}")


def _stamp(connection: sqlite3.Connection) -> tuple[int, int]:
    (application,) = connection.execute("pragma application_id").fetchone()
    (version,) = connection.execute("pragma user_version").fetchone()
    return application, version


def _used(connection: sqlite3.Connection) -> int:
    """Bytes of the file that hold something."""
    (pages,) = connection.execute("pragma page_count").fetchone()
    (free,) = connection.execute("pragma freelist_count").fetchone()
    (size,) = connection.execute("pragma page_size").fetchone()
    return int((pages - free) * size)
