"""Some room kept on the disk, so that a collector can work when there is none left.

    ROOT/nix/var/nix/db/reserved    as Nix's; a collector removes it before it opens the store,
                                    whose database needs some room even to delete

On a small disk less is kept than Nix would.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from nixfetch.store.disk import disk_errors

if TYPE_CHECKING:
    from nixfetch.store.layout import Layout

_log = logging.getLogger(__name__)
_SIZE = 8 * 1024 * 1024  # bytes; Nix's `gc-reserved-space`
_SHARE = 16  # no more than this part of what is free
_OPEN = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def keep_reserve(layout: Layout) -> None:
    """Keep some room, if there is any and none is kept. Never fails: it is but a precaution."""
    try:
        disk = os.statvfs(layout.database)
        fd = os.open(layout.reserve, _OPEN, 0o600)
    except OSError as error:
        if not isinstance(error, FileExistsError):
            _log.info("no room is kept for a collector: %s", error)
        return
    try:
        os.posix_fallocate(fd, 0, max(1, min(_SIZE, disk.f_bavail * disk.f_frsize // _SHARE)))
    except OSError as error:
        _log.info("no room is kept for a collector: %s", error)
        with suppress(OSError):
            layout.reserve.unlink()
    finally:
        os.close(fd)


def lend_reserve(layout: Layout) -> None:
    """Make that room free where the log of the database takes it to be written back at its end.

    Without it a full disk stays full: the log is as large as what was changed last, and stays as
    long as it cannot be written back. Never fails; `keep_reserve` takes the room back afterwards.
    """
    try:
        log = (layout.database / "db.sqlite-wal").stat().st_size
        disk = os.statvfs(layout.database)
        if disk.f_bavail * disk.f_frsize < log:
            layout.reserve.unlink(missing_ok=True)
    except OSError as error:
        _log.info("cannot see to the room that the database needs: %s", error)


def give_up_reserve(layout: Layout) -> None:
    """Make the room that was kept free. Before the store is opened.

    Raises:
        DiskError: it cannot be.
    """
    with disk_errors(layout.reserve):
        layout.reserve.unlink(missing_ok=True)
