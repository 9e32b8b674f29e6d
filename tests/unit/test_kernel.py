from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from nixfetch import kernel

if TYPE_CHECKING:
    from pathlib import Path


def test_syncfs_takes_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"data")
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        kernel.syncfs(fd)
    finally:
        os.close(fd)


def test_syncfs_says_why_not() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        kernel.syncfs(-1)
