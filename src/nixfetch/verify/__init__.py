"""Whether a store is still what it was made as, and making it so again.

verify_paths, verify_links, store.check_database     look, and change nothing
leftovers                                            what is there and nobody asked for
repair_paths, repair_links                           fetch anew, and exchange
rebuild_database                                     when the database itself is lost
"""

from __future__ import annotations

from nixfetch.store.leftovers import leftovers
from nixfetch.verify.examine import verify_paths
from nixfetch.verify.links import BadLink, repair_links, verify_links
from nixfetch.verify.rebuild import NotRecovered, Rebuilt, rebuild_database
from nixfetch.verify.repair import OtherContentError, repair_paths
from nixfetch.verify.verdict import (
    LostPathError,
    LostReferenceError,
    MetadataError,
    NotRegisteredError,
    Verdict,
)

__all__ = (
    "BadLink",
    "LostPathError",
    "LostReferenceError",
    "MetadataError",
    "NotRecovered",
    "NotRegisteredError",
    "OtherContentError",
    "Rebuilt",
    "Verdict",
    "leftovers",
    "rebuild_database",
    "repair_links",
    "repair_paths",
    "verify_links",
    "verify_paths",
)
