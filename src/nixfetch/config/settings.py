"""The settings there are: their names in every source, and their defaults. Reads nothing.

One name leads to the others: ``trusted-keys`` is the TOML key, NIXFETCH_TRUSTED_KEYS the variable.
Lists have a second name in both, ``extra-trusted-keys`` and NIXFETCH_EXTRA_TRUSTED_KEYS, that
adds to what the sources below it say. Names in ``nix.conf`` are Nix's own, with their aliases.

Which settings of Nix are left alone, and why, is in docs/guides/configuration.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from nixfetch.config.values import (
    Boolean,
    Choice,
    Integer,
    Kind,
    Location,
    Text,
    Value,
    Words,
)

MAX_BANDWIDTH = 2**50  # bytes a second; no network comes near
MAX_CONNECTIONS = 128  # connections; what "no limit" means: servers and file tables end there

DEFAULT_CACHE = "https://cache.nixos.org"
DEFAULT_KEY = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """How a setting is given on the command line."""

    name: str
    key: str
    """Its key among the parsed flags."""
    appends: bool = False
    """It adds to what other sources say."""
    inverts: bool = False
    """Its presence says false."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting."""

    name: str
    """The key in TOML."""
    field: str
    """The attribute of `Config`."""
    kind: Kind
    default: Value = None
    flag: Flag | None = None
    nix: tuple[str, ...] = ()
    """Its names in ``nix.conf``."""
    nix_unit: int = 1
    """What a number in ``nix.conf`` is multiplied with, where Nix counts in another unit."""
    only_flag: bool = False
    """It belongs to one run of the command, not to a file or the environment."""

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return "NIXFETCH_" + self.name.upper().replace("-", "_")

    @property
    def extra_variable(self) -> str:
        """The variable that adds to it, for lists."""
        return "NIXFETCH_EXTRA_" + self.name.upper().replace("-", "_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What one source says about one setting."""

    setting: Setting
    value: Value
    origin: str
    append: bool = False
    from_nix: bool = False
    """It was written for Nix, so that what is none of our business is no mistake."""


STORE = Setting(
    name="store", field="store", kind=Location(), flag=Flag(name="--store", key="store")
)
FROM = Setting(
    name="from",
    field="substituters",
    kind=Words(),
    default=(DEFAULT_CACHE,),
    flag=Flag(name="--from", key="from"),
    nix=("substituters", "binary-caches"),
)
TRUSTED_KEYS = Setting(
    name="trusted-keys",
    field="trusted_keys",
    kind=Words(),
    default=(DEFAULT_KEY,),
    flag=Flag(name="--trusted-key", key="trusted_key", appends=True),
    nix=("trusted-public-keys", "binary-cache-public-keys"),
)
CACHE_DIR = Setting(name="cache-dir", field="cache_dir", kind=Location(optional=True))
NETRC_FILE = Setting(
    name="netrc-file", field="netrc_file", kind=Location(optional=True), nix=("netrc-file",)
)
CA_FILE = Setting(
    name="ca-file", field="ca_file", kind=Location(optional=True), nix=("ssl-cert-file",)
)

SETTINGS = (
    STORE,
    FROM,
    TRUSTED_KEYS,
    Setting(
        name="secret-key-files",
        field="secret_key_files",
        kind=Words(),
        default=(),
        nix=("secret-key-files",),
    ),
    Setting(
        name="check-sigs",
        field="check_sigs",
        kind=Boolean(),
        default=True,
        flag=Flag(name="--no-check-sigs", key="no_check_sigs", inverts=True),
        nix=("require-sigs",),
    ),
    Setting(
        name="sigs-needed",
        field="sigs_needed",
        kind=Integer(minimum=1),
        default=1,
        flag=Flag(name="--sigs-needed", key="sigs_needed"),
    ),
    Setting(
        name="jobs",
        field="jobs",
        kind=Integer(minimum=1),
        flag=Flag(name="--jobs", key="jobs"),
    ),
    Setting(
        name="connections",
        field="connections",
        kind=Integer(zero=MAX_CONNECTIONS),
        default=25,
        nix=("http-connections", "binary-caches-parallel-connections"),
    ),
    Setting(
        name="connect-timeout",
        field="connect_timeout",
        kind=Integer(zero=None),
        default=15,
        nix=("connect-timeout",),
    ),
    Setting(
        name="stall-timeout",
        field="stall_timeout",
        kind=Integer(zero=None),
        default=60,  # Nix's 300 hold up a whole closure
        nix=("stalled-download-timeout",),
    ),
    Setting(
        name="download-attempts",
        field="download_attempts",
        kind=Integer(zero=1),  # Nix too makes one attempt where the setting says 0
        default=5,
        nix=("download-attempts", "filetransfer-retry-attempts"),
    ),
    Setting(
        name="retry-delay",
        field="retry_delay",
        kind=Integer(),
        default=250,
        nix=("filetransfer-retry-delay",),
    ),
    Setting(
        name="retry-max-delay",
        field="retry_max_delay",
        kind=Integer(),
        default=10_000,
        nix=("filetransfer-retry-max-delay",),
    ),
    Setting(
        name="bandwidth",
        field="bandwidth",
        kind=Integer(zero=None, maximum=MAX_BANDWIDTH, as_text=True),
        flag=Flag(name="--bandwidth", key="bandwidth"),
        nix=("download-speed",),
        nix_unit=1024,
    ),
    Setting(
        name="offline",
        field="offline",
        kind=Boolean(),
        default=False,
        flag=Flag(name="--offline", key="offline"),
    ),
    Setting(
        name="race",
        field="race",
        kind=Boolean(),
        default=False,
        flag=Flag(name="--race", key="race"),
    ),
    Setting(
        name="refresh",
        field="refresh",
        kind=Boolean(),
        default=False,
        flag=Flag(name="--refresh", key="refresh"),
        only_flag=True,
    ),
    CACHE_DIR,
    NETRC_FILE,
    CA_FILE,
    Setting(
        name="proxy-from-environment",
        field="proxy_from_environment",
        kind=Boolean(),
        default=True,
    ),
    Setting(
        name="user-agent-suffix",
        field="user_agent_suffix",
        kind=Text(empty=True),
        default="",
        nix=("user-agent-suffix",),
    ),
    Setting(
        name="narinfo-positive-ttl",
        field="narinfo_positive_ttl",
        kind=Integer(),
        default=30 * 24 * 3600,
        nix=("narinfo-cache-positive-ttl",),
    ),
    Setting(
        name="narinfo-negative-ttl",
        field="narinfo_negative_ttl",
        kind=Integer(),
        default=600,  # Nix's 3600 hide for an hour what somebody has just pushed
        nix=("narinfo-cache-negative-ttl",),
    ),
    Setting(
        name="cache-info-ttl",
        field="cache_info_ttl",
        kind=Integer(),
        default=7 * 24 * 3600,
        nix=("narinfo-cache-meta-ttl",),
    ),
    Setting(
        name="progress",
        field="progress",
        kind=Choice(("auto", "tty", "plain", "json", "none")),
        default="auto",
        flag=Flag(name="--progress", key="progress"),
    ),
    Setting(
        name="log-format",
        field="log_format",
        kind=Choice(("text", "json", "internal-json")),
        default="text",
        flag=Flag(name="--log-format", key="log_format"),
    ),
    Setting(
        name="verbosity",
        field="verbosity",
        kind=Integer(minimum=-2),
        default=0,
        flag=Flag(name="-v/-q", key="verbosity"),
    ),
    Setting(
        name="json",
        field="json",
        kind=Boolean(),
        default=False,
        flag=Flag(name="--json", key="json"),
        only_flag=True,
    ),
)
