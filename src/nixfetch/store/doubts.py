"""Trees that have their names and whose commit failed: whether they are valid after all.

SQLite cannot tell at that moment. What it wrote into its log may be incomplete; or whole, but not
known to be on disk, and then a crash would bring it back. The next transaction that is committed
takes its place in the log: from then on what the database says holds.

That takes some KB, which a full disk does not have. So it comes last, when all else that was in
the making is gone, and may use the room that is kept for a collector.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from nixfetch.errors import StoreError
from nixfetch.store.reserve import give_up_reserve, keep_reserve

if TYPE_CHECKING:
    from collections.abc import Collection

    from nixfetch.formats.storepath import StorePath
    from nixfetch.store.database import Database
    from nixfetch.store.layout import Layout

_log = logging.getLogger(__name__)


def not_valid(database: Database, layout: Layout, paths: Collection[StorePath]) -> list[StorePath]:
    """Those of `paths` that are not valid, and will not be for a commit that failed.

    None of them when nobody can say: their trees stay, valid or garbage, and that is logged.

    Args:
        database: whose commit failed.
        layout: of its store.
        paths: whose locks are held.
    """
    try:
        valid = _valid(database, layout, paths)
    except StoreError as error:
        _log.warning(
            "%d path%s may lie in the store without being valid: `nixfetch gc` removes such (%s)",
            len(paths),
            "s" * (len(paths) != 1),
            error.problem,
        )
        return []
    return [path for path in paths if path not in valid]


def _valid(database: Database, layout: Layout, paths: Collection[StorePath]) -> set[StorePath]:
    try:
        return database.valid_for_good(paths)
    except StoreError as error:
        _log.info("once more, with the room that is kept for a collector: %s", error)
    give_up_reserve(layout)
    try:
        return database.valid_for_good(paths)
    finally:
        keep_reserve(layout)
