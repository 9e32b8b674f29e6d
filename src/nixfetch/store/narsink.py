"""Takes the bytes of one NAR: hashes, checks, parses and unpacks them as they come."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from nixfetch.errors import TrustError
from nixfetch.formats.hashes import Hash
from nixfetch.formats.nar import NarReader, wire
from nixfetch.plan.content import content_check
from nixfetch.store.restore import Restorer

if TYPE_CHECKING:
    from nixfetch.plan.trust import Trusted
    from nixfetch.store.offers import Offers


class ContentMismatchError(TrustError):
    """The NAR is not the one that was vouched for."""


class NarSink:
    """One NAR on its way to files under a name of their own."""

    def __init__(
        self,
        trusted: Trusted,
        parent_fd: int,
        name: bytes,
        *,
        links: Offers | None = None,
        max_depth: int = wire.MAX_DEPTH,
    ) -> None:
        """Unpack to `name` in the directory `parent_fd`; link what `links` has already.

        Raises:
            UnsupportedHashError: its content address needs an extra that is not installed.
        """
        self._info = trusted.info
        self._content = content_check(trusted.info, signed=bool(trusted.signed_by))
        self._reader = NarReader(max_depth=max_depth, max_size=self._info.nar_size)
        self._restorer = Restorer(parent_fd, name, links=links)
        self._hash = hashlib.sha256()
        self._size = 0

    def write(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            ContentMismatchError: more bytes than were vouched for; they are not unpacked.
            NarError: not a NAR.
            WrongContentError: not what its content address can be.
            DiskError: the disk refused.
        """
        self._size += len(data)
        if self._size > self._info.nar_size:
            raise ContentMismatchError(
                "archive is larger than signed", expected=self._info.nar_size
            )
        self._hash.update(data)
        if self._content is not None:
            self._content.update(data)
        for event in self._reader.feed(data):
            self._restorer.apply(event)
            if self._content is not None:
                self._content.apply(event)

    def finish(self) -> None:
        """Say that all has come, and check the whole.

        Raises:
            ContentMismatchError: the size or the hash is not what was vouched for.
            NarError: the archive is not complete.
            WrongContentError: the content is not that of its content address.
        """
        if self._size != self._info.nar_size:
            raise ContentMismatchError(
                "archive has the wrong size", expected=self._info.nar_size, actual=self._size
            )
        actual = Hash("sha256", self._hash.digest())
        if actual != self._info.nar_hash:
            raise ContentMismatchError(
                "archive has the wrong hash", expected=str(self._info.nar_hash), actual=str(actual)
            )
        self._reader.finish()
        if self._content is not None:
            self._content.finish()

    @property
    def saved(self) -> int:
        """Bytes of files that were there already, and were linked."""
        return self._restorer.saved

    def close(self) -> None:
        """Let go of open files."""
        self._restorer.close()
