"""The URL of a cache, apart from the parameters that Nix writes behind it. Opens nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlencode, urlsplit

from nixfetch.config import values
from nixfetch.config.errors import ConfigError
from nixfetch.errors import facts

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_URL = 4096  # characters; more than any server takes
STORE_DIR = "/nix/store"
SUPPORTED = (
    "https://…, http://…, s3://bucket[/prefix]?region=&endpoint=&profile=, file:///dir, /dir"
)

NAMELESS = "(without =)"  # stands for the parameter: it may be a token
S3_PARAMETERS = frozenset({"profile", "region", "endpoint", "scheme", "addressing-style"})
"""What changes how a bucket is read."""

# Known to Nix, and without effect on reading from a cache.
_IGNORED = frozenset(
    {
        "want-mass-query",
        "path-info-cache-size",
        "system-features",
        "compression",
        "compression-level",
        "parallel-compression",
        "write-nar-listing",
        "index-debug-info",
        "secret-key",
        "secret-keys",
        "local-nar-cache",
        "narinfo-compression",
        "ls-compression",
        "log-compression",
        "retry-attempts",
        "retry-delay",
        "retry-delay-rate-limited",
        "retry-max-delay",
    }
)
_IGNORED_S3 = frozenset(
    {
        "multipart-upload",
        "multipart-chunk-size",
        "multipart-threshold",
        "buffer-size",
        "storage-class",
    }
)
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f]")
_USERINFO = re.compile(r"(?<=://)[^/?#]*@")
_ENDPOINT_USERINFO = re.compile(r"(?<=://).*@|^(?!.*://).*@", re.DOTALL)  # a scheme is optional


class CacheUrlError(ConfigError):
    """The text names no cache that we can read. Carries `url`, without secrets."""


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class CacheUrl:
    """Where a cache is, and what the user says about it.

    ``str()`` and ``repr()`` hold no secrets; `url` may.
    """

    url: str
    """Where it is, for a transport: scheme, perhaps ``user:password@``, host, path; no
    parameters, no slash at the end. Directories are ``file:///…``, percent-encoded."""
    priority: int | None = None
    """Lower is asked first; None: what the cache says of itself."""
    trusted: bool = False
    """Its paths need no signature."""
    s3: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    """The parameters of `S3_PARAMETERS` that were given, decoded; only for ``s3://``."""
    unknown: tuple[str, ...] = ()
    """Names of parameters that we cannot heed, in order; the user should hear of them."""

    @classmethod
    def parse(cls, text: str) -> CacheUrl:
        """Read a cache's URL as Nix writes it.

        Args:
            text: such as ``https://cache.example?priority=10``, ``s3://bucket?region=eu-west-1``,
                ``file:///dir`` or ``/dir``.

        Raises:
            CacheUrlError: it is of a kind that we cannot read, or malformed, or the value of a
                parameter is, or its store is not ``/nix/store``.

        Source: nix, src/libstore/store-reference.cc, `StoreReference::parse`.
        """
        with facts(url=without_secrets(text)):
            is_text = not any("\ud800" <= character <= "\udfff" for character in text)
            if len(text) > MAX_URL or _UNPRINTABLE.search(text) or not is_text:
                raise CacheUrlError("malformed cache URL")
            base, _, query = text.partition("?")
            url = _base(base)
            parameters, unknown = _split_query(query)
            return cls._with(url, parameters, unknown)

    @classmethod
    def _with(cls, url: str, parameters: dict[str, str], unknown: list[str]) -> CacheUrl:
        priority = parameters.pop("priority", None)
        trusted = parameters.pop("trusted", "false")
        if parameters.pop("store", STORE_DIR).rstrip("/") != STORE_DIR:
            raise CacheUrlError("cache is for another store directory", supported=STORE_DIR)
        is_s3 = url.startswith("s3:")
        wanted = S3_PARAMETERS if is_s3 else frozenset()
        ignored = _IGNORED | _IGNORED_S3 if is_s3 else _IGNORED
        return cls(
            url=url,
            priority=None if priority is None else _number("priority", priority),
            trusted=_truth("trusted", trusted),
            s3=MappingProxyType({name: parameters[name] for name in parameters if name in wanted}),
            unknown=(*unknown, *(name for name in parameters if name not in wanted | ignored)),
        )

    @property
    def for_transport(self) -> str:
        """`url` with what the transport of a bucket needs behind it: may hold secrets."""
        return f"{self.url}?{urlencode(sorted(self.s3.items()))}" if self.s3 else self.url

    @property
    def display(self) -> str:
        """Where it is, for people: without ``user:password@``, without parameters."""
        return _USERINFO.sub("", self.url)

    def __str__(self) -> str:
        shown: dict[str, object] = dict(self.s3)
        if "endpoint" in self.s3:
            shown["endpoint"] = _ENDPOINT_USERINFO.sub("", self.s3["endpoint"])
        if self.priority is not None:
            shown["priority"] = self.priority
        if self.trusted:
            shown["trusted"] = "true"
        query = urlencode(sorted(shown.items()), safe=":/", quote_via=quote)
        return f"{self.display}?{query}" if query else self.display

    def __repr__(self) -> str:
        return f"CacheUrl({str(self)!r})"


def without_secrets(text: str) -> str:
    """`text`, which may be no URL at all, without what may be a password or a token in it."""
    base = text.partition("?")[0]
    return re.sub(r"(?<=:)(//)?.*@", r"\1", base, flags=re.DOTALL)[:MAX_URL]


def _base(text: str) -> str:
    if text.startswith("/"):
        return _trimmed("file://" + quote(text, safe="/:@~+,=!$&'()*;"))
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise CacheUrlError("malformed cache URL") from error
    match parts.scheme:
        case "http" | "https":
            fits = bool(parts.hostname) and port != 0
        case "s3":
            fits = bool(parts.netloc) and not set("@:") & set(parts.netloc)
        case "file":
            fits = not parts.netloc and parts.path.startswith("/")
        case _:
            raise CacheUrlError("not a kind of cache that can be read here", supported=SUPPORTED)
    if not fits or "#" in text:
        raise CacheUrlError("malformed cache URL", supported=SUPPORTED)
    return _trimmed(f"{parts.scheme}://{parts.netloc}{parts.path}")


def _trimmed(url: str) -> str:
    trimmed = url.rstrip("/")
    return trimmed if trimmed != "file:" else "file:///"


def _split_query(query: str) -> tuple[dict[str, str], list[str]]:
    parameters: dict[str, str] = {}
    unknown = []
    for piece in filter(None, query.split("&")):
        name, equals, value = piece.partition("=")
        if equals:
            parameters.setdefault(unquote(name), unquote(value))  # Nix: the first one counts
        else:
            unknown.append(NAMELESS)
    return parameters, unknown


def _number(name: str, text: str) -> int:
    value = _value(name, values.Integer(minimum=-values.MAX_NUMBER), text)
    assert isinstance(value, int)
    return value


def _truth(name: str, text: str) -> bool:
    return _value(name, values.Boolean(), text) is True


def _value(name: str, kind: values.Kind, text: str) -> values.Value:
    try:
        return values.parse(kind, text)
    except ConfigError as error:
        expected = values.expected(kind)
        raise CacheUrlError("unusable parameter", parameter=name, expected=expected) from error
