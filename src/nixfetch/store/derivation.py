"""The outputs that a ``.drv`` file names, for the table in which Nix looks derivers up.

    Derive([("out","/nix/store/…","sha256","…"),…],…

Only the first list is read. Source: nix, src/libstore/derivations.cc, `parseDerivation`.
"""

from __future__ import annotations

import os
import re
import stat

from nixfetch.errors import FormatError
from nixfetch.formats.storepath import StorePath
from nixfetch.store.disk import disk_errors

_MAX_HEAD = 1024 * 1024  # bytes read: outputs come first, each takes some 100 bytes
_OUTPUT = re.compile(rb'\(("(?:[^"\\]|\\.)*"),("(?:[^"\\]|\\.)*"),"[^"]*","[^"]*"\)[,\]]')
_START = b"Derive(["


def outputs_of(store_fd: int, path: StorePath) -> tuple[tuple[str, StorePath], ...]:
    """The outputs of the derivation `path` in the directory `store_fd`, by name.

    Content-addressed outputs have no path yet and are left out; so is whatever is no
    derivation in spite of its name.

    Raises:
        DiskError: the file cannot be read.
    """
    with disk_errors(path.base):
        if not stat.S_ISREG(os.stat(path.base, dir_fd=store_fd, follow_symlinks=False).st_mode):
            return ()
        fd = os.open(path.base, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=store_fd)
        try:
            head = os.read(fd, _MAX_HEAD)
        finally:
            os.close(fd)
    outputs: list[tuple[str, StorePath]] = []
    at = len(_START)
    while head.startswith(_START) and (found := _OUTPUT.match(head, at)):
        try:
            target = StorePath.parse_full(found[2][1:-1].decode("ascii", "replace"))
        except FormatError:
            pass
        else:
            outputs.append((found[1][1:-1].decode("utf-8", "replace"), target))
        at = found.end()
    return tuple(outputs)
