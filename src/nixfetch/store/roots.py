"""GC roots: links to paths that are to stay, in Nix's own place and form.

    ROOT/nix/var/nix/gcroots/nixfetch/NAME -> /nix/store/<base>      by name: ours
    ROOT/nix/var/nix/gcroots/nixfetch/NAME/<base> -> /nix/store/<base>     several by one name
    LINK -> /nix/store/<base>                                        by link: anywhere, as with
    ROOT/nix/var/nix/gcroots/auto/<hash of LINK> -> LINK             `nix build --out-link LINK`

Targets are logical, whatever root the store lies under: so Nix reads and writes them. A link that
is replaced is replaced in one step. The one that is to take its place is made outside of gcroots,
where it keeps nothing if we die before it does.

What a link below gcroots or profiles means is Nix's rule: one into the store keeps its path; one
to another link keeps what that one points to; a file that is called as a path keeps that path.
Source: nix, src/libstore/gc.cc, `findRoots`, `addIndirectRoot`;
src/libstore/indirect-root-store.cc, `addPermRoot`.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from nixfetch.errors import FormatError, StoreError
from nixfetch.formats import base32
from nixfetch.formats.storepath import STORE_DIR, StorePath
from nixfetch.store import rootlinks
from nixfetch.store.disk import disk_error, disk_errors
from nixfetch.store.temproots import TempRoots

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from nixfetch.store.layout import Layout
    from nixfetch.store.local import LocalStore

_log = logging.getLogger(__name__)
_PLACE_HINT = "a LINK needs a directory that is there and that you may write to; a NAME needs none"
MAX_NAME = 255  # bytes; NAME_MAX on Linux
MAX_LINK = 4095  # bytes; PATH_MAX less its terminator
_INTO_STORE = f"{STORE_DIR}/"


class RootNameError(FormatError):
    """Nothing can be called so. Carries `root`."""

    what = "the name of a root"


class RootTakenError(StoreError):
    """There is something else in the place of the root. Carries `link`."""


class NoSuchRootError(StoreError):
    """There is no such root. Carries `root`."""

    exit_code = 1


class PathNotValidError(StoreError):
    """Only what is valid can be kept. Carries `path`."""


class RootKind(Enum):
    """Where a root is."""

    NAMED = "named"
    """By a name, made here."""
    SET = "set"
    """By a name, made here, along with others."""
    LINK = "link"
    """By a link anywhere, which gcroots/auto knows."""
    PROFILE = "profile"
    """A generation of a profile of Nix's."""
    PER_USER = "per-user"
    """Below gcroots/per-user."""
    DIRECT = "direct"
    """Elsewhere below gcroots."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """One root."""

    kind: RootKind
    entry: Path
    """What lies below gcroots or profiles."""
    link: Path
    """What points into the store: `entry` itself, or the link that it points to."""
    path: StorePath | None
    """What it keeps; None for one whose link is gone, and for one that keeps nothing."""
    is_valid: bool = False
    """Whether `path` is valid. Otherwise nothing is kept."""

    @property
    def name(self) -> str:
        """What `Roots.remove` calls it: the NAME, or the link."""
        match self.kind:
            case RootKind.NAMED:
                return self.entry.name
            case RootKind.SET:
                return self.entry.parent.name
            case _:
                return os.fspath(self.link)

    @property
    def is_stale(self) -> bool:
        """Whether its link is gone."""
        return self.path is None


@dataclass(frozen=True, slots=True)
class Name:
    """A root by name."""

    text: str


@dataclass(frozen=True, slots=True)
class OutLink:
    """A root by a link; absolute, without ``..``."""

    file: Path


def parse_root(text: str) -> Name | OutLink:
    """Read what a user calls a root: NAME, or with a slash in it, LINK.

    Raises:
        RootNameError: nothing can be called so.
    """
    raw = os.fsencode(text)
    if any(byte < 0x20 or byte == 0x7F for byte in raw):  # noqa: PLR2004 - control characters
        raise RootNameError("a root has a control character in its name", root=ascii(text)[:300])
    last = text.rpartition("/")[2]
    if last in {"", ".", ".."}:
        raise RootNameError("a root needs a name", root=text[:300])
    if len(os.fsencode(last)) > MAX_NAME:
        raise RootNameError("the name of a root is too long", root=text[:300], limit=MAX_NAME)
    if "/" not in text:
        return Name(text)
    file = Path(os.path.abspath(text))  # noqa: PTH100 - `absolute` leaves ".." in
    if len(os.fsencode(file)) > MAX_LINK:
        raise RootNameError("the name of a root is too long", root=text[:300], limit=MAX_LINK)
    return OutLink(file)


def numbered(text: str, number: int) -> str:
    """The name of the root of the `number`-th of several paths, from 1, as Nix numbers them."""
    return text if number == 1 else f"{text}-{number}"


class Roots:
    """The roots of one store."""

    def __init__(self, store: LocalStore) -> None:
        """Look at the roots of `store`; to change them, it must be open for writing."""
        self._store = store
        self._layout = store.layout

    def list(self) -> list[Root]:
        """All roots but those of running processes, by kind and place.

        Raises:
            DiskError: they cannot be read.
        """
        roots = list(find_roots(self._layout))
        valid = self._store.valid({root.path for root in roots if root.path})
        order = list(RootKind)
        return sorted(
            (
                Root(
                    kind=root.kind,
                    entry=root.entry,
                    link=root.link,
                    path=root.path,
                    is_valid=root.path in valid,
                )
                for root in roots
            ),
            key=lambda root: (order.index(root.kind), root.link, root.entry),
        )

    def add(self, text: str, path: StorePath) -> None:
        """Keep `path` and all that it refers to, under a NAME or by a LINK.

        A root of that name that is there already is replaced.

        Raises:
            RootNameError: nothing can be called so.
            PathNotValidError: `path` is not valid.
            TreeGoneError: it is valid, and not on the disk.
            RootTakenError: at LINK is something else than a link into the store.
            DiskError: the link cannot be made.
            ReadOnlyStoreError: the store was opened for reading.
        """
        root = parse_root(text)
        self._store.check_writable()
        with self._keeping([path]):
            match root:
                case Name(name):
                    self._put(self._layout.named_roots / name, str(path))
                case OutLink(file):
                    self._put_out_link(file, str(path))

    def add_set(self, name: str, paths: Collection[StorePath]) -> None:
        """Keep all of `paths`, and all that they refer to, under one NAME: all of them or none.

        A set of that name that is there already is replaced. A set may be empty.

        Raises:
            RootNameError: nothing can be called so; a LINK keeps one path.
            PathNotValidError: one of them is not valid.
            TreeGoneError: one is valid, and not on the disk.
            RootTakenError: there is a root of that name that is no set.
            DiskError: the links cannot be made.
            ReadOnlyStoreError: the store was opened for reading.
        """
        place = self._layout.named_roots / _set_name(name)
        self._store.check_writable()
        with self._keeping(paths), disk_errors(place):
            _make_directory(place.parent)
            try:
                rootlinks.put_set(place, {path.base: str(path) for path in paths})
            except NotADirectoryError as error:
                raise RootTakenError(
                    "there is a root of one path by this name", link=str(place)
                ) from error

    def sets(self) -> set[str]:
        """Names of the sets.

        Raises:
            DiskError: they cannot be read.
        """
        return rootlinks.sets(self._layout.named_roots)

    @contextmanager
    def _keeping(self, paths: Collection[StorePath]) -> Iterator[None]:
        """Keep `paths`, which must be valid, while links to them are made."""
        # Of its own, though the store may hold the paths for long: a collector at work, which has
        # looked at links already, is told once more. And again when the links are there: one that
        # began meanwhile may have looked at links before, and Nix's looks at temporary roots
        # after that, when ours may be gone.
        with closing(TempRoots(self._layout)) as temporary:
            temporary.add(paths)
            valid = self._store.valid(paths)
            for path in paths:
                if path not in valid:
                    raise PathNotValidError(
                        "path is not valid in this store",
                        hint="`nixfetch fetch` gets it",
                        path=path,
                    )
            for error in self._store.gone(paths).values():
                raise error
            yield
            temporary.confirm(paths)

    def remove(self, text: str) -> None:
        """Let go of the root or set that is called NAME or LINK; a LINK is removed too.

        Raises:
            RootNameError: nothing can be called so.
            NoSuchRootError: there is none.
            DiskError: it cannot be removed.
            ReadOnlyStoreError: the store was opened for reading.
        """
        root = parse_root(text)
        self._store.check_writable()
        if isinstance(root, OutLink):
            gone = self._remove_out_link(root.file)
        else:
            place = self._layout.named_roots / root.text
            gone = rootlinks.unlink(place) or rootlinks.remove_set(place)
        if not gone:
            raise NoSuchRootError("there is no such root", root=text)

    def sweep(self) -> None:
        """Remove what dead processes left of sets that they were making or removing.

        Raises:
            DiskError: it cannot be removed.
            ReadOnlyStoreError: the store was opened for reading.
        """
        self._store.check_writable()
        rootlinks.sweep_sets(self._layout.named_roots)

    def _put_out_link(self, link: Path, target: str) -> None:
        self._check_place(link)
        with disk_errors(link, hint=_PLACE_HINT):
            rootlinks.replace(link, target, link.with_name(rootlinks.scratch_name()))
            rootlinks.flush(link.parent)
        self._put(self._indirect(link), os.fspath(link))

    def _remove_out_link(self, link: Path) -> bool:
        gone = rootlinks.unlink(self._indirect(link))
        if (gone or self._layout.gc_roots in link.parents) and _points_into_store(link):
            # In this order: what a crash leaves is a link that keeps nothing.
            return rootlinks.unlink(link) or gone
        return gone

    def _indirect(self, link: Path) -> Path:
        digest = hashlib.sha1(os.fsencode(link), usedforsecurity=False).digest()
        return self._layout.indirect_roots / base32.encode(digest)

    def _check_place(self, link: Path) -> None:
        store = self._layout.store.resolve()
        directory = link.parent.resolve()
        if directory == store or store in directory.parents or Path(STORE_DIR) in link.parents:
            raise RootTakenError("a root cannot be made in the store", link=str(link))
        if os.path.lexists(link) and not _points_into_store(link):
            raise RootTakenError("there is something else in the place of the link", link=str(link))

    def _put(self, link: Path, target: str) -> None:
        """Let `link`, below gcroots, point to `target`, after a power cut too."""
        scratch = self._layout.new_links / rootlinks.scratch_name()
        with disk_errors(link):
            if link.is_dir() and not link.is_symlink():
                raise RootTakenError("there is a set of roots by this name", link=str(link))
            _make_directory(link.parent)
            scratch.parent.mkdir(exist_ok=True)
            rootlinks.replace(link, target, scratch)
            rootlinks.flush(link.parent)


def find_roots(layout: Layout) -> Iterator[Root]:
    """Every permanent root, valid or not, and those of gcroots/auto whose link is gone.

    Raises:
        DiskError: a place cannot be read, for another reason than that it must not be.
    """
    pending = [layout.gc_roots, layout.profiles]
    while pending:
        for entry in _entries(pending.pop(), layout):
            if entry.is_dir(follow_symlinks=False):
                pending.append(Path(entry.path))
            elif (root := _read_root(layout, Path(entry.path))) is not None:
                yield root


def _entries(directory: Path, layout: Layout) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            return list(entries)
    except (PermissionError, FileNotFoundError, NotADirectoryError) as error:
        if directory != layout.profiles:  # which only Nix makes
            _log.warning("cannot look for roots in %s: %s", directory, error.strerror)
        return []
    except OSError as error:
        raise disk_error(error, directory) from error


def _read_root(layout: Layout, entry: Path) -> Root | None:
    """What `entry`, which is no directory, keeps; None when it is no root."""
    try:
        if not entry.is_symlink():
            return _root(
                layout, entry, entry, STORE_DIR + "/" + entry.name if entry.is_file() else ""
            )
        target = _target_of(entry)
        if target.startswith(_INTO_STORE):
            return _root(layout, entry, entry, target)
        return _indirect_root(layout, entry, Path(os.path.normpath(entry.parent / target)))
    except (PermissionError, FileNotFoundError, NotADirectoryError) as error:
        _log.warning("cannot see what the root %s keeps: %s", entry, error.strerror)
        return None
    except OSError as error:
        raise disk_error(error, entry) from error


def _indirect_root(layout: Layout, entry: Path, link: Path) -> Root | None:
    try:
        target = _target_of(link)
    except FileNotFoundError:
        if layout.indirect_roots not in entry.parents:
            return None
        return Root(kind=RootKind.LINK, entry=entry, link=link, path=None)
    except OSError as error:
        if error.errno == errno.EINVAL:  # no link
            return None
        raise
    return _root(layout, entry, link, target)


def _root(layout: Layout, entry: Path, link: Path, target: str) -> Root | None:
    """The root that points to `target`, by its first part below the store directory."""
    if not target.startswith(_INTO_STORE):
        return None
    try:
        path = StorePath.parse(target[len(_INTO_STORE) :].partition("/")[0])
    except FormatError:
        return None
    return Root(kind=_kind(layout, entry), entry=entry, link=link, path=path)


def _kind(layout: Layout, entry: Path) -> RootKind:
    if layout.profiles in entry.parents:
        return RootKind.PROFILE
    match entry.relative_to(layout.gc_roots).parts:
        case ("nixfetch", _):
            return RootKind.NAMED
        case ("nixfetch", _, _):
            return RootKind.SET
        case ("auto", *_):
            return RootKind.LINK
        case ("per-user", *_):
            return RootKind.PER_USER
        case _:
            return RootKind.DIRECT


def _target_of(link: Path) -> str:
    return os.readlink(link)  # noqa: PTH115 - as it is written: a `Path` would tidy it up


def _points_into_store(link: Path) -> bool:
    try:
        return _target_of(link).startswith(_INTO_STORE)
    except OSError:
        return False


def _set_name(text: str) -> str:
    root = parse_root(text)
    if isinstance(root, OutLink) or rootlinks.is_scratch_name(text):
        raise RootNameError("no set of roots can be called so", root=text[:300])
    return root.text


def _make_directory(directory: Path) -> None:
    if not directory.is_dir():
        directory.mkdir(exist_ok=True)
        rootlinks.flush(directory.parent)
