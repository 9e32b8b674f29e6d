"""Whether the paths of a store are still what they were registered as.

A path is good when

    it is registered, and there
    its references are registered, and there
    the policy would let it in again; what was built here (ultimate) needs no signature
    its NAR, made anew from the disk, has the registered size and hash, and the content that its
      content address says

Changes nothing: a store that is open for reading will do. Knows no caches.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import queue
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nixfetch.errors import NixfetchError, TrustError
from nixfetch.fetch.pool import Crash, Pool
from nixfetch.formats.hashes import Hash
from nixfetch.formats.nar import NarWriter
from nixfetch.plan.content import content_check
from nixfetch.store import ContentMismatchError
from nixfetch.store.disk import disk_errors
from nixfetch.store.dump import UnsupportedFileError, dump
from nixfetch.store.signatures import claim

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from nixfetch.formats.storepath import StorePath
    from nixfetch.plan.trust import TrustPolicy
    from nixfetch.store import LocalStore, Registration

_PATIENCE = 2.0  # seconds that an interrupted run waits for its threads
_AHEAD = 2  # paths a thread has waiting, so that none is idle


class NotRegisteredError(TrustError):
    """Nothing is known of the path in this store."""


class LostPathError(TrustError):
    """The path is registered, but not on disk."""


class LostReferenceError(TrustError):
    """What the path refers to is not registered, or not on disk."""


class _Stopped(Exception):  # noqa: N818 - a signal between us and our threads, no error
    """Nobody waits for the verdict any more."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found out about one path."""

    path: StorePath
    problems: tuple[NixfetchError, ...] = ()
    """`TrustError`s: it is not what it should be. Others: it could not be examined."""
    signed_by: tuple[str, ...] = ()
    """Names of trusted keys that signed it, ascending."""
    content_addressed: bool = False

    @property
    def is_good(self) -> bool:
        """Whether nothing is wrong with it."""
        return not self.problems

    @property
    def is_registered(self) -> bool:
        """Whether it was valid, so that there was something to verify."""
        return not any(isinstance(problem, NotRegisteredError) for problem in self.problems)


def verify_paths(
    store: LocalStore,
    paths: Iterable[StorePath],
    *,
    policy: TrustPolicy,
    contents: bool = True,
    jobs: int | None = None,
    on_result: Callable[[Verdict], None] = lambda _: None,
) -> list[Verdict]:
    """Examine paths of a store, several at a time.

    Args:
        store: may be open for reading only.
        paths: of this store. One that is collected meanwhile is not registered any more.
        policy: whose signatures are needed.
        contents: also read the files; else only the database and whether the paths are there.
        jobs: threads; None for one a core.
        on_result: called in the calling thread with each verdict as it comes.

    Returns:
        A verdict a path, in the order of `paths`, each once.

    Raises:
        Whatever `on_result` raises.
    """
    wanted = list(dict.fromkeys(paths))
    verdicts: dict[StorePath, Verdict] = {}
    examiner = _Examiner(store, policy, contents=contents)
    for verdict in _run(examiner, wanted, jobs or os.cpu_count() or 1):
        verdicts[verdict.path] = verdict
        on_result(verdict)
    return [verdicts[path] for path in wanted]


def _run(examiner: _Examiner, paths: list[StorePath], jobs: int) -> Iterator[Verdict]:
    results: queue.SimpleQueue[Verdict | Crash] = queue.SimpleQueue()
    pool: Pool[Verdict] = Pool("verify", jobs, results)
    pending = iter(paths)
    try:
        for path in itertools.islice(pending, jobs * _AHEAD):
            pool.submit(examiner.job(path))
        while pool.pending:
            result = results.get()
            pool.pending -= 1
            if isinstance(result, Crash):
                raise result.error
            for path in itertools.islice(pending, 1):
                pool.submit(examiner.job(path))
            yield result
    finally:
        examiner.stopped.set()
        pool.close(deadline=time.monotonic() + _PATIENCE)


class _Examiner:
    """Examines one path, in any thread."""

    def __init__(self, store: LocalStore, policy: TrustPolicy, *, contents: bool) -> None:
        self._store = store
        self._policy = policy
        self._contents = contents
        self.stopped = threading.Event()

    def job(self, path: StorePath) -> Callable[[], Verdict]:
        return lambda: self.examine(path)

    def examine(self, path: StorePath) -> Verdict:
        try:
            verdict = self._examine(path)
            # Collected while we looked: not damaged, but gone.
            if verdict.problems and self._store.get(path) is None:
                return _not_registered(path)
        except NixfetchError as error:
            return Verdict(path, (error,))
        return verdict

    def _examine(self, path: StorePath) -> Verdict:
        registration = self._store.get(path)
        if registration is None:
            return _not_registered(path)
        problems: list[NixfetchError] = []
        signed_by: tuple[str, ...] = ()
        try:
            trusted = self._policy.admit(claim(registration), check=not registration.ultimate)
            signed_by = trusted.signed_by
        except TrustError as error:
            problems.append(error)
        for check in (self._references, self._tree):
            try:
                check(registration)
            except NixfetchError as error:
                problems.append(error)
        return Verdict(path, tuple(problems), signed_by, registration.ca is not None)

    def _references(self, registration: Registration) -> None:
        references = [path for path in registration.references if path != registration.path]
        there = {path for path in self._store.valid(references) if self._is_there(path)}
        lost = [path for path in references if path not in there]
        if lost:
            raise LostReferenceError(
                "what it refers to is not there", path=registration.path, references=lost
            )

    def _tree(self, registration: Registration) -> None:
        if not self._is_there(registration.path):
            raise LostPathError("path is registered, but not there", path=registration.path)
        if self._contents:
            self._content(registration)

    def _content(self, registration: Registration) -> None:
        """Make the NAR anew, and compare."""
        path = registration.path
        content = content_check(claim(registration))
        writer, state, size = NarWriter(), hashlib.sha256(), 0
        try:
            for event in dump(self._store.fd, path.base.encode()):
                if self.stopped.is_set():
                    raise _Stopped
                piece = writer.apply(event)
                state.update(piece)
                size += len(piece)
                if content is not None:
                    content.update(piece if isinstance(piece, bytes) else bytes(piece))
                    content.apply(event)
        except UnsupportedFileError as error:
            file = error.facts.get("file")
            raise ContentMismatchError(error.problem, path=path, file=file) from error
        expected, actual = registration.nar_hash, Hash("sha256", state.digest())
        if (size, actual) != (registration.nar_size, expected):
            raise ContentMismatchError(
                "content is not what was registered",
                path=path,
                expected=str(expected),
                actual=str(actual),
                expected_size=registration.nar_size,
                actual_size=size,
            )
        if content is not None:
            content.finish()

    def _is_there(self, path: StorePath) -> bool:
        with disk_errors(self._store.physical(path)):
            try:
                os.stat(path.base, dir_fd=self._store.fd, follow_symlinks=False)
            except FileNotFoundError:
                return False
        return True


def _not_registered(path: StorePath) -> Verdict:
    return Verdict(path, (NotRegisteredError("path is not valid in this store", path=path),))
