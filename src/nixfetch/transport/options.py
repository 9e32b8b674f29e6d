"""How to talk to remotes: the knobs that every kind of transport shares.

Knows no environment variables and no settings files: whoever makes the options has read them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from nixfetch.transport.base import Pace

CONNECTIONS = 25  # at a time; Nix's http-connections


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportOptions:
    """What `locate` gives to the transport that it makes."""

    pace: Pace = field(default_factory=Pace)
    """How long a remote may let us wait."""
    connections: int = CONNECTIONS
    """Connections kept open to one remote at most."""
    ca_file: str | None = None
    """PEM file of the certificate authorities to believe; None: those of this machine."""
    client_certificate: str | None = None
    """PEM file of the certificate that says who we are to HTTPS servers, and its chain."""
    client_key: str | None = None
    """PEM file of its key; None: it is in the same file."""
    user_agent: str | None = None
    """How we introduce ourselves; None: ``nixfetch/<version>``."""
    accept: str = "*/*"
    """What kind of answer is wanted, as HTTP's Accept field says it; ASCII."""
    trust_env: bool = True
    """Whether the proxies that the environment names (HTTPS_PROXY, NO_PROXY, …) are used."""


def user_agent(options: TransportOptions) -> str:
    """What goes into the User-Agent field."""
    if options.user_agent is not None:
        return options.user_agent
    from importlib import metadata

    return f"nixfetch/{metadata.version('nixfetch')}"
