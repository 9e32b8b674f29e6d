"""Signatures of paths that are valid here: the claim that is signed, and signing it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nixfetch.errors import StoreError
from nixfetch.formats.narinfo import NarInfo

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nixfetch.formats.signing import SecretKey
    from nixfetch.formats.storepath import StorePath
    from nixfetch.store.database import Registration
    from nixfetch.store.local import LocalStore


class InvalidPathError(StoreError):
    """The path is not valid in this store."""


def claim(registration: Registration) -> NarInfo:
    """What is registered, as the claim that it was, for whoever judges or signs it again."""
    return NarInfo(
        path=registration.path,
        nar_hash=registration.nar_hash,
        nar_size=registration.nar_size,
        references=registration.references,
        signatures=registration.signatures,
        url="",
        deriver=registration.deriver,
        ca=registration.ca,
    )


def sign_paths(store: LocalStore, paths: Iterable[StorePath], key: SecretKey) -> list[StorePath]:
    """Sign valid paths, and keep the signatures in the store's database.

    Reads no contents: it vouches for what was registered. Verify first where that is in doubt.

    Args:
        store: open for writing.
        paths: all must be valid, or none is signed.
        key: signs.

    Returns:
        Those of `paths` that had no such signature yet, in order.

    Raises:
        InvalidPathError: one of them is not valid.
        ReadOnlyStoreError, DatabaseError: the store cannot be changed.

    Source: nix, src/nix/sigs.cc, `CmdSign::run`.
    """
    registrations = [_registered(store, path) for path in dict.fromkeys(paths)]
    return [
        registration.path
        for registration in registrations
        if store.add_signatures(registration.path, [key.sign(claim(registration).fingerprint())])
    ]


def closure(store: LocalStore, paths: Iterable[StorePath]) -> list[StorePath]:
    """`paths` and all that they refer to, as far as registered here.

    Raises:
        InvalidPathError: one of them is not valid.
    """
    found = dict.fromkeys(paths)
    pending = list(found)
    while pending:
        fresh = [path for path in _registered(store, pending.pop()).references if path not in found]
        found |= dict.fromkeys(fresh)
        pending += fresh
    return list(found)


def _registered(store: LocalStore, path: StorePath) -> Registration:
    registration = store.get(path)
    if registration is None:
        raise InvalidPathError(
            "path is not valid in this store", path=path, hint="fetch it first, or check --store"
        )
    return registration
