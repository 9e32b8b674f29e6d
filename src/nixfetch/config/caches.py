"""Caches as a user names them, opened: URLs with Nix's parameters, and how to reach them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from nixfetch.cache import BinaryCache, CacheGroup
from nixfetch.config.cacheurl import CacheUrl
from nixfetch.transport import TransportOptions, locate

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nixfetch.plan.retry import RetrySchedule

_log = logging.getLogger(__name__)


def open_caches(
    urls: Iterable[str],
    *,
    options: TransportOptions | None = None,
    retry: RetrySchedule | None = None,
) -> CacheGroup:
    """Open several caches as one. None of them is asked anything yet.

    Args:
        urls: such as ``https://cache.nixos.org``, ``s3://bucket?region=eu-west-1``,
            ``file:///dir`` or ``/dir``; Nix's ``?priority=`` and ``?trusted=`` are heeded.
        options: timeouts, connections, certificates.
        retry: how often to try, and how long to wait between tries.

    Raises:
        CacheUrlError: one is of a kind that we cannot read, or malformed.
        AuthenticationError: an AWS profile is unknown.
    """
    caches = []
    for text in urls:
        url = CacheUrl.parse(text)
        for name in url.unknown:
            _log.warning("%s: parameter %s is not known and has no effect", url.display, name)
        transport = locate(url.for_transport, options=options or TransportOptions())
        caches.append(
            BinaryCache(transport, priority=url.priority, trusted=url.trusted, retry=retry)
        )
    return CacheGroup(caches)
