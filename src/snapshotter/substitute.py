"""Store paths for snapshots: the whole closure present, verified and rooted, or an error.

    labels -> paths, and the list of a closure -> all that they refer to -> all valid? ──yes──> root
                                                                  └─no─> fetch, in one call ──> root

Whoever has what he asks for already is done within a few system calls: nothing is fetched, no lock
is taken. Threads that want the same fetch wait for the one that does it; at most `at_once` fetches
run at a time. Each has a `LocalStore` of its own, since that one's temporary roots and staged
trees belong to the run; two that want the same path settle it by its lock on the disk.

A set of roots is made while temporary ones still hold its paths, and before `ensure` returns. It
links to those of the paths that no other refers to: what they refer to is kept with them.

What comes out of here is believed by nobody: `sources` asks the database and the disk once more.
"""

from __future__ import annotations

import os
import stat
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol

import nixfetch
from snapshotter import closurelist
from snapshotter.errors import PreconditionError
from snapshotter.flights import LOOK, Flights, check_cancelled

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from nixfetch import LocalStore, StorePath
    from snapshotter.labels import NixLayer

PREFIX = "snapshotter-"
"""What the names of our sets of roots begin with."""
AT_ONCE = 4  # fetches at a time; each has some thirty threads


class Fetch(Protocol):
    """`nixfetch.fetch_closure` with the caches and the policy of whoever runs us."""

    def __call__(
        self,
        paths: Sequence[StorePath],
        /,
        *,
        store: LocalStore,
        cancelled: Callable[[], bool],
    ) -> object:
        """Make `paths`, and all that they refer to, valid in `store`, or raise."""


