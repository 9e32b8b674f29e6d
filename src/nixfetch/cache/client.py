"""One binary cache: what it says of a path, and the path's NAR.

Composes a transport, which knows no Nix, with the formats, which know no network. Retries
what is worth it; what one cache cannot heal, `group` takes to the next.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from nixfetch.cache import reading
from nixfetch.cache.about import About
from nixfetch.cache.download import Arriving, Download
from nixfetch.cache.gate import Gate, Waits
from nixfetch.cache.memory import Memory
from nixfetch.cache.small import SmallObjects
from nixfetch.errors import FormatError, NixfetchError, TransportError, TrustError, facts
from nixfetch.formats import narinfo
from nixfetch.formats.narinfo import NarInfoError
from nixfetch.plan.retry import RetrySchedule
from nixfetch.transport.base import (
    AuthenticationError,
    ForbiddenError,
    NotFoundError,
    Pace,
)
from nixfetch.transport.urls import redacted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nixfetch.cache.partial import Partial
    from nixfetch.formats.cacheinfo import CacheInfo
    from nixfetch.formats.narinfo import NarInfo
    from nixfetch.formats.storepath import StorePath
    from nixfetch.plan.trust import Trusted, TrustPolicy
    from nixfetch.transport.base import Transport

_log = logging.getLogger(__name__)
HEALABLE = (FormatError, TrustError, TransportError)
"""What another cache may do better."""
_SLACK = 1024 * 1024  # bytes that a compressed NAR may be larger than an eighth above its NAR


class BinaryCache:
    """One cache, by its transport. Safe to share among threads."""

    def __init__(
        self,
        transport: Transport,
        *,
        priority: int | None = None,
        trusted: bool = False,
        retry: RetrySchedule | None = None,
        pace: Pace | None = None,
        memory: Memory | None = None,
        throttle: Callable[[int], object] = lambda _: None,
        offline: bool = False,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
        fraction: Callable[[], float] = random.random,
    ) -> None:
        """Use the cache behind `transport`, which becomes this object's to close.

        Args:
            transport: where the cache is.
            priority: overrides the cache's own; lower is asked earlier.
            trusted: take its word without signatures (Nix's ``?trusted=1``).
            retry: how often to try, and how long to wait between tries.
            pace: how long an answer may take where there is no other cache.
            memory: what it said lately, and what came of interrupted downloads.
            throttle: is told of bytes as they arrive, and waits where there were too many.
            offline: do not ask it: only what is remembered counts.
            now: seconds, monotonic.
            sleep: waits for a number of seconds; by default until the cache is closed at most.
            fraction: gives random numbers, at least 0 and below 1, for the jitter of waits.
        """
        self._transport = transport
        self._priority = priority
        self.trusted = trusted
        self._memory = memory or Memory()
        self._throttle = throttle
        self._waits = Waits(now=now, sleep=sleep, fraction=fraction)
        schedule = retry or RetrySchedule()
        self._small_gate = Gate(schedule, self._waits, pace or Pace())
        self._nar_gate = Gate(schedule, self._waits, pace or Pace())
        self._first_damage = threading.Lock()  # never released: whoever gets it is the first
        self._small = SmallObjects(
            transport, self._small_gate, self._waits, throttle=throttle, offline=offline
        )
        self._about = About(transport.url, self._small, self._small_gate, self._memory)

    @property
    def url(self) -> str:
        """Where it is, without secrets."""
        return self._transport.url

    @property
    def is_closed(self) -> bool:
        """Whether the run is over."""
        return self._waits.over.is_set()

    def close(self) -> None:
        """Let go of connections; who waits for the cache gets an error at once."""
        self._small_gate.close()
        self._nar_gate.close()
        self._transport.close()

    def info(self, *, hurried: bool = False) -> CacheInfo:
        """What the cache says about itself, asked once; the defaults where it says nothing.

        Args:
            hurried: another cache is left; see `plan.health`.

        Raises:
            StoreDirError: it serves another store directory than ``/nix/store``.
            CacheInfoError: what it says is malformed.
            TransportError: it does not answer.
        """
        with facts(cache=self.url):
            return self._about.info(hurried=hurried)

    @property
    def priority(self) -> int:
        """When to ask it: lower is earlier. Raises as `info` does."""
        return self.info(hurried=True).priority if self._priority is None else self._priority

    def narinfo(self, hash_part: str, *, hurried: bool = False, fresh: bool = False) -> NarInfo:
        """What the cache claims about the path with this hash part. Nothing is believed yet.

        Args:
            hash_part: of the path.
            hurried: another cache is left; see `plan.health`.
            fresh: ask, whatever is remembered.

        Raises:
            NotFoundError: it has no such path.
            NarInfoError: what it says is malformed.
            WrongPathError: what it says is about another path.
            AuthenticationError: it wants other credentials.
            TransportError: it does not answer.
        """
        with facts(cache=self.url):
            remembered = None if fresh else self._memory.narinfo(self.url, hash_part)
            if remembered is not None:
                if remembered.raw is None:
                    raise NotFoundError("no such object", remembered=True)
                try:
                    return reading.parsed(remembered.raw, hash_part)
                except HEALABLE as error:  # the cache itself may know better by now
                    self._drop(hash_part, error)
            return self._ask_narinfo(hash_part, hurried=hurried)

    def _ask_narinfo(
        self, hash_part: str, *, hurried: bool, pausing: Callable[[], object] = lambda: None
    ) -> NarInfo:
        name = f"{hash_part}.narinfo"
        try:
            raw = self._small.read(name, narinfo.MAX_SIZE, hurried=hurried, pausing=pausing)
        except ForbiddenError as error:
            raise self._about.forbidden(error, hurried=hurried) from error
        except NotFoundError:
            self._about.has_answered = True
            self._about.check_store_dir(hurried=hurried)
            self._memory.keep_narinfo(self.url, hash_part, None)
            raise
        self._about.has_answered = True
        try:
            info = reading.parsed(raw, hash_part)
        except HEALABLE as error:
            self._small_gate.disbelieved(error)
            if isinstance(error, NarInfoError) and not isinstance(error, reading.NotNarInfoError):
                self._about.check_store_dir(hurried=hurried)
            raise
        self._memory.keep_narinfo(self.url, hash_part, raw)
        return info

    def believed(self) -> None:
        """Say that a NAR of it was good."""
        self._nar_gate.believed()

    def disbelieved(self, error: NixfetchError) -> None:
        """Say that a NAR of it was no good."""
        self._nar_gate.disbelieved(error)

    def outdone(self, path: StorePath, error: NixfetchError, *, by: str) -> None:
        """Say that another cache gave what this one failed at; loudly where it is damaged, once.

        Args:
            path: what.
            error: what was wrong with it here.
            by: URL of the cache that gave it.
        """
        damaged = not isinstance(error, TransportError)
        loud = damaged and by != self.url and self._first_damage.acquire(blocking=False)
        _log.log(
            logging.WARNING if loud else logging.INFO,
            "%s: what it gave of %s is no good, and %s gave it: %s"
            if damaged
            else "%s: did not give %s, and %s did: %s",
            self.url,
            path,
            by,
            error,
        )

    def lookup(self, path: StorePath, policy: TrustPolicy, *, hurried: bool = False) -> Trusted:
        """What is remembered of `path`, or else what the cache says; as `recall` and `ask`."""
        return self.recall(path, policy) or self.ask(path, policy, hurried=hurried)

    def recall(self, path: StorePath, policy: TrustPolicy) -> Trusted | None:
        """What is remembered of `path`, once somebody whom `policy` trusts vouches for it.

        Trust is never remembered: what is, is judged anew, and forgotten where it does not stand.

        Raises:
            NotFoundError: the cache said lately that it has no such path.
        """
        remembered = self._memory.narinfo(self.url, path.hash_part)
        if remembered is None:
            return None
        with facts(cache=self.url):
            if remembered.raw is None:
                raise NotFoundError("no such object", remembered=True)
            try:
                return reading.admitted(remembered.raw, path, policy, check=not self.trusted)
            except HEALABLE as error:
                self._drop(path.hash_part, error)
                return None

    def ask(
        self,
        path: StorePath,
        policy: TrustPolicy,
        *,
        hurried: bool = False,
        pausing: Callable[[], object] = lambda: None,
    ) -> Trusted:
        """What the cache says about `path`, once somebody whom `policy` trusts vouches for it.

        Args:
            path: what to ask for.
            policy: whom to believe.
            hurried: another cache is left; see `plan.health`.
            pausing: called while it is waited for; see `Gate.asking`.

        Raises:
            UnsignedError, FalseContentAddressError, WeakHashError: nobody does.
            WrongPathError: the same hash part under another name; or as `narinfo`.
        """
        with facts(cache=self.url):
            info = self._ask_narinfo(path.hash_part, hurried=hurried, pausing=pausing)
            try:
                trusted = reading.trusted(info, path, policy, check=not self.trusted)
            except TrustError as error:
                self.forget(path)
                self._small_gate.disbelieved(error)
                raise
        self._small_gate.believed()
        return trusted

    def _drop(self, hash_part: str, error: NixfetchError) -> None:
        _log.info("%s: what is remembered of %s is no good: %s", self.url, hash_part, error)
        self._memory.forget(self.url, hash_part)

    def forget(self, path: StorePath) -> None:
        """Forget what is remembered of `path`."""
        self._memory.forget(self.url, path.hash_part)

    def forget_download(self, trusted: Trusted) -> None:
        """Keep nothing of the NAR of a path any more: the path is there."""
        partial = self._memory.claim(self.url, trusted.info)
        if partial is not None:
            partial.discard()

    @contextmanager
    def nar(
        self,
        trusted: Trusted,
        *,
        downloaded: Callable[[int], None] = lambda _: None,
        hurried: bool = False,
        anew: bool = False,
        pausing: Callable[[], object] = lambda: None,
    ) -> Iterator[Download]:
        """The NAR of a path, decoded, as it comes.

        Example::

            with cache.nar(trusted) as download:
                for chunk in download:
                    ...

        Args:
            trusted: what to download: no NAR is asked for on the word of a claim.
            downloaded: is told of bytes as they arrive, still compressed.
            hurried: another cache is left; see `plan.health`.
            anew: use nothing of an earlier download.
            pausing: called before and while the reader waits for a try; see `Gate.asking`.

        Raises:
            NarGoneError: the narinfo is there, the NAR is not, or not for us.
            AuthenticationError: the cache refuses everything.
            CodecError, UnsupportedCompressionError: it cannot be decoded.
            TooLargeError: it does not end where it could.
            TransportError: it does not arrive.
        """
        info = trusted.info
        shown = redacted(info.url)
        with facts(cache=self.url, url=shown):
            self._small.check_online()
            partial = self._memory.claim(self.url, info)
            if anew and partial is not None:
                partial.restart(None)
            arriving = self._arriving(
                trusted, downloaded=downloaded, hurried=hurried, pausing=pausing, partial=partial
            )
            try:
                yield Download(trusted, arriving, limit=_limit(trusted), cache=self.url, url=shown)
            finally:
                arriving.close()

    @contextmanager
    def file(
        self,
        trusted: Trusted,
        *,
        downloaded: Callable[[int], None] = lambda _: None,
        hurried: bool = False,
        pausing: Callable[[], object] = lambda: None,
    ) -> Iterator[Arriving]:
        """The file of a path's NAR, as it lies in the cache: nothing of it is undone or checked.

        Args:
            trusted: whose; the rest as for `nar`.
            downloaded: is told of bytes as they arrive.
            hurried: another cache is left; see `plan.health`.
            pausing: called before and while the reader waits for a try; see `Gate.asking`.

        Raises:
            NarGoneError: the narinfo is there, the file is not.
            TransportError: it does not arrive.
        """
        with facts(cache=self.url, url=redacted(trusted.info.url)):
            self._small.check_online()
            arriving = self._arriving(
                trusted, downloaded=downloaded, hurried=hurried, pausing=pausing
            )
            try:
                yield arriving
            finally:
                arriving.close()

    def _arriving(
        self,
        trusted: Trusted,
        *,
        downloaded: Callable[[int], None],
        hurried: bool,
        pausing: Callable[[], object],
        partial: Partial | None = None,
    ) -> Arriving:
        info = trusted.info

        def came(size: int) -> None:
            self._about.has_answered = True
            downloaded(size)

        def forbidden(error: ForbiddenError) -> TransportError:
            meant = self._about.forbidden_nar(error, hurried=hurried)
            if isinstance(meant, AuthenticationError):
                self._nar_gate.disbelieved(meant)
            return meant

        return Arriving(
            self._transport,
            info.url,
            asking=self._nar_gate.asking(hurried=hurried, pausing=pausing),
            downloaded=came,
            throttle=self._throttle,
            forbidden=forbidden,
            limit=_limit(trusted),
            partial=partial,
            sure=info.file_hash is not None,
            size=info.file_size,
        )


def _limit(trusted: Trusted) -> int:
    """Bytes of a file that may be the NAR, in whatever compression."""
    # No codec makes data larger by an eighth: what goes on longer feeds us nothing.
    size = trusted.info.nar_size
    return size + size // 8 + _SLACK
