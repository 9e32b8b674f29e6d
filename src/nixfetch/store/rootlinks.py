"""How links below gcroots come and go: one, or a directory of several, whole or not at all.

A directory of links is made under a name of its own beside the final one, and renamed; one that
goes is renamed first. What a crash leaves under such names keeps its paths until `sweep_sets`.
Whoever sweeps renames too, so that nobody goes on with a directory that is being taken away.

Knows nothing of what the links keep: who makes some has temporary roots until they are there.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from nixfetch import kernel
from nixfetch.store.disk import disk_errors
from nixfetch.store.trees import remove_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_SCRATCH = re.compile(r"\.nixfetch-[0-9a-f]{16}\Z")


def scratch_name() -> str:
    """A fresh name for what is about to come or to go."""
    return f".nixfetch-{secrets.token_hex(8)}"


def is_scratch_name(name: str) -> bool:
    """Whether `scratch_name` makes such names."""
    return _SCRATCH.match(name) is not None


# One link.


def replace(link: Path, target: str, scratch: Path) -> None:
    """Make `link`, by way of `scratch` if there is one already."""
    try:
        link.symlink_to(target)
    except FileExistsError:
        while True:
            scratch.symlink_to(target)
            with suppress(FileNotFoundError):  # a collector swept it: once more
                scratch.rename(link)
                return


def unlink(link: Path) -> bool:
    """Remove `link`, for good; whether there was one."""
    with disk_errors(link):
        if not link.is_symlink():
            return False
        link.unlink()
        flush(link.parent)
    return True


def flush(directory: Path) -> None:
    """Have the entries of `directory` on the disk."""
    with _opened(directory) as fd:
        os.fsync(fd)


# A directory of links.


def put_set(
    place: Path, targets: Mapping[str, str], *, swap: Callable[[Path, Path], None] | None = None
) -> None:
    """Let the directory `place` hold these links and nothing else, after a power cut too.

    Args:
        place: in a directory that is there; nothing, or such a directory.
        targets: of the links, by name.
        swap: exchanges two names of a directory; the kernel's way by default.

    Raises:
        NotADirectoryError: there is something else.
        OSError: the disk refused.
    """
    while True:
        scratch = place.with_name(scratch_name())
        try:
            scratch.mkdir()
            for name, target in targets.items():
                (scratch / name).symlink_to(target)
            _take_place(scratch, place, swap or _swap)
            # In this order a crash leaves all of it, or a part that nobody was told of.
            flush(place)
            flush(place.parent)
        except FileNotFoundError:
            if not place.parent.is_dir():
                raise
            continue  # swept: once more
        except BaseException:
            _discard(scratch)
            raise
        break
    _discard(scratch)


def _take_place(scratch: Path, place: Path, swap: Callable[[Path, Path], None]) -> None:
    """Give `scratch` the name `place`; what had that is called `scratch` then, or is gone."""
    try:
        scratch.rename(place)
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise
        try:
            swap(scratch, place)
        except kernel.UnsupportedError:
            # Who makes a set has temporary roots of all that is in it.
            _discard(place)
            scratch.rename(place)


def _swap(one: Path, other: Path) -> None:
    with _opened(one.parent) as fd:
        kernel.rename_exchange(os.fsencode(one.name), os.fsencode(other.name), dir_fd=fd)


def remove_set(place: Path) -> bool:
    """Remove the directory of links `place`, for good; whether there was one."""
    with disk_errors(place):
        if place.is_symlink() or not place.is_dir():
            return False
        _discard(place)
        flush(place.parent)
    return True


def sets(directory: Path) -> set[str]:
    """Names of the directories of links in `directory`."""
    with disk_errors(directory):
        try:
            with os.scandir(directory) as entries:
                return {
                    entry.name
                    for entry in entries
                    if entry.is_dir(follow_symlinks=False) and not is_scratch_name(entry.name)
                }
        except FileNotFoundError:
            return set()


def sweep_sets(directory: Path) -> None:
    """Remove what crashes left in `directory`."""
    with disk_errors(directory):
        try:
            names = [name for name in os.listdir(directory) if is_scratch_name(name)]  # noqa: PTH208 - names
        except FileNotFoundError:
            return
        for name in names:
            _discard(directory / name)


def _discard(place: Path) -> None:
    """Remove a directory of links under a name that nobody has anything to do with."""
    scratch = place.with_name(scratch_name())
    try:
        place.rename(scratch)
    except FileNotFoundError:
        return
    with _opened(place.parent) as fd:
        remove_tree(fd, os.fsencode(scratch.name))


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    fd = os.open(directory, _DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)
