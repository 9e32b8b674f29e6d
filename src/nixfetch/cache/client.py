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
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from nixfetch.errors import TransportError, TrustError, facts
from nixfetch.formats import cacheinfo, narinfo
from nixfetch.formats.cacheinfo import CacheInfo
from nixfetch.formats.narinfo import NarInfo
from nixfetch.formats.signing import SIGNATURE_SIZE
from nixfetch.formats.storepath import STORE_DIR, StorePath
from nixfetch.plan.retry import RetrySchedule
from nixfetch.streams import codecs
from nixfetch.streams.limits import at_most, read_all
from nixfetch.transport.base import NotFoundError, Range, UnsatisfiableRangeError
from nixfetch.transport.urls import redacted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nixfetch.plan.trust import Trusted, TrustPolicy
    from nixfetch.transport.base import Transport

_T = TypeVar("_T")
_log = logging.getLogger(__name__)
_HEADWAY = 1024 * 1024  # bytes that a try must bring to count as a success
_MOST_SIGNATURES = 32  # of one path that are kept; real ones have one or two
_ENCODING_WINDOW = 8 * 1024 * 1024  # bytes; what RFC 8878 has HTTP's zstd need at most
_SLACK = 1024 * 1024  # bytes that a compressed NAR may be larger than an eighth above its NAR


class WrongPathError(TrustError):
    """The cache answered with another path than it was asked for."""


class NarGoneError(TransportError):
    """The cache has the path's narinfo, and not its NAR any more."""

    exit_code = 3


class StoreDirError(TransportError):
    """The cache is for a store in another directory."""


class BinaryCache:
    """One cache, by its transport. Safe to share among threads."""

    def __init__(
        self,
        transport: Transport,
        *,
        priority: int | None = None,
        trusted: bool = False,
        retry: RetrySchedule | None = None,
        sleep: Callable[[float], None] = time.sleep,
        fraction: Callable[[], float] = random.random,
    ) -> None:
        """Use the cache behind `transport`, which becomes this object's to close.

        Args:
            transport: where the cache is.
            priority: overrides the cache's own; lower is asked earlier.
            trusted: take its word without signatures (Nix's ``?trusted=1``).
            retry: how often to try, and how long to wait between tries.
            sleep: waits for a number of seconds.
            fraction: gives random numbers, at least 0 and below 1, for the jitter of waits.
        """
        self._transport = transport
        self._priority = priority
        self.trusted = trusted
        self._retry = retry or RetrySchedule()
        self._sleep = sleep
        self._fraction = fraction
        self._info: CacheInfo | None = None
        self._info_lock = threading.Lock()

    @property
    def url(self) -> str:
        """Where it is, without secrets."""
        return self._transport.url

    def close(self) -> None:
        """Let go of connections."""
        self._transport.close()

    def info(self) -> CacheInfo:
        """What the cache says about itself, asked once; the defaults where it says nothing.

        Raises:
            StoreDirError: it serves another store directory than ``/nix/store``.
            CacheInfoError: what it says is malformed.
            TransportError: it does not answer.
        """
        with self._info_lock, facts(cache=self.url):
            if self._info is None:
                try:
                    raw = self._small("nix-cache-info", cacheinfo.MAX_SIZE)
                except NotFoundError:
                    _log.warning("%s has no nix-cache-info: taking the defaults", self.url)
                    info = CacheInfo()
                else:
                    info = CacheInfo.parse(raw)
                if info.store_dir != STORE_DIR:
                    raise StoreDirError(
                        "cache is for another store directory", store_dir=info.store_dir
                    )
                self._info = info
            return self._info

    @property
    def priority(self) -> int:
        """When to ask it: lower is earlier. Raises as `info` does."""
        return self.info().priority if self._priority is None else self._priority

    def narinfo(self, hash_part: str) -> NarInfo:
        """What the cache claims about the path with this hash part. Nothing is believed yet.

        Raises:
            NotFoundError: it has no such path.
            NarInfoError: what it says is malformed.
            WrongPathError: what it says is about another path.
            TransportError: it does not answer.
        """
        with facts(cache=self.url):
            info = NarInfo.parse(self._small(f"{hash_part}.narinfo", narinfo.MAX_SIZE))
            if info.path.hash_part != hash_part:
                raise WrongPathError(
                    "cache answered with another path", asked=hash_part, got=info.path
                )
            return info

    def lookup(self, path: StorePath, policy: TrustPolicy) -> Trusted:
        """What the cache says about `path`, once somebody whom `policy` trusts vouches for it.

        Raises:
            UnsignedError, FalseContentAddressError, WeakHashError: nobody does.
            WrongPathError: the same hash part under another name; or as `narinfo`.
        """
        info = self.narinfo(path.hash_part)
        with facts(cache=self.url):
            if info.path != path:
                raise WrongPathError("cache answered with another path", asked=path, got=info.path)
            return _slim(policy.admit(info, check=not self.trusted))

    @contextmanager
    def nar(
        self, trusted: Trusted, *, downloaded: Callable[[int], None] = lambda _: None
    ) -> Iterator[Iterator[bytes]]:
        """The NAR of a path, decoded, as it comes.

        Example::

            with cache.nar(trusted) as chunks:
                for chunk in chunks:
                    ...

        Args:
            trusted: what to download: no NAR is asked for on the word of a claim.
            downloaded: is told of bytes as they arrive, still compressed.

        Raises:
            NarGoneError: the narinfo is there, the NAR is not.
            CodecError, UnsupportedCompressionError: it cannot be decoded.
            TooLargeError: it does not end where it could.
            TransportError: it does not arrive.
        """
        info = trusted.info
        shown = redacted(info.url)
        with facts(cache=self.url, url=shown):
            # No codec makes data larger by an eighth: what goes on longer feeds us nothing.
            limit = info.nar_size + info.nar_size // 8 + _SLACK
            arriving = _Arriving(self._transport, info.url, self._wait, downloaded, limit)
            raw = at_most(arriving, limit, what="compressed archive")
            decoded = codecs.decode(info.compression, raw)
            try:
                yield _with_facts(decoded, cache=self.url, url=shown)
            finally:
                arriving.close()

    def _small(self, name: str, limit: int) -> bytes:
        """A whole object of at most `limit` bytes, under no encoding."""

        def once() -> bytes:
            with self._transport.open(name) as body:
                # The limit counts before and after decoding: neither an endless body nor a
                # small one that unfolds gets further.
                chunks = at_most(body.chunks, limit, what=name)
                if body.encoding is not None:
                    chunks = codecs.decode(body.encoding, chunks, memory_limit=_ENCODING_WINDOW)
                return read_all(chunks, limit, what=name)

        return self._persist(once)

    def _persist(self, once: Callable[[], _T]) -> _T:
        """Call `once` until it succeeds, or fails in a way or as often as ends it."""
        failures = 0
        while True:
            try:
                return once()
            except TransportError as error:
                failures += 1
                self._wait(error, failures)

    def _wait(self, error: TransportError, failures: int) -> None:
        """Wait until the next try, or raise `error` when there is none."""
        delay = None
        if error.retryable:
            delay = self._retry.delay(
                failures, fraction=self._fraction(), retry_after=error.retry_after
            )
        if delay is None:
            error.facts.setdefault("tries", failures)
            raise error
        _log.info("%s: %s; trying again in %.1f s", self.url, error, delay)
        self._sleep(delay)


