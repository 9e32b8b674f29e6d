"""What containerd, k3s and systemd are to be told: settings in, text of files out. Does no I/O.

Three things about containerd's configuration decide the shapes (seen with 1.6.20 and 2.1.9):

*   1.6 and 1.7 replace the whole table of a plugin by that of an imported file. So a fragment may
    speak of the CRI plugin only where the main file does not: else the node would lose its
    registries and its CNI directories. `main_lines` says what to put there by hand.
*   2.x merges tables key by key, but replaces lists: the entries of `unpack_config` that the main
    file has are repeated. And a fragment has no `version` line: one of version 3 keeps a main file
    of version 2, as Debian ships it, from being understood, whereas without one the names of
    version 3 go with both. What a version 2 file says about the snapshotter of CRI counts for
    nothing in 2.x, so the names of version 3 are what it takes.
*   The transfer service, which pulls and imports in 2.x, unpacks for no snapshotter that
    `unpack_config` does not name; what it names first is the one for those who ask for none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

MARK: Final = "Made by `nixfetch-snapshotter install`; what is changed here is lost with the next."
"""In a comment in the first line of each file (of scripts: soon after): it is ours to replace."""

Version = tuple[int, int, int]
TARGETS_SINCE: Final = (1, 7, 0)  # the first containerd that honours the target of a mount
TRANSFER_SINCE: Final = (1, 7, 0)  # has the transfer service, and so `unpack_config`
NAMES_OF_2: Final = (2, 0, 0)  # the first with the plugin names of configuration version 3
PLATFORMS: Final = {
    "aarch64": "linux/arm64",
    "armv7l": "linux/arm/v7",
    "ppc64le": "linux/ppc64le",
    "riscv64": "linux/riscv64",
    "s390x": "linux/s390x",
    "x86_64": "linux/amd64",
}
"""What containerd calls the machines that Linux names so."""

_CRI = "io.containerd.grpc.v1.cri"
_TRANSFER = "io.containerd.transfer.v1.local"
_DEFAULT_SNAPSHOTTER = "overlayfs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where things are on the machine that is set up."""

    name: str = "nix"
    """Of the snapshotter, as containerd and Kubernetes say it."""
    address: str = "/run/nixfetch-snapshotter/snapshotter.sock"
    root: str = "/var/lib/nixfetch-snapshotter"
    store: str = "/var/lib/nixfetch"
    containerd: str = "/run/containerd/containerd.sock"
    """Containerd's own socket."""
    command: str = "/usr/bin/nixfetch-snapshotter"
    platform: str = "linux/amd64"
    cri: bool = True
    """Whether Kubernetes pulls for it by default; else only who asks for it gets it."""


@dataclass(frozen=True, slots=True)
class File:
    """A file to be written."""

    path: str
    text: str
    mode: int = 0o644
    """Of its permissions."""


def quoted(text: str) -> str:
    """`text` as a TOML string."""
    escaped = "".join(
        f"\\u{ord(char):04x}" if char in '"\\' or ord(char) < 32 or ord(char) == 127 else char  # noqa: PLR2004
        for char in text
    )
    return f'"{escaped}"'


def containerd_fragment(
    settings: Settings, version: Version, main: Mapping[str, Any] | None = None
) -> str:
    """What containerd's configuration imports.

    Args:
        settings: of this machine.
        version: of containerd.
        main: its main configuration, parsed, where there is one.
    """
    parts = [f"# {MARK}\n"]
    if version < NAMES_OF_2:
        parts.append("version = 2\n")
    parts.append(_proxy_plugin(settings, version))
    if settings.cri and (version >= NAMES_OF_2 or not _speaks_of_cri(main)):
        parts.append(_cri(settings, version))
    if version >= TRANSFER_SINCE:
        parts.append(_unpack(settings, _entries(main)))
    return "\n".join(parts)


def main_lines(settings: Settings, version: Version, main: Mapping[str, Any]) -> str | None:
    """What has to be put into the main configuration by hand; None: nothing.

    Args:
        settings: of this machine.
        version: of containerd.
        main: its main configuration, parsed.
    """
    if not settings.cri or version >= NAMES_OF_2 or not _speaks_of_cri(main):
        return None
    table = _table(main, "plugins", _CRI, "containerd")
    wanted = {"snapshotter": settings.name, "disable_snapshot_annotations": False}
    return None if wanted.items() <= table.items() else _cri(settings, version)


def containerd_main(fragment: str) -> str:
    """A main configuration where there was none; it changes nothing but for what it imports."""
    return f"# {MARK}\nversion = 2\nimports = [{quoted(fragment)}]\n"


def k3s_template(settings: Settings, version: Version) -> str:
    """A template of k3s, around its own; `k3s_settings` is for the rest.

    Args:
        settings: of this machine.
        version: of the containerd in k3s.
    """
    # The base template has the table of the CRI plugin, and TOML knows no table twice.
    parts = [
        f"{{{{- /* {MARK} */ -}}}}\n" + '{{ template "base" . }}\n',
        _proxy_plugin(settings, version),
    ]
    if version >= TRANSFER_SINCE:
        parts.append(_unpack(settings, ()))
    return "\n".join(parts)


def k3s_settings(settings: Settings) -> str:
    """A file for config.yaml.d of k3s: its own way to choose the snapshotter of CRI."""
    return f"# {MARK}\nsnapshotter: {quoted(settings.name)}\n"


def _proxy_plugin(settings: Settings, version: Version) -> str:
    name = quoted(settings.name)
    lines = [
        f"[proxy_plugins.{name}]",
        '  type = "snapshot"',
        f"  address = {quoted(settings.address)}",
    ]
    if version >= NAMES_OF_2:
        lines += [
            f"  platform = {quoted(settings.platform)}",
            f"  [proxy_plugins.{name}.exports]",
            f"    root = {quoted(settings.root)}",
            '    enable_remote_snapshot_annotations = "true"',
        ]
    return "\n".join(lines) + "\n"


def _cri(settings: Settings, version: Version) -> str:
    table = (
        '[plugins."io.containerd.cri.v1.images"]'
        if version >= NAMES_OF_2
        else f'[plugins."{_CRI}".containerd]'
    )
    return (
        f"{table}\n  snapshotter = {quoted(settings.name)}\n"
        "  disable_snapshot_annotations = false\n"
    )


def _unpack(settings: Settings, entries: Sequence[Mapping[str, Any]]) -> str:
    wanted = list(entries) or [{"platform": settings.platform, "snapshotter": _DEFAULT_SNAPSHOTTER}]
    ours = {"platform": settings.platform, "snapshotter": settings.name}
    if not any(ours.items() <= entry.items() for entry in wanted):
        wanted.append(ours)
    return "\n".join(
        f'[[plugins."{_TRANSFER}".unpack_config]]\n'
        + "".join(f"  {key} = {_value(value)}\n" for key, value in entry.items())
        for entry in wanted
    )


def _value(value: object) -> str:
    """A value of an `unpack_config`: strings, and lists of them."""
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return quoted(value) if isinstance(value, str) else str(value).lower()


def _entries(main: Mapping[str, Any] | None) -> Sequence[Mapping[str, Any]]:
    found = _table(main or {}, "plugins", _TRANSFER).get("unpack_config", ())
    return [entry for entry in found if isinstance(entry, Mapping)]


def _speaks_of_cri(main: Mapping[str, Any] | None) -> bool:
    return bool(_table(main or {}, "plugins", _CRI))


def _table(main: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """The table below `names`; an empty one where there is none."""
    found: Any = main
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}
