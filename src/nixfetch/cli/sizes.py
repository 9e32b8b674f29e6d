"""Sizes as users type them: ``500M``, ``2G``; the units are Nix's, powers of 1024."""

from __future__ import annotations

from argparse import ArgumentTypeError

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
