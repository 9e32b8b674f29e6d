"""Binary caches: one (`client`), and several as one (`group`)."""

from __future__ import annotations

from nixfetch.cache.client import BinaryCache
from nixfetch.cache.group import CacheGroup, Found
from nixfetch.cache.reading import WrongPathError

__all__ = ("BinaryCache", "CacheGroup", "Found", "WrongPathError")