class Substitute:
    """The store paths of one daemon. Safe to share among threads."""

    def __init__(
        self,
        store: LocalStore,
        fetch: Fetch,
        *,
        open_store: Callable[[], LocalStore] | None = None,
        at_once: int = AT_ONCE,
    ) -> None:
        """Work on `store`, which stays the caller's.

        Args:
            store: open for writing, for as long as this is used: for questions and for roots.
            fetch: from where, and whom to believe.
            open_store: opens it once more, for one fetch.
            at_once: fetches at a time.
        """
        self._store = store
        self._fetch = fetch
        self._open_store = open_store or (lambda: nixfetch.LocalStore(store.root))
        self._roots = nixfetch.Roots(store)
        self._flights = Flights()
        self._places = threading.Semaphore(at_once)

    # Having them.

    def ensure(
        self, layer: NixLayer, *, root: str, cancelled: Callable[[], bool]
    ) -> tuple[StorePath, ...]:
        """Have the whole closure of a layer valid, present, and rooted as `root`.

        Args:
            layer: as its labels have it.
            root: the name of its roots.
            cancelled: whether nobody waits for it any more; asked several times a second.

        Returns:
            The paths of the layer and all that they refer to, ascending. The path that lists a
            closure is kept too, but is no part of it.

        Raises:
            FetchFailedError: some are not to be had. Says which, and what each cache answered.
            PreconditionError: the list of the closure is none, or a tree is missing.
            CancelledError: `cancelled` said so.
            StoreError: this machine cannot go on.
        """
        while True:
            closure = self._rooted(layer, root)
            if closure is not None:
                return closure
            with self._flights.joining((layer.closure, frozenset(layer.paths)), cancelled) as ours:
                if ours:
                    return self._fetched(layer, root, cancelled)

    def _rooted(self, layer: NixLayer, root: str) -> tuple[StorePath, ...] | None:
        """The closure, rooted now; None when something of it has to be fetched."""
        asked = {*layer.paths, *((layer.closure,) if layer.closure else ())}
        known = self._store.closure(asked)
        if asked - known.keys():
            return None
        try:
            wanted = self._wanted(layer)
            if wanted - known.keys():
                known = self._store.closure(asked | wanted)
            if wanted - known.keys():
                return None
            closure = self._closure(wanted, known)
            with self._rooting(root):
                self._add_root(root, known)
                self._check(closure)
        except (nixfetch.PathNotValidError, _ListGoneError):  # collected meanwhile
            return None
        return closure

    @contextmanager
    def _rooting(self, root: str) -> Iterator[None]:
        """Leave no root behind an error."""
        try:
            yield
        except BaseException:
            with suppress(nixfetch.NixfetchError):  # the first error is the one to tell
                self.unroot(root)
            raise

    def _fetched(
        self, layer: NixLayer, root: str, cancelled: Callable[[], bool]
    ) -> tuple[StorePath, ...]:
        with self._place(cancelled):
            # Whoever had the place before may have brought it all.
            closure = self._rooted(layer, root)
            if closure is not None:
                return closure
            with self._open_store() as store:
                asked = list(layer.paths)
                if layer.closure is not None:
                    # What it lists it refers to, if `closureInfo` made it: this has it all.
                    self._fetch([layer.closure, *asked], store=store, cancelled=cancelled)
                    wanted = self._wanted(layer)
                    asked = sorted(wanted - self._store.valid(wanted))
                if asked:
                    self._fetch(asked, store=store, cancelled=cancelled)
                # The store still holds what was fetched.
                closure = self._rooted(layer, root)
            if closure is None:
                raise PreconditionError("the closure of a layer went away while it was fetched")
            return closure

    @contextmanager
    def _place(self, cancelled: Callable[[], bool]) -> Iterator[None]:
        while not self._places.acquire(timeout=LOOK):
            check_cancelled(cancelled)
        try:
            yield
        finally:
            self._places.release()

    def _wanted(self, layer: NixLayer) -> set[StorePath]:
        """What a container is to see, but for what that refers to."""
        listed = () if layer.closure is None else self._listed(layer.closure)
        return {*layer.paths, *listed}

    def _closure(
        self, wanted: set[StorePath], known: Mapping[StorePath, tuple[StorePath, ...]]
    ) -> tuple[StorePath, ...]:
        """`wanted` and all that it refers to, of what is known."""
        reached, pending = set(wanted), list(wanted)
        while pending:
            fresh = set(known[pending.pop()]) - reached
            reached |= fresh
            pending += fresh
        return tuple(sorted(reached))

    def _listed(self, closure: StorePath) -> list[StorePath]:
        """The paths that a `closureInfo` lists."""
        try:
            return closurelist.read(self._store.fd, closure)
        except closurelist.NoListError as error:
            if closure not in self._store.valid([closure]):
                raise _ListGoneError("a closure went away", path=closure) from error
            raise

    # Their roots.

    def root(self, name: str, paths: Collection[StorePath]) -> None:
        """Keep `paths` and all that they refer to, as one set, in place of one of that name.

        Raises:
            PathNotValidError: one is not valid. There is no root then.
            StoreError: it cannot be made.
        """
        known = self._store.closure(paths)
        for path in paths:
            if path not in known:
                raise nixfetch.PathNotValidError("path is not valid in this store", path=path)
        self._add_root(name, known)

    def _add_root(self, name: str, known: Mapping[StorePath, tuple[StorePath, ...]]) -> None:
        self._roots.add_set(PREFIX + name, _tops(known))

    def unroot(self, name: str) -> None:
        """Keep them no longer; without such a root nothing happens.

        Raises:
            StoreError: it cannot be removed.
        """
        with suppress(nixfetch.NoSuchRootError):
            self._roots.remove(PREFIX + name)

    def roots(self) -> set[str]:
        """The names of all sets that there are, of whoever shares the store with us too."""
        names = self._roots.sets()
        return {name.removeprefix(PREFIX) for name in names if name.startswith(PREFIX)}

    def sweep(self) -> None:
        """Remove what a crash left of sets that were being made."""
        self._roots.sweep()

    # Where they are.

    def sources(self, paths: Iterable[StorePath]) -> list[tuple[StorePath, str]]:
        """Where each of `paths` lies, to be mounted: checked anew, whoever says it was before.

        Raises:
            PreconditionError: one has not the form of a store path, is not valid, is not a
                directory or file of the store; or the store is not where it was. A bind would
                follow a symbolic link, so that is none either: see `links`.
        """
        sources, links = self.located(paths)
        for path in links:
            raise PreconditionError(
                "store path is no file or directory that can be mounted", path=path
            )
        return sources

    def located(
        self, paths: Iterable[StorePath]
    ) -> tuple[list[tuple[StorePath, str]], tuple[StorePath, ...]]:
        """What `sources` says of those that are no symbolic links, and `links`; one check."""
        sources: list[tuple[StorePath, str]] = []
        links: list[StorePath] = []
        store = str(self._store.layout.store)
        for path, mode in self._checked(paths):
            if stat.S_ISLNK(mode):
                links.append(path)
            elif stat.S_ISDIR(mode) or stat.S_ISREG(mode):
                sources.append((path, f"{store}/{path.base}"))
            else:
                raise PreconditionError(
                    "store path is no file or directory that can be mounted", path=path
                )
        return sources, tuple(sorted(links))

    def links(self, paths: Iterable[StorePath]) -> tuple[StorePath, ...]:
        """Those of `paths` that are symbolic links themselves, ascending.

        Raises:
            PreconditionError: one has not the form of a store path, is not valid or not there.
        """
        return self.located(paths)[1]

    def _check(self, paths: Collection[StorePath]) -> None:
        self._checked(paths)

    def _checked(self, paths: Iterable[StorePath]) -> list[tuple[StorePath, int]]:
        """`paths`, parsed again, valid, each with the mode of what is there."""
        parsed = list(map(_parsed, paths))
        valid = self._store.valid(parsed)
        self._check_place()
        found = []
        for path in parsed:
            if path not in valid:
                raise PreconditionError("store path is not valid in this store", path=path)
            try:
                status = os.stat(path.base, dir_fd=self._store.fd, follow_symlinks=False)
            except OSError as error:
                raise PreconditionError(
                    "store path is valid, but its tree is not there",
                    hint=f"`nixfetch verify --repair {path}` fetches it anew",
                    path=path,
                    reason=error.strerror,
                ) from error
            found.append((path, status.st_mode))
        return found

    def _check_place(self) -> None:
        """See to it that the store's name still means the directory that we look into."""
        place = self._store.layout.store
        try:
            same = os.path.samestat(place.stat(), os.fstat(self._store.fd))
        except OSError as error:
            raise PreconditionError(
                "the store cannot be looked at", store=str(place), reason=error.strerror
            ) from error
        if not same:
            raise PreconditionError("the store is not where it was", store=str(place))


class _ListGoneError(PreconditionError):
    """A path that was valid is so no longer."""


def _parsed(path: StorePath) -> StorePath:
    """`path`, which may have been made of anything."""
    try:
        return nixfetch.StorePath.parse_full(str(path))
    except nixfetch.FormatError as error:
        raise PreconditionError(
            "no store path, and never mounted", path=ascii(str(path))[:100], reason=error.problem
        ) from error


def _tops(known: Mapping[StorePath, tuple[StorePath, ...]]) -> list[StorePath]:
    """Paths that reach all of `known`: those that no other refers to, and one of each circle."""
    referred = {other for path, others in known.items() for other in others if other != path}
    tops = sorted(known.keys() - referred)
    reached: set[StorePath] = set()
    _reach(tops, known, reached)
    for path in sorted(known.keys() - reached):
        if path not in reached:
            tops.append(path)
            _reach([path], known, reached)
    return tops


def _reach(
    start: Iterable[StorePath],
    known: Mapping[StorePath, tuple[StorePath, ...]],
    reached: set[StorePath],
) -> None:
    pending = list(start)
    reached.update(pending)
    while pending:
        fresh = [path for path in known[pending.pop()] if path not in reached]
        reached.update(fresh)
        pending += fresh
