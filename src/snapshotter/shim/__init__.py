"""Stand-ins for the two programs that nix-snapshotter calls to get a store path.

nix-store [--add-root LINK] --realise PATH…      what it calls by default, found in PATH
external-builder OUTLINK PATH                    what its setting `external_builder` names

Both make PATH, and all that it refers to, valid in a store, from the caches and with the keys that
`nixfetch` is told of, and keep it by a link that Nix's collector heeds. They are installed by
`nixfetch-snapshotter install --shim DIR`, into a directory of their own: whoever has a real Nix
is to go on finding it. Nothing is loaded before it is needed: 100 paths are 100 processes.
"""

from __future__ import annotations


def nix_store() -> int:
    """Be `nix-store` in this process; its exit code."""
    from snapshotter.shim.process import Process, nix_store

    return nix_store(Process.this())


def external_builder() -> int:
    """Be the `external_builder` of nix-snapshotter in this process; its exit code."""
    from snapshotter.shim.process import Process, external_builder

    return external_builder(Process.this())
