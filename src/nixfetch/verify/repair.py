"""Giving bad paths of a store fresh trees from the caches.

Of each path, with its lock and a temporary root held:

    look again          another process may have been first
    metadata            put right in place
    content             a cache that the policy believes, and whose NAR hash is the registered
                        one; what says another is refused: it would be another path of the name
    exchange            the old tree or the fresh one is there at any moment

A bad file that is shared is bad in all that share it: whoever has its inode and was not read
is examined too, and repaired. Locks: one path's at a time for each thread, and nothing is
waited for with a second one held, so nothing can lock up.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from nixfetch.errors import NixfetchError, StoreError, TrustError
from nixfetch.fetch.path import Gauge, transfer
from nixfetch.plan.content import WrongContentError
from nixfetch.store import ContentMismatchError
from nixfetch.store.disk import DiskError, disk_errors
from nixfetch.store.inodes import has_any
from nixfetch.store.metadata import make_canonical
from nixfetch.verify.examine import Examiner
from nixfetch.verify.verdict import LostPathError, LostReferenceError, Verdict
from nixfetch.verify.work import Stop, run_jobs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from nixfetch.cache.group import CacheGroup, Found
    from nixfetch.formats.storepath import StorePath
    from nixfetch.plan.trust import Trusted, TrustPolicy
    from nixfetch.store import LocalStore, Registration
    from nixfetch.store.inodes import Inode
    from nixfetch.store.replacing import Replacement

_PAUSE = 0.1  # seconds between two looks at a lock that somebody else holds
PATIENCE = 600.0  # seconds; another process may be downloading that very path
_UNREADABLE = frozenset({"EIO", "EUCLEAN", "EBADMSG"})
"""What a disk says that lost the data; a fresh file lies elsewhere on it."""


class OtherContentError(TrustError):
    """A cache vouches for other content than is registered under the path's name."""


class BusyPathError(StoreError):
    """Another process works on the path, and does not end."""


def repair_paths(
    store: LocalStore,
    verdicts: Iterable[Verdict],
    *,
    caches: CacheGroup,
    policy: TrustPolicy,
    jobs: int | None = None,
    on_result: Callable[[Verdict], None] = lambda _: None,
    sleep: Callable[[float], None] = time.sleep,
    patience: float = PATIENCE,
) -> list[Verdict]:
    """Repair what `verify_paths` found: bad contents, lost trees, metadata.

    Registrations stay as they are: a path that lacks a signature still does.

    Args:
        store: open for writing.
        verdicts: of this store. Good ones say what need not be looked at.
        caches: where fresh trees come from.
        policy: whom to believe.
        jobs: paths repaired at a time; None for one a core.
        on_result: called in the calling thread with each path that was bad, as it is done.
        sleep: waits for a number of seconds.
        patience: seconds to wait for another process that works on a path.

    Returns:
        Verdicts as they are now, in the order of `verdicts`; behind them those of other paths
        that shared a bad file, or were referred to and lost.

    Raises:
        ReadOnlyStoreError: the store was opened for reading.
        Whatever `on_result` raises.
    """
    threads = jobs or os.cpu_count() or 1
    run = _Run(store, caches, policy, threads=threads, sleep=sleep, patience=patience)
    results = {verdict.path: verdict for verdict in verdicts}
    pending = [verdict.path for verdict in results.values() if _needs_work(verdict)]
    pending += _lost_references(results.values(), set(pending))
    done: set[StorePath] = set()
    while pending:
        done.update(pending)
        for verdict in run.repair(pending):
            if verdict.path in results or verdict.problems or verdict.repaired:
                results[verdict.path] = verdict
                if not _waits(verdict):
                    on_result(verdict)
        pending = _lost_references(results.values(), done)
        read = {path for path, verdict in results.items() if verdict.read and verdict.is_good}
        pending += run.sharing(done | read | set(pending))
    for verdict in filter(_waits, list(results.values())):
        results[verdict.path] = run.look_for_references(verdict)
        on_result(results[verdict.path])
    return list(results.values())


def _mendable(problem: NixfetchError) -> bool:
    if isinstance(problem, DiskError):
        return problem.facts.get("errno") in _UNREADABLE
    return isinstance(problem, ContentMismatchError | WrongContentError | LostPathError)


def _needs_work(verdict: Verdict) -> bool:
    """Whether it is worth looking again: a file that may not be read has a mode to be mended."""
    unread = any(isinstance(problem, DiskError) for problem in verdict.problems)
    return bool(verdict.warnings) or unread or any(map(_mendable, verdict.problems))


def _waits(verdict: Verdict) -> bool:
    return any(isinstance(problem, LostReferenceError) for problem in verdict.problems)


def _lost_references(verdicts: Iterable[Verdict], known: set[StorePath]) -> list[StorePath]:
    lost: dict[StorePath, None] = {}
    for verdict in verdicts:
        for problem in verdict.problems:
            if isinstance(problem, LostReferenceError):
                references = problem.facts["references"]
                assert isinstance(references, list)
                lost |= dict.fromkeys(path for path in references if path not in known)
    return list(lost)


