"""A NAR parser that does no I/O: feed it bytes, get events.

Strict: what it accepts has exactly one NAR, its own input. Every token stands where the
grammar of `wire` has it, names ascend bytewise, padding is zero, nothing follows the end.

Each step below is a place in the grammar. A step takes its bytes from `_unread` at `_at` and
returns an event, True for progress without one, or False for "need more", and then it has
taken nothing. `feed` runs steps until one needs more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nixfetch.errors import FormatError
from nixfetch.formats.nar import wire
from nixfetch.formats.nar.events import Contents, Directory, End, Event, Regular, Symlink

if TYPE_CHECKING:
    from collections.abc import Callable

_END = End()
# Longest first would not matter: no token of a choice is a prefix of another.
_NODES = (wire.REGULAR, wire.DIRECTORY, wire.EXECUTABLE, wire.SYMLINK)
_ENTRY_OR_CLOSE = (wire.ENTRY, wire.CLOSE)


class NarError(FormatError):
    """The bytes are not a canonical NAR. Carries `offset`, in bytes from the start."""

    what = "archive"


class NarReader:
    """Incremental, strict, bounded.

    Feed it any split of the stream: the events are the same but for where `Contents`
    are cut. It holds at most one token, name or target (about 4 KiB) between feeds, and each
    open directory's last name. After an error the reader is spent.

    Example::

        reader = NarReader()
        for chunk in chunks:
            for event in reader.feed(chunk):
                ...
        reader.finish()
    """

    def __init__(self, *, max_depth: int = wire.MAX_DEPTH, max_size: int | None = None) -> None:
        """Start before the first byte.

        Args:
            max_depth: levels of nodes to accept, the root included. Nix before 2.34 had no
                limit, so old archives may need more than the default.
            max_size: bytes of the whole archive, where they are known: no file may claim more.
        """
        self._unread = b""  # the tail of earlier feeds that was not yet a whole token
        self._at = 0  # how far into _unread we are, within one feed
        self._consumed = 0  # bytes of the stream before _unread
        self._left = 0  # bytes of the open file still to come
        self._trailer = b""  # padding and CLOSE behind the open file
        self._name = b""
        self._executable = False
        self._open: list[bytes] = []  # last entry name of each open directory
        self._max_depth = max_depth
        self._max_size = max_size
        self._step: Callable[[], Event | bool] = self._magic

    @property
    def offset(self) -> int:
        """Bytes of the stream parsed so far."""
        return self._consumed + self._at

    def feed(self, data: bytes) -> list[Event]:
        """Parse what `data` completes.

        Args:
            data: the next bytes of the stream, any number of them.

        Returns:
            The events completed by `data`, in order; often none. `Contents` are views of
            `data` where they can be.

        Raises:
            NarError: not canonical: a wrong token, names not strictly ascending, padding
                that is not zero, a length over its limit, or bytes after the end.

        Source: nix, src/libutil/archive.cc, `parse`.
        """
        self._unread = self._unread + data if self._unread else data
        events: list[Event] = []
        # `is not` twice, not truth: End() is an empty tuple and so false.
        while (outcome := self._step()) is not False:
            if outcome is not True:
                events.append(outcome)
        self._consumed += self._at
        self._unread = self._unread[self._at :]
        self._at = 0
        return events

    def finish(self) -> None:
        """Say that the stream is over; raises `NarError` when the archive is not."""
        if self._step != self._end:
            raise NarError("archive is truncated", offset=self.offset)

    # The steps: one for each place in the grammar of `wire`.

    def _magic(self) -> bool:
        return self._expect(wire.MAGIC, then=self._node)

    def _node(self) -> Event | bool:
        kind = self._choose(_NODES)
        if kind is None:
            return False
        if len(self._open) >= self._max_depth:
            raise NarError("archive is nested too deep", limit=self._max_depth, offset=self.offset)
        if kind is wire.DIRECTORY:
            self._open.append(b"")
            self._step = self._entry
            return Directory(self._name)
        if kind is wire.SYMLINK:
            self._step = self._target
            return True
        self._executable = kind is wire.EXECUTABLE
        self._step = self._size
        return True

    def _size(self) -> Event | bool:
        size = self._u64()
        if size is None:
            return False
        if self._max_size is not None and size > self._max_size - self.offset:
            raise NarError("file is larger than its archive", size=size, offset=self.offset)
        self._left, self._trailer = size, bytes(wire.padding(size)) + wire.CLOSE
        self._step = self._contents if size else self._close_file
        return Regular(self._name, size, self._executable, self.offset)

    def _contents(self) -> Event | bool:
        data = memoryview(self._unread)[self._at : self._at + self._left]
        if not data:
            return False
        self._at += len(data)
        self._left -= len(data)
        if not self._left:
            self._step = self._close_file
        return Contents(data)

    def _close_file(self) -> Event | bool:
        return self._expect(self._trailer, then=self._after_node) and _END

    def _target(self) -> Event | bool:
        target = self._string(wire.MAX_TARGET, then=self._close_symlink)
        return False if target is None else Symlink(self._name, target)

    def _close_symlink(self) -> bool:
        return self._expect(wire.CLOSE, then=self._after_node)

    def _entry(self) -> Event | bool:
        token = self._choose(_ENTRY_OR_CLOSE)
        if token is None:
            return False
        if token is wire.ENTRY:
            self._step = self._entry_name
            return True
        self._open.pop()
        self._step = self._after_node
        return _END

    def _entry_name(self) -> bool:
        start = self.offset
        name = self._string(wire.MAX_NAME, then=self._entry_node)
        if name is None:
            return False
        if name in {b".", b".."} or b"/" in name:
            raise NarError("file name is not allowed", name=name, offset=start)
        if name <= self._open[-1]:
            raise NarError(
                "file names do not ascend", name=name, after=self._open[-1], offset=start
            )
        self._open[-1] = self._name = name
        return True

    def _entry_node(self) -> bool:
        return self._expect(wire.NODE, then=self._node)

    def _after_node(self) -> bool:
        if not self._open:
            self._step = self._end
            return True
        return self._expect(wire.CLOSE, then=self._entry)

    def _end(self) -> bool:
        if self._at < len(self._unread):
            raise NarError("bytes after the end of the archive", offset=self.offset)
        return False

    # The four ways to take bytes. Each returns its "need more" without consuming any.

    def _choose(self, tokens: tuple[bytes, ...]) -> bytes | None:
        for token in tokens:
            if self._unread.startswith(token, self._at):
                self._at += len(token)
                return token
        rest = self._unread[self._at : self._at + max(map(len, tokens))]
        if not any(token.startswith(rest) for token in tokens):
            raise NarError("unexpected token", offset=self.offset)
        return None

    def _expect(self, token: bytes, *, then: Callable[[], Event | bool]) -> bool:
        if self._unread.startswith(token, self._at):
            self._at += len(token)
            self._step = then
            return True
        if not token.startswith(self._unread[self._at : self._at + len(token)]):
            raise NarError("unexpected token, or padding that is not zero", offset=self.offset)
        return False

    def _u64(self) -> int | None:
        field = self._unread[self._at : self._at + wire.LENGTH]
        if len(field) < wire.LENGTH:
            return None
        self._at += wire.LENGTH
        return int.from_bytes(field, "little")

    def _string(self, limit: int, *, then: Callable[[], Event | bool]) -> bytes | None:
        start = self._at
        size = self._u64()
        if size is None:
            return None
        if not 0 < size <= limit:
            raise NarError("length out of bounds", size=size, limit=limit, offset=self.offset)
        end = self._at + size
        padded = end + wire.padding(size)
        if len(self._unread) < padded:
            self._at = start
            return None
        data = self._unread[self._at : end]
        if b"\0" in data or any(self._unread[end:padded]):
            raise NarError("NUL in a name, or padding that is not zero", offset=self.offset)
        self._at = padded
        self._step = then
        return data
