"""What the URL of a bucket says. Asks nobody.

    s3://bucket[/prefix]?region=&endpoint=&scheme=&profile=&addressing-style=auto|path|virtual
                        &requester-pays=true

Without an endpoint it is Amazon's of the region, and the bucket is part of the host name, unless
it has a dot, which a wildcard certificate does not cover. With one, the bucket is part of the
path, unless ``addressing-style=virtual``. Source: nix, src/libstore/s3-url.cc.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self
from urllib.parse import unquote, urlsplit

from nixfetch.transport.urls import UrlError, checked_text, parameters, redacted, scheme

if TYPE_CHECKING:
    from collections.abc import Mapping

REGION = "us-east-1"  # Nix's default
PARAMETERS = frozenset(
    {"region", "endpoint", "scheme", "profile", "addressing-style", "requester-pays"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Location:
    """What an ``s3://`` URL says."""

    bucket: str
    prefix: str = ""
    """Without slashes at its ends."""
    region: str = REGION
    endpoint: str | None = None
    """An http or https URL; None: Amazon's."""
    profile: str | None = None
    """Of the AWS configuration files; None: the environment's choice."""
    addressing: Literal["virtual", "path"] = "virtual"
    """``virtual``: the bucket is in the host name; ``path``: in the path."""
    use_ssl: bool = True
    requester_pays: bool = False
    """Whether we say that the bill is ours, which some buckets want to hear."""

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read an ``s3://`` URL.

        Raises:
            UrlError: a bucket, parameter or value is missing or unknown.
        """
        try:
            parts = urlsplit(checked_text(url))
        except ValueError:
            raise UrlError("malformed URL", url=redacted(url)) from None
        bucket = parts.netloc
        if scheme(url) != "s3" or not bucket or set(bucket) & set("@:[]%") or parts.fragment:
            hint = "s3://bucket[/prefix]?region=&endpoint=…; credentials come from AWS's own files"
            raise UrlError("malformed S3 URL", url=redacted(url), hint=hint)
        fields = parameters(parts.query, PARAMETERS)
        protocol = _choice(fields, "scheme", "https", "http")
        endpoint = _endpoint(fields.get("endpoint", ""), protocol)
        style = _choice(fields, "addressing-style", "auto", "path", "virtual")
        in_path = style == "path" or (style == "auto" and bool(endpoint or "." in bucket))
        return cls(
            bucket=bucket,
            prefix=unquote(parts.path).strip("/"),
            region=fields.get("region") or REGION,
            endpoint=endpoint,
            profile=fields.get("profile") or None,
            addressing="path" if in_path else "virtual",
            use_ssl=protocol == "https",
            requester_pays=_choice(fields, "requester-pays", "false", "true", "0", "1")
            in {"true", "1"},
        )


def _choice(fields: Mapping[str, str], name: str, default: str, *others: str) -> str:
    value = fields.get(name) or default
    if value not in {default, *others}:
        known = ", ".join((default, *others))
        raise UrlError("unknown value in the URL", parameter=name, hint=f"known here: {known}")
    return value


def _endpoint(text: str, protocol: str) -> str | None:
    if not text:
        return None
    url = text if "://" in text else f"{protocol}://{text}"
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises when it is no number
    except ValueError:
        raise UrlError("malformed endpoint in the URL") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username is not None:
        raise UrlError("malformed endpoint in the URL", hint="HOST[:PORT] or http(s)://HOST[:PORT]")
    return url.rstrip("/")
