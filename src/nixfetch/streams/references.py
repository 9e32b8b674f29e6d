"""Hash parts of store paths in streams of bytes. Knows neither store paths nor NARs.

A store path refers to another by containing its hash part, 32 characters of Nix's
base 32, anywhere. It may lie across two chunks, so the last 31 bytes of what has come
stay until there is more. All scanning is done by `bytes` methods.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

from nixfetch.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

HASH_PART = 32  # characters
MAX_SELF_REFERENCES = 1 << 20  # their offsets wait for the end of the data: at most 16 MiB of text

_ALPHABET = b"0123456789abcdfghijklmnpqrsvwxyz"
_IN, _OUT = b"1", b"0"
_CLASSES = bytes((_IN if byte in _ALPHABET else _OUT)[0] for byte in range(256))
_RUN = _IN * HASH_PART
_FEW = 64  # hash parts that are looked for one by one; more than that, each place is looked up


class TooManySelfReferencesError(FormatError):
    """A path contains its own hash part more often than any real one. Fact: `limit`."""


class ReferenceScanner:
    """Finds which of some hash parts occur in a stream.

    Args:
        hash_parts: 32 characters of Nix's base 32 each.

    Raises:
        ValueError: one of them is not that.

    Source: nix, src/libutil/references.cc, `RefScanSink`.
    """

    def __init__(self, hash_parts: Iterable[bytes]) -> None:
        self.found: set[bytes] = set()
        """The hash parts that have occurred so far."""
        self._missing = {_checked(part) for part in hash_parts}
        self._tail = b""

    def update(self, data: bytes) -> None:
        """Scan the next bytes of the stream."""
        if not self._missing:
            return
        window = self._tail + data
        self._tail = window[-(HASH_PART - 1) :]
        for run in _runs(window):
            found = self._search(run)
            self.found |= found
            self._missing -= found

    def _search(self, run: bytes) -> set[bytes]:
        """Which missing hash parts are in `run`."""
        if len(self._missing) <= _FEW:
            return {part for part in self._missing if part in run}
        places = range(len(run) - HASH_PART + 1)
        return {part for n in places if (part := run[n : n + HASH_PART]) in self._missing}


def _checked(hash_part: bytes) -> bytes:
    if len(hash_part) != HASH_PART or hash_part.strip(_ALPHABET):
        msg = f"not a hash part: {hash_part!r}"
        raise ValueError(msg)
    return hash_part


def _runs(window: bytes) -> Iterator[bytes]:
    """Stretches of at least 32 characters of the alphabet: rare, but for names of store paths."""
    classes = window.translate(_CLASSES)
    start = classes.find(_RUN)
    while start >= 0:
        stop = classes.find(_OUT, start)
        stop = len(classes) if stop < 0 else stop
        yield window[start:stop]
        start = classes.find(_RUN, stop)


class Hash(Protocol):
    """A hash being computed; those of `hashlib` are."""

    def update(self, data: bytes | memoryview, /) -> None: ...
    def digest(self) -> bytes: ...
    def copy(self) -> Self: ...


class SelfReferenceDigests(NamedTuple):
    """The two hashes that Nix versions give a NAR which contains its own hash part."""

    with_offsets: bytes
    """Nix up to 2.16 and since 2.35: ``|offset`` of each occurrence is hashed after the data."""
    without_offsets: bytes
    """Nix 2.17 to 2.34: the data only."""


class SelfReferenceHasher:
    """Hashes a stream as if the own hash part in it were zero bytes.

    Occurrences are taken from the left, and do not overlap: what has been replaced is no
    part of another one.

    Args:
        own_hash_part: 32 characters of Nix's base 32.
        hash_object: gets the data; it must not have been used.

    Raises:
        ValueError: `own_hash_part` is not that.

    Source: nix, src/libutil/references.cc, `HashModuloSink` and `RewritingSink`.
    """

    def __init__(self, own_hash_part: bytes, hash_object: Hash) -> None:
        self._own = _checked(own_hash_part)
        self._hash = hash_object
        self._tail = b""  # not hashed yet: an occurrence may begin in it
        self._hashed = 0  # bytes
        self._offsets = bytearray()
        self._count = 0

    def update(self, data: bytes) -> None:
        """Hash the next bytes of the stream.

        Raises:
            TooManySelfReferencesError: more than `MAX_SELF_REFERENCES` occurrences.
        """
        window = self._tail + data
        view = memoryview(window)
        done = 0
        found = window.find(self._own)
        while found >= 0:
            self._hash.update(view[done:found])
            self._hash.update(bytes(HASH_PART))
            self._record(self._hashed + found)
            done = found + HASH_PART
            found = window.find(self._own, done)
        keep = max(done, len(window) - HASH_PART + 1)
        self._hash.update(view[done:keep])
        self._hashed += keep
        self._tail = window[keep:]

    def digests(self) -> SelfReferenceDigests:
        """Both hashes of what has come so far; more may come."""
        whole = self._hash.copy()
        whole.update(self._tail)
        without_offsets = whole.digest()
        whole.update(bytes(self._offsets))
        return SelfReferenceDigests(whole.digest(), without_offsets)

    def _record(self, offset: int) -> None:
        self._count += 1
        if self._count > MAX_SELF_REFERENCES:
            raise TooManySelfReferencesError("too many self-references", limit=MAX_SELF_REFERENCES)
        self._offsets += b"|%d" % offset
