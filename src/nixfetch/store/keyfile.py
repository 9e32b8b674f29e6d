"""Files that hold one key. Knows nothing of what is signed with it."""

from __future__ import annotations

import logging
import os
import stat
from typing import TYPE_CHECKING

from nixfetch.errors import FormatError
from nixfetch.formats.signing import SecretKey
from nixfetch.store.disk import disk_errors

if TYPE_CHECKING:
    from pathlib import Path

MAX_SIZE = 4096  # bytes; a key has about 100, its name 255 at most
OTHERS = stat.S_IRGRP | stat.S_IROTH | stat.S_IWGRP | stat.S_IWOTH
_STDIN = 0

_log = logging.getLogger(__name__)


class KeyFileError(FormatError):
    """The file is too large to be a key, or no text."""


def read_secret_key(file: Path | None) -> SecretKey:
    """Read a secret key, with or without blanks and line ends around it.

    Warns in the log of a file that others may read or change.

    Args:
        file: None for standard input.

    Raises:
        DiskError: it cannot be read.
        KeyFileError, KeyFormatError: it holds no secret key.
    """
    if file is None:
        return SecretKey.parse(_text(_STDIN, "standard input"))
    with disk_errors(file):
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with disk_errors(file):
            mode = os.fstat(fd).st_mode
        if stat.S_ISREG(mode) and mode & OTHERS:
            _log.warning("%s: others may read or change this secret key; chmod 600 it", file)
        return SecretKey.parse(_text(fd, str(file)))
    finally:
        os.close(fd)


def _text(fd: int, file: str) -> str:
    data = b""
    while len(data) <= MAX_SIZE:
        with disk_errors(file):
            piece = os.read(fd, MAX_SIZE)
        if not piece:
            break
        data += piece
    if len(data) > MAX_SIZE or not data.isascii():
        raise KeyFileError("this is no key", file=file, limit=MAX_SIZE)
    return data.decode("ascii").strip()
