"""The mounts of a snapshot: its layers, and the store paths that they are made of.

Containers get store paths in one of two ways:

target  an overlay of the layers, then a read-only bind for each path (containerd 1.7 and later)
lower   one overlay, whose first lower layer is a directory of exactly that closure, a farm; views
        and large closures get this one in any case

What is being unpacked gets no store paths: its layer has to write their places. Whenever mounts
are asked for, every path is checked again.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import nixfetch
from snapshotter.errors import InternalError, PreconditionError
from snapshotter.lifecycle import Kind
from snapshotter.mounts import binds

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from pathlib import Path

    from snapshotter.labels import NixLayer
    from snapshotter.layers import Layers
    from snapshotter.metastore import Snapshot
    from snapshotter.mounts import Mount
    from snapshotter.overlay import Overlay

Mode = Literal["target", "lower"]

MAX_BINDS = 1000  # mounts; 2000 take 1.3 s of the start of a container, one overlay 0.1 s

_BIND = "none"
"""The type of binds. The kernel ignores it; containerd 2.3 would look into a `bind` for users."""


class Closures(Protocol):
    """Store paths on this machine."""

    def ensure(
        self, layer: NixLayer, *, root: str, cancelled: Callable[[], bool]
    ) -> tuple[nixfetch.StorePath, ...]:
        """Have the whole closure of a layer present and rooted; an error leaves no root."""

    def located(
        self, paths: Iterable[nixfetch.StorePath]
    ) -> tuple[Sequence[tuple[nixfetch.StorePath, str]], Sequence[nixfetch.StorePath]]:
        """Where each of them lies, and those that are symbolic links, which cannot be bound.

        All are checked anew.
        """

    def root(self, name: str, paths: Sequence[nixfetch.StorePath]) -> None:
        """Protect paths from the collector."""

    def unroot(self, name: str) -> None:
        """Protect them no longer."""

    def roots(self) -> set[str]:
        """The names of all roots."""


class Farms(Protocol):
    """Directories that hold a closure, and nothing else."""

    def get(self, closure: tuple[nixfetch.StorePath, ...]) -> Path:
        """The directory of a closure."""

    def sweep(self, used: Collection[str]) -> None:
        """Delete all but those of these names."""


def parsed(text: str) -> nixfetch.StorePath:
    """A store path of the database, which somebody may have written to."""
    try:
        return nixfetch.StorePath.parse_full(text)
    except nixfetch.FormatError as error:
        raise InternalError(
            "database of snapshots holds what is no store path", path=ascii(text[:100])
        ) from error


@dataclass(frozen=True, slots=True)
class _Needs:
    """The store paths of a container, by how it gets them."""

    farmed: tuple[nixfetch.StorePath, ...] = ()
    """As the first lower layer."""
    bound: tuple[tuple[nixfetch.StorePath, str], ...] = ()
    """As binds, each with where it lies."""


class Mounting:
    """How the snapshots of one root are mounted. Safe to share among threads."""

    def __init__(
        self,
        layers: Layers,
        overlay: Overlay,
        *,
        closures: Closures | None,
        farms: Farms | None,
        mode: Callable[[], Mode],
        max_binds: int = MAX_BINDS,
    ) -> None:
        """Mount by what it is given; arguments as `Snapshotter` has them."""
        self._layers, self._overlay = layers, overlay
        self._closures, self._farms = closures, farms
        self._mode, self._max_binds = mode, max_binds
        self._farming = threading.Lock()  # from the look at a farm until a row names it

    @contextmanager
    def mounts(self, snapshot: Snapshot) -> Iterator[tuple[list[Mount], str | None]]:
        """The mounts of a snapshot, and the name of the farm that they need.

        No farm is swept away until the block is left, and with a row that names it later neither.

        Raises:
            PreconditionError: a store path is not what it was.
            InternalError: what the database says is none.
        """
        needs = self._needs(snapshot)
        bound = binds(needs.bound, type=_BIND)
        if not needs.farmed:
            yield [self.tree(snapshot), *bound], None
            return
        assert self._farms is not None
        self._farms.get(needs.farmed)  # may take seconds, so that nobody waits for it below
        with self._farming:
            farm = self._farms.get(needs.farmed)
            self._layers.link_farm(snapshot.id, farm)
            yield [self.tree(snapshot, farmed=True), *bound], farm.name

    def tree(self, snapshot: Snapshot, *, farmed: bool = False) -> Mount:
        """The layers of a snapshot as one tree.

        Args:
            snapshot: which.
            farmed: whether its farm is the first of the lower layers.
        """
        layers = self._layers
        lowers = [layers.upper(id_) for id_ in snapshot.parents]
        if farmed:
            lowers = [layers.farm(snapshot.id), *lowers]
        upper = layers.upper(snapshot.id)
        if snapshot.kind is Kind.VIEW:
            return self._overlay.mount(lowers or [upper])
        return self._overlay.mount(lowers, upper=upper, work=layers.work(snapshot.id))

    def sweep(self, used: Callable[[], Collection[str]]) -> None:
        """Delete farms that nobody needs.

        Args:
            used: gives the names of those that somebody does.
        """
        if self._farms is not None:
            with self._farming:
                self._farms.sweep(used())

    def _needs(self, snapshot: Snapshot) -> _Needs:
        """The store paths of a container, checked anew."""
        if snapshot.unpacking or not snapshot.paths or self._closures is None:
            return _Needs()
        closure = tuple(sorted(map(parsed, snapshot.paths)))
        # Whoever mounts a view by himself unmounts one mount, and would leave the binds.
        if self._farms is not None and (
            snapshot.kind is Kind.VIEW or len(closure) > self._max_binds or self._mode() == "lower"
        ):
            return _Needs(farmed=closure)
        # A bind of a path that is a link would be one of what it points to.
        bound, links = self._closures.located(closure)
        if links and self._farms is None:
            raise PreconditionError("store path is a link, and there are no farms", path=links[0])
        return _Needs(farmed=tuple(links), bound=tuple(bound))
