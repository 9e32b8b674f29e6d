"""A machine that lets us have no more threads, as a container with a small limit does."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_TOO_LARGE = 2**46  # bytes of a stack: more than a process has addresses for


@contextmanager
def no_more_threads() -> Iterator[None]:
    """No thread can be started in the block."""
    before = threading.stack_size(_TOO_LARGE)
    try:
        yield
    finally:
        threading.stack_size(before)
