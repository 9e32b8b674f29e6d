"""What running processes use of a store, from /proc: it stays, though nobody said so.

Their programs, directories, open and mapped files, and what their environment names, be it under
the store's logical name (as in a container, or on a machine with Nix) or where it lies. Processes
of others, which an ordinary user may not look into, are passed over, as Nix does.

Source: nix, src/libstore/local-gc.cc, `findRuntimeRootsUnchecked`.
"""

from __future__ import annotations

import logging
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from nixfetch.errors import FormatError
from nixfetch.formats.storepath import STORE_DIR, StorePath
from nixfetch.store.disk import disk_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nixfetch.store.layout import Layout

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_PROC = Path("/proc")
_LINKS = ("exe", "cwd", "root")
# What the kernel runs by itself.
_KERNEL = ("sys/kernel/modprobe", "sys/kernel/fbsplash", "sys/kernel/poweroff_cmd")
_BASE = rb"/([0-9a-df-np-sv-z]{32}-[0-9A-Za-z+\-._?=]+)"
_NAME_FIELD = 5  # of a line of `maps`, from 0


def runtime_roots(layout: Layout, *, proc: Path = _PROC) -> set[StorePath]:
    """The paths that processes use, valid or not.

    Raises:
        DiskError: the kernel does not tell, for another reason than that it must not.
    """
    uses = _Uses(layout)
    try:
        processes = [entry for entry in proc.iterdir() if entry.name.isdecimal()]
    except OSError as error:
        _log.warning("cannot see what running processes use: %s", error.strerror)
        return set()
    for process in processes:
        for link in (*(process / name for name in _LINKS), *_each(_open_files, process)):
            for target in _each(_target, link):
                uses.add_name(target)
        for name in _each(_mapped_files, process):
            uses.add_name(name)
        for text in _each(_contents, process / "environ"):
            uses.add_text(text)
    for file in _KERNEL:
        for text in _each(_contents, proc / file):
            uses.add_name(text)
    return uses.paths


class _Uses:
    """Store paths, as they turn up in file names and elsewhere."""

    def __init__(self, layout: Layout) -> None:
        self.paths: set[StorePath] = set()
        self._seen: set[bytes] = set()
        # Where the store lies: the kernel resolves links, and users do not.
        places = {STORE_DIR, os.fspath(layout.store), os.path.realpath(layout.store)}
        stores = b"|".join(re.escape(os.fsencode(place)) for place in sorted(places))
        self._pattern = re.compile(rb"(?:%b)%b" % (stores, _BASE))

    def add_name(self, name: bytes) -> None:
        """Take the absolute name of a file."""
        if found := self._pattern.match(name):
            self._add(found[1])

    def add_text(self, text: bytes) -> None:
        """Take whatever may hold such names."""
        for base in self._pattern.findall(text):
            self._add(base)

    def _add(self, base: bytes) -> None:
        if base in self._seen:
            return
        self._seen.add(base)
        with suppress(FormatError):
            self.paths.add(StorePath.parse(base.decode("ascii")))


def _each(source: Callable[[Path], Iterator[_T]], file: Path) -> Iterator[_T]:
    """What `source` finds, as far as we may see it: processes end while we look."""
    found = source(file)
    while True:
        try:
            piece = next(found)
        except (StopIteration, FileNotFoundError, ProcessLookupError, PermissionError):
            return
        except OSError as error:
            raise disk_error(error, error.filename or file) from error
        yield piece


def _target(link: Path) -> Iterator[bytes]:
    yield os.fsencode(os.readlink(link))  # noqa: PTH115 - as the kernel writes it


def _open_files(process: Path) -> Iterator[Path]:
    yield from (process / "fd").iterdir()


def _mapped_files(process: Path) -> Iterator[bytes]:
    with (process / "maps").open("rb") as lines:
        for line in lines:
            fields = line.split(None, _NAME_FIELD)
            if len(fields) > _NAME_FIELD:
                yield fields[_NAME_FIELD]


def _contents(file: Path) -> Iterator[bytes]:
    yield file.read_bytes()  # the kernel bounds it: a quarter of the stack at most
