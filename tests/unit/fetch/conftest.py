"""Where stores of tests lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from unit.store.disk_trees import memory_directory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In memory: what is flushed there is no disk's business."""
    with memory_directory() as path:
        yield path
