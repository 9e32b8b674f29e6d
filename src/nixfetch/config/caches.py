"""Caches as a user names them, opened: URLs with their parameters, and how to reach them."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from nixfetch.cache import BinaryCache, CacheGroup
from nixfetch.cache.memory import Memory
from nixfetch.config.cacheurl import CacheUrl
from nixfetch.config.keyring import Keyring, without_user
from nixfetch.errors import facts
from nixfetch.plan.retry import RetrySchedule
from nixfetch.transport import TransportOptions, locate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from nixfetch.transport import Transport
    from nixfetch.transport.credentials import Credentials

_log = logging.getLogger(__name__)


def open_caches(
    urls: Iterable[str],
    *,
    options: TransportOptions | None = None,
    retry: RetrySchedule | None = None,
    netrc_file: Path | None = None,
    memory: Memory | None = None,
    bandwidth: int | None = None,
    offline: bool = False,
    race: bool = False,
    environ: Mapping[str, str] | None = None,
    throttle: Callable[[int], object] | None = None,
) -> CacheGroup:
    """Open several caches as one. None of them is asked anything yet; credentials are read.

    Args:
        urls: such as ``https://cache.nixos.org``, ``s3://bucket?region=eu-west-1``,
            ``file:///dir`` or ``/dir``; parameters such as ``?priority=``, ``?trusted=`` and
            ``?token-file=`` are heeded.
        options: timeouts, connections, certificates.
        retry: how often to try, and how long to wait between tries.
        netrc_file: passwords of caches over HTTP.
        memory: what caches said lately, and what came of interrupted downloads; directories
            need none. It becomes the group's to close.
        bandwidth: bytes a second that all of them together may send; directories count for
            nothing.
        offline: ask nobody on another machine: only what is remembered counts.
        race: ask caches of equal priority at the same time.
        environ: where ``token-env=`` and ``CREDENTIALS_DIRECTORY`` look; the process's own
            without it.
        throttle: told of bytes as they arrive, and waits where there were too many; stands in
            for `bandwidth`.

    Raises:
        CacheUrlError: one is of a kind that we cannot read, or malformed.
        SecretError: its credentials cannot be read.
        NetrcError: `netrc_file` is malformed.
    """
    with ExitStack() as opened:
        memory = memory or Memory()
        opened.callback(memory.close)
        opener = _Opener(
            options=options or TransportOptions(),
            retry=retry or RetrySchedule(),
            keyring=Keyring(os.environ if environ is None else environ, netrc_file),
            memory=memory,
            throttle=throttle or _throttle(bandwidth, opened),
            offline=offline,
        )
        caches = []
        shared = opened.pop_all()
        opened.callback(shared.close)
        for text in urls:
            caches.append(opener.cache(CacheUrl.parse(text)))
            opened.callback(caches[-1].close)
        group = CacheGroup(caches, race=race, on_close=shared.close)
        opened.pop_all()
    return group


def _throttle(bandwidth: int | None, opened: ExitStack) -> Callable[[int], object]:
    """Holds back whoever downloads too fast; is closed with `opened`."""
    if bandwidth is None:
        return lambda _: None
    from nixfetch.cache.throttle import Throttle

    throttle = Throttle(bandwidth)
    opened.callback(throttle.close)
    return throttle


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opener:
    options: TransportOptions
    retry: RetrySchedule
    keyring: Keyring
    memory: Memory
    throttle: Callable[[int], object]
    offline: bool

    def cache(self, url: CacheUrl) -> BinaryCache:
        for name in url.unknown:
            _log.warning("%s: parameter %s is not known and has no effect", url.display, name)
        with facts(cache=url.display):
            transport = self._transport(url)
        if url.is_directory:  # it is as near as what is remembered of it
            return BinaryCache(transport, priority=url.priority, trusted=url.trusted)
        return BinaryCache(
            transport,
            priority=url.priority,
            trusted=url.trusted,
            retry=url.schedule(self.retry),
            pace=self.options.pace,
            memory=self.memory,
            throttle=self.throttle,
            offline=self.offline,
        )

    def _transport(self, url: CacheUrl) -> Transport:
        return reach(url, options=self.options, keyring=self.keyring).transport()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """All that it takes to talk to one cache."""

    url: CacheUrl
    target: str = field(repr=False)
    """Its URL for a transport; may hold secrets."""
    options: TransportOptions
    credentials: Credentials | None

    def transport(self) -> Transport:
        """A new transport to it.

        Raises:
            As `locate`.
        """
        return locate(self.target, options=self.options, credentials=self.credentials)


def reach(url: CacheUrl, *, options: TransportOptions, keyring: Keyring) -> Reach:
    """How to reach the cache at `url`.

    Args:
        url: with what the user says about it.
        options: for what the URL does not say.
        keyring: where secrets and certificates are.

    Raises:
        SecretError: one cannot be read.
        NetrcError: netrc is malformed.
    """
    access = url.access

    def file(path: str | None, otherwise: str | None) -> str | None:
        return otherwise if path is None else keyring.file(path)

    credentials = keyring.credentials(url)
    return Reach(
        url=url,
        # Those of a URL win in the transport; what is left in it by now has no password.
        target=url.for_transport if credentials is None else without_user(url.for_transport),
        options=replace(
            options,
            ca_file=file(access.ca_file, options.ca_file),
            client_certificate=file(access.certificate, options.client_certificate),
            client_key=file(access.certificate_key, options.client_key),
        ),
        credentials=credentials,
    )
