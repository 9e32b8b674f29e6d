"""Where things lie below the root of a store, as Nix lays them out.

ROOT/nix/store/<base>                       the paths
ROOT/nix/var/nix/db/{db.sqlite,schema,big-lock}
ROOT/nix/var/nix/{temproots,gcroots,profiles,gc.lock,gc-socket/socket}
ROOT/nix/var/nixfetch/{inflight,newlinks,partial,unregistered}   our own
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
    def profiles(self) -> Path:
        """Links to paths that are to stay, one a generation; Nix's."""
        return self.state / "profiles"

    @property
    def named_roots(self) -> Path:
        """Our own links to paths that are to stay."""
        return self.gc_roots / "nixfetch"

    @property
    def indirect_roots(self) -> Path:
        """Links to links, anywhere, to paths that are to stay."""
        return self.gc_roots / "auto"

    @property
    def new_links(self) -> Path:
        """Links that are about to replace others; our own."""
        return self.root / "nix/var/nixfetch/newlinks"

    @property
    def reserve(self) -> Path:
        """Some MB that Nix keeps for a collector on a full disk."""
        return self.database / "reserved"

    @property
    def gc_lock(self) -> Path:
        """Held by a garbage collector at work."""
        return self.state / "gc.lock"

    @property
    def gc_socket(self) -> Path:
        """Where a garbage collector at work takes new roots."""
        return self.state / "gc-socket/socket"

    @property
    def inflight(self) -> Path:
        """Lists of what running processes are making in the store directory; our own."""
        return self.root / "nix/var/nixfetch/inflight"

    @property
    def partial(self) -> Path:
        """Compressed bytes of interrupted downloads; our own."""
        return self.root / "nix/var/nixfetch/partial"

    @property
    def unregistered(self) -> Path:
        """A list of trees that a rebuild of the database could not register; our own."""
        return self.root / "nix/var/nixfetch/unregistered"

    def physical(self, path: StorePath) -> Path:
        """Where `path` lies on this machine."""
        return self.store / path.base
