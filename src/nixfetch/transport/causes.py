"""Why a connection failed, in words for a user. Knows no client library.

Client libraries wrap the system's error two or three deep, each with its own prose; the
innermost one is the one that helps.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_REASON = 200  # characters; some libraries quote what the remote sent
CERTIFICATE_HINT = (
    "if this server's certificate authority is one of yours, name its file in NIX_SSL_CERT_FILE or"
    " ssl-cert-file; else look at this machine's clock and at who answers in the server's name"
)
OUR_CERTIFICATE_HINT = (
    "look at the client certificate and its key: who signed it, until when it is valid"
)
_OUR_CERTIFICATE = frozenset(  # alerts of a server that asked us for one (RFC 8446, section 6)
    {
        "TLSV13_ALERT_CERTIFICATE_REQUIRED",
        "SSLV3_ALERT_BAD_CERTIFICATE",
        "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        "SSLV3_ALERT_CERTIFICATE_REVOKED",
        "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        "TLSV1_ALERT_UNKNOWN_CA",
        "TLSV1_ALERT_ACCESS_DENIED",
    }
)


def chain(error: BaseException) -> Iterator[BaseException]:
    """`error`, and what it came from, outermost first."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def is_certificate(error: BaseException) -> bool:
    """Whether a certificate was not believed: asking again will not help."""
    return any(isinstance(link, ssl.SSLCertVerificationError) for link in chain(error))


def is_our_certificate(error: BaseException) -> bool:
    """Whether the remote did not believe our certificate, or misses one."""
    return any(
        isinstance(link, ssl.SSLError) and link.reason in _OUR_CERTIFICATE for link in chain(error)
    )


def reason(error: BaseException) -> str:
    """What went wrong, such as ``connection refused``; at most `MAX_REASON` characters."""
    for link in chain(error):
        match link:
            case ssl.SSLCertVerificationError():
                return f"certificate verify failed: {link.verify_message}"[:MAX_REASON]
            case ssl.SSLError(reason=str(code)) if code:
                return f"tls: {code.replace('_', ' ').lower()}"[:MAX_REASON]
            case OSError(strerror=str(text)) if text:
                return text[:1].lower() + text[1:MAX_REASON]
            case TimeoutError():
                return "timed out"
            case _:
                continue
    return str(error)[:MAX_REASON] or type(error).__name__
