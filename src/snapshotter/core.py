"""Prepare, view, mounts, commit, remove: what a snapshotter does, as plain calls.

An ordinary layer is an overlay, and nothing else. Of a Nix layer the closure is brought into the
store before anything else is answered, and rooted as one set, for as long as the snapshot lives;
a failure leaves neither row, nor directory, nor root. The layer itself holds empty places for
the store paths. `mounting` decides how containers above get to see them.

Crash story: a row that is not ready, then the directory, then the root, then the row is ready.
Removal is the other way round. `recover` puts right what was cut short; it comes before all
other calls. Order of locks: the turn of a name, then farms, then the database.
"""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import nixfetch
from snapshotter import contents, lifecycle
from snapshotter import labels as nix_labels
from snapshotter.errors import AlreadyExistsError
from snapshotter.filters import ALL
from snapshotter.labels import NixLayer
from snapshotter.lifecycle import Kind
from snapshotter.mounting import MAX_BINDS, Closures, Farms, Mode, Mounting, parsed
from snapshotter.oci import nixlayer
from snapshotter.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from snapshotter.filters import Filter
    from snapshotter.layers import Layers
    from snapshotter.lifecycle import Info, Usage
    from snapshotter.metastore import Metastore, Snapshot
    from snapshotter.mounts import Mount
    from snapshotter.overlay import Overlay

__all__ = ("Closures", "Farms", "Mode", "Snapshotter")

_log = logging.getLogger(__name__)

_MISSING = 3  # exit code of an error that says: in no cache


def _never() -> bool:
    return False


def _are_unknown(paths: Collection[nixfetch.StorePath], error: nixfetch.FetchFailedError) -> bool:
    """Whether no cache knows any of `paths`, and nothing else is wrong."""
    failed = {path.path for path in error.report.failures}
    return error.exit_code == _MISSING and failed.issuperset(paths)


