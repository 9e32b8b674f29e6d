"""Where a cache may send us: by an absolute URL in a narinfo, or by a redirect.

Knows addresses and names; knows nothing of URLs and requests.

A cache that we ask must not be able to make us ask this machine's own services, its neighbours
or a cloud's metadata service. Public addresses are always allowed. Others are allowed only to a
cache that is itself such a neighbour: a cache on this machine may name this machine and private
networks; one in a private network may name private networks; one at a link-local address other
link-local ones. The cache's own host is always allowed.

The limit: a name is resolved here, and once more when the connection is made. Who answers the
two look-ups differently (DNS rebinding) gets past the check, and so does a name that only a proxy
can resolve. Both reach plain GET requests, whose answers are hashed and never shown.
"""

from __future__ import annotations

import ipaddress
import socket
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING

from nixfetch.transport.deadline import Deadline, in_time
from nixfetch.transport.urls import UrlError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Resolver = Callable[[str], Iterable[str]]


class Kind(Enum):
    """How near an address is."""

    PUBLIC = "public"
    PRIVATE = "private"
    LOOPBACK = "loopback"
    LINK_LOCAL = "link-local"
    NEVER = "multicast or reserved"


_REACH = {
    Kind.PUBLIC: {Kind.PUBLIC},
    Kind.PRIVATE: {Kind.PUBLIC, Kind.PRIVATE},
    Kind.LOOPBACK: {Kind.PUBLIC, Kind.PRIVATE, Kind.LOOPBACK},
    Kind.LINK_LOCAL: {Kind.PUBLIC, Kind.LINK_LOCAL},
    Kind.NEVER: {Kind.PUBLIC},
}

# Source: IANA's special-purpose address registries. Python's is_private changed its mind
# between patch releases, so the list is ours.
_KINDS = tuple(
    (ipaddress.ip_network(network), kind)
    for network, kind in (
        ("0.0.0.0/8", Kind.LOOPBACK),  # "this host": Linux connects 0.0.0.0 to loopback
        ("127.0.0.0/8", Kind.LOOPBACK),
        ("10.0.0.0/8", Kind.PRIVATE),
        ("100.64.0.0/10", Kind.PRIVATE),  # carrier-grade NAT; some clouds' metadata, tailnets
        ("172.16.0.0/12", Kind.PRIVATE),
        ("192.0.0.0/24", Kind.PRIVATE),
        ("192.168.0.0/16", Kind.PRIVATE),
        ("198.18.0.0/15", Kind.PRIVATE),
        ("169.254.0.0/16", Kind.LINK_LOCAL),
        ("224.0.0.0/4", Kind.NEVER),
        ("240.0.0.0/4", Kind.NEVER),
        ("::/127", Kind.LOOPBACK),  # :: and ::1
        ("fc00::/7", Kind.PRIVATE),
        ("fec0::/10", Kind.PRIVATE),
        ("fe80::/10", Kind.LINK_LOCAL),
        ("ff00::/8", Kind.NEVER),
    )
)
# IPv6 networks that carry an IPv4 address, and where its bits begin, counted from the right.
_CARRIERS = tuple(
    (ipaddress.IPv6Network(network), shift)
    for network, shift in (
        ("::ffff:0:0/96", 0),  # mapped
        ("::/96", 0),  # compatible, long deprecated
        ("64:ff9b::/96", 0),  # NAT64
        ("64:ff9b:1::/48", 0),  # NAT64, local use
        ("2002::/16", 80),  # 6to4
    )
)


def kind(address: str) -> Kind:
    """How near `address` is, an IPv4 or IPv6 address with or without a ``%zone``.

    Raises:
        ValueError: it is not an address.
    """
    parsed = ipaddress.ip_address(address.partition("%")[0])
    for network, found in _KINDS:
        if parsed in network:
            return found
    if isinstance(parsed, ipaddress.IPv6Address):
        for carrier, shift in _CARRIERS:
            if parsed in carrier:
                return kind(str(ipaddress.IPv4Address(int(parsed) >> shift & 0xFFFF_FFFF)))
    return Kind.PUBLIC


def resolve(host: str) -> list[str]:
    """The addresses of `host` as the system has them; none when it cannot tell.

    Takes every spelling that a connection would take, ``127.1`` and ``0x7f000001`` among them.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []  # connecting will fail as well, and say why; or a proxy knows the name
    return [str(address[0]) for *_, address in found]


class Boundary:
    """What one cache may name, drawn by where the cache itself is."""

    def __init__(self, home: str, resolver: Resolver = resolve) -> None:
        self._home = home
        self._resolver = resolver
        self._allowed: set[Kind] | None = None  # drawn when first needed, then kept

    def check(self, host: str, *, seconds: float | None = None) -> None:
        """Let `host` pass, a name or an address.

        Args:
            host: to be asked.
            seconds: in which its addresses have to be known; None: without limit.

        Raises:
            UrlError: one of its addresses is nearer than this cache may reach.
            TransportError: nobody says in time what they are; retryable.
        """
        if host == self._home:
            return
        deadline = Deadline(seconds)
        if self._allowed is None:
            self._allowed = self._draw(deadline)
        for address in self._addresses(host, deadline):
            if (found := kind(address)) not in self._allowed:
                raise UrlError(
                    "the cache points to an address that it must not",
                    host=host,
                    address=address,
                    kind=found.value,
                )

    def _draw(self, deadline: Deadline) -> set[Kind]:
        """What all of the home's addresses agree on: one forged record must not widen it."""
        allowed = [_REACH[kind(address)] for address in self._addresses(self._home, deadline)]
        return set.intersection(*allowed) if allowed else {Kind.PUBLIC}

    def _addresses(self, host: str, deadline: Deadline) -> Iterable[str]:
        try:
            ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return in_time(partial(self._resolver, host), deadline)
        return [host]
