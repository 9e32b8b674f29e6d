"""From the URL of a mirror to a `Destination`."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from typing import TYPE_CHECKING

from nixfetch.cache import BinaryCache
from nixfetch.config.caches import reach
from nixfetch.config.cacheurl import CacheUrl
from nixfetch.config.composed import netrc_file, retry_schedule, transport_options
from nixfetch.config.keyring import Keyring
from nixfetch.mirror.destination import Destination
from nixfetch.mirror.persist import Persistent
from nixfetch.plan.retry import RetrySchedule
from nixfetch.transport import TransportOptions, locate
from nixfetch.transport.destination import locate_sink

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nixfetch.config import Config
    from nixfetch.transport.options import TransportOptions as Options

_log = logging.getLogger(__name__)


def open_mirror(
    url: str,
    *,
    options: Options | None = None,
    retry: RetrySchedule | None = None,
    durable: bool = True,
) -> Destination:
    """Open a mirror to write to. It is asked nothing yet.

    Args:
        url: ``s3://bucket/prefix?region=&endpoint=``, ``file:///dir`` or ``/dir``, without
            parameters that are Nix's own.
        options: timeouts, connections, certificates.
        retry: how often to try, and how long to wait between tries.
        durable: wait for the disk of a directory.

    Raises:
        UrlError: it is none of these.
        AuthenticationError: an AWS profile is unknown.
    """
    options = options or TransportOptions()
    retry = retry or RetrySchedule()
    persist = Persistent(retry)
    with ExitStack() as opened:
        sink = locate_sink(url, options=options, persist=persist, durable=durable)
        opened.callback(sink.close)
        transport = locate(url, options=options)
        cache = BinaryCache(transport, retry=retry, pace=options.pace)
        opened.pop_all()
    return Destination(cache, sink, persist)


def open_configured_mirror(
    text: str, config: Config, environ: Mapping[str, str], *, durable: bool = True
) -> Destination:
    """Open the mirror that a user named, with the user's settings.

    Args:
        text: a URL as of a cache, with its parameters.
        config: timeouts, certificates, retries.
        environ: where credentials may be.
        durable: wait for the disk of a directory.

    Raises:
        ConfigError: `text` names no cache, or its credentials cannot be read.
        UrlError, AuthenticationError: as `open_mirror`.
    """
    url = CacheUrl.parse(text)
    for name in url.unknown:
        _log.warning("%s: parameter %s is not known and has no effect", url.display, name)
    keyring = Keyring(environ, netrc_file(config))
    there = reach(url, options=transport_options(config), keyring=keyring)
    schedule = url.schedule(retry_schedule(config))
    return open_mirror(there.target, options=there.options, retry=schedule, durable=durable)
