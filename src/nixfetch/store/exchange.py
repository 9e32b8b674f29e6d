"""Putting a fresh tree in the place of the one that has its name.

    fresh tree to disk -> the two names change places -> directory to disk -> the old tree goes

The names change places in one step (RENAME_EXCHANGE), so that whoever looks, and whatever
crashes, finds the old tree or the new one whole. Where nothing has the name any more, a rename
that replaces nothing is enough. A file system that cannot exchange (NFS, some layers of
overlayfs) gets two steps, and for a moment the name is free: a crash there leaves a path that
`verify` finds missing.

Knows nothing of what is in the trees.
"""

from __future__ import annotations

import errno
import logging
import os
from typing import TYPE_CHECKING

from nixfetch import kernel
from nixfetch.store.trees import remove_tree

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger(__name__)


def exchange(
    directory_fd: int,
    fresh: bytes,
    final: bytes,
    *,
    swap: Callable[[int, bytes, bytes], None] | None = None,
) -> None:
    """Give the name `final` to the tree `fresh`, both in one directory, durably.

    What had the name is called `fresh` afterwards, if there was something.

    Args:
        directory_fd: the directory.
        fresh: a finished tree, of any kind; it may still be on its way to the disk.
        final: the name it is to have.
        swap: exchanges two names of a directory; the kernel's way by default.

    Raises:
        OSError: the disk refused. `final` is the old tree or the fresh one, or, where the file
            system cannot exchange, missing.
    """
    kernel.syncfs(directory_fd)
    try:
        (swap or _swap)(directory_fd, fresh, final)
    except FileNotFoundError:
        os.stat(fresh, dir_fd=directory_fd, follow_symlinks=False)  # it is not `fresh` that lacks
        os.rename(fresh, final, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
    except OSError as error:
        # EXDEV: a directory of a lower layer of overlayfs, which no rename moves.
        if not isinstance(error, kernel.UnsupportedError) and error.errno != errno.EXDEV:
            raise
        _log.warning("this file system cannot exchange files: %s is away for a moment", final)
        _in_two_steps(directory_fd, fresh, final)
    os.fsync(directory_fd)


def _swap(directory_fd: int, fresh: bytes, final: bytes) -> None:
    kernel.rename_exchange(fresh, final, dir_fd=directory_fd)


def _in_two_steps(directory_fd: int, fresh: bytes, final: bytes) -> None:
    remove_tree(directory_fd, final)
    os.rename(fresh, final, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
