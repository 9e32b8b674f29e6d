"""One path: from the caches that have it into the store's staging."""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from nixfetch.cache.client import HEALABLE
from nixfetch.cache.download import NarGoneError
from nixfetch.errors import FormatError, StoreError, TransportError, TrustError
from nixfetch.fetch.progress import Spent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from nixfetch.cache.download import Download
    from nixfetch.cache.group import CacheGroup, Found
    from nixfetch.errors import NixfetchError
    from nixfetch.plan.trust import Trusted, TrustPolicy
    from nixfetch.store.local import LocalStore

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
_FULL = frozenset({"ENOSPC", "EDQUOT"})


@dataclass(frozen=True, slots=True)
class Unpacked:
    """A path whose tree is finished and waits for `LocalStore.settle`."""

    found: Found
    attempts: int
    """Caches whose NAR was tried."""
    downloaded: int
    """Bytes, in vain or not."""
    saved: int
    """Bytes of files that the store had already."""
    seconds: float
    kept: bool = False
    """Whether the download is kept, for a run that is killed before the path is registered."""


class Gauge:
    """Counts the bytes of one path and what its time goes into, and says so now and then."""

    def __init__(self, tell: Callable[[int, int], None], *, now: Callable[[], float]) -> None:
        """Call `tell` with bytes downloaded and unpacked since its last call."""
        self._tell = tell
        self._now = now
        self._due = 0.0
        self._downloaded = 0
        self._unpacked = 0
        self._mark = now()  # until when time is accounted for
        self._network = self._decoding = self._disk = 0.0
        self.total = 0
        """Bytes downloaded so far."""

    def downloaded(self, size: int) -> None:
        """Count `size` bytes that arrived."""
        self._network += self._lap()
        self._downloaded += size
        self.total += size

    def decoded(self) -> None:
        """A chunk is decoded, and about to be written."""
        self._decoding += self._lap()

    def unpacked(self, size: int) -> None:
        """Count `size` bytes that were decoded and written."""
        self._disk += self._lap()
        self._unpacked += size
        if self._now() >= self._due:
            self.flush()

    def spent(self) -> Spent:
        """What time went into since the last call."""
        spent = Spent(self._network, self._decoding, self._disk)
        self._network = self._decoding = self._disk = 0.0
        return spent

    def _lap(self) -> float:
        mark, self._mark = self._mark, self._now()
        return self._mark - mark

    def flush(self) -> None:
        """Say what was not yet said."""
        if self._downloaded or self._unpacked:
            self._tell(self._downloaded, self._unpacked)
        self._downloaded = self._unpacked = 0
        self._due = self._now() + _INTERVAL


_INTERVAL = 0.1  # seconds between two words of progress about one path


def unpack(
    found: Found,
    *,
    caches: CacheGroup,
    policy: TrustPolicy,
    store: LocalStore,
    gauge: Gauge,
    started: Callable[[Found], None] = lambda _: None,
    checkpoint: Callable[[], None] = lambda: None,
    pausing: Callable[[], object] = lambda: None,
) -> Unpacked:
    """Download, verify and unpack one path, from the next cache when one fails at it.

    Args:
        found: where to begin.
        caches: where to go on.
        policy: whom to believe there.
        store: where it goes.
        gauge: is told of bytes.
        started: is told of each cache that is tried.
        checkpoint: called between chunks; raises to give up.
        pausing: called while it waits for a cache, see `Gate.asking`; raises to give up.

    Raises:
        NixfetchError: no cache gave it, or the store could not take it. Nothing is left.
    """
    begin = time.monotonic()

    def write(trusted: Trusted, chunks: Iterator[bytes]) -> int:
        with store.adding(trusted) as sink:
            for chunk in chunks:
                sink.write(chunk)
        return sink.saved

    done = transfer(
        found,
        write,
        caches=caches,
        policy=policy,
        gauge=gauge,
        started=started,
        checkpoint=checkpoint,
        pausing=pausing,
        keep=True,
    )
    gauge.flush()
    seconds = time.monotonic() - begin
    return Unpacked(done.found, done.attempts, gauge.total, done.result, seconds, done.kept)


