"""The URL of a cache, apart from the parameters that Nix writes behind it. Opens nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlencode, urlsplit

from nixfetch.config import values
from nixfetch.config.access import FOR_HTTP, FOR_S3, Access, AccessError
from nixfetch.config.errors import ConfigError
from nixfetch.errors import facts

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from nixfetch.plan.retry import RetrySchedule

MAX_URL = 4096  # characters; more than any server takes
STORE_DIR = "/nix/store"
SUPPORTED = (
    "https://…, http://…, s3://bucket[/prefix]?region=&endpoint=&profile=, file:///dir, /dir"
)

NAMELESS = "(without a name)"  # stands for what may be a token
S3_PARAMETERS = frozenset(
    {"profile", "region", "endpoint", "scheme", "addressing-style", "requester-pays"}
)
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
        "retry-delay-rate-limited",  # a server that limits says itself how long to wait
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
_ACCESS = {"http": FOR_HTTP, "https": FOR_HTTP, "s3": FOR_S3}
_RETRY = ("retry-attempts", "retry-delay", "retry-max-delay")
_MILLISECOND = 0.001  # seconds

_PARAMETER = re.compile(r"[A-Za-z][A-Za-z_-]{0,31}")
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
    access: Access = field(default_factory=Access)
    """Where its credentials are."""
    retry: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    """Those of ``retry-attempts``, ``retry-delay`` and ``retry-max-delay`` (milliseconds) that
    were given."""
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
        kind = url.partition(":")[0]
        if parameters.get("store", STORE_DIR).rstrip("/") != STORE_DIR:
            raise CacheUrlError("cache is for another store directory", supported=STORE_DIR)
        about_access = _ACCESS.get(kind, {})
        about_s3, ignored = (
            (S3_PARAMETERS, _IGNORED | _IGNORED_S3) if kind == "s3" else (frozenset(), _IGNORED)
        )
        priority, retry = parameters.get("priority"), _those(parameters, _RETRY)
        known = {"priority", "trusted", "store", *_RETRY, *about_access, *about_s3, *ignored}
        return cls(
            url=url,
            priority=None if priority is None else _number("priority", priority),
            trusted=_truth("trusted", parameters.get("trusted", "false")),
            s3=MappingProxyType(_those(parameters, about_s3)),
            access=_access(url, _those(parameters, about_access)),
            retry=MappingProxyType(
                {name: _number(name, text, least=0) for name, text in retry.items()}
            ),
            unknown=(
                *unknown,
                *(_shown(name, value) for name, value in parameters.items() if name not in known),
            ),
        )

    def schedule(self, usual: RetrySchedule) -> RetrySchedule:
        """When to try again: `usual`, but for what the parameters say."""
        tries = self.retry.get("retry-attempts", usual.tries)
        base, longest = (
            self.retry[name] * _MILLISECOND if name in self.retry else otherwise
            for name, otherwise in (("retry-delay", usual.base), ("retry-max-delay", usual.longest))
        )
        return replace(usual, tries=max(tries, 1), base=base, longest=longest)

    @property
    def is_directory(self) -> bool:
        """Whether it is on this machine, as far as we know."""
        return self.url.startswith("file:")

    @property
    def for_transport(self) -> str:
        """`url` with what the transport of a bucket needs behind it: may hold secrets."""
        return f"{self.url}?{urlencode(sorted(self.s3.items()))}" if self.s3 else self.url

    @property
    def display(self) -> str:
        """Where it is, for people: without ``user:password@``, without parameters."""
        return _USERINFO.sub("", self.url)

    def __str__(self) -> str:
        shown: dict[str, object] = {**self.s3, **self.access.shown, **self.retry}
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


def _shown(name: str, value: str) -> str:
    """The name of a parameter, if it looks like one: ``?c2VjcmV0==`` is a token."""
    return name if _PARAMETER.fullmatch(name) and value.strip("=") else NAMELESS


def _access(url: str, parameters: dict[str, str]) -> Access:
    try:
        access = Access.parse(parameters)
    except AccessError as error:
        raise CacheUrlError(error.problem, parameter=error.facts["parameter"]) from error
    userinfo = url.partition("://")[2].partition("/")[0].rpartition("@")[0]
    if access.has_token and userinfo and ":" not in userinfo:
        raise CacheUrlError("a token has no user", parameter="user")
    return access


def _those(parameters: Mapping[str, str], names: Container[str]) -> dict[str, str]:
    return {name: value for name, value in parameters.items() if name in names}


def _number(name: str, text: str, *, least: int = -values.MAX_NUMBER) -> int:
    value = _value(name, values.Integer(minimum=least), text)
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
