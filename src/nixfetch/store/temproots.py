"""Temporary roots: what a running process needs is not garbage, by Nix's own protocol.

    ROOT/nix/var/nix/temproots/<pid>    full paths, each ended by a NUL; its writer holds the
                                        file's lock for as long as it lives
    ROOT/nix/var/nix/gc.lock            held exclusively by a collector at work
    ROOT/nix/var/nix/gc-socket/socket   takes a path and a newline from whoever comes while it
                                        works, and answers "1" when the path is safe

Say first, look second: a path is put here before anybody asks whether it is valid, or a
collector could take it between the answer and its use.

Source: nix, src/libstore/gc.cc, `addTempRoot`, `findTempRoots`.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from nixfetch.errors import StoreError
from nixfetch.formats.storepath import HASH_LENGTH, STORE_DIR
from nixfetch.store.disk import disk_errors
from nixfetch.store.locks import mark_stale

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from nixfetch.formats.storepath import StorePath
    from nixfetch.store.layout import Layout

_OPEN = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
_NAME = re.compile(r"[1-9][0-9]{0,18}(?:-[0-9]+)?\Z")
_STORE = f"{STORE_DIR}/"
_PAUSE = 0.1  # seconds between looks at a collector that starts or ends, as Nix
PATIENCE = 600.0  # seconds; a collector that deletes a big tree may be silent for minutes


class CollectorBusyError(StoreError):
    """A garbage collector runs and does not answer."""


class StoreClosedError(StoreError):
    """A thread went on adding to a store that another had closed."""


class TempRoots:
    """The temporary roots of one open store. Safe to share among threads."""

    def __init__(self, layout: Layout, *, patience: float = PATIENCE) -> None:
        """Make this process's file; `close` removes it.

        Args:
            layout: of the store.
            patience: seconds for a collector that holds its lock and answers nobody.

        Raises:
            DiskError: it cannot be made.
        """
        self._layout = layout
        self._patience = patience
        self._lock = threading.Lock()
        self._held: set[StorePath] = set()
        self._collector: socket.socket | None = None
        self._closed = False
        with disk_errors(layout.temp_roots):
            self._gc_lock = os.open(layout.gc_lock, _OPEN, 0o600)
            try:
                self._file, self._fd = _own_file(layout.temp_roots)
            except BaseException:
                os.close(self._gc_lock)
                raise

    def add(self, paths: Iterable[StorePath]) -> None:
        """Keep `paths`, and all that they refer to, until `close`.

        Raises:
            DiskError: the file cannot be written.
            CollectorBusyError: a collector runs and took none of them in time.
            StoreClosedError: after `close`.
        """
        with self._lock:
            if self._closed:
                raise StoreClosedError("the store was closed meanwhile", file=str(self._file))
            fresh = [path for path in paths if path not in self._held]
            if not fresh:
                return
            with disk_errors(self._file):
                self._tell_collector(fresh)
                try:
                    _write_all(self._fd, b"".join(f"{path}\0".encode() for path in fresh))
                finally:
                    fcntl.flock(self._gc_lock, fcntl.LOCK_UN)
            self._held.update(fresh)

    def confirm(self, paths: Iterable[StorePath]) -> None:
        """Tell a collector that is at work of `paths`, which were added before.

        One that began after they were added has them from the file, if it reads that before
        `close`. From here on it has them in any case.

        Raises:
            As `add`.
        """
        with self._lock, disk_errors(self._file):
            self._tell_collector(list(paths))
            fcntl.flock(self._gc_lock, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give all of them up."""
        with self._lock:
            self._closed = True
            self._file.unlink(missing_ok=True)
            os.close(self._fd)
            os.close(self._gc_lock)
            if self._collector is not None:
                self._collector.close()

    def _tell_collector(self, paths: list[StorePath]) -> None:
        """Return once the one collector that runs knows of `paths`, or none can begin.

        In the second case the shared lock is held: a collector that began before the list is
        written would read it without `paths`.
        """
        deadline = time.monotonic() + self._patience
        while not self._no_collector():
            try:
                self._send(paths)
            except (ConnectionError, BlockingIOError, FileNotFoundError, EOFError, TimeoutError):
                # It is about to listen, has just ended, or is silent.
                if self._collector is not None:
                    self._collector.close()
                    self._collector = None
                if time.monotonic() > deadline:
                    raise CollectorBusyError(
                        "a garbage collector runs and does not answer",
                        lock=str(self._layout.gc_lock),
                    ) from None
                time.sleep(_PAUSE)
            else:
                return

    def _no_collector(self) -> bool:
        try:
            fcntl.flock(self._gc_lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _send(self, paths: list[StorePath]) -> None:
        if self._collector is None:
            collector = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            collector.settimeout(self._patience)
            try:
                _connect(collector, self._layout.gc_socket)
            except BaseException:
                collector.close()
                raise
            self._collector = collector
        for path in paths:
            self._collector.sendall(f"{path}\n".encode())
            if self._collector.recv(1) != b"1":
                raise EOFError


def find_temp_roots(layout: Layout, *, remove_dead: bool = False) -> set[str]:
    """Hash parts of the temporary roots of live processes. For a collector.

    By hash part, since these also protect what belongs to a path: its lock, its staging tree.

    Args:
        layout: of the store.
        remove_dead: also remove the files of dead processes. The collector's lock is held.

    Raises:
        DiskError: a file of a live process cannot be read: nobody can say what it needs.
    """
    found: set[str] = set()
    with disk_errors(layout.temp_roots):
        files = [file for file in layout.temp_roots.iterdir() if not file.name.startswith(".")]
    for file in files:
        with disk_errors(file):
            for text in _read(file, remove_dead=remove_dead).split("\0")[:-1]:
                found.add(text.removeprefix(_STORE)[:HASH_LENGTH])
    return found


def sweep(layout: Layout) -> None:
    """Remove the files of dead processes. For whoever opens the store; never fails.

    The same steps as a collector's: with the lock, which no writer that lives gives up. Two kinds
    of writers could lose a live file to them: an old Nix gives its lock up for a moment when it
    turns it into a shared one, and any Nix removes a file of its own number and makes it anew, with
    nobody's lock. So what has the number of a process that lives is passed over, whatever that
    process is; it goes another time.
    """
    try:
        with os.scandir(layout.temp_roots) as entries:
            names = [entry.name for entry in entries]
    except OSError:  # whoever makes a file there will say why
        return
    for name in names:
        if _NAME.match(name) and not _lives(name):
            with suppress(OSError):  # gone meanwhile, or another user's
                _sweep_file(layout.temp_roots / name)


def _sweep_file(file: Path) -> None:
    fd = os.open(file, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _lives(file.name):  # it may have begun since we looked
            _remove_dead(file, fd)
    finally:
        os.close(fd)


def _lives(name: str) -> bool:
    """Whether a process has the number that the file `name` is called by, here at least."""
    try:
        os.kill(int(name.partition("-")[0]), 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        pass
    return True


def _remove_dead(file: Path, fd: int) -> None:
    """Remove the file of a dead process, whose lock is held by `fd`."""
    # Gone or another's by now when its writer closed between our open and our lock.
    with suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(fd), file.stat()):
            file.unlink()
            mark_stale(fd)  # so that who waits for the lock makes a file anew


def _read(file: Path, *, remove_dead: bool) -> str:
    """What a live process has in its file."""
    try:
        fd = os.open(file, (os.O_RDWR if remove_dead else os.O_RDONLY) | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # its writer lives
        with open(fd, encoding="ascii", errors="replace", closefd=False) as text:
            return text.read()
    else:
        if remove_dead:
            _remove_dead(file, fd)
        return ""
    finally:
        os.close(fd)


def _connect(collector: socket.socket, file: Path) -> None:
    """Connect to `file`, whose name may be longer than the 107 bytes that an address takes."""
    directory = os.open(file.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        collector.connect(f"/proc/self/fd/{directory}/{file.name}")
    finally:
        os.close(directory)


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _own_file(directory: Path) -> tuple[Path, int]:
    """A file for this process, empty and locked. Another store of this process has another."""
    number = 0
    while True:
        file = directory / (f"{os.getpid()}-{number}" if number else str(os.getpid()))
        fd = os.open(file, _OPEN, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # ours, of another store object, or a collector reading it
            os.close(fd)
            number += 1
            continue
        if os.fstat(fd).st_nlink:  # no collector took it for a dead one's and removed it
            # Left behind by a dead process of the same number: its list is void.
            os.ftruncate(fd, 0)
            return file, fd
        os.close(fd)
