"""Names of objects and URLs as text: which are allowed, and how they are shown.

Knows no remote: each transport turns what is allowed here into a request of its own.

The names come from narinfos, where no signature covers them, so they are hostile until
`segments` has looked at them. Its rule is the same for every transport, although only a
directory could be escaped from: an HTTP server behind a careless proxy is a directory too.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, unquote_to_bytes, urlsplit

from nixfetch.errors import TransportError

MAX_URL = 8192  # bytes; what common servers take as a request line
REDACTED = "REDACTED"

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")
# Names of query parameters whose values let the bearer in: X-Amz-Signature, X-Amz-Credential,
# X-Goog-Signature, AWSAccessKeyId, Key-Pair-Id, sig (Azure), token, …
_SECRET = re.compile(r"sig|token|cred|secret|passw|auth|key|policy", re.IGNORECASE)


class UrlError(TransportError):
    """A URL that we refuse to ask for: malformed, or leading where a cache must not send us."""


def scheme(text: str) -> str | None:
    """The URL scheme that `text` begins with, in lower case; None for a relative URL."""
    match = _SCHEME.match(text)
    return match[1].lower() if match else None


def segments(name: str) -> tuple[bytes, ...]:
    """The path of a relative URL, cut at its slashes, each part percent-decoded once.

    A query or fragment is left out: to a directory or a bucket it means what it means to a
    static web server, nothing.

    Raises:
        UrlError: `name` has a scheme or a host, is absolute, or has a part that is empty,
            ``.`` or ``..``, or that holds a slash, a backslash or a control character, encoded
            or not.
    """
    checked_text(name)
    if (found := scheme(name)) is not None:
        raise UrlError("scheme not allowed", scheme=found)
    path = re.split(r"[?#]", name, maxsplit=1)[0]
    parts = tuple(unquote_to_bytes(part) for part in path.split("/"))
    for part in parts:
        if part in {b"", b".", b".."} or re.search(rb"[\x00-\x1f\x7f/\\]", part):
            raise UrlError("name leaves the cache", name=redacted(name))
    return parts


def checked_text(text: str) -> str:
    """`text`, if it could be a URL at all.

    Raises:
        UrlError: it is longer than `MAX_URL`, or holds a backslash (which browsers read as a
            slash, and others do not) or a control character.
    """
    if len(text) > MAX_URL:
        raise UrlError("URL is too long", length=len(text), limit=MAX_URL)
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise UrlError("URL is not text")
    if "\\" in text or _UNPRINTABLE.search(text):
        raise UrlError("URL has a backslash or a control character")
    return text


def redacted(url: str) -> str:
    """`url` as it may be shown: without user, password and fragment, signatures blotted out."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return _stump(url)
    if parts.scheme not in {"", "file"} and not parts.hostname and "@" in url:
        return _stump(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    netloc = host if port is None else f"{host}:{port}"
    query = "&".join(map(_redacted_field, parts.query.split("&")))
    return parts._replace(netloc=netloc, query=query, fragment="").geturl()


def _redacted_field(field: str) -> str:
    name, equals, _ = field.partition("=")
    return f"{name}={REDACTED}" if equals and _SECRET.search(name) else field


def _stump(url: str) -> str:
    """All that may be shown of a URL in which we cannot tell what is a password."""
    return f"{scheme(url) or ''}:…"


def parameters(query: str, known: frozenset[str]) -> dict[str, str]:
    """The fields of a cache URL's query, percent-decoded; of equal ones the last.

    Raises:
        UrlError: a field that is not `known`. Guessing on would ask the wrong cache: with
            ``endpiont=`` left out, a private bucket's name goes to Amazon.
    """
    fields = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := sorted(fields.keys() - known):
        hint = f"known here: {', '.join(sorted(known))}" if known else "this kind takes none"
        raise UrlError("unknown parameter in the URL", parameter=", ".join(unknown), hint=hint)
    return fields
