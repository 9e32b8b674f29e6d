"""`.ls` listings: the tree inside a NAR, without its contents, as JSON.

A listing proves nothing: no signature covers it. Whoever acts on one checks it against the NAR.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from nixfetch.errors import FormatError
from nixfetch.formats.nar import wire
from nixfetch.formats.nar.events import Contents, Directory, End, Event, Regular, Symlink

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_SIZE = 64 * 1024 * 1024  # bytes; 100 000 entries make about 10 MB
VERSION = 1


class ListingError(FormatError):
    """The bytes are not a listing."""

    what = "listing"


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A regular file."""

    size: int
    """Bytes."""
    executable: bool = False
    offset: int | None = None
    """Where in the uncompressed NAR its contents begin; some caches leave it out."""


@dataclass(frozen=True, slots=True)
class ListedSymlink:
    """A symbolic link."""

    target: bytes


@dataclass(frozen=True, slots=True)
class ListedDirectory:
    """A directory."""

    entries: dict[bytes, Node] = field(default_factory=dict)


Node: TypeAlias = ListedFile | ListedSymlink | ListedDirectory


def parse(raw: bytes) -> Node:
    """Read a listing and give its root.

    Raises:
        ListingError: too large, not JSON, another version, a node that is none, nested deeper
            than NARs may be, or a name or target that no file can have.

    Source: nix, src/libutil/nar-listing.cc.
    """
    if len(raw) > MAX_SIZE:
        raise ListingError("listing is too large", bytes=len(raw), limit=MAX_SIZE)
    try:
        document = json.loads(raw.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError) as error:
        raise ListingError("listing is not JSON") from error
    if not isinstance(document, dict) or document.get("version") != VERSION:
        raise ListingError("listing has another version", expected=VERSION)
    return _node(document.get("root"), wire.MAX_DEPTH)


def of_nar(events: Iterable[Event]) -> Node:
    """The listing of a whole NAR, from the events of its reader."""
    # The root is the one entry of a directory around it. What is open: directories, and
    # for a file a directory that nothing is put into.
    top = ListedDirectory()
    stack = [top]
    for event in events:
        match event:
            case Directory(name):
                directory = ListedDirectory()
                stack[-1].entries[name] = directory
                stack.append(directory)
            case Regular(name, size, executable, offset):
                stack[-1].entries[name] = ListedFile(size, executable, offset)
                stack.append(ListedDirectory())
            case Symlink(name, target):
                stack[-1].entries[name] = ListedSymlink(target)
            case End():
                stack.pop()
            case Contents():  # pragma: no branch - there is no other
                pass
    return top.entries[b""]


def render(root: Node) -> bytes:
    """The `.ls` file of `root`, as Nix writes it; names that are not UTF-8 keep their bytes."""
    text = json.dumps(
        {"root": to_json(root), "version": VERSION}, separators=(",", ":"), ensure_ascii=False
    )
    return text.encode("utf-8", "surrogateescape")


def to_json(node: Node) -> dict[str, Any]:
    """`node` as a JSON value with its keys in order, as `nix nar ls --json -R` prints it."""
    match node:
        case ListedFile(size, executable, offset):
            return {
                **({"executable": True} if executable else {}),
                **({"narOffset": offset} if offset is not None else {}),
                "size": size,
                "type": "regular",
            }
        case ListedSymlink(target):
            return {"target": _text(target), "type": "symlink"}
        case ListedDirectory(entries):  # pragma: no branch - there is no other
            children = {_text(name): to_json(child) for name, child in sorted(entries.items())}
            return {"entries": children, "type": "directory"}


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _node(value: object, depth: int) -> Node:
    if not isinstance(value, dict) or depth == 0:
        raise ListingError("node is not an object, or nested too deep")
    match value:
        case {"type": "regular", "size": int(size)} if size >= 0 and not isinstance(size, bool):
            return ListedFile(size, value.get("executable") is True, _offset(value))
        case {"type": "symlink", "target": str(target)}:
            return ListedSymlink(_target(target))
        case {"type": "directory", "entries": dict(entries)}:
            return ListedDirectory(
                {_name(name): _node(child, depth - 1) for name, child in entries.items()}
            )
        case _:
            raise ListingError("node has no known type", type=str(value.get("type"))[:80])


def _offset(value: dict[str, Any]) -> int | None:
    offset = value.get("narOffset")
    if offset is None:
        return None
    if not isinstance(offset, int) or isinstance(offset, bool) or offset < 0:
        raise ListingError("narOffset is not a number", text=str(offset)[:80])
    return offset


def _name(text: str) -> bytes:
    name = _bytes(text)
    if name in {b"", b".", b".."} or b"/" in name or b"\0" in name or len(name) > wire.MAX_NAME:
        raise ListingError("file name is not allowed", name=name[: wire.MAX_NAME])
    return name


def _target(text: str) -> bytes:
    target = _bytes(text)
    if not target or b"\0" in target or len(target) > wire.MAX_TARGET:
        raise ListingError("symlink target is not allowed", target=target[: wire.MAX_NAME])
    return target


def _bytes(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise ListingError("file name or target is not text") from error
