"""Looking into a NAR: one node of it by its path, and listings as `nix nar ls` prints them.

Works on events as they come and holds none of them: a listing may be longer than memory.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from nixfetch.errors import NixfetchError
from nixfetch.formats.listing import ListedFile, ListedSymlink, to_json
from nixfetch.formats.nar.events import Contents, Directory, End, Event, Regular, Symlink

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# `json.dumps` makes a new one for every call with options like these.
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


class NotInArchiveError(NixfetchError):
    """The archive has no node of that path."""


class NotAFileError(NixfetchError):
    """The node is a directory or a symbolic link, and has no contents."""


def components(path: bytes) -> tuple[bytes, ...]:
    """The names that lead to a node: ``/bin/sh``, ``bin//sh`` and ``bin/x/../sh`` are the same.

    Source: nix, src/libutil/canon-path.cc, `CanonPath::CanonPath`.
    """
    names: list[bytes] = []
    for name in path.split(b"/"):
        if name == b"..":
            del names[-1:]
        elif name not in {b"", b"."}:
            names.append(name)
    return tuple(names)


def subtree(events: Iterable[Event], path: tuple[bytes, ...]) -> Iterator[Event]:
    """The events of one node, out of those of a whole NAR. Follows no symbolic link.

    Args:
        events: all are taken, those behind the node too: a NAR that is bad there is bad.
        path: the names that lead to it; none for the root.

    Raises:
        NotInArchiveError: at the end; there was none.
    """
    search = _Search(path)
    for event in events:
        match event:
            case Contents():
                belongs = search.inside
            case End():
                belongs = search.end()
            case _:
                belongs = search.begin(event)
        if belongs:
            yield event
    if not search.found:
        raise NotInArchiveError("no such file in the archive", inside=b"/" + b"/".join(path))


class _Search:
    """Where we are in a NAR, as seen from the node that is looked for."""

    def __init__(self, path: tuple[bytes, ...]) -> None:
        self._path = path
        self._level = 0  # nodes that are open
        self._leading = 0  # of these, directories that lead to the node
        self.inside = False
        self.found = False

    def begin(self, event: Directory | Regular | Symlink) -> bool:
        """Take the begin of a node; whether it belongs to the one that is looked for."""
        level, opens = self._level, not isinstance(event, Symlink)
        self._level += opens
        if self.inside:
            return True
        on_path = level == self._leading and (level == 0 or event.name == self._path[level - 1])
        if on_path and level == len(self._path):
            self.found, self.inside = True, opens
            return True
        self._leading += on_path and isinstance(event, Directory)
        return False

    def end(self) -> bool:
        """Take an end; whether it belongs to the node."""
        self._level -= 1
        self._leading = min(self._leading, self._level)
        belonged = self.inside
        self.inside = belonged and self._level > len(self._path)
        return belonged


def contents(node: Iterable[Event]) -> Iterator[memoryview]:
    """The contents of a regular file.

    Args:
        node: the events of the file, as `subtree` gives them.

    Raises:
        NotAFileError: at the end; it is no file.
    """
    first: Event | None = None
    for event in node:
        if first is None:
            first = event
        if isinstance(event, Contents) and isinstance(first, Regular):
            yield event.data
    if not isinstance(first, Regular):
        kind = "directory" if isinstance(first, Directory) else "symlink"
        raise NotAFileError("not a regular file", type=kind)


def lines(
    node: Iterable[Event], *, name: bytes = b"", recursive: bool = False, long: bool = False
) -> Iterator[bytes]:
    """A listing for people, without line ends.

    Args:
        node: the events of one node, as `subtree` gives them.
        name: of the node, for one that is no directory.
        recursive: list what lies below directories too.
        long: with modes, sizes in bytes, and targets.

    Source: nix, src/nix/ls.cc, `MixLs::listText`.
    """
    opened: list[bytes] = []
    for event in node:
        match event:
            case Contents():
                pass
            case End():
                opened.pop()
            case Directory(entry) | Regular(entry) | Symlink(entry):  # pragma: no branch
                is_top = not opened
                if is_top and not isinstance(event, Directory):
                    yield _line(event, name, long=long)
                elif not is_top and (recursive or len(opened) == 1):
                    yield _line(event, b"/".join([*opened, entry]), long=long)
                if not isinstance(event, Symlink):
                    opened.append(b"." if is_top else entry)


def json_pieces(node: Iterable[Event], *, recursive: bool = False) -> Iterator[str]:
    """A listing as one JSON value, in pieces; names that are not UTF-8 are surrogate-escaped.

    Args:
        node: the events of one node, as `subtree` gives them.
        recursive: with what lies below its entries; else these are empty objects.

    Source: nix, src/nix/ls.cc, `MixLs::list`; src/libutil/nar-listing.cc.
    """
    opened: list[bool] = []  # of each open node: whether it is a directory
    comma = ""
    for event in node:
        match event:
            case Contents():
                continue
            case End():
                if opened.pop() and (recursive or not opened):
                    yield '},"type":"directory"}'
                comma = ","
            case Directory(name) | Regular(name) | Symlink(name):  # pragma: no branch
                level = len(opened)
                opened += [isinstance(event, Directory)] * (not isinstance(event, Symlink))
                if level > 1 and not recursive:
                    continue
                key = comma + _dumps(name.decode("utf-8", "surrogateescape")) + ":" if level else ""
                yield key + ("{}" if level and not recursive else _begin(event))
                comma = "" if opened[level:] else ","


def _begin(event: Directory | Regular | Symlink) -> str:
    match event:
        case Directory():
            return '{"entries":{'
        case Regular(_, size, executable, offset):
            return _dumps(to_json(ListedFile(size, executable, offset)))
        case Symlink(_, target):  # pragma: no branch
            return _dumps(to_json(ListedSymlink(target)))


def _dumps(value: object) -> str:
    return _ENCODER.encode(value)


def _line(event: Directory | Regular | Symlink, shown: bytes, *, long: bool) -> bytes:
    if not long:
        return shown
    match event:
        case Directory():
            return b"dr-xr-xr-x %20d %b" % (0, shown)
        case Regular(_, size, executable, _):
            mode = b"-r-xr-xr-x" if executable else b"-r--r--r--"
            return b"%b %20d %b" % (mode, size, shown)
        case Symlink(_, target):  # pragma: no branch
            return b"lrwxrwxrwx %20d %b -> %b" % (0, shown, target)
