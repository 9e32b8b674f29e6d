"""Reads files of settings and says where they lie. Knows nothing of what stands in them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from nixfetch.config.errors import ConfigError, UnreadableFileError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_FILE_SIZE = 1024 * 1024  # bytes; people write settings by hand, in kilobytes

Read = Callable[[Path], bytes | None]
"""Gives the content of a file, or None where there is none; raises `ConfigError`."""

SYSTEM_TOML = Path("/etc/nixfetch/config.toml")
SYSTEM_NIX_CONF_DIR = Path("/etc/nix")


def read_file(path: Path) -> bytes | None:
    """Read a file of settings; None where there is none.

    Raises:
        UnreadableFileError: it is there and cannot be read.
        ConfigError: it is larger than `MAX_FILE_SIZE`.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_SIZE + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        # Below a directory that we may not search (HOME of another user, say) nothing is ours.
        if isinstance(error, PermissionError) and not os.path.lexists(path):
            return None
        raise UnreadableFileError(
            "cannot read settings", file=path, reason=error.strerror
        ) from error
    if len(content) > MAX_FILE_SIZE:
        raise ConfigError("file of settings is too large", file=path, limit=MAX_FILE_SIZE)
    return content


def home_directory(environ: Mapping[str, str], fallback: Path | None) -> Path | None:
    """HOME where it is set, else `fallback` (what the passwd database says, or nothing)."""
    return Path(environ["HOME"]) if environ.get("HOME") else fallback


def data_directory(environ: Mapping[str, str], home: Path | None) -> Path | None:
    """Where a user's data belongs; None where nothing says."""
    return _xdg(environ, "XDG_DATA_HOME", home, ".local/share")


def cache_directory(environ: Mapping[str, str], home: Path | None) -> Path | None:
    """Where a user's data belongs that may be lost; None where nothing says."""
    return _xdg(environ, "XDG_CACHE_HOME", home, ".cache")


def toml_files(environ: Mapping[str, str], home: Path | None) -> list[Path]:
    """Our own files in their usual places, the one that counts more last."""
    config_home = _xdg(environ, "XDG_CONFIG_HOME", home, ".config")
    return [SYSTEM_TOML, *([config_home / "nixfetch/config.toml"] if config_home else [])]


def nix_conf_directory(environ: Mapping[str, str]) -> Path:
    """The directory of the machine's own ``nix.conf``."""
    return Path(environ.get("NIX_CONF_DIR") or SYSTEM_NIX_CONF_DIR)


def nix_conf_files(environ: Mapping[str, str], home: Path | None) -> list[Path]:
    """Every ``nix.conf`` that Nix would read, the one that counts more last.

    An empty NIX_USER_CONF_FILES means "none"; other empty variables count as unset.

    Source: nix, src/libstore/globals.cc, `loadConfFile` and `nixUserConfFiles`;
    src/libutil/users.cc, `getConfigDirs`.
    """
    named = environ.get("NIX_USER_CONF_FILES")
    if named is not None:
        user = [Path(name) for name in named.split(":") if name]
    else:
        user = [directory / "nix.conf" for directory in _nix_config_directories(environ, home)]
    return [nix_conf_directory(environ) / "nix.conf", *reversed(user)]


def _nix_config_directories(environ: Mapping[str, str], home: Path | None) -> list[Path]:
    config_home = _xdg(environ, "XDG_CONFIG_HOME", home, ".config")
    directories = []
    if environ.get("NIX_CONFIG_HOME"):
        directories.append(Path(environ["NIX_CONFIG_HOME"]))
    elif config_home:
        directories.append(config_home / "nix")
    shared = environ.get("XDG_CONFIG_DIRS") or "/etc/xdg"
    return directories + [Path(name) / "nix" for name in shared.split(":") if name]


def _xdg(environ: Mapping[str, str], variable: str, home: Path | None, usual: str) -> Path | None:
    if environ.get(variable):
        return Path(environ[variable])
    return home / usual if home else None
