"""A NAR on its way from a cache: through interruptions, and decoded.

    partial file ──┐
    body, body, … ─┴─> `Arriving`: one stream of compressed bytes ─> `Download`: decoded, hashed

A body that breaks off goes on where it broke off, within a run and from one run to the next. A
server that cannot do ranges sends the whole again, and what came already is dropped. That it is
the same object is for the hash of the whole to say: where that disagrees with something that was
put together, it is fetched once more from its first byte before anybody is blamed.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from nixfetch.cache.gate import OutOfPatienceError
from nixfetch.errors import TransportError, facts
from nixfetch.formats.hashes import Hash
from nixfetch.streams import codecs
from nixfetch.streams.limits import TooLargeError, at_most
from nixfetch.transport.answers import BrokenAnswerError
from nixfetch.transport.base import (
    ForbiddenError,
    NotFoundError,
    Pace,
    Range,
    UnsatisfiableRangeError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nixfetch.cache.gate import Asking
    from nixfetch.cache.partial import Partial
    from nixfetch.formats.hashes import Hasher
    from nixfetch.plan.trust import Trusted
    from nixfetch.transport.base import Transport

ENCODING_WINDOW = 8 * 1024 * 1024  # bytes; what RFC 8878 has HTTP's zstd need at most
_HEADWAY = 1024 * 1024  # bytes that must come for a try not to be in vain
_HASHED = frozenset({"sha256", "sha512", "sha1"})  # what hashlib has everywhere


class NarGoneError(TransportError):
    """The cache has the path's narinfo, and not its NAR any more."""

    exit_code = 3


class NarForbiddenError(NarGoneError):
    """The cache has the path's narinfo, and does not say to us whether it has its NAR (403)."""


class Arriving:
    """An object's bytes, through interruptions: an iterator that goes on where a body broke off."""

    def __init__(
        self,
        transport: Transport,
        name: str,
        *,
        asking: Asking,
        downloaded: Callable[[int], None],
        throttle: Callable[[int], object],
        forbidden: Callable[[ForbiddenError], TransportError],
        limit: int,
        partial: Partial | None = None,
        sure: bool = False,
        size: int | None = None,
    ) -> None:
        """Ask for nothing yet.

        Args:
            transport: where the object is.
            name: its name there.
            asking: when to try, and how often.
            downloaded: is told of bytes that came over the wire, each once.
            throttle: is told of all that came, and may wait.
            forbidden: what a 403 means.
            limit: bytes of one body, as it travels.
            partial: what an earlier run has of it, and where this one keeps what comes.
            sure: a hash of the whole is known, so that parts of two versions are found out.
            size: bytes that it should have.
        """
        self._transport = transport
        self._name = name
        self._asking = asking
        self._downloaded = downloaded
        self._throttle = throttle
        self._forbidden = forbidden
        self._limit = limit
        self._partial = partial
        self._sure = sure
        self._size = size
        self._received = 0  # bytes handed on
        self._validator: str | None = None
        self._ranges = True  # whether to ask for the rest alone
        self.stitched = False
        """Whether what was handed on came from more than one body."""
        self._chunks = self._run()

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks

    def close(self) -> None:
        """Let go of the connection and the file, wherever the reading stands."""
        close = getattr(self._chunks, "close", None)
        if close is not None:
            close()
        if self._partial is not None:
            self._partial.close()

    def discard(self) -> None:
        """Keep nothing of it for the next run."""
        if self._partial is not None:
            self._partial.discard()

    @property
    def is_kept(self) -> bool:
        """Whether anything of it is there for the next run."""
        return self._partial is not None and self._partial.size > 0

    def _run(self) -> Iterator[bytes]:
        yield from self._kept()
        if self._received and self._received == self._size:
            return  # all of it: the hash will say
        asking = self._asking
        while True:
            before = self._received
            pace = asking.begin()
            try:
                yield from self._attempt(pace)
            except NotFoundError as error:
                asking.succeeded()
                raise self._gone(error) from error
            except UnsatisfiableRangeError as error:
                if before:
                    # It broke off behind its last byte, or is another one: the hash will say.
                    asking.succeeded()
                    self.stitched = True
                    return
                asking.failed(error)
            except OutOfPatienceError:
                asking.leave()
                raise
            except TransportError as error:
                self._ranges = self._ranges and not (
                    before and isinstance(error, BrokenAnswerError)
                )
                asking.failed(error)
            except BaseException:
                asking.leave()
                raise
            else:
                asking.succeeded()
                return

    def _gone(self, error: NotFoundError) -> TransportError:
        if isinstance(error, ForbiddenError):
            return self._forbidden(error)
        return NarGoneError("the cache has the narinfo, but not its NAR")

    def _kept(self) -> Iterator[bytes]:
        """What an earlier run has."""
        partial = self._partial
        if partial is None or not partial.size:
            return
        if partial.validator is None and not self._sure:
            partial.restart(None)
            return
        # Where the content is known, other caches share the file, and name versions otherwise.
        self._validator = None if self._sure else partial.validator
        self.stitched = True
        for chunk in partial.read():
            self._received += len(chunk)
            yield chunk

    def _attempt(self, pace: Pace) -> Iterator[bytes]:
        wanted = None
        if self._received and self._ranges:
            wanted = Range(start=self._received, validator=self._validator)
        with self._transport.open(self._name, wanted, pace=pace) as body:
            chunks, keeps = body.chunks, body.encoding is None
            if body.encoding is not None:
                if body.start:
                    raise TransportError("cannot resume an encoded body", encoding=body.encoding)
                # Offsets of an encoded body are not those of what it holds.
                self._ranges = False
                # Both sides count: an encoding can go on for ever and give nothing.
                chunks = at_most(chunks, self._limit, what="encoded archive")
                chunks = codecs.decode(body.encoding, chunks, memory_limit=ENCODING_WINDOW)
            self.stitched = self.stitched or self._received > 0
            self._validator = body.validator
            if self._partial is not None and not self._received:
                self._partial.restart(body.validator)
            milestone = self._received + _HEADWAY
            for chunk in _from(self._received - body.start, chunks, self._throttle):
                if self._received + len(chunk) >= milestone:
                    self._asking.makes_headway()
                    milestone = self._received + len(chunk) + _HEADWAY
                if self._partial is not None and keeps and self._partial.size == self._received:
                    self._partial.append(chunk)
                self._received += len(chunk)
                self._downloaded(len(chunk))
                yield chunk
                # The reader may have been away for long: the cache may be out by now.
                self._asking.check()


