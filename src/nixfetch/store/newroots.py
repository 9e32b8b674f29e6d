"""Roots that come while a collector works, by Nix's own protocol.

    ROOT/nix/var/nix/gc.lock            held exclusively from before the first look for roots until
                                        after the last deletion: nobody may add a root unheard
    ROOT/nix/var/nix/gc-socket/socket   whoever adds one meanwhile sends the path and a newline,
                                        and waits for a "1"

The collector claims what it is about to delete. A root that came before is not claimed but told;
one that comes for something claimed is answered when that is gone, and its owner then sees that
it is not valid. Thus nobody who was answered loses what he holds.

One thread listens. It shares `_rooted`, `_untold`, `_claimed` and `_waiting` with the collector,
under one lock; nothing is waited for with that held.

Source: nix, src/libstore/gc.cc, `collectGarbage`; the other side is `temproots`.
"""

from __future__ import annotations

import fcntl
import logging
import os
import selectors
import socket
import stat
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from nixfetch.errors import FormatError, StoreError
from nixfetch.formats.storepath import StorePath
from nixfetch.store.disk import disk_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from nixfetch.store.layout import Layout

_log = logging.getLogger(__name__)
_OPEN = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
_PATIENCE = 60.0  # seconds for processes that are adding roots; each takes a millisecond
_PAUSE = 0.005  # seconds between two tries for the lock
_LONGEST_LINE = 4096  # bytes; a store path has 256 at most
_ACKNOWLEDGED = b"1"
_FRESH = "socket.new"  # the socket until it takes the place of the one before


class CollectorRunningError(StoreError):
    """Another garbage collector works on the store."""

    exit_code = 75


@contextmanager
def collecting(
    layout: Layout, *, sleep: Callable[[float], None] = time.sleep
) -> Iterator[NewRoots]:
    """Be the collector of a store, and hear of new roots.

    Raises:
        CollectorRunningError: another process is.
        DiskError: the lock or the socket cannot be made.
    """
    directory = layout.gc_socket.parent
    with disk_errors(directory):
        directory.mkdir(exist_ok=True)
        with suppress(FileExistsError):
            # Nix 2.8 fails when there is no socket, and tries again when nobody listens on it.
            os.mknod(layout.gc_socket, stat.S_IFSOCK | 0o666)
    with disk_errors(layout.gc_lock):
        lock = os.open(layout.gc_lock, _OPEN, 0o600)
    try:
        _lock(lock, layout, sleep)
        new_roots = NewRoots(layout)
        try:
            yield new_roots
        finally:
            new_roots.close()
    finally:
        os.close(lock)


def _lock(fd: int, layout: Layout, sleep: Callable[[float], None]) -> None:
    """Take the lock; whoever adds a root shares it for a moment, another collector does not."""
    deadline = time.monotonic() + _PATIENCE
    while not _try(fd, fcntl.LOCK_EX):
        if not _try(fd, fcntl.LOCK_SH) or time.monotonic() > deadline:
            raise CollectorRunningError(
                "another garbage collector is at work",
                hint="try again when it is done",
                lock=str(layout.gc_lock),
            )
        fcntl.flock(fd, fcntl.LOCK_UN)
        sleep(_PAUSE)


