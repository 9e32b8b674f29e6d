"""What a cache says about itself, and what its refusals mean.

A 403 is a missing object, or a closed door. Object stores that may not list their keys say so for
what is not there; but those let one read nix-cache-info, or some path.
"""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from nixfetch.cache.download import NarForbiddenError
from nixfetch.errors import FormatError, TransportError
from nixfetch.formats import cacheinfo
from nixfetch.formats.cacheinfo import CacheInfo
from nixfetch.formats.storepath import STORE_DIR
from nixfetch.transport.base import AuthenticationError, ForbiddenError, NotFoundError

if TYPE_CHECKING:
    from nixfetch.cache.gate import Gate
    from nixfetch.cache.memory import Memory
    from nixfetch.cache.small import SmallObjects

_log = logging.getLogger(__name__)


class StoreDirError(TransportError):
    """The cache is for a store in another directory."""


class About:
    """Of one cache. Safe to share among threads."""

    def __init__(self, url: str, small: SmallObjects, gate: Gate, memory: Memory) -> None:
        """Ask for nothing yet.

        Args:
            url: of the cache, for messages.
            small: reads its objects.
            gate: to those.
            memory: what it said lately.
        """
        self._url = url
        self._small = small
        self._gate = gate
        self._memory = memory
        self._info: CacheInfo | None = None
        self._lock = threading.Lock()
        self._info_is_forbidden: bool | None = None  # None: nobody asked
        self._store_dir_is_known = False  # as far as it ever will be
        self._warned = False
        self.has_answered = False
        """It gave an object, or said 404."""

    def info(self, *, hurried: bool) -> CacheInfo:
        """See `BinaryCache.info`."""
        with self._lock:
            if self._info is None:
                self._info = self._remembered() or self._ask(hurried=hurried)
            if self._info.store_dir != STORE_DIR:
                error = StoreDirError(
                    "cache is for another store directory", store_dir=self._info.store_dir
                )
                self._gate.give_up(error)
                raise error
            return self._info

    def check_store_dir(self, *, hurried: bool) -> None:
        """Look once if the cache is for another store directory, and has nothing for that reason.

        One alone is asked for nix-cache-info only then: nothing else of it would matter.

        Raises:
            StoreDirError: it is.
        """
        if self._store_dir_is_known:
            return
        self._store_dir_is_known = True
        try:
            self.info(hurried=hurried)
        except StoreDirError:
            raise
        except (FormatError, TransportError) as error:
            _log.info("%s does not say which store it is for: %s", self._url, error)

    def forbidden(self, error: ForbiddenError, *, hurried: bool) -> TransportError:
        """What 403 for a narinfo means: a missing object, or a closed door."""
        if (closed := self._closed(error, hurried=hurried)) is not None:
            self._gate.disbelieved(closed)
            return closed
        self._warn_of_403()
        missing = NotFoundError("no such object")
        missing.facts = dict(error.facts)
        return missing

    def forbidden_nar(self, error: ForbiddenError, *, hurried: bool) -> TransportError:
        """What 403 for a NAR means, whose narinfo is at hand: the same."""
        if (closed := self._closed(error, hurried=hurried)) is not None:
            return closed
        self._warn_of_403()
        gone = NarForbiddenError(
            "the cache has the narinfo, but refuses its NAR",
            hint=error.hint
            or "403 is what some caches say for what they do not have; else look at the"
            " credentials for this cache",
        )
        gone.facts = dict(error.facts)
        return gone

    def _closed(self, error: ForbiddenError, *, hurried: bool) -> AuthenticationError | None:
        """That the door is closed, if it is."""
        if self.has_answered or not self._all_is_forbidden(hurried=hurried):
            return None
        closed = AuthenticationError(
            "cache refuses everything",
            hint=error.hint or "it answers 403 to all that is asked: are there credentials for it?",
        )
        closed.facts = dict(error.facts)
        if hurried and not self._warned:  # else it is what the run ends with
            self._warned = True
            _log.warning("%s: %s: %s", self._url, str(closed), closed.hint)
        return closed

    def _warn_of_403(self) -> None:
        if not self._warned:
            self._warned = True
            _log.warning(
                "%s: 403 is taken for something that it does not have; if it should have it, look"
                " at the credentials",
                self._url,
            )

    def _all_is_forbidden(self, *, hurried: bool) -> bool:
        """Whether nix-cache-info is refused as well; what is remembered of it does not count."""
        with self._lock:
            if self._info_is_forbidden is None:
                with suppress(FormatError, TransportError):
                    self._ask(hurried=hurried)
            return self._info_is_forbidden is True

    def _remembered(self) -> CacheInfo | None:
        raw = self._memory.cache_info(self._url)
        try:
            return None if raw is None else CacheInfo.parse(raw)
        except FormatError:
            return None

    def _ask(self, *, hurried: bool) -> CacheInfo:
        try:
            raw = self._small.read("nix-cache-info", cacheinfo.MAX_SIZE, hurried=hurried)
        except NotFoundError as error:
            self._info_is_forbidden = isinstance(error, ForbiddenError)
            if not self._info_is_forbidden:
                _log.warning("%s has no nix-cache-info: taking the defaults", self._url)
            return CacheInfo()
        self._info_is_forbidden = False
        info = CacheInfo.parse(raw)
        self._memory.keep_cache_info(self._url, raw)
        return info
