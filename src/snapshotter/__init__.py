"""Store paths as mounts: mount specs, and a containerd snapshotter."""

from __future__ import annotations