def _try(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class NewRoots:
    """Who comes meanwhile, and what is being deleted. For one collector; made by `collecting`."""

    def __init__(self, layout: Layout) -> None:
        self._lock = threading.Lock()
        self._rooted: set[str] = set()
        self._untold: set[str] = set()
        self._claimed: frozenset[str] = frozenset()
        self._waiting: list[tuple[_Client, str]] = []  # and for what
        self._clients: set[_Client] = set()
        self._closing = False
        with disk_errors(layout.gc_socket):
            self._listener = _listen(layout)
        self._waker, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="new roots")
        self._thread.start()

    def is_rooted(self, hash_part: str) -> bool:
        """Whether a root with this hash part came."""
        return hash_part in self._rooted

    def claim(self, hash_parts: Collection[str]) -> set[str]:
        """Say what is about to be deleted.

        Returns:
            The hash parts of the roots that came since the last call, when some did. Nothing is
            claimed then: leave out what they keep, and claim again.
        """
        with self._lock:
            untold, self._untold = self._untold, set()
            if not untold:
                self._claimed = frozenset(hash_parts)
            return untold

    def release(self) -> None:
        """Say that what was claimed is gone from its place."""
        with self._lock:
            self._claimed = frozenset()
            wake = bool(self._waiting)
        if wake:
            self._waker.send(b"\0")

    def close(self) -> None:
        """Answer who waits, and stop listening. Nothing may be deleted from here on."""
        self.release()
        self._closing = True
        self._waker.send(b"\0")
        self._thread.join()
        for end in (self._listener, self._waker, self._woken):
            end.close()

    # What the thread does.

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ, None)
            selector.register(self._woken, selectors.EVENT_READ, None)
            while not self._closing:
                for key, _ in selector.select():
                    if key.fileobj is self._listener:
                        self._accept(selector)
                    elif key.fileobj is self._woken:
                        self._woken.recv(64)
                        self._answer_waiting()
                    elif not self._read(key.data):
                        self._drop(key.data, selector)
            self._hang_up()

    def _accept(self, selector: selectors.BaseSelector) -> None:
        try:
            end, _ = self._listener.accept()
        except OSError as error:  # it went away, or there are too many of them
            _log.warning("cannot hear who adds a root: %s", error.strerror)
            return
        end.settimeout(0)
        client = _Client(end)
        self._clients.add(client)
        selector.register(end, selectors.EVENT_READ, client)

    def _drop(self, client: _Client, selector: selectors.BaseSelector) -> None:
        selector.unregister(client.end)
        self._clients.discard(client)
        with self._lock:
            self._waiting = [entry for entry in self._waiting if entry[0] is not client]
        client.end.close()

    def _read(self, client: _Client) -> bool:
        """Take what a client sends; whether there may be more."""
        lines = client.lines()
        for line in lines or ():
            self._take(line, client)
        return lines is not None

    def _take(self, line: bytes, client: _Client) -> None:
        try:
            hash_part = StorePath.parse_full(line.decode("ascii", "replace")).hash_part
        except FormatError:
            _log.warning("somebody added a root that is no store path")
            client.acknowledge()
            return
        with self._lock:
            self._rooted.add(hash_part)
            self._untold.add(hash_part)
            if hash_part in self._claimed:
                self._waiting.append((client, hash_part))
                return
        client.acknowledge()

    def _answer_waiting(self) -> None:
        """Answer those who wait for what is gone; by now something else may be claimed."""
        with self._lock:
            done = [entry for entry in self._waiting if entry[1] not in self._claimed]
            self._waiting = [entry for entry in self._waiting if entry[1] in self._claimed]
        for client, _ in done:
            client.acknowledge()

    def _hang_up(self) -> None:
        """Answer what was sent so far, so that nobody's last words meet a closed door."""
        self._answer_waiting()
        for client in self._clients:
            with suppress(OSError):
                client.end.shutdown(socket.SHUT_RD)
            self._read(client)
            client.end.close()


class _Client:
    """One process that adds roots."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self._begun = b""

    def lines(self) -> list[bytes] | None:
        """The lines that came whole; None at the end."""
        try:
            data = self.end.recv(65536)
        except BlockingIOError:
            return []
        except OSError:
            return None
        *lines, self._begun = (self._begun + data).split(b"\n")
        return lines if data and len(self._begun) <= _LONGEST_LINE else None

    def acknowledge(self) -> None:
        with suppress(OSError):  # gone, or does not read: it will see that we hung up
            self.end.send(_ACKNOWLEDGED)


def _listen(layout: Layout) -> socket.socket:
    """Listen in the place of the collector before. Its lock is held."""
    directory = os.open(layout.gc_socket.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        with suppress(FileNotFoundError):
            os.unlink(_FRESH, dir_fd=directory)
        # By way of the descriptor: an address takes no more than 107 bytes.
        listener.bind(f"/proc/self/fd/{directory}/{_FRESH}")
        os.chmod(_FRESH, 0o666, dir_fd=directory)  # noqa: S103 - whoever uses the store, as Nix
        os.rename(_FRESH, layout.gc_socket.name, src_dir_fd=directory, dst_dir_fd=directory)
        listener.listen(128)
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(directory)
    return listener
