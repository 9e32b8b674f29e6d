"""From the settings to the caches of a run. Asks none of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nixfetch.cache.memo import Memo
from nixfetch.cache.memory import Memory
from nixfetch.cache.partial import Partials
from nixfetch.cli import logs
from nixfetch.config.caches import open_caches
from nixfetch.plan.retry import RetrySchedule
from nixfetch.store.layout import Layout
from nixfetch.transport import Pace, TransportOptions
from nixfetch.transport.options import user_agent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nixfetch.cache import CacheGroup
    from nixfetch.config import Config

MEMO = "memo-v1.sqlite"  # in `Config.cache_dir`
_MILLISECOND = 0.001  # seconds


def open_configured(config: Config, environ: Mapping[str, str]) -> CacheGroup:
    """The caches that `config` names, as it wants them.

    Raises:
        As `open_caches`.
    """
    return open_caches(
        config.substituters,
        options=transport_options(config),
        retry=RetrySchedule(
            tries=config.download_attempts,
            base=config.retry_delay * _MILLISECOND,
            longest=config.retry_max_delay * _MILLISECOND,
        ),
        netrc_file=netrc_file(config),
        memory=_memory(config),
        bandwidth=config.bandwidth,
        offline=config.offline,
        race=config.race,
        environ=environ,
    )


def transport_options(config: Config) -> TransportOptions:
    """How to talk to them."""
    suffix = config.user_agent_suffix
    return TransportOptions(
        pace=Pace(connect=config.connect_timeout, stall=config.stall_timeout),
        connections=config.connections,
        ca_file=config.ca_file,
        user_agent=f"{user_agent(TransportOptions())} {suffix}" if suffix else None,
        trust_env=config.proxy_from_environment,
    )


def netrc_file(config: Config) -> Path | None:
    """The netrc file to read: none where there is none, and nobody named it but for Nix."""
    if config.netrc_file is None:
        return None
    path, origin = Path(config.netrc_file), config.origins.get("netrc_file", "")
    if _exists(path):
        return path
    if origin == "default":
        return None
    if origin.rpartition(":")[2].isdecimal():  # a line of a nix.conf, and Nix says nothing
        logs.note(f"{origin}: there is no {path}")
        return None
    return path


def _exists(path: Path) -> bool:
    """Whether it is there, as far as we may look."""
    try:
        return path.exists()
    except OSError:
        return False


def _memory(config: Config) -> Memory:
    """What is remembered between runs, where there is a place for it."""
    return Memory(
        _memo(config),
        None if config.store is None else Partials(Layout(Path(config.store)).partial),
        refresh=config.refresh,
    )


def _memo(config: Config) -> Memo | None:
    if config.cache_dir is None:
        return None
    directory = Path(config.cache_dir)
    # A home directory that is not there was named for want of a better one: it is not made.
    if config.origins.get("cache_dir") == "default" and not _exists(directory.parent.parent):
        return None
    return Memo(
        directory / MEMO,
        positive_ttl=config.narinfo_positive_ttl,
        negative_ttl=config.narinfo_negative_ttl,
        info_ttl=config.cache_info_ttl,
    )
