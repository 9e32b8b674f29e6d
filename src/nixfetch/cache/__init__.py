"""Binary caches: one (`client`), and several as one (`group`)."""

from __future__ import annotations

from nixfetch.cache.client import BinaryCache, WrongPathError
from nixfetch.cache.group import CacheGroup, Found

__all__ = ("BinaryCache", "CacheGroup", "Found", "WrongPathError")
