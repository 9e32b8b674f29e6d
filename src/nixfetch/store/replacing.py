"""A fresh tree for a path whose own is not what was registered, or is gone.

    NAR -> tree in staging, sharing no file that was not read -> trees change names -> old one goes

Files of the old tree that are shared and bad are told: other paths have them too.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nixfetch.errors import facts
from nixfetch.store.disk import disk_errors
from nixfetch.store.inodes import bad_inodes
from nixfetch.store.narsink import NarSink

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nixfetch.plan.trust import Trusted
    from nixfetch.store.inodes import Inode
    from nixfetch.store.staging import Staging


@dataclass(frozen=True, slots=True)
class Replacement:
    """A tree that is being replaced."""

    sink: NarSink
    """Takes the NAR."""
    shared: dict[Inode, int] = field(default_factory=dict)
    """Afterwards: bad files of the old tree, and how many names they have elsewhere."""


@contextmanager
def replacing(staging: Staging, trusted: Trusted) -> Iterator[Replacement]:
    """See `LocalStore.replacing`."""
    path = trusted.info.path
    with facts(path=path), staging.unpacking(path) as name:
        sink = NarSink(
            trusted,
            staging.store_fd,
            name.encode(),
            links=staging.offers(path, repairing=True),
            max_depth=staging.max_depth,
        )
        try:
            replacement = Replacement(sink)
            yield replacement
            sink.finish()
        finally:
            sink.close()
        with disk_errors(path.base):
            shared = bad_inodes(staging.store_fd, path.base.encode(), name.encode())
        replacement.shared.update(shared)
        staging.exchange(name, path)
