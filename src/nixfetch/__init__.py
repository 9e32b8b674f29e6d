"""nixfetch: Nix store paths from binary caches, verified, into a store on a machine without Nix."""

from __future__ import annotations
