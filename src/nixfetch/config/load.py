"""From flags, environment and files to one `Config`: the only place that knows who overrules whom.

From what counts least to what counts most:

    defaults
    nix.conf of the machine            NIX_CONF_DIR, else /etc/nix
    nix.conf of the user               NIX_USER_CONF_FILES, else XDG_CONFIG_DIRS and XDG_CONFIG_HOME
    NIX_CONFIG
    SSL_CERT_FILE, NIX_SSL_CERT_FILE   for `ca_file` alone
    /etc/nixfetch/config.toml
    ~/.config/nixfetch/config.toml     XDG_CONFIG_HOME
    --config FILE, else NIXFETCH_CONFIG
    NIXFETCH_*
    flags

Each source is read whole, and laid over those before it: a plain value replaces, an ``extra-`` one
and ``--trusted-key`` add to a list. A mistake counts even where a later source would overrule it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from nixfetch.config import environment, files, tomlfile
from nixfetch.config.cacheurl import CacheUrl, CacheUrlError, without_secrets
from nixfetch.config.errors import ConfigError
from nixfetch.config.model import Config
from nixfetch.config.nixconf import NixConfReader
from nixfetch.config.settings import (
    CA_FILE,
    CACHE_DIR,
    FROM,
    NETRC_FILE,
    SETTINGS,
    STORE,
    Assignment,
    Setting,
)
from nixfetch.errors import facts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from nixfetch.config.values import Value

DEFAULT = "default"

CA_FILES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/nix/var/nix/profiles/default/etc/ssl/certs/ca-bundle.crt",
)
"""Where certificates lie, the first one first: as Nix, and as Fedora has them."""


def load_config(
    flags: Mapping[str, object],
    environ: Mapping[str, str],
    *,
    home: Path | None = None,
    read: files.Read = files.read_file,
    exists: Callable[[Path], bool] = os.path.isfile,
) -> Config:
    """Read all settings.

    Args:
        flags: the parsed command line, see `environment.parse_flags`; ``config`` is the file
            that ``--config`` names.
        environ: the environment.
        home: the user's home directory according to the passwd database, where environ has no HOME.
        read: how to read a file of settings.
        exists: whether there is a file; asked for certificates only.

    Raises:
        ConfigError: a setting or a file is not usable; the facts say which, and where.
    """
    home = files.home_directory(environ, home)
    nix_conf = NixConfReader(read)
    result = _Result(skipped=nix_conf.skipped)
    for assignment in (
        *_defaults(environ, home, exists),
        *_nix(nix_conf, environ, home),
        *environment.certificates(environ),
        *_toml(flags, environ, home, read),
        *environment.parse(environ),
        *environment.parse_flags(flags),
    ):
        result.apply(assignment)
    return result.config()


def _defaults(
    environ: Mapping[str, str], home: Path | None, exists: Callable[[Path], bool]
) -> Iterator[Assignment]:
    data = files.data_directory(environ, home)
    cache = files.cache_directory(environ, home)
    computed: dict[Setting, Value] = {
        STORE: str(data / "nixfetch") if data else None,
        CACHE_DIR: str(cache / "nixfetch") if cache else None,
        NETRC_FILE: str(files.nix_conf_directory(environ) / "netrc"),
        CA_FILE: next((name for name in CA_FILES if exists(Path(name))), None),
    }
    for setting in SETTINGS:
        value = computed.get(setting, setting.default)
        yield Assignment(setting=setting, value=value, origin=DEFAULT)


def _nix(
    reader: NixConfReader, environ: Mapping[str, str], home: Path | None
) -> Iterator[Assignment]:
    for path in files.nix_conf_files(environ, home):
        yield from reader.file(path)
    yield from reader.text(environ.get("NIX_CONFIG", ""), "NIX_CONFIG")


def _toml(
    flags: Mapping[str, object], environ: Mapping[str, str], home: Path | None, read: files.Read
) -> Iterator[Assignment]:
    for path in files.toml_files(environ, home):
        content = read(path)
        if content is not None:
            yield from tomlfile.parse(content, path, home)
    named = flags.get("config") or environ.get("NIXFETCH_CONFIG")
    if named:
        path = Path(str(named))
        content = read(path)
        if content is None:
            origin = "flag --config" if flags.get("config") else "NIXFETCH_CONFIG"
            raise ConfigError("file of settings is missing", file=path, origin=origin)
        yield from tomlfile.parse(content, path, home)


@dataclass(slots=True)
class _Result:
    """The settings as far as they have been read."""

    skipped: list[str]
    _values: dict[str, Value] = field(default_factory=dict)
    _lists: dict[str, list[Assignment]] = field(default_factory=dict)
    _origins: dict[str, str] = field(default_factory=dict)

    def apply(self, assignment: Assignment) -> None:
        """Lay one assignment over those before it."""
        name = assignment.setting.field
        if isinstance(assignment.value, tuple):
            earlier = self._lists.get(name, []) if assignment.append else []
            self._lists[name] = [*earlier, assignment]
            self._origins[name] = ", ".join(part.origin for part in self._lists[name])
        else:
            self._values[name] = assignment.value
            self._origins[name] = assignment.origin

    def config(self) -> Config:
        lists = {name: _joined(parts) for name, parts in self._lists.items()}
        lists[FROM.field] = tuple(self._caches(self._lists[FROM.field]))
        return Config(
            **cast("dict[str, Any]", self._values | lists),
            origins=MappingProxyType(self._origins),
            skipped=tuple(self.skipped),
        )

    def _caches(self, parts: list[Assignment]) -> Iterator[str]:
        """The URLs that are caches; the first one of those that lead to the same place."""
        seen = set()
        for part in parts:
            for text in _joined([part]):
                cache = self._cache(text, part)
                if cache and cache.url not in seen:
                    seen.add(cache.url)
                    yield text

    def _cache(self, text: str, part: Assignment) -> CacheUrl | None:
        """`text` as a cache; None, and a sentence in `skipped`, where it may be something else."""
        shown = without_secrets(text)
        if part.from_nix and text.startswith("/"):
            self.skipped.append(f"{part.origin}: {shown}: to Nix it is a store, not a cache")
            return None
        try:
            with facts(origin=part.origin):
                return CacheUrl.parse(text)
        except CacheUrlError as error:
            if not part.from_nix:
                raise
            self.skipped.append(f"{part.origin}: {shown}: {error.problem}")
            return None


def _joined(parts: list[Assignment]) -> tuple[str, ...]:
    lists = (part.value for part in parts if isinstance(part.value, tuple))
    return tuple(dict.fromkeys(word for words in lists for word in words))
