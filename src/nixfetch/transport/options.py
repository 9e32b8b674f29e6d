"""How to talk to remotes: the knobs that every kind of transport shares.

Knows no environment variables and no settings files: whoever makes the options has read them.
"""

from __future__ import annotations

from dataclasses import dataclass

CONNECT_TIMEOUT = 15.0  # seconds; Nix's connect-timeout
STALL_TIMEOUT = 60.0  # seconds without a byte; Nix waits 300, which holds up a whole closure
CONNECTIONS = 25  # at a time; Nix's http-connections


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportOptions:
    """What `locate` gives to the transport that it makes."""

    connect_timeout: float = CONNECT_TIMEOUT
    """Seconds until a connection, with its TLS handshake, has to stand."""
    stall_timeout: float = STALL_TIMEOUT
    """Seconds that a remote may go without sending a byte."""
    connections: int = CONNECTIONS
    """Connections kept open to one remote at most."""
    ca_file: str | None = None
    """PEM file of the certificate authorities to believe; None: those of this machine."""
    user_agent: str | None = None
    """How we introduce ourselves; None: ``nixfetch/<version>``."""
    trust_env: bool = True
    """Whether the proxies that the environment names (HTTPS_PROXY, NO_PROXY, …) are used."""


def user_agent(options: TransportOptions) -> str:
    """What goes into the User-Agent field."""
    if options.user_agent is not None:
        return options.user_agent
    from importlib import metadata

    return f"nixfetch/{metadata.version('nixfetch')}"