class _Run:
    def __init__(
        self,
        store: LocalStore,
        caches: CacheGroup,
        policy: TrustPolicy,
        *,
        threads: int,
        sleep: Callable[[float], None],
        patience: float,
    ) -> None:
        self._store, self._caches, self._policy = store, caches, policy
        self._threads, self._sleep, self._patience = threads, sleep, patience
        self._stop = Stop()
        self._examiner = Examiner(store, policy, contents=True, stop=self._stop)
        self._lock = threading.Lock()
        self._shared: set[Inode] = set()  # bad files that have names elsewhere

    def repair(self, paths: list[StorePath]) -> Iterator[Verdict]:
        """Repair paths, several at a time."""
        self._stop = Stop()
        self._examiner = Examiner(self._store, self._policy, contents=True, stop=self._stop)
        work = (partial(self._attempt, path) for path in paths)
        return run_jobs("repair", work, threads=self._threads, stop=self._stop)

    def sharing(self, known: set[StorePath]) -> list[StorePath]:
        """Other valid paths that have one of the bad files found since the last call."""
        inodes, self._shared = self._shared, set()
        if not inodes:
            return []
        candidates = [path for path in self._store.all_valid() if path not in known]
        return [path for path in candidates if self._has_any(path, inodes)]

    def look_for_references(self, verdict: Verdict) -> Verdict:
        """`verdict` without the references that are not lost any more."""
        registration = self._store.get(verdict.path)
        if registration is not None and self._examiner.lost_references(registration):
            return verdict
        lost = tuple(p for p in verdict.problems if isinstance(p, LostReferenceError))
        others = tuple(p for p in verdict.problems if not isinstance(p, LostReferenceError))
        return replace(verdict, problems=others, repaired=(*verdict.repaired, *lost))

    def _has_any(self, path: StorePath, inodes: set[Inode]) -> bool:
        with suppress(OSError):  # it may be gone; what cannot be read is for `verify` to tell
            return has_any(self._store.fd, path.base.encode(), inodes)
        return False

    # In threads.

    def _attempt(self, path: StorePath) -> Verdict:
        try:
            with self._holding(path):
                return self._repair(path)
        except NixfetchError as error:
            return Verdict(path, (error,))

    @contextmanager
    def _holding(self, path: StorePath) -> Iterator[None]:
        self._store.hold([path])
        waited = 0.0
        while not self._store.try_lock(path):
            self._stop.check()
            if waited >= self._patience:
                raise BusyPathError("another process works on this path", path=path)
            self._sleep(_PAUSE)
            waited += _PAUSE
        try:
            yield
        finally:
            self._store.unlock(path)

    def _repair(self, path: StorePath) -> Verdict:
        verdict = self._examiner.examine(path)
        if not _needs_work(verdict):
            return verdict
        verdict = self._mend_metadata(verdict)
        registration = self._store.get(path)
        mendable = tuple(filter(_mendable, verdict.problems))
        if not mendable or registration is None:
            return verdict
        try:
            url = self._replace(registration)
        except NixfetchError as error:
            return replace(verdict, problems=(*verdict.problems, error))
        return replace(
            verdict,
            problems=tuple(problem for problem in verdict.problems if problem not in mendable),
            repaired=(*verdict.repaired, *mendable),
            repaired_from=url,
        )

    def _mend_metadata(self, verdict: Verdict) -> Verdict:
        """Put modes, owners and times right where they are, and look again."""
        path = verdict.path
        if any(isinstance(problem, LostPathError) for problem in verdict.problems):
            return verdict
        try:
            with disk_errors(self._store.physical(path)):
                mended = make_canonical(self._store.fd, path.base.encode())
        except DiskError as error:
            return replace(verdict, problems=(*verdict.problems, error))
        if not mended:
            return verdict
        return replace(self._examiner.examine(path), repaired=verdict.warnings)

    def _replace(self, registration: Registration) -> str:
        """Fetch a fresh tree and exchange it; the URL of the cache that had it."""

        def write(trusted: Trusted, chunks: Iterator[bytes]) -> Replacement:
            with self._store.replacing(trusted) as fresh:
                for chunk in chunks:
                    fresh.sink.write(chunk)
            return fresh

        done = transfer(
            self._caches.find(registration.path, self._policy),
            write,
            caches=self._caches,
            policy=self._policy,
            gauge=Gauge(lambda *_: None, now=time.monotonic),
            started=partial(_of_same_content, registration),
            checkpoint=self._stop.check,
        )
        with self._lock:
            self._shared |= {inode for inode, more in done.result.shared.items() if more > 0}
        return done.found.cache.url


def _of_same_content(registration: Registration, found: Found) -> None:
    """Refuse a cache that vouches for other content than what is registered."""
    info = found.trusted.info
    if (info.nar_hash, info.nar_size) != (registration.nar_hash, registration.nar_size):
        raise OtherContentError(
            "cache vouches for other content than is registered",
            cache=found.cache.url,
            expected=str(registration.nar_hash),
            actual=str(info.nar_hash),
        )
