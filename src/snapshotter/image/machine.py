"""The platform of this machine, as images name it."""

from __future__ import annotations

import os

from snapshotter.oci.model import Platform

_NAMES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "i686": "386",
    "i386": "386",
    "armv7l": "arm",
    "armv6l": "arm",
    "loongarch64": "loong64",
}
_VARIANTS = {"armv7l": "v7", "armv6l": "v6"}


def machine() -> Platform:
    """What images have to be for, to run here."""
    name = os.uname().machine
    return Platform("linux", _NAMES.get(name, name), _VARIANTS.get(name, ""))
