"""What the settings come to. Knows nothing of where they came from but their names for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from nixfetch.config.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings, each with its final value. Take what you need; pass no `Config` on."""

    store: str | None
    """The root of the chroot store, as given; None where nothing says. See `store_root`."""
    substituters: tuple[str, ...] = field(repr=False)
    """URLs of caches for `CacheUrl.parse`, the first one first, without duplicates. They may
    hold passwords."""
    trusted_keys: tuple[str, ...]
    """Public keys as ``NAME:BASE64``, without duplicates."""
    secret_key_files: tuple[str, ...]
    """Files of secret keys, whose public halves are trusted too. Nix passes over those that it
    cannot read."""
    check_sigs: bool
    """Whether a path needs a signature."""
    sigs_needed: int
    """Good signatures of as many different keys are needed; at least 1."""
    jobs: int | None
    """Paths unpacked at the same time; at least 1; None: as many as there are cores."""
    connections: int
    """Connections open at the same time; at least 1."""
    connect_timeout: int | None
    """Seconds to wait for a connection; None: no limit."""
    stall_timeout: int | None
    """Seconds to wait for the next byte; None: no limit."""
    download_attempts: int
    """How often to ask for the same object, the first time included; at least 1."""
    retry_delay: int
    """Milliseconds: the bound of the wait before the first try again; it doubles."""
    retry_max_delay: int
    """Milliseconds: that bound grows no further."""
    bandwidth: int | None
    """Bytes a second for all downloads together; None: no limit."""
    offline: bool
    """Whether caches on other machines are left alone."""
    race: bool
    """Whether caches of equal priority are asked at the same time."""
    refresh: bool
    """Whether caches are asked anew, whatever is remembered of them."""
    cache_dir: str | None
    """Where it is remembered what caches said; None: nowhere."""
    netrc_file: str | None
    """Passwords of caches over HTTP. It need not exist where nobody named it."""
    ca_file: str | None
    """Certificates that HTTPS servers must be vouched for by; None: the
    HTTP client's own."""
    proxy_from_environment: bool
    """Whether HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY are heeded."""
    user_agent_suffix: str
    """Appended to the User-Agent."""
    narinfo_positive_ttl: int
    """Seconds for which a narinfo may be remembered."""
    narinfo_negative_ttl: int
    """Seconds for which the absence of a narinfo may be remembered."""
    cache_info_ttl: int
    """Seconds for which a ``nix-cache-info`` may be remembered."""
    progress: str
    """auto, tty, plain, json or none."""
    log_format: str
    """text, json or internal-json."""
    verbosity: int
    """0: as usual; more: ``-v``; less: ``-q``."""
    json: bool
    """Whether stdout is JSON."""
    origins: Mapping[str, str] = field(
        default_factory=lambda: MappingProxyType({}), hash=False, repr=False
    )
    """Where each value came from, by attribute: "flag --store", "NIXFETCH_JOBS",
    "/etc/nix/nix.conf:12", "default"; several for a list, with commas between."""
    skipped: tuple[str, ...] = ()
    """What was passed over, one sentence each: caches in ``nix.conf`` of a kind that only Nix
    can use, files for Nix that we may not read."""

    def store_root(self) -> str:
        """The root of the chroot store.

        Raises:
            ConfigError: nothing says where it is.
        """
        if self.store is None:
            raise ConfigError(
                "nothing says where the store is",
                hint="give --store ROOT, or set NIXFETCH_STORE or HOME",
            )
        return self.store