@dataclass(frozen=True, slots=True)
class Transferred(Generic[_T]):
    """A NAR that came whole and was good."""

    found: Found
    attempts: int
    result: _T
    """Of writing it."""
    kept: bool
    """Whether the download is kept; `BinaryCache.forget_download` ends that."""


def transfer(
    found: Found,
    write: Callable[[Trusted, Iterator[bytes]], _T],
    *,
    caches: CacheGroup,
    policy: TrustPolicy,
    gauge: Gauge,
    started: Callable[[Found], None] = lambda _: None,
    checkpoint: Callable[[], None] = lambda: None,
    pausing: Callable[[], object] = lambda: None,
    keep: bool = False,
) -> Transferred[_T]:
    """Have the NAR of one path written somewhere, from the next cache when one fails at it.

    Args:
        found: where to begin.
        write: takes the decoded NAR, checks it, and leaves nothing when it raises.
        caches: where to go on.
        policy: whom to believe there.
        gauge: is told of bytes.
        started: is told of each cache that is tried; may raise what `write` may.
        checkpoint: called between chunks; raises to give up.
        pausing: called while it waits for a cache, see `Gate.asking`; raises to give up.
        keep: keep a large download when it is done: what was written may yet be lost.

    Raises:
        NixfetchError: no cache gave it, or the store could not take it.
    """
    failed: list[tuple[Found, NixfetchError]] = []
    anew = False
    while True:
        download: Download | None = None
        try:
            started(found)
            with (
                found.cache.nar(
                    found.trusted,
                    downloaded=gauge.downloaded,
                    hurried=found.hurried,
                    anew=anew,
                    pausing=pausing,
                ) as download,
                _keeping(download, done=keep),
            ):
                result = write(found.trusted, _measured(download, gauge, checkpoint))
        except HEALABLE as error:
            blamed = not isinstance(error, TransportError)
            if download is not None:
                error.facts |= download.wrong_file or {}
                if blamed and download.stitched and not anew:
                    # Parts of two objects, perhaps: nobody is blamed before that is known.
                    _log.info("%s: put together, and no good: %s", found.cache.url, error)
                    anew = True
                    continue
            anew = False
            if blamed or isinstance(error, NarGoneError):
                found.cache.disbelieved(error)
            failed.append((found, error))
            found = caches.find_next(found, error, policy, pausing=pausing)
        else:
            found.cache.believed()
            _warn_of_wrong_file(found, download)
            for other, wrong in failed:
                other.cache.outdone(found.trusted.info.path, wrong, by=found.cache.url)
                if not _same_file(other, found):  # nobody will go on with what came of it
                    other.cache.forget_download(other.trusted)
            return Transferred(found, len(failed) + 1, result, download.is_kept)


def _same_file(one: Found, other: Found) -> bool:
    """Whether two caches name one file, so that what came of one is what came of the other."""
    if one.trusted.info.file_hash is None:
        return one.cache is other.cache and one.trusted.info.url == other.trusted.info.url
    return one.trusted.info.file_hash == other.trusted.info.file_hash


def _measured(
    chunks: Iterable[bytes], gauge: Gauge, checkpoint: Callable[[], None]
) -> Iterator[bytes]:
    for chunk in chunks:
        checkpoint()
        gauge.decoded()
        yield chunk
        gauge.unpacked(len(chunk))


@contextmanager
def _keeping(download: Download, *, done: bool) -> Iterator[None]:
    """Keep what came of a download for the next run, unless it was no good; or if it is done."""
    try:
        yield
    except (FormatError, TrustError):
        download.discard()
        raise
    except StoreError as error:
        if error.facts.get("errno") in _FULL:
            download.discard()
        raise
    if not done:
        download.discard()


def _warn_of_wrong_file(found: Found, download: Download) -> None:
    """The content is what was signed; the file that it came in is not what the cache says."""
    if (wrong := download.wrong_file) is not None:
        known = ", ".join(f"{name}={value}" for name, value in wrong.items())
        _log.warning(
            "%s: the file of %s is not the one that its narinfo names, though its content is: %s",
            found.cache.url,
            found.trusted.info.path,
            known,
        )
