"""A database made of what lies in a store and somebody vouches for.

Of each tree that no sound row names:

    its NAR is made anew from the disk
    what can still be read of the old database is a claim about it, let in as `verify` would;
      what neither a key nor a content address vouches for must name all references in it
    a cache that the policy believes has a claim with the same NAR hash
    a content address follows from a NAR hash alone, where nothing is referred to

and it is registered when all its references are. What nobody vouches for stays on disk, is told,
and is noted: to a collector it is garbage, and ours asks first. Where no tree at all can be had
back, the old database stays as well, and a store that cannot be opened cannot be collected.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from nixfetch.cache.client import HEALABLE
from nixfetch.errors import NixfetchError, TrustError
from nixfetch.fetch.jobs import LOOKUPS
from nixfetch.formats.contentaddress import ContentAddress, Method
from nixfetch.store.database import Registration
from nixfetch.store.derivation import outputs_of
from nixfetch.store.layout import Layout
from nixfetch.store.rebuild import Rebuilding, rebuilding
from nixfetch.store.signatures import claim
from nixfetch.store.unregistered import note_unregistered, noted
from nixfetch.streams.references import ReferenceScanner
from nixfetch.verify.content import Measured, check_content, compare, measure
from nixfetch.verify.verdict import LostPathError, LostReferenceError
from nixfetch.verify.work import Stop, run_jobs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from nixfetch.cache.group import CacheGroup
    from nixfetch.formats.narinfo import NarInfo
    from nixfetch.formats.storepath import StorePath
    from nixfetch.plan.trust import TrustPolicy


class UnnamedReferenceError(TrustError):
    """A tree contains references that its row in the old database does not name."""


@dataclass(frozen=True, slots=True)
class NotRecovered:
    """A tree that stays where it is, unregistered; or a path without one."""

    path: StorePath
    problem: NixfetchError


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What came of it."""

    recovered: tuple[StorePath, ...]
    """Registered now, ascending."""
    kept: tuple[StorePath, ...]
    """Registered before, in a database that was sound; nobody looked at them."""
    left: tuple[NotRecovered, ...]
    """By path."""
    old_database: Path | None
    """Where the damaged one is now; None when there was none, or it is in use."""
    replaced: bool
    """Whether there is a new database. Else the old one was sound, or nothing could be had back."""


def rebuild_database(
    root: Path,
    *,
    caches: CacheGroup,
    policy: TrustPolicy,
    jobs: int | None = None,
    on_result: Callable[[NotRecovered], None] = lambda _: None,
    now: Callable[[], float] = time.time,
) -> Rebuilt:
    """Make a database of the paths that lie below `root`; touch none of them.

    Args:
        root: of a store that nobody has open.
        caches: who may vouch for what is there.
        policy: whom to believe.
        jobs: trees read at a time; None for one a core.
        on_result: called in the calling thread with each tree that is not registered.
        now: seconds since 1970.

    Raises:
        NotAStoreError: there is no store.
        BusyStoreError: somebody has it open.
        SchemaError: its database is of a version that we do not know.
        DiskError, DatabaseError: the new one cannot be made; the old one is in its place.
    """
    with rebuilding(Layout(root.absolute()), now=now) as store:
        kept = set(store.valid or ())
        paths = [path for path in store.trees if path not in kept]
        run = _Run(store, caches, policy, threads=jobs or os.cpu_count() or 1, on_result=on_result)
        vouched = run.judge(paths)
        for path in sorted(set(store.claims) - kept - set(store.trees)):
            run.leave(path, LostPathError("path was registered, but is not there", path=path))
        good = run.closed(vouched, kept)
        old, replaced = None, not store.sound and bool(good or not store.trees)
        if replaced:  # what a sound database does not have was none of its paths
            lost = set(store.trees).difference(good)
            note_unregistered(store.layout, lost.union(noted(store.layout)))
        if good or replaced:
            old = store.finish(good.values())
    return Rebuilt(
        recovered=tuple(sorted(good)),
        kept=tuple(sorted(kept)),
        left=tuple(sorted(run.left, key=lambda one: one.path)),
        old_database=old,
        replaced=replaced,
    )


@dataclass(frozen=True, slots=True)
class _Judged:
    path: StorePath
    found: Measured | None = None
    registration: Registration | None = None
    problem: NixfetchError | None = None


