"""Where things lie below the root of a store, as Nix lays them out.

ROOT/nix/store/<base>                       the paths
ROOT/nix/var/nix/db/{db.sqlite,schema,big-lock}
ROOT/nix/var/nix/{temproots,gcroots,gc.lock,gc-socket/socket}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from nixfetch.formats.storepath import StorePath


@dataclass(frozen=True, slots=True)
class Layout:
    """The places of one store."""

    root: Path
    """``/`` for the machine's own."""

    @property
    def store(self) -> Path:
        """The physical store directory."""
        return self.root / "nix/store"

    @property
    def state(self) -> Path:
        """What is known about the store."""
        return self.root / "nix/var/nix"

    @property
    def database(self) -> Path:
        """The directory of the database."""
        return self.state / "db"

    @property
    def temp_roots(self) -> Path:
        """Lists of paths that running processes need."""
        return self.state / "temproots"

    @property
    def gc_roots(self) -> Path:
        """Links to paths that are to stay."""
        return self.state / "gcroots"

    @property
    def gc_lock(self) -> Path:
        """Held by a garbage collector at work."""
        return self.state / "gc.lock"

    @property
    def gc_socket(self) -> Path:
        """Where a garbage collector at work takes new roots."""
        return self.state / "gc-socket/socket"

    def physical(self, path: StorePath) -> Path:
        """Where `path` lies on this machine."""
        return self.store / path.base
