"""Whether the paths of a store are still what they were registered as.

A path is good when

    it is registered, and there
    its references are registered, and there
    the policy would let it in again; what was built here (ultimate) needs no signature
    its NAR, made anew from the disk, has the registered size and hash, and the content that its
      content address says

Modes, owners and times are looked at too, and only warned of. Changes nothing: a store that is
open for reading will do. Knows no caches.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from nixfetch.errors import NixfetchError, TrustError
from nixfetch.store.disk import disk_errors
from nixfetch.store.metadata import flaws
from nixfetch.store.signatures import claim
from nixfetch.verify.content import check_content
from nixfetch.verify.verdict import (
    LostPathError,
    LostReferenceError,
    MetadataError,
    Verdict,
    not_registered,
)
from nixfetch.verify.work import Stop, run_jobs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nixfetch.formats.storepath import StorePath
    from nixfetch.plan.trust import TrustPolicy
    from nixfetch.store import LocalStore, Registration


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
    stop = Stop()
    examiner = Examiner(store, policy, contents=contents, stop=stop)
    work = (partial(examiner.examine, path) for path in wanted)
    for verdict in run_jobs("verify", work, threads=jobs or os.cpu_count() or 1, stop=stop):
        verdicts[verdict.path] = verdict
        on_result(verdict)
    return [verdicts[path] for path in wanted]


class Examiner:
    """Examines one path, in any thread."""

    def __init__(
        self, store: LocalStore, policy: TrustPolicy, *, contents: bool, stop: Stop
    ) -> None:
        """Examine paths of `store`; see `verify_paths`."""
        self._store = store
        self._policy = policy
        self._contents = contents
        self._stop = stop

    def examine(self, path: StorePath) -> Verdict:
        """Never raises a `NixfetchError`: what cannot be examined is a problem of the path."""
        try:
            verdict = self._examine(path)
            # Collected while we looked: not damaged, but gone.
            if verdict.problems and self._store.get(path) is None:
                return not_registered(path)
        except NixfetchError as error:
            return Verdict(path, (error,))
        return verdict

    def lost_references(self, registration: Registration) -> list[StorePath]:
        """What the path refers to, and is not registered or not on disk."""
        references = [path for path in registration.references if path != registration.path]
        there = {path for path in self._store.valid(references) if self._is_there(path)}
        return [path for path in references if path not in there]

    def _examine(self, path: StorePath) -> Verdict:
        registration = self._store.get(path)
        if registration is None:
            return not_registered(path)
        problems: list[NixfetchError] = []
        signed_by: tuple[str, ...] = ()
        try:
            trusted = self._policy.admit(claim(registration), check=not registration.ultimate)
            signed_by = trusted.signed_by
        except TrustError as error:
            problems.append(error)
        warnings: list[NixfetchError] = []
        for check in (self._references, self._tree):
            try:
                check(registration, warnings)
            except NixfetchError as error:
                problems.append(error)
        return Verdict(
            path,
            tuple(problems),
            signed_by,
            content_addressed=registration.ca is not None,
            warnings=tuple(warnings),
            read=self._contents,
        )

    def _references(self, registration: Registration, _: list[NixfetchError]) -> None:
        if lost := self.lost_references(registration):
            raise LostReferenceError(
                "what it refers to is not there", path=registration.path, references=lost
            )

    def _tree(self, registration: Registration, warnings: list[NixfetchError]) -> None:
        path = registration.path
        if not self._is_there(path):
            raise LostPathError("path is registered, but not there", path=path)
        if self._contents:
            warnings.extend(self._flaws(path))
            check_content(self._store.fd, claim(registration), stop=self._stop)

    def _flaws(self, path: StorePath) -> list[NixfetchError]:
        with disk_errors(self._store.physical(path)):
            found = list(flaws(self._store.fd, path.base.encode()))
        if not found:
            return []
        first = found[0]
        return [
            MetadataError(
                "metadata is not canonical",
                hint="`nixfetch verify --repair` puts it right",
                path=path,
                files=len(found),
                file=os.fsdecode(first.file) or ".",
                found=first.what,
            )
        ]

    def _is_there(self, path: StorePath) -> bool:
        with disk_errors(self._store.physical(path)):
            try:
                os.stat(path.base, dir_fd=self._store.fd, follow_symlinks=False)
            except FileNotFoundError:
                return False
        return True
