"""The formats of Nix stores and binary caches: bytes and text to values and back. No I/O."""

from __future__ import annotations
