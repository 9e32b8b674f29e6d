"""The store on disk: Nix's own layout, database and locks below a root directory."""

from __future__ import annotations

from nixfetch.store.database import Registration
from nixfetch.store.local import LocalStore
from nixfetch.store.narsink import ContentMismatchError, NarSink
from nixfetch.store.roots import Root, RootKind, Roots

__all__ = (
    "ContentMismatchError",
    "LocalStore",
    "NarSink",
    "Registration",
    "Root",
    "RootKind",
    "Roots",
)
