"""From the URL of a cache to the sink that writes it. Knows the kinds; does no I/O."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes, urlsplit

from nixfetch.transport.locate import locate
from nixfetch.transport.put_file import FileSink
from nixfetch.transport.urls import UrlError, redacted, scheme

if TYPE_CHECKING:
    from nixfetch.transport.options import TransportOptions
    from nixfetch.transport.sink import Persist, Sink

KNOWN = "s3://BUCKET[/PREFIX], file:///DIR, /DIR"


def locate_sink(
    url: str, *, options: TransportOptions, persist: Persist, durable: bool = True
) -> Sink:
    """Make the sink of one cache.

    Args:
        url: as `locate` takes it, of a kind that can be written to.
        options: timeouts, connections, certificates.
        persist: when to try a request again.
        durable: wait for the disk of a directory.

    Raises:
        UrlError: there is no such kind, or its URL is malformed.
        AuthenticationError: the AWS profile is unknown.
    """
    if scheme(url) == "s3":
        from nixfetch.transport.s3.sink import connect_sink

        return connect_sink(url, options=options, persist=persist)
    if scheme(url) in {"http", "https"}:
        raise UrlError(
            "mirrors are buckets or directories", url=redacted(url), hint=f"known: {KNOWN}"
        )
    directory = locate(url, options=options).url  # checked, and without what may stand around it
    path = os.fsdecode(unquote_to_bytes(urlsplit(directory).path))
    return FileSink(Path(path), durable=durable)
