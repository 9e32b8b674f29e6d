"""Which proxy is on the way to a server, as the environment says. Knows no sockets.

The environment is read as curl and Python read it: HTTP_PROXY (small letters only where a CGI
request could have set it), HTTPS_PROXY, ALL_PROXY, NO_PROXY.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit
from urllib.request import (  # type: ignore[attr-defined] # typeshed lacks the second
    getproxies_environment,
    proxy_bypass_environment,
)

from nixfetch.transport.urls import UrlError

if TYPE_CHECKING:
    from collections.abc import Mapping

PROXY_HINT = "look at HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY in the environment"
_PORT = 80
_OTHERS = frozenset({"https", "socks", "socks4", "socks4a", "socks5", "socks5h"})


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that talks plain HTTP to us."""

    host: str
    port: int
    authorization: str | None = field(default=None, repr=False)
    """The value of Proxy-Authorization."""

    @property
    def authority(self) -> str:
        """``host:port``."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Proxies:
    """The proxies that an environment names."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        """Take them from `environment`, which is ours by default.

        Args:
            environment: as `getproxies_environment` gives it: URLs by scheme ("http", "https",
                "all"), and under "no" the hosts that need none.
        """
        found = getproxies_environment() if environment is None else environment
        self._no = {"no": found.get("no", "")}
        shared = found.get("all")
        self._urls = {
            scheme: url for scheme in ("http", "https") if (url := found.get(scheme) or shared)
        }

    def towards(self, scheme: str, host: str, port: int) -> Proxy | None:
        """The proxy for a server, if there is one.

        Raises:
            UrlError: its URL is malformed, or it is of a kind that we cannot use.
        """
        url = self._urls.get(scheme)
        if url is None or proxy_bypass_environment(f"{host}:{port}", self._no):
            return None
        return parse(url)


def parse(url: str) -> Proxy:
    """The proxy at `url`, whose scheme may be missing.

    Raises:
        UrlError: it is malformed, or of a kind that we cannot use. It is not quoted: it may hold
            a password.
    """
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, parts.port or _PORT
    except ValueError:
        raise UrlError("malformed proxy URL", hint=PROXY_HINT) from None
    if parts.scheme in _OTHERS:
        raise UrlError("cannot use a proxy of this kind", kind=parts.scheme, hint=PROXY_HINT)
    if parts.scheme != "http" or not host:
        raise UrlError("malformed proxy URL", hint=PROXY_HINT)
    authorization = None
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        authorization = "Basic " + base64.b64encode(login).decode("ascii")
    return Proxy(host, port, authorization)
