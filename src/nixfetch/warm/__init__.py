"""Warming: what manifests name, into the store or a mirror, again and again, cheaply."""

from __future__ import annotations

from nixfetch.warm.lock import AlreadyRunningError, only_one
from nixfetch.warm.manifest import Manifest, ManifestError, SourceSpec
from nixfetch.warm.report import WarmReport
from nixfetch.warm.run import Limits, resolve, warm_mirror, warm_store
from nixfetch.warm.sources import Resolver

__all__ = (
    "AlreadyRunningError",
    "Limits",
    "Manifest",
    "ManifestError",
    "Resolver",
    "SourceSpec",
    "WarmReport",
    "only_one",
    "resolve",
    "warm_mirror",
    "warm_store",
)