class _Run:
    def __init__(
        self,
        store: Rebuilding,
        caches: CacheGroup,
        policy: TrustPolicy,
        *,
        threads: int,
        on_result: Callable[[NotRecovered], None],
    ) -> None:
        self._store, self._caches, self._policy = store, caches, policy
        self._threads, self._on_result = threads, on_result
        self._hash_parts = [path.hash_part.encode() for path in store.trees]
        self._stop = Stop()
        self.left: list[NotRecovered] = []

    def leave(self, path: StorePath, problem: NixfetchError) -> None:
        """Tell of a path that is not registered."""
        self.left.append(NotRecovered(path, problem))
        self._on_result(self.left[-1])

    def judge(self, paths: list[StorePath]) -> dict[StorePath, Registration]:
        """What somebody vouches for."""
        found = self._work("rebuild", self._read, paths, self._threads)
        unsettled = {
            one.path: one for one in found if one.registration is None and one.found is not None
        }
        asked = self._work(
            "rebuild-lookup", lambda path: self._ask(unsettled[path]), list(unsettled), LOOKUPS
        )
        vouched: dict[StorePath, Registration] = {}
        for one in (*(one for one in found if one.path not in unsettled), *asked):
            if one.registration is not None:
                vouched[one.path] = one.registration
            elif one.problem is not None:
                self.leave(one.path, one.problem)
        return vouched

    def closed(
        self, vouched: dict[StorePath, Registration], valid: set[StorePath]
    ) -> dict[StorePath, Registration]:
        """Those whose references are all among them, or valid."""
        good = dict(vouched)
        while lacking := {
            path: lost
            for path, entry in good.items()
            if (lost := [one for one in entry.references if one not in good and one not in valid])
        }:
            for path, lost in lacking.items():
                del good[path]
                problem = "what it refers to could not be registered"
                self.leave(path, LostReferenceError(problem, path=path, references=lost))
        return good

    def _work(
        self,
        name: str,
        job: Callable[[StorePath], _Judged],
        paths: Iterable[StorePath],
        threads: int,
    ) -> list[_Judged]:
        self._stop = Stop()
        work = (partial(job, path) for path in paths)
        return list(run_jobs(name, work, threads=threads, stop=self._stop))

    # In threads.

    def _read(self, path: StorePath) -> _Judged:
        """Make the NAR anew, and see whether what is known here vouches for it."""
        known = self._store.claims.get(path)
        try:
            scanner = self._scanner(known)
            found = measure(self._store.fd, path, stop=self._stop, scanner=scanner)
            if known is None or not self._is_good(known, found, scanner):
                return _Judged(path, found)
            return _Judged(path, found, self._with_outputs(known))
        except NixfetchError as error:
            return _Judged(path, problem=error)

    def _scanner(self, known: Registration | None) -> ReferenceScanner | None:
        """What looks for references, where nothing but the old row names them."""
        if known is None or known.ca is not None:
            return None
        if self._policy.check and not known.ultimate:
            return None
        return ReferenceScanner(self._hash_parts)

    def _is_good(
        self, known: Registration, found: Measured, scanner: ReferenceScanner | None
    ) -> bool:
        """Whether the old row is to be believed; what is wrong with it, a cache may heal."""
        info = claim(known)
        try:
            compare(found, info)
            self._policy.admit(info, check=not known.ultimate)
            if info.ca is not None:
                check_content(self._store.fd, info, stop=self._stop)
            if scanner is not None:
                _check_references(known, scanner)
        except HEALABLE:
            return False
        return True

    def _ask(self, one: _Judged) -> _Judged:
        """See whether a cache vouches for a tree, or its name does."""
        assert one.found is not None
        try:
            found = self._caches.find(one.path, self._policy)
            while True:
                info = found.trusted.info
                try:
                    compare(one.found, info)
                    if info.ca is not None:
                        check_content(self._store.fd, info, stop=self._stop)
                except HEALABLE as error:
                    found = self._caches.find_next(found, error, self._policy)
                else:
                    registration = self._with_outputs(self._registration(info))
                    return _Judged(one.path, one.found, registration)
        except NixfetchError as error:
            address = ContentAddress(Method.RECURSIVE, one.found.nar_hash)
            if not address.is_address_of(one.path, ()):
                return _Judged(one.path, one.found, problem=error)
            return _Judged(one.path, one.found, self._addressed(one.path, one.found, address))

    def _addressed(self, path: StorePath, found: Measured, address: ContentAddress) -> Registration:
        return Registration(
            path=path,
            nar_hash=found.nar_hash,
            nar_size=found.nar_size,
            ca=address,
            registered=int(self._store.now()),
        )

    def _registration(self, info: NarInfo) -> Registration:
        return Registration(
            path=info.path,
            nar_hash=info.nar_hash,
            nar_size=info.nar_size,
            references=info.references,
            deriver=info.deriver,
            signatures=info.signatures,
            ca=info.ca,
            registered=int(self._store.now()),
        )

    def _with_outputs(self, entry: Registration) -> Registration:
        if not entry.path.is_derivation:
            return entry
        return replace(entry, outputs=outputs_of(self._store.fd, entry.path))


def _check_references(known: Registration, scanner: ReferenceScanner) -> None:
    named = {path.hash_part.encode() for path in known.references}
    if unnamed := scanner.found - named:
        raise UnnamedReferenceError(
            "the old database does not name all that the path refers to",
            path=known.path,
            unnamed=sorted(part.decode() for part in unnamed),
        )
