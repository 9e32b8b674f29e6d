"""Sizes as users type them, and as they read them.

Typed are ``500M``, ``2G``, whose units are Nix's, powers of 1024; read is ``1.2 MB``, of 1000s.
"""

from __future__ import annotations

from argparse import ArgumentTypeError

_UNITS = ("B", "KB", "MB", "GB", "TB")
STEP = 1000
"""Bytes of which fewer are shown to the byte."""
_MAX = 2**63 - 1  # bytes; more than any file system holds


def size(text: str) -> int:
    """Bytes.

    Raises:
        ArgumentTypeError: it is no size.
    """
    from nixfetch.config import ConfigError, values

    try:
        value = values.parse(values.Integer(maximum=_MAX), text)
    except ConfigError:
        raise ArgumentTypeError(f"{text!r} is no size: say 1048576, 512K, 100M, 2G or 1T") from None
    assert isinstance(value, int)
    return value


def amount(count: float) -> str:
    """`count` bytes for people: 1.2 MB."""
    for unit in _UNITS[:-1]:
        if count < STEP:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= STEP
    return f"{count:.1f} {_UNITS[-1]}"