class Download:
    """One NAR, decoded, as it comes: iterate over it once.

    Attributes:
        trusted: whose NAR it is.
    """

    def __init__(
        self, trusted: Trusted, arriving: Arriving, *, limit: int, cache: str, url: str
    ) -> None:
        self.trusted = trusted
        self._arriving = arriving
        expected = trusted.info.file_hash
        self._hasher: Hasher | None = None
        if expected is not None and expected.algorithm in _HASHED:
            self._hasher = hashlib.new(expected.algorithm)
        self._size = 0
        self._whole = False
        raw = at_most(self._counted(), limit, what="compressed archive")
        decoded = codecs.decode(trusted.info.compression, raw)
        self._chunks = _with_facts(decoded, cache=cache, url=url)

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks

    def __next__(self) -> bytes:
        return next(self._chunks)

    @property
    def stitched(self) -> bool:
        """Whether it came in more than one body, which may be parts of two objects."""
        return self._arriving.stitched

    @property
    def wrong_file(self) -> dict[str, object] | None:
        """How the file is not the one of the narinfo, where it came whole: nobody signs that."""
        info = self.trusted.info
        if not self._whole:
            return None
        wrong: dict[str, object] = {}
        if info.file_size is not None and info.file_size != self._size:
            wrong |= {"expected_file_size": info.file_size, "file_size": self._size}
        if self._hasher is not None and info.file_hash is not None:
            actual = Hash(info.file_hash.algorithm, self._hasher.digest())
            if actual != info.file_hash:
                wrong |= {"expected_file_hash": str(info.file_hash), "file_hash": str(actual)}
        return wrong or None

    @property
    def is_kept(self) -> bool:
        """Whether anything of it is there for the next run."""
        return self._arriving.is_kept

    def discard(self) -> None:
        """Keep nothing of it for the next run: it is done, or it was no good."""
        self._arriving.discard()

    def _counted(self) -> Iterator[bytes]:
        for chunk in self._arriving:
            if 0 < (left := self._left) < len(chunk):
                yield self._count(chunk[:left])
                chunk = chunk[left:]  # noqa: PLW2901 - the rest of it
            if self._size == self.trusted.info.file_size and self._is_the_file():
                raise TooLargeError(
                    "more bytes than allowed", what="compressed archive", limit=self._size
                )
            yield self._count(chunk)
        self._whole = True

    @property
    def _left(self) -> int:
        """Bytes up to the size that the narinfo names."""
        return (self.trusted.info.file_size or 0) - self._size

    def _count(self, chunk: bytes) -> bytes:
        self._size += len(chunk)
        if self._hasher is not None:
            self._hasher.update(chunk)
        return chunk

    def _is_the_file(self) -> bool:
        """Whether what has come so far is the file of the narinfo: what comes then is not.

        Its size alone says nothing: nobody signs it, and what is right and only larger than the
        narinfo says is fetched with a warning.
        """
        expected = self.trusted.info.file_hash
        return (
            self._hasher is not None
            and expected is not None
            and self._hasher.digest() == expected.digest
        )


def _from(skip: int, chunks: Iterator[bytes], throttle: Callable[[int], object]) -> Iterator[bytes]:
    """`chunks` without the first `skip` bytes; all of them have arrived."""
    for chunk in chunks:
        throttle(len(chunk))
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
