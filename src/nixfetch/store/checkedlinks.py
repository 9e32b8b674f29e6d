"""``.links`` for whoever repairs: an entry is read before it is believed.

A file that went bad is bad in every path that shares its inode, and in ``.links`` too. So a
repair links nothing on the word of a name: an entry whose content is not what its name says is
dropped there, and the fresh file takes its place.
"""

from __future__ import annotations

import hashlib
import logging
import os
from typing import TYPE_CHECKING

from nixfetch.errors import StoreError
from nixfetch.formats import base32
from nixfetch.formats.nar.writer import write
from nixfetch.store.dump import dump
from nixfetch.store.links import Links

if TYPE_CHECKING:
    from nixfetch.store.links import Shape

NAME = ".links"
_log = logging.getLogger(__name__)


def content_name(directory_fd: int, name: str) -> str:
    """What the file `name` in ``.links`` should be called.

    Raises:
        DiskError: it cannot be read.
        UnsupportedFileError, ChangedFileError: it is no file that can have a name there.
    """
    state = hashlib.sha256()
    for piece in write(dump(directory_fd, os.fsencode(name))):
        state.update(piece)
    return base32.encode(state.digest())


class CheckedLinks(Links):
    """The ``.links`` of one store, none of whose entries is taken unread."""

    _dropping = logging.INFO  # that is what a repair is for

    def take_file(self, name: str, shape: Shape, *, dir_fd: int, target: bytes) -> bool:
        return self._is_good(name) and super().take_file(name, shape, dir_fd=dir_fd, target=target)

    def _is_good(self, name: str) -> bool:
        if self._status(name) is None:
            return False
        try:
            good = content_name(self.fd, name) == name
        except StoreError as error:  # it cannot be read: no link of it either
            _log.info("cannot read .links/%s: %s", name, error)
            good = False
        if not good:
            self._drop(name)
        return good
