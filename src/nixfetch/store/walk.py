"""Every file of a tree, by descriptors, whoever made it. Opens directories and nothing else."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from nixfetch.store.descent import Descent

if TYPE_CHECKING:
    from collections.abc import Iterator


class Visit(NamedTuple):
    """One file, directory, link or whatever else on the way."""

    directory_fd: int
    """Where it lies; valid until the next step of the walk."""
    name: bytes
    """There."""
    inside: bytes
    """Its path in the tree; empty for the root."""
    status: os.stat_result


def walk(directory_fd: int, name: bytes) -> Iterator[Visit]:
    """The tree `name` in the directory `directory_fd`, directories before what is in them.

    Raises:
        OSError: something cannot be read, or went away.
    """
    with Descent(directory_fd) as descent:
        way: list[bytes] = []
        pending = [[name]]
        while pending:
            if not pending[-1]:
                pending.pop()
                if pending:
                    descent.leave()
                    way.pop()
                continue
            entry = pending[-1].pop()
            status = os.stat(entry, dir_fd=descent.fd, follow_symlinks=False)
            yield Visit(descent.fd, entry, b"/".join([*way[1:], entry]) if way else b"", status)
            if stat.S_ISDIR(status.st_mode):
                descent.enter(entry)
                way.append(entry)
                pending.append(list(map(os.fsencode, os.listdir(descent.fd))))  # noqa: PTH208 - a descriptor
