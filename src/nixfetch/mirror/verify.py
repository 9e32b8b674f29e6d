"""Whether a mirror is what it should be.

For each path that it has a narinfo of:

    the narinfo is well-formed, about that path, and trusted
    all that it refers to is in the mirror too
    its file is there, of the right size
    the file is the one of the narinfo, and holds what was signed      (of all, or of a sample)

What is bad is copied anew from other caches, where that is wanted.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from nixfetch.cache.client import HEALABLE
from nixfetch.errors import NixfetchError, TrustError
from nixfetch.mirror import naming
from nixfetch.mirror.destination import DestinationError
from nixfetch.mirror.inspection import Inspection, WrongFileError
from nixfetch.mirror.inventory import take_inventory
from nixfetch.mirror.recipe import Recipe
from nixfetch.mirror.run import MirrorFailedError, mirror_closure
from nixfetch.mirror.transfer import Watch, transfer
from nixfetch.verify.work import Stop, run_jobs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nixfetch.formats.narinfo import NarInfo
    from nixfetch.formats.storepath import StorePath
    from nixfetch.mirror.destination import Destination
    from nixfetch.mirror.inventory import Inventory
    from nixfetch.mirror.source import Sources
    from nixfetch.plan.trust import Trusted, TrustPolicy
    from nixfetch.transport.sink import Entry


class ReferenceLackingError(TrustError):
    """A path of the mirror refers to one that the mirror has not. Facts: `references`."""


class FileGoneError(TrustError):
    """The mirror has a narinfo whose file it has not."""


@dataclass(slots=True)
class Finding:
    """Something bad."""

    subject: str
    """A store path; the hash part alone where nothing more is known."""
    error: NixfetchError
    path: StorePath | None = None
    lacking: tuple[StorePath, ...] = ()
    """References that the mirror has not."""
    is_repaired: bool = False
    repair_error: NixfetchError | None = None

    def to_json(self) -> dict[str, Any]:
        """As `mirror verify --json` has it."""
        return {
            "subject": self.subject,
            "error": str(self.error),
            "repaired": self.is_repaired,
            "repair_error": None if self.repair_error is None else str(self.repair_error),
        }


@dataclass(slots=True)
class Findings:
    """What came of verifying a mirror. Sizes are bytes."""

    mirror: str
    looked_at: int = 0
    """Narinfos."""
    read: int = 0
    """Paths whose files were read."""
    bytes_read: int = 0
    bad: list[Finding] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As `mirror verify --json` has it."""
        return {
            "mirror": self.mirror,
            "verified": self.looked_at,
            "read": self.read,
            "bytes_read": self.bytes_read,
            "bad": [finding.to_json() for finding in self.bad],
        }


def verify_mirror(
    mirror: Destination,
    *,
    policy: TrustPolicy,
    share: float = 1.0,
    jobs: int = 2,
    chance: Callable[[], float] = random.random,
    on_bad: Callable[[Finding], None] = lambda _: None,
) -> Findings:
    """Look at a whole mirror; changes nothing.

    Args:
        mirror: to look at.
        policy: whom to believe.
        share: of the paths whose files are read, from 0 to 1.
        jobs: files read at a time.
        chance: gives random numbers, at least 0 and below 1: another sample every time.
        on_bad: told of what is bad, as it is found.

    Raises:
        DestinationError: it cannot be read.
    """
    findings = Findings(mirror.url)

    def bad(finding: Finding) -> None:
        findings.bad.append(finding)
        on_bad(finding)

    inventory = take_inventory(mirror)
    findings.looked_at = len(inventory.infos) + len(inventory.bad)
    for claim in inventory.bad:
        bad(Finding(claim.hash_part, claim.error))
    files = mirror.entries(naming.FOLDER)
    sample: list[Trusted] = []
    for path, info in sorted(inventory.infos.items()):
        try:
            trusted = policy.admit(info)
            _check_file(info, files, mirror)
        except TrustError as error:
            bad(Finding(str(path), error, path))
            continue
        if lacking := _lacking(info, inventory):
            bad(_lacks(path, lacking))
        if chance() < share:
            sample.append(trusted)
    for outcome in _read_all(mirror, sample, jobs):
        findings.read += 1
        if isinstance(outcome, Finding):
            bad(outcome)
        else:
            findings.bytes_read += outcome
    return findings


def _check_file(info: NarInfo, files: dict[str, Entry], mirror: Destination) -> None:
    name = naming.object_name(info.url)
    entry = None if name is None else files.get(name)
    size = mirror.size(info.url) if entry is None and name is not None else None
    size = size if entry is None else entry.size
    if size is None:
        raise FileGoneError("file of the NAR is not there", url=info.url)
    if info.file_size is not None and size != info.file_size:
        raise WrongFileError("file has the wrong size", expected=info.file_size, actual=size)


def _lacking(info: NarInfo, inventory: Inventory) -> tuple[StorePath, ...]:
    return tuple(other for other in info.references if other not in inventory.infos)


def _lacks(path: StorePath, lacking: tuple[StorePath, ...]) -> Finding:
    error = ReferenceLackingError(
        "references are not in the mirror", references=list(map(str, lacking))
    )
    return Finding(str(path), error, path, lacking)


def _read_all(mirror: Destination, sample: Iterable[Trusted], jobs: int) -> Iterable[Finding | int]:
    stop = Stop()
    work = (partial(_read, mirror, trusted, stop) for trusted in sample)
    return run_jobs("nixfetch-verify", work, threads=jobs, stop=stop)


def _read(mirror: Destination, trusted: Trusted, stop: Stop) -> Finding | int:
    info = trusted.info
    try:
        with mirror.cache.file(trusted) as chunks:
            inspection = Inspection(info, iter(chunks), decode=True)
            size = 0
            for chunk in inspection.file():
                stop.check()
                size += len(chunk)
            inspection.finish()
    except HEALABLE as error:
        return Finding(str(info.path), error, info.path)
    return size


def repair_mirror(
    mirror: Destination,
    findings: Findings,
    *,
    sources: Sources,
    on_repaired: Callable[[Finding], None] = lambda _: None,
) -> None:
    """Copy what is bad anew; says in each finding what came of it.

    Args:
        mirror: to repair.
        findings: of `verify_mirror`.
        sources: where good ones are.
        on_repaired: told of each finding, repaired or not.

    Raises:
        DestinationError: the mirror cannot be written.
    """
    for finding in findings.bad:
        try:
            _repair(mirror, finding, sources)
        except DestinationError:
            raise
        except NixfetchError as error:
            finding.repair_error = error
        else:
            finding.is_repaired = True
        on_repaired(finding)


def _repair(mirror: Destination, finding: Finding, sources: Sources) -> None:
    path = finding.path or sources.resolve(finding.subject)
    missing = finding.lacking
    if not missing:
        watch = Watch(lambda _: None, lambda _: None, lambda: None)
        copied = transfer(
            sources.find(path),
            sources=sources,
            destination=mirror,
            recipe=Recipe(verify_nar=True),
            watch=watch,
            replacing=True,
        )
        # Its references first, as always: the narinfo may be new here.
        missing = tuple(other for other in copied.info.references if other != path)
        _have(mirror, missing, sources)
        mirror.put(f"{path.hash_part}.narinfo", copied.text)
        return
    _have(mirror, missing, sources)


def _have(mirror: Destination, paths: tuple[StorePath, ...], sources: Sources) -> None:
    if not paths:
        return
    try:
        mirror_closure(paths, sources=sources, destination=mirror)
    except MirrorFailedError as error:
        cause = next(entry.error for entry in error.report.failures if entry.error is not None)
        raise cause from error
