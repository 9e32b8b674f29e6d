"""Where a server listens, as it is typed: ``HOST:PORT``. Knows no sockets."""

from __future__ import annotations

from typing import NamedTuple

from nixfetch.errors import FormatError

MAX_PORT = 65535
_MAX_DIGITS = 5  # of a port


class AddressError(FormatError):
    """The text is not ``HOST:PORT``."""


class Address(NamedTuple):
    """A host and a TCP port."""

    host: str
    """A name, or an IPv4 or IPv6 address without brackets."""
    port: int
    """0: one that is free."""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read ``HOST:PORT``; an IPv6 address stands in brackets.

        Raises:
            AddressError: no host, no port, a bad port, or an IPv6 address without brackets.
        """
        host, colon, port = text.rpartition(":")
        if not (colon and host):
            raise AddressError("expected HOST:PORT", text=text)
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise AddressError("an IPv6 address stands in brackets: [::1]:5000", text=text)
        digits = port.isascii() and port.isdecimal() and len(port) <= _MAX_DIGITS
        if not digits or int(port) > MAX_PORT or not host:
            raise AddressError("expected HOST:PORT", text=text)
        return cls(host, int(port))

    @property
    def url(self) -> str:
        """What a client calls it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"
