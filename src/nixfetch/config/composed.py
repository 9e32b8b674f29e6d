"""From the settings to the caches of a run, and to whom it believes. Asks nobody."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nixfetch.cache.memo import Memo
from nixfetch.cache.memory import Memory
from nixfetch.cache.partial import Partials
from nixfetch.config.caches import open_caches, reach
from nixfetch.config.cacheurl import CacheUrl
from nixfetch.config.errors import ConfigError
from nixfetch.config.keyring import Keyring
from nixfetch.errors import FormatError, NixfetchError, facts
from nixfetch.formats.signing import PublicKey
from nixfetch.plan.retry import RetrySchedule
from nixfetch.plan.trust import TrustPolicy
from nixfetch.store.keyfile import read_secret_key
from nixfetch.store.layout import Layout
from nixfetch.transport import Pace, TransportOptions
from nixfetch.transport.options import user_agent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from nixfetch.cache import CacheGroup
    from nixfetch.config.model import Config
    from nixfetch.transport import Transport

_log = logging.getLogger(__name__)
MEMO = "memo-v1.sqlite"  # in `Config.cache_dir`
_MILLISECOND = 0.001  # seconds


def open_configured(
    config: Config,
    environ: Mapping[str, str],
    *,
    throttle: Callable[[int], object] | None = None,
) -> CacheGroup:
    """The caches that `config` names, as it wants them.

    Args:
        config: the settings.
        environ: the environment, for secrets that it holds.
        throttle: as for `open_caches`.

    Raises:
        As `open_caches`.
    """
    return open_caches(
        config.substituters,
        options=transport_options(config),
        retry=retry_schedule(config),
        netrc_file=netrc_file(config),
        memory=_memory(config),
        bandwidth=config.bandwidth,
        offline=config.offline,
        race=config.race,
        environ=environ,
        throttle=throttle,
    )


def policy_of(config: Config) -> TrustPolicy:
    """Whom to believe.

    Raises:
        ConfigError: a key is malformed: dropping it would trust less than was asked for.
    """
    origin = config.origins.get("check_sigs", "")
    if not (config.check_sigs or origin.startswith("flag ")):
        _log.warning("signatures are not checked: %s says so", origin)
    return TrustPolicy(_keys(config), needed=config.sigs_needed, check=config.check_sigs)


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


def transport_to(
    text: str, config: Config, environ: Mapping[str, str], *, accept: str = "*/*"
) -> Transport:
    """The transport of a URL that a user named, with the user's settings.

    Args:
        text: a URL as of a cache, with its parameters.
        config: timeouts, certificates.
        environ: where credentials may be.
        accept: what kind of answer is wanted.

    Raises:
        ConfigError: it is no such URL, or its credentials cannot be read.
    """
    keyring = Keyring(environ, netrc_file(config))
    url = CacheUrl.parse(text)
    options = replace(transport_options(config), accept=accept)
    return reach(url, options=options, keyring=keyring).transport()


def retry_schedule(config: Config) -> RetrySchedule:
    """How often to try, and how long to wait between tries."""
    return RetrySchedule(
        tries=config.download_attempts,
        base=config.retry_delay * _MILLISECOND,
        longest=config.retry_max_delay * _MILLISECOND,
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
        _log.warning("%s: there is no %s", origin, path)
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


def _keys(config: Config) -> tuple[PublicKey, ...]:
    try:
        with facts(setting="trusted-keys", origin=config.origins.get("trusted_keys")):
            named = tuple(map(PublicKey.parse, config.trusted_keys))
    except FormatError as error:
        raise ConfigError(error.problem, hint=error.hint, **error.facts) from error
    return (*named, *_keys_of_ours(config))


def _keys_of_ours(config: Config) -> Iterator[PublicKey]:
    """The public halves of `secret-key-files`, which Nix trusts too; unreadable ones not."""
    for file in config.secret_key_files:
        try:
            yield read_secret_key(Path(file)).public()
        except NixfetchError as error:
            _log.warning("passing over the secret key in %s: %s", file, error.problem)
