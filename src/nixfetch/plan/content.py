"""Whether the content of a path is what its content address says.

Fed with a NAR as it passes, in bytes and in events; the verdict comes at the end. A path that
mentions itself was hashed with its own hash part blanked; two definitions of that exist (with
the offsets of the mentions behind the data, and without), and either is good.

Source: nix, src/libstore/local-store.cc, `addToStore`; src/libstore/references.cc.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from nixfetch.errors import TrustError
from nixfetch.formats import hashes
from nixfetch.formats.contentaddress import ContentAddress, Method
from nixfetch.formats.git import GitHasher
from nixfetch.formats.nar import Contents, Directory, Event, Regular, Symlink
from nixfetch.streams.references import SelfReferenceHasher

if TYPE_CHECKING:
    from collections.abc import Collection

    from nixfetch.formats.narinfo import NarInfo


class WrongContentError(TrustError):
    """The content is not what the content address says."""


class ContentCheck(Protocol):
    """Follows one NAR and judges it at its end."""

    def update(self, data: bytes) -> None:
        """Take the next bytes of the NAR."""
        ...

    def apply(self, event: Event) -> None:
        """Take the next event of the NAR."""
        ...

    def finish(self) -> None:
        """Judge the whole; raises `WrongContentError`."""
        ...


def content_check(info: NarInfo, *, signed: bool = False) -> ContentCheck | None:
    """What checks the content address of `info`; None when it has none.

    Args:
        info: whose content address it is.
        signed: whether somebody vouches for the NAR hash too. If not, what a hash of contents
            does not cover (the x bit, file or link) must be the plainest: else whoever runs the
            cache could choose it.

    Raises:
        UnsupportedHashError: its algorithm is an extra that is not installed.
    """
    if info.ca is None:
        return None
    if info.ca.method in {Method.TEXT, Method.FLAT}:
        return _FlatCheck(info.ca, signed=signed)
    if info.ca.method is Method.GIT:
        return _GitCheck(info.ca, signed=signed)
    if info.path in info.references:
        return _SelfReferringCheck(info.ca, info.path.hash_part)
    return _NarCheck(info.ca)


class _NarCheck:
    """``fixed:r``: the hash of the NAR."""

    def __init__(self, ca: ContentAddress) -> None:
        self._ca = ca
        self._hasher = hashes.hasher(ca.hash.algorithm)

    def update(self, data: bytes) -> None:
        self._hasher.update(data)

    def apply(self, event: Event) -> None:
        """Events say nothing that the bytes do not."""

    def finish(self) -> None:
        _compare(self._ca, [self._hasher.digest()])


class _SelfReferringCheck:
    """``fixed:r`` of a path that mentions itself: the NAR with its own hash part blanked."""

    def __init__(self, ca: ContentAddress, hash_part: str) -> None:
        self._ca = ca
        self._hasher = SelfReferenceHasher(hash_part.encode(), hashes.hasher(ca.hash.algorithm))

    def update(self, data: bytes) -> None:
        self._hasher.update(data)

    def apply(self, event: Event) -> None:
        """Events say nothing that the bytes do not."""

    def finish(self) -> None:
        _compare(self._ca, self._hasher.digests())


class _FlatCheck:
    """``text`` and ``fixed``: the hash of the contents of one file."""

    def __init__(self, ca: ContentAddress, *, signed: bool) -> None:
        self._ca = ca
        self._signed = signed
        self._hasher = hashes.hasher(ca.hash.algorithm)

    def update(self, data: bytes) -> None:
        """The bytes around the contents do not count."""

    def apply(self, event: Event) -> None:
        match event:
            case Contents(data):
                self._hasher.update(data)
            case Regular(executable=True) if not self._signed:
                raise _not_plain(self._ca)
            case Directory() | Symlink():
                raise _not_plain(self._ca)
            case _:
                pass

    def finish(self) -> None:
        _compare(self._ca, [self._hasher.digest()])


class _GitCheck:
    """``fixed:git``: the hash of the git object."""

    def __init__(self, ca: ContentAddress, *, signed: bool) -> None:
        self._ca = ca
        self._signed = signed
        self._hasher = GitHasher(ca.hash.algorithm)

    def update(self, data: bytes) -> None:
        """The bytes say nothing that the events do not."""

    def apply(self, event: Event) -> None:
        match event:
            # A tree's hash covers the modes inside it; that of a root alone covers none.
            case Regular(name=b"", executable=True) | Symlink(name=b"") if not self._signed:
                raise _not_plain(self._ca)
            case _:
                self._hasher.apply(event)

    def finish(self) -> None:
        _compare(self._ca, [self._hasher.digest()])


def _not_plain(ca: ContentAddress) -> WrongContentError:
    return WrongContentError("content address is for a plain file, and this is none", ca=str(ca))


def _compare(ca: ContentAddress, digests: Collection[bytes]) -> None:
    if ca.hash.digest not in digests:
        actual = [str(hashes.Hash(ca.hash.algorithm, digest)) for digest in digests]
        raise WrongContentError(
            "content does not match its content address", expected=str(ca), actual=actual
        )
