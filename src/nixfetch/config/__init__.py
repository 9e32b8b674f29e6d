"""All settings in one frozen `Config`; no other room reads the environment or files of settings.

Knows keys, caches and stores as text only.
"""

from __future__ import annotations

from nixfetch.config.cacheurl import CacheUrl, CacheUrlError, without_secrets
from nixfetch.config.errors import ConfigError, UnreadableFileError
from nixfetch.config.load import load_config
from nixfetch.config.model import Config
from nixfetch.config.show import show

__all__ = [
    "CacheUrl",
    "CacheUrlError",
    "Config",
    "ConfigError",
    "UnreadableFileError",
    "load_config",
    "show",
    "without_secrets",
]