class Snapshotter:
    """The snapshots of one root. Safe to share among threads."""

    def __init__(
        self,
        *,
        store: Metastore,
        layers: Layers,
        overlay: Overlay,
        closures: Closures | None = None,
        farms: Farms | None = None,
        mode: Callable[[], Mode] = lambda: "target",
        max_binds: int = MAX_BINDS,
    ) -> None:
        """A snapshotter that works with what it is given.

        Args:
            store: the rows.
            layers: the directories.
            overlay: how they are mounted.
            closures: the store paths; all layers are ordinary without.
            farms: directories of closures, for mode ``lower``; never that mode without.
            mode: how containers get store paths; asked whenever one does.
            max_binds: mounts of a container; closures of more paths use a farm.
        """
        self._store, self._layers, self._closures = store, layers, closures
        self._mounting = Mounting(
            layers, overlay, closures=closures, farms=farms, mode=mode, max_binds=max_binds
        )
        self._turns = Turns()
        self._cleaning = threading.Lock()
        self.rubbish = threading.Event()
        """Set when there is something for `cleanup`."""

    def close(self) -> None:
        """Let go of the database; nobody may be in a call."""
        self._store.close()

    # ------------------------------------------------------------ making

    def prepare(
        self,
        key: str,
        parent: str,
        labels: Mapping[str, str],
        *,
        cancelled: Callable[[], bool] = _never,
    ) -> list[Mount]:
        """Make a snapshot that can be written to.

        Args:
            key: its name.
            parent: name of a committed snapshot, or empty.
            labels: of the snapshot; those of a Nix layer bring its closure into the store.
            cancelled: whether nobody wants it any more.

        Returns:
            The mounts that show it, in order.

        Raises:
            AlreadyExistsError: the name is taken; or this is a layer that store paths make up
                wholly, and it is ready and committed: nobody needs its blob.
            NotFoundError: there is no such parent.
            InvalidArgumentError: a label, a name or the parent cannot be.
            NixfetchError: the closure cannot be had.
        """
        return self._make(Kind.ACTIVE, key, parent, labels, cancelled)

    def view(
        self,
        key: str,
        parent: str,
        labels: Mapping[str, str],
        *,
        cancelled: Callable[[], bool] = _never,
    ) -> list[Mount]:
        """Make a snapshot that can be read only; as `prepare`, but that no layer is ever one."""
        return self._make(Kind.VIEW, key, parent, labels, cancelled)

    def _make(
        self,
        kind: Kind,
        key: str,
        parent: str,
        labels: Mapping[str, str],
        cancelled: Callable[[], bool],
    ) -> list[Mount]:
        lifecycle.checked_name(key, "key")
        kept = lifecycle.checked_labels(labels)
        layer = self._layer_of(labels) if kind is Kind.ACTIVE else None
        with self._turns.taking(key, cancelled), ExitStack() as undo:
            if self._is_ready(layer, parent):
                raise AlreadyExistsError("layer is ready", key=key)
            snapshot = self._store.create(
                kind,
                key,
                parent,
                kept,
                unpacking=layer is not None or lifecycle.is_unpacking(key, labels),
            )
            undo.callback(self._undo, snapshot.id)
            self._layers.make(snapshot.id, kind, parent=next(iter(snapshot.parents), None))
            mounts: list[Mount] | None
            if layer is None:
                mounts = self._finish(snapshot)
            else:
                mounts = self._finish_layer(snapshot, layer, parent, cancelled)
            undo.pop_all()
        if mounts is None:
            raise AlreadyExistsError("layer is ready", key=key)
        return mounts

    def _layer_of(self, labels: Mapping[str, str]) -> NixLayer | None:
        return None if self._closures is None else nix_labels.parse(labels)

    def _is_ready(self, layer: NixLayer | None, parent: str) -> bool:
        """Whether there is nothing to do for a layer."""
        if layer is None or not layer.complete or layer.ref is None:
            return False
        return self._store.layer(layer.ref, parent) is not None

    def _finish(self, snapshot: Snapshot) -> list[Mount]:
        with self._mounting.mounts(snapshot) as (mounts, farm):
            self._store.finish(snapshot.id, farm=farm)
        return mounts

    def _finish_layer(
        self,
        snapshot: Snapshot,
        layer: NixLayer,
        parent: str,
        cancelled: Callable[[], bool],
    ) -> list[Mount] | None:
        """Have the store paths of a layer; None when it is whole by that, and committed."""
        assert self._closures is not None
        paths = self._closures.ensure(layer, root=self._root(snapshot.id), cancelled=cancelled)
        texts = list(map(str, paths))
        if layer.ref is None or not self._is_whole(layer, parent):
            self._store.finish(snapshot.id, paths=texts)
            return [self._mounting.tree(snapshot)]
        self._add_mountpoints(snapshot.id, paths)
        usage = self._layers.usage(snapshot.id)
        if not self._store.finish_layer(snapshot.id, layer.ref, usage, paths=texts):
            raise AlreadyExistsError("layer is ready: another was faster", ref=layer.ref)
        _log.info("layer %s is ready without its blob: %d store paths", layer.ref, len(texts))
        return None

    def _add_mountpoints(self, id_: int, paths: Sequence[nixfetch.StorePath]) -> None:
        assert self._closures is not None
        sources, _ = self._closures.located(paths)  # nothing is mounted for links, see `_needs`
        self._layers.add_mountpoints(
            id_, [(path.base, Path(source).is_dir()) for path, source in sources]
        )

    def _undo(self, id_: int) -> None:
        """Leave nothing of a snapshot that could not be made; the first error is the one."""
        if self._closures is not None:
            with suppress(nixfetch.NixfetchError):
                self._closures.unroot(self._root(id_))
        self._layers.discard(id_)
        self._store.abandon(id_)
        self.rubbish.set()

    def _root(self, id_: int) -> str:
        return f"{self._store.instance}-{id_}"

    # ------------------------------------------------------------ mounting

    def mounts(self, key: str) -> list[Mount]:
        """The mounts of an active snapshot or a view, as `prepare` gave them.

        Store paths are checked again: each is valid, and lies in the store.

        Raises:
            NotFoundError: there is no such snapshot.
            PreconditionError: it is committed; or a store path is not what it was.
        """
        snapshot = self._store.snapshot(key)
        lifecycle.check_mountable(snapshot.kind, key)
        with self._mounting.mounts(snapshot) as (mounts, farm):
            if farm is not None and farm != snapshot.farm:
                self._store.set_farm(snapshot.id, farm)
        return mounts

    # ------------------------------------------------------------ committing

    def commit(
        self,
        name: str,
        key: str,
        labels: Mapping[str, str],
        *,
        parent: str = "",
        cancelled: Callable[[], bool] = _never,
    ) -> None:
        """Make a committed snapshot of an active one.

        The store paths of a layer are those that it has empty places for, whatever its labels say:
        containerd does not always pass labels on, and shares layers by their digests.

        Args:
            name: of the committed one.
            key: of the active one, which is given up.
            labels: in place of those that it has.
            parent: for one that was made without.
            cancelled: whether nobody wants it any more.

        Raises:
            NotFoundError: there is no such snapshot, or parent.
            AlreadyExistsError: the name is taken.
            PreconditionError: it is not active.
            InvalidArgumentError: a name or a label cannot be.
            NixfetchError: the closure cannot be had.
        """
        lifecycle.checked_name(name, "name")
        kept = lifecycle.checked_labels(labels)
        with self._turns.taking(key, cancelled), ExitStack() as undo:
            snapshot = self._store.snapshot(key)
            lifecycle.check_commit(snapshot.kind, key)
            paths = None
            if self._closures is not None:
                paths = self._own_paths(snapshot, labels, cancelled, undo)
            if paths:
                self._add_mountpoints(snapshot.id, paths)
            self._store.commit(
                key,
                name,
                kept,
                self._layers.usage(snapshot.id),
                parent=parent,
                paths=None if paths is None else list(map(str, paths)),
            )
            undo.pop_all()

    def _is_whole(self, layer: NixLayer, parent: str) -> bool:
        """Whether a layer that is said to be nothing but places for store paths is just that.

        Snapshots are shared by the digests of layers, and whoever makes an image writes its labels.
        So the layer is made anew of what they say: only if its digest is the one that containerd
        knows it by does nobody need its blob.
        """
        if not layer.complete or not layer.paths:
            return False
        assert self._closures is not None
        sources, links = self._closures.located(layer.paths)
        if links:  # what a builder makes of them depends on where they lead
            return False
        diff_id = nixlayer.diff_id({path: not Path(source).is_dir() for path, source in sources})
        if lifecycle.chain_id(parent, diff_id) == layer.ref:
            return True
        _log.warning("layer %s is not what its labels say: its blob is needed", layer.ref)
        return False

    def _own_paths(
        self,
        snapshot: Snapshot,
        labels: Mapping[str, str],
        cancelled: Callable[[], bool],
        undo: ExitStack,
    ) -> tuple[nixfetch.StorePath, ...]:
        """The store paths that a layer is made of, rooted; none for an ordinary one.

        Its own places for them say which, and nothing else does. Others may have a layer of the
        same digest, and would get what the labels of this image say.
        """
        assert self._closures is not None
        root = self._root(snapshot.id)
        layer = nix_labels.parse(labels)
        found = contents.store_paths(Path(self._layers.upper(snapshot.id)))
        if not found:
            if layer is not None:
                _log.warning("labels name store paths that layer %s has no places for", layer.ref)
            if snapshot.own_paths:
                self._closures.unroot(root)
            return ()
        if not snapshot.own_paths:
            undo.callback(self._closures.unroot, root)
        try:
            return self._closures.ensure(NixLayer(paths=found), root=root, cancelled=cancelled)
        except nixfetch.FetchFailedError as error:
            if layer is not None or not _are_unknown(found, error):
                raise
            # An image that was not made of store paths may have empty ones all the same.
            _log.warning("no cache knows what an ordinary layer may have places for: %s", error)
            return ()

    # ------------------------------------------------------------ removing

    def remove(self, key: str) -> None:
        """Forget a snapshot. What it took on the disk is freed by `cleanup`.

        Raises:
            NotFoundError: there is none.
            PreconditionError: it has children.
        """
        with self._turns.taking(key):
            removed = self._store.remove(key)
            self._layers.discard(removed.id)
            self.rubbish.set()
            if removed.own_paths and self._closures is not None:
                try:
                    self._closures.unroot(self._root(removed.id))
                except nixfetch.NixfetchError as error:  # `cleanup` tries again
                    _log.warning("root of a removed snapshot stays for now: %s", error)

    def cleanup(self, *, stopped: Callable[[], bool] = _never) -> None:
        """Free what removed snapshots took: directories, roots, farms.

        Args:
            stopped: asked now and then; the rest is for another time.
        """
        with self._cleaning:
            self.rubbish.clear()
            self._layers.sweep(self._store.ids)
            self._layers.delete(stopped=stopped)
            self._sweep_roots()
            self._mounting.sweep(self._store.farms)

    def recover(self) -> None:
        """Put right what the end of an earlier process cut short. Before all other calls."""
        for id_ in self._store.unfinished():
            _log.info("snapshot %d was not finished: removed", id_)
            self._undo(id_)
        # A power cut can bring back rows of containers; never those of layers.
        for name in self._store.forget(self._layers.missing(self._store.ids())):
            _log.warning("snapshot %s has no directory: removed", ascii(name))
        self._layers.sweep(self._store.ids)
        self._sweep_roots()
        self._make_roots()

    def _sweep_roots(self) -> None:
        """Remove roots that belong to no snapshot of ours."""
        if self._closures is None:
            return
        prefix = f"{self._store.instance}-"
        # Listed first: what is rooted later has a row by then.
        roots = {name for name in self._closures.roots() if name.startswith(prefix)}
        if not roots:
            return
        known = {self._root(id_) for id_ in self._store.ids()}
        for name in sorted(roots - known):
            self._closures.unroot(name)

    def _make_roots(self) -> None:
        """Make the roots that are missing, of paths that are there."""
        if self._closures is None:
            return
        roots = self._closures.roots()
        for id_ in sorted(self._store.rooted()):
            if self._root(id_) in roots:
                continue
            try:
                paths = tuple(map(parsed, self._store.own_paths(id_)))
                self._closures.root(self._root(id_), paths)
            except nixfetch.NixfetchError as error:  # its containers cannot start; others can
                _log.error("root of snapshot %d cannot be made again: %s", id_, error)
            else:
                _log.warning("root of snapshot %d was missing: made again", id_)

    # ------------------------------------------------------------ asking

    def stat(self, name: str) -> Info:
        """What is known of a snapshot.

        Raises:
            NotFoundError: there is none.
        """
        return self._store.info(name)

    def update(self, name: str, labels: Mapping[str, str], fields: Collection[str]) -> Info:
        """Change the labels of a snapshot. Its store paths stay those that it was made with.

        Args:
            name: of the snapshot.
            labels: the new ones.
            fields: which of them: ``labels``, ``labels.KEY``; all when it is empty.

        Raises:
            NotFoundError: there is none.
            InvalidArgumentError: a field or a label cannot be.
        """
        return self._store.update(name, labels, fields)

    def walk(self, wanted: Filter = ALL) -> list[Info]:
        """The snapshots that are wanted, by name."""
        return [info for info in self._store.walk(wanted.known) if wanted.holds(info)]

    def usage(self, key: str) -> Usage:
        """What a snapshot takes on the disk, its parents and its store paths not counted.

        Raises:
            NotFoundError: there is none.
        """
        id_, kind, committed = self._store.usage(key)
        return self._layers.usage(id_) if kind is Kind.ACTIVE else committed

    def counts(self) -> dict[Kind, int]:
        """How many snapshots there are of each kind."""
        return self._store.counts()
