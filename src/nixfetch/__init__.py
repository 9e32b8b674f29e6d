"""nixfetch: Nix store paths from binary caches, verified, into a store on a machine without Nix.

Everything a user of the library needs is here; no submodule has to be imported. Names are
loaded when they are first used: ``import nixfetch`` costs nothing that is not needed.

    path, policy = nixfetch.StorePath.parse(...), nixfetch.TrustPolicy(keys)
    with nixfetch.open_caches(urls) as caches, nixfetch.LocalStore(root) as store:
        report = nixfetch.fetch_closure([path], caches=caches, policy=policy, store=store)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nixfetch.cache import BinaryCache, CacheGroup
    from nixfetch.cache.memo import Memo
    from nixfetch.cache.memory import Memory
    from nixfetch.cache.partial import Partials
    from nixfetch.config import Config, ConfigError, load_config
    from nixfetch.config.caches import open_caches
    from nixfetch.config.composed import open_configured, policy_of
    from nixfetch.errors import (
        FormatError,
        NixfetchError,
        StoreError,
        TransportError,
        TrustError,
        facts,
    )
    from nixfetch.fetch import (
        CancelledError,
        FetchFailedError,
        PathReport,
        Report,
        Status,
        fetch_closure,
    )
    from nixfetch.fetch import progress as progress
    from nixfetch.formats.contentaddress import ContentAddress
    from nixfetch.formats.hashes import Hash
    from nixfetch.formats.nar import NarReader, NarWriter
    from nixfetch.formats.narinfo import NarInfo
    from nixfetch.formats.signing import PublicKey, SecretKey, Signature
    from nixfetch.formats.storepath import STORE_DIR, StorePath
    from nixfetch.namespace import execute, find_program, show_closure
    from nixfetch.plan.retry import RetrySchedule
    from nixfetch.plan.sources import MissingError
    from nixfetch.plan.trust import Trusted, TrustPolicy
    from nixfetch.store import LocalStore, Registration, Root, RootKind, Roots
    from nixfetch.store.collect import Collected, collect
    from nixfetch.store.disk import DiskError
    from nixfetch.store.present import Present, present_closure
    from nixfetch.store.roots import NoSuchRootError, PathNotValidError
    from nixfetch.store.trees import remove_tree
    from nixfetch.streams.codecs import decode
    from nixfetch.transport import (
        AuthenticationError,
        Basic,
        Bearer,
        Body,
        ForbiddenError,
        NotFoundError,
        Pace,
        Range,
        Transport,
        TransportOptions,
    )
    from nixfetch.verify import (
        BadLink,
        Rebuilt,
        Verdict,
        leftovers,
        rebuild_database,
        repair_links,
        repair_paths,
        verify_links,
        verify_paths,
    )

_HOMES = {
    "STORE_DIR": "nixfetch.formats.storepath",
    "AuthenticationError": "nixfetch.transport",
    "BadLink": "nixfetch.verify",
    "Basic": "nixfetch.transport",
    "Bearer": "nixfetch.transport",
    "BinaryCache": "nixfetch.cache",
    "Body": "nixfetch.transport",
    "CacheGroup": "nixfetch.cache",
    "CancelledError": "nixfetch.fetch",
    "Collected": "nixfetch.store.collect",
    "Config": "nixfetch.config",
    "ConfigError": "nixfetch.config",
    "ContentAddress": "nixfetch.formats.contentaddress",
    "DiskError": "nixfetch.store.disk",
    "FetchFailedError": "nixfetch.fetch",
    "ForbiddenError": "nixfetch.transport",
    "FormatError": "nixfetch.errors",
    "Hash": "nixfetch.formats.hashes",
    "LocalStore": "nixfetch.store",
    "Memo": "nixfetch.cache.memo",
    "Memory": "nixfetch.cache.memory",
    "MissingError": "nixfetch.plan.sources",
    "NarInfo": "nixfetch.formats.narinfo",
    "NarReader": "nixfetch.formats.nar",
    "NarWriter": "nixfetch.formats.nar",
    "NixfetchError": "nixfetch.errors",
    "NoSuchRootError": "nixfetch.store.roots",
    "NotFoundError": "nixfetch.transport",
    "Pace": "nixfetch.transport",
    "Partials": "nixfetch.cache.partial",
    "PathNotValidError": "nixfetch.store.roots",
    "PathReport": "nixfetch.fetch",
    "Present": "nixfetch.store.present",
    "PublicKey": "nixfetch.formats.signing",
    "Range": "nixfetch.transport",
    "Rebuilt": "nixfetch.verify",
    "Registration": "nixfetch.store",
    "Report": "nixfetch.fetch",
    "RetrySchedule": "nixfetch.plan.retry",
    "Root": "nixfetch.store",
    "RootKind": "nixfetch.store",
    "Roots": "nixfetch.store",
    "SecretKey": "nixfetch.formats.signing",
    "Signature": "nixfetch.formats.signing",
    "Status": "nixfetch.fetch",
    "StoreError": "nixfetch.errors",
    "StorePath": "nixfetch.formats.storepath",
    "Transport": "nixfetch.transport",
    "TransportError": "nixfetch.errors",
    "TransportOptions": "nixfetch.transport",
    "TrustError": "nixfetch.errors",
    "TrustPolicy": "nixfetch.plan.trust",
    "Trusted": "nixfetch.plan.trust",
    "Verdict": "nixfetch.verify",
    "collect": "nixfetch.store.collect",
    "decode": "nixfetch.streams.codecs",
    "execute": "nixfetch.namespace",
    "facts": "nixfetch.errors",
    "fetch_closure": "nixfetch.fetch",
    "find_program": "nixfetch.namespace",
    "leftovers": "nixfetch.verify",
    "load_config": "nixfetch.config",
    "open_caches": "nixfetch.config.caches",
    "open_configured": "nixfetch.config.composed",
    "policy_of": "nixfetch.config.composed",
    "present_closure": "nixfetch.store.present",
    "progress": "nixfetch.fetch",
    "rebuild_database": "nixfetch.verify",
    "remove_tree": "nixfetch.store.trees",
    "repair_links": "nixfetch.verify",
    "repair_paths": "nixfetch.verify",
    "show_closure": "nixfetch.namespace",
    "verify_links": "nixfetch.verify",
    "verify_paths": "nixfetch.verify",
}
"""Public names, and the modules that have them."""

__all__ = (
    "STORE_DIR",
    "AuthenticationError",
    "BadLink",
    "Basic",
    "Bearer",
    "BinaryCache",
    "Body",
    "CacheGroup",
    "CancelledError",
    "Collected",
    "Config",
    "ConfigError",
    "ContentAddress",
    "DiskError",
    "FetchFailedError",
    "ForbiddenError",
    "FormatError",
    "Hash",
    "LocalStore",
    "Memo",
    "Memory",
    "MissingError",
    "NarInfo",
    "NarReader",
    "NarWriter",
    "NixfetchError",
    "NoSuchRootError",
    "NotFoundError",
    "Pace",
    "Partials",
    "PathNotValidError",
    "PathReport",
    "Present",
    "PublicKey",
    "Range",
    "Rebuilt",
    "Registration",
    "Report",
    "RetrySchedule",
    "Root",
    "RootKind",
    "Roots",
    "SecretKey",
    "Signature",
    "Status",
    "StoreError",
    "StorePath",
    "Transport",
    "TransportError",
    "TransportOptions",
    "TrustError",
    "TrustPolicy",
    "Trusted",
    "Verdict",
    "collect",
    "decode",
    "execute",
    "facts",
    "fetch_closure",
    "find_program",
    "leftovers",
    "load_config",
    "open_caches",
    "open_configured",
    "policy_of",
    "present_closure",
    "progress",
    "rebuild_database",
    "remove_tree",
    "repair_links",
    "repair_paths",
    "show_closure",
    "verify_links",
    "verify_paths",
)


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
