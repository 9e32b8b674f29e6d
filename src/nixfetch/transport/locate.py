"""From the URL of a cache to the transport that reads it. Knows the kinds; does no I/O.

httpx and boto3 take a tenth of a second and more to import, so each kind is imported when it is
asked for.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes, urlsplit

from nixfetch.transport.file import FileTransport
from nixfetch.transport.urls import UrlError, checked_text, parameters, redacted, scheme

if TYPE_CHECKING:
    from nixfetch.transport.base import Transport
    from nixfetch.transport.credentials import Credentials
    from nixfetch.transport.options import TransportOptions

KNOWN = "https://HOST[/PATH], http://HOST[/PATH], s3://BUCKET[/PREFIX], file:///DIR, /DIR"


def locate(
    url: str, *, options: TransportOptions, credentials: Credentials | None = None
) -> Transport:
    """Make the transport of one cache.

    Args:
        url: where the cache is, in one of the forms of `KNOWN`, without the parameters that are
            Nix's own (``priority``, ``trusted``, …). A directory's absolute path is taken as it is.
        options: timeouts, connections, certificates.
        credentials: for an HTTP cache, as from a netrc file; those in the URL win.

    Raises:
        UrlError: there is no such kind of cache, or its URL is malformed.
    """
    checked_text(url)
    match scheme(url):
        case "http" | "https":
            from nixfetch.transport import http

            return http.connect(url, options=options, credentials=credentials)
        case "s3":
            from nixfetch.transport import s3

            return s3.connect(url, options=options)
        case "file":
            return FileTransport(_directory(url))
        case None if url.startswith("/"):
            return FileTransport(Path(url))
        case _:
            raise UrlError("unknown kind of cache", url=redacted(url), hint=f"known: {KNOWN}")


def _directory(url: str) -> Path:
    try:
        parts = urlsplit(url)
    except ValueError:
        raise UrlError("malformed URL", url=redacted(url)) from None
    if parts.netloc not in {"", "localhost"} or not parts.path.startswith("/") or parts.fragment:
        hint = "file:///DIR, with three slashes"
        raise UrlError("URL names no directory of this machine", url=redacted(url), hint=hint)
    parameters(parts.query, frozenset())
    path = unquote_to_bytes(parts.path)
    if b"\0" in path:
        raise UrlError("URL has a backslash or a control character")
    return Path(os.fsdecode(path))