class _Arriving:
    """An object's bytes, through interruptions: an iterator that goes on where a body broke off.

    A server that cannot do ranges sends the whole again, and what came already is dropped; that
    it is the same object is for the hash of the whole to say.
    """

    def __init__(
        self,
        transport: Transport,
        name: str,
        wait: Callable[[TransportError, int], None],
        downloaded: Callable[[int], None],
        limit: int,
    ) -> None:
        self._transport = transport
        self._name = name
        self._wait = wait
        self._downloaded = downloaded
        self._limit = limit  # bytes of one body, as it travels
        self._received = 0  # bytes handed on
        self._validator: str | None = None
        self._encoded = False  # offsets of an encoded body are not those of what it holds
        self._chunks = self._run()

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks

    def close(self) -> None:
        """Let go of the connection, wherever the reading stands."""
        close = getattr(self._chunks, "close", None)
        if close is not None:
            close()

    def _run(self) -> Iterator[bytes]:
        failures = 0
        while True:
            before = self._received
            try:
                yield from self._attempt()
            except NotFoundError as error:
                raise NarGoneError("the cache has the narinfo, but not its NAR") from error
            except UnsatisfiableRangeError:
                if not before:
                    raise
                return  # it broke off behind its last byte; the hash says whether that was all
            except TransportError as error:
                # What made headway is no failure in a row; a byte at a time is none.
                failures = 1 if self._received - before >= _HEADWAY else failures + 1
                self._wait(error, failures)
            else:
                return

    def _attempt(self) -> Iterator[bytes]:
        wanted = None
        if self._received and not self._encoded:
            wanted = Range(start=self._received, validator=self._validator)
        with self._transport.open(self._name, wanted) as body:
            chunks = body.chunks
            if body.encoding is not None:
                if body.start:
                    raise TransportError("cannot resume an encoded body", encoding=body.encoding)
                self._encoded = True
                # Both sides count: an encoding can go on for ever and give nothing.
                chunks = at_most(chunks, self._limit, what="encoded archive")
                chunks = codecs.decode(body.encoding, chunks, memory_limit=_ENCODING_WINDOW)
            self._validator = body.validator
            for chunk in _from(self._received - body.start, chunks):
                self._received += len(chunk)
                self._downloaded(len(chunk))
                yield chunk


def _slim(trusted: Trusted) -> Trusted:
    """`trusted` without what nothing needs any more, and nobody vouched for.

    A closure of 10^5 paths has no room for the text of each narinfo. And of signatures only such
    go on as can be one, those that count first: real Nix refuses to work on a store with others.
    """
    signatures = [each for each in trusted.info.signatures if len(each.data) == SIGNATURE_SIZE]
    signatures.sort(key=lambda each: each.key_name not in trusted.signed_by)
    kept = tuple(signatures[:_MOST_SIGNATURES])
    return replace(trusted, info=replace(trusted.info, raw=b"", extra=(), signatures=kept))


def _from(skip: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """`chunks` without the first `skip` bytes."""
    for chunk in chunks:
        if skip >= len(chunk):
            skip -= len(chunk)
            continue
        yield chunk[skip:] if skip else chunk
        skip = 0


def _with_facts(chunks: Iterator[bytes], **known: object) -> Iterator[bytes]:
    """`chunks`; errors of making the next one get to know where it came from."""
    iterator = iter(chunks)
    while True:
        with facts(**known):
            chunk = next(iterator, None)
        if chunk is None:
            return
        yield chunk
