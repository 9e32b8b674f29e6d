"""The mirror that is written: a binary cache to read from, and a sink to write to."""

from __future__ import annotations

import hashlib
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

from nixfetch.cache.client import HEALABLE
from nixfetch.errors import FormatError, NixfetchError, StoreError, TransportError, TrustError
from nixfetch.formats.cacheinfo import CacheInfo
from nixfetch.mirror.naming import hash_part_of
from nixfetch.transport.base import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nixfetch.cache import BinaryCache
    from nixfetch.formats.narinfo import NarInfo
    from nixfetch.formats.storepath import StorePath
    from nixfetch.mirror.persist import Persistent
    from nixfetch.mirror.report import MirrorReport
    from nixfetch.plan.trust import Trusted
    from nixfetch.transport.sink import Entry, Sink, Upload

_log = logging.getLogger(__name__)
CACHE_INFO = "nix-cache-info"
PRIORITY = 30  # nearer than cache.nixos.org, whose own is 40


class DestinationError(NixfetchError):
    """The mirror cannot be read or written: no path would fare better than this one.

    Attributes:
        exit_code: of what was the matter.
        so_far: what was done until then, of a run that it ended.
    """

    def __init__(self, error: NixfetchError) -> None:
        super().__init__(error.problem, hint=error.hint, **error.facts)
        self.exit_code = error.exit_code
        self.so_far: MirrorReport | None = None


class Destination:
    """One mirror. Threads may share it.

    Args:
        cache: reads it; becomes this object's to close, as the others.
        sink: writes it.
        persist: gives up waiting when it is closed.
    """

    def __init__(self, cache: BinaryCache, sink: Sink, persist: Persistent) -> None:
        self._cache = cache
        self._sink = sink
        self._persist = persist
        self._is_empty = False

    @property
    def url(self) -> str:
        """Where it is, without secrets."""
        return self._sink.url

    @property
    def cache(self) -> BinaryCache:
        """It, as a cache to read from."""
        return self._cache

    def close(self) -> None:
        """Let go of connections."""
        self._persist.close()
        self._cache.close()
        self._sink.close()

    def begin(self, *, dry_run: bool = False) -> None:
        """See that it is a mirror of the right store, or make it one.

        Args:
            dry_run: make nothing; where there is no mirror, it is taken for an empty one.

        Raises:
            DestinationError: it is for another store directory, or cannot be written.
        """
        info = CacheInfo(want_mass_query=True, priority=PRIORITY)
        with self._ours():
            if dry_run:
                self._is_empty = self._sink.size(CACHE_INFO) is None
            else:
                self._sink.put(CACHE_INFO, info.render(), replace=False)
            if not self._is_empty:
                self._cache.info()

    def narinfo(self, path: StorePath) -> NarInfo | None:
        """What it says of `path`; None where that is nothing, or nothing usable.

        Raises:
            DestinationError: it cannot be read.
        """
        if self._is_empty:
            return None
        with self._ours():
            try:
                info = self._cache.narinfo(path.hash_part, fresh=True)
            except NotFoundError:
                return None
            except (FormatError, TrustError) as error:
                _log.warning("%s: will be replaced: %s", self.url, error)
                return None
        if info.path != path:
            _log.warning("%s: has %s in the place of %s", self.url, info.path, path)
            return None
        return info

    def digest(
        self, mirrored: Trusted, algorithm: str, *, checkpoint: Callable[[], object]
    ) -> bytes:
        """The hash of the file of a path, as it lies there.

        Args:
            mirrored: the path, with the URL of that file.
            algorithm: of hashlib.
            checkpoint: called between chunks.

        Raises:
            DestinationError: it cannot be read.
        """
        digest = hashlib.new(algorithm)
        with self._ours(), self._cache.file(mirrored) as chunks:
            for chunk in chunks:
                digest.update(chunk)
                checkpoint()
        return digest.digest()

    def put(self, name: str, data: bytes) -> None:
        """Write a small object, whatever is there.

        Raises:
            DestinationError: it cannot be.
        """
        with self._ours():
            self._sink.put(name, data)

    def put_new(self, name: str, data: bytes) -> bool:
        """Write a small object unless there is one; whether it was written.

        Raises:
            DestinationError: it cannot be.
        """
        with self._ours():
            return self._sink.put(name, data, replace=False)

    def size(self, name: str) -> int | None:
        """Bytes of an object; None: there is none.

        Raises:
            DestinationError: it does not say.
        """
        with self._ours():
            return self._sink.size(name)

    def hash_parts(self) -> list[str]:
        """Of all paths that it has, ascending.

        Raises:
            DestinationError: it cannot be listed.
        """
        with self._ours():
            names = [hash_part_of(entry.name) for entry in self._sink.entries()]
        return sorted(name for name in names if name is not None)

    def entries(self, folder: str) -> dict[str, Entry]:
        """The objects right in `folder`, by name.

        Raises:
            DestinationError: it cannot be listed.
        """
        with self._ours():
            return {entry.name: entry for entry in self._sink.entries(folder)}

    def claim(self, hash_part: str) -> NarInfo:
        """What it says of the path with this hash part.

        Raises:
            NotFoundError: it has none.
            NarInfoError, WrongPathError: it is malformed, or about another path.
            DestinationError: it cannot be read.
        """
        try:
            return self._cache.narinfo(hash_part, fresh=True)
        except (NotFoundError, FormatError, TrustError):
            raise
        except TransportError as error:
            raise DestinationError(error) from error

    def delete(self, names: list[str]) -> None:
        """Remove objects, in that order.

        Raises:
            DestinationError: they cannot be.
        """
        with self._ours():
            self._sink.delete(names)

    @contextmanager
    def writing(self, name: str, *, size: int | None) -> Iterator[_Writing]:
        """Write one object; see `Sink.writing`.

        Raises:
            DestinationError: here, in `write`, or at the end: it cannot be written.
        """
        manager = self._sink.writing(name, size=size)
        with self._ours():
            upload = manager.__enter__()
        try:
            yield _Writing(self, upload)
        except BaseException as error:
            manager.__exit__(type(error), error, error.__traceback__)
            raise
        with self._ours():
            manager.__exit__(None, None, None)

    @contextmanager
    def _ours(self) -> Iterator[None]:
        try:
            yield
        except (*HEALABLE, StoreError) as error:
            error.facts.setdefault("mirror", self.url)
            raise DestinationError(error) from error


class _Writing:
    def __init__(self, destination: Destination, upload: Upload) -> None:
        self._destination = destination
        self._upload = upload

    def write(self, data: bytes) -> None:
        """Take the next bytes."""
        with self._destination._ours():  # noqa: SLF001 - a part of it
            self._upload.write(data)
