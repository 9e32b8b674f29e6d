"""Registries of images, over HTTP: pulled from, and pushed to. Knows no files of images.

with connecting("registry.example", login=Logins.load(file).find("registry.example")) as found:
    image = found.image(reference, platform=platform)
    found.push(image, other)
"""

from __future__ import annotations

from snapshotter.registry.client import Registry, connecting
from snapshotter.registry.endpoint import DeniedError, Patience, RegistryError
from snapshotter.registry.logins import Identity, Login, LoginError, Logins

__all__ = [
    "DeniedError",
    "Identity",
    "Login",
    "LoginError",
    "Logins",
    "Patience",
    "Registry",
    "RegistryError",
    "connecting",
]
