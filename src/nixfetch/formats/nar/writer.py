"""A NAR writer that does no I/O: the inverse of the reader, events to bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nixfetch.formats.nar import wire
from nixfetch.formats.nar.events import Contents, Directory, End, Event, Regular, Symlink

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class NarWriter:
    """Turns each event into the bytes that stand for it.

    Trusts the caller: names ascend, contents are as long as announced. Reading what it wrote
    gives the events back.
    """

    def __init__(self) -> None:
        self._open: list[int] = []  # of each open node: padding that its contents need

    def apply(self, event: Event) -> bytes | memoryview:
        """The bytes of `event`; those of `Contents` are its data itself."""
        match event:
            case Contents(data):
                return data
            case End():
                return bytes(self._open.pop()) + wire.CLOSE + self._close_entry()
            case Regular(name, size, executable, _):
                token = wire.EXECUTABLE if executable else wire.REGULAR
                head = self._enter(name) + token + size.to_bytes(wire.LENGTH, "little")
                self._open.append(wire.padding(size))
                return head
            case Directory(name):
                head = self._enter(name) + wire.DIRECTORY
                self._open.append(0)
                return head
            case Symlink(name, target):  # pragma: no branch - there is no other
                body = wire.SYMLINK + wire.string(target) + wire.CLOSE
                return self._enter(name) + body + self._close_entry()

    def _enter(self, name: bytes) -> bytes:
        return wire.ENTRY + wire.string(name) + wire.NODE if self._open else wire.MAGIC

    def _close_entry(self) -> bytes:
        return wire.CLOSE if self._open else b""


def write(events: Iterable[Event]) -> Iterator[bytes | memoryview]:
    """The NAR of `events`, piece by piece, as they come."""
    writer = NarWriter()
    return (writer.apply(event) for event in events)
