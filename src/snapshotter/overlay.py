"""Overlayfs: the mount that shows layers as one tree, and what this kernel wants to hear with it.

Knows nothing of Nix, nor where layers lie.

Source: containerd, plugins/snapshots/overlay/overlay.go, `mounts`; linux,
Documentation/filesystems/overlayfs.rst.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from snapshotter.errors import InvalidArgumentError
from snapshotter.mounts import Mount

if TYPE_CHECKING:
    from collections.abc import Sequence

_INDEX = Path("/sys/module/overlay/parameters/index")
_UID_MAP = Path("/proc/self/uid_map")
_EVERYBODY = ["0", "0", "4294967295"]  # what the map says outside of any user namespace
_SPECIAL = ":,\\"  # what options of overlayfs end with, or escape by


@dataclass(frozen=True, slots=True)
class Overlay:
    """How layers are mounted here."""

    options: tuple[str, ...] = ()

    @classmethod
    def of_this_machine(cls, *, uid_map: Path = _UID_MAP, index: Path = _INDEX) -> Overlay:
        """As this kernel and this user namespace need it.

        ``index=off``: an upper directory is mounted again after its container was killed, and a
        lower one is many containers'. ``userxattr``: in a user namespace nobody may set
        ``trusted.*`` attributes, which whiteouts of directories are made of.
        """
        options = ["index=off"] if index.exists() else []
        try:
            inside = uid_map.read_text().split() != _EVERYBODY
        except OSError:  # /proc is not mounted: no containers here either
            inside = False
        return cls((*options, "userxattr") if inside else tuple(options))

    def mount(
        self, lowers: Sequence[str], *, upper: str | None = None, work: str | None = None
    ) -> Mount:
        """Layers as one tree.

        Args:
            lowers: directories, the topmost first.
            upper: the directory that is written to; nothing can be written without one.
            work: an empty directory beside `upper`.
        """
        if upper is None and len(lowers) == 1:
            return Mount("bind", lowers[0], options=("ro", "rbind"))
        if upper is not None and not lowers:
            return Mount("bind", upper, options=("rw", "rbind"))
        above = () if upper is None else (f"workdir={work}", f"upperdir={upper}")
        return Mount(
            "overlay", "overlay", options=(*above, f"lowerdir={':'.join(lowers)}", *self.options)
        )


def check_directory(path: Path) -> Path:
    """`path`, when layers below it can be named in options of a mount.

    Raises:
        InvalidArgumentError: it holds what overlayfs takes for the end of a name.
    """
    if any(character in str(path) for character in _SPECIAL):
        raise InvalidArgumentError(
            "overlayfs cannot take layers below that directory",
            directory=path,
            hint="choose one without colons, commas and backslashes",
        )
    return path
