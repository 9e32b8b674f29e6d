"""Mounts as values, and as five programs want to read them. Mounts nothing, looks at no disk.

A source is where a store path lies on this machine, a target where programs look for it. What
may be a source was decided by whoever asks: valid, below the store, no symbolic link.

Each renderer gives the bytes that its reader takes, and equal mounts give equal bytes. A source
may hold any byte but NUL, for people name directories as they like; where a format has no way to
say it, that is an error and never another path.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from snapshotter.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from nixfetch import StorePath

VERSION = 1
"""Of the JSON document."""
READ_ONLY = ("ro", "rbind")
MAX_UNIT_NAME = 255  # bytes; systemd's UNIT_NAME_MAX less its terminator
MAX_BWRAP = 9000  # arguments; bubblewrap's MAX_ARGS, of which some are left to the caller
_FSTAB = str.maketrans({character: f"\\{ord(character):03o}" for character in " \t\n\\"})
_MAKE = "X-mount.mkdir"  # util-linux 2.29; the mode is 0755
_PLAIN_IN_UNIT = re.compile(r"[A-Za-z0-9:_.]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class InexpressibleError(InvalidArgumentError):
    """The format has no way to say that."""

    exit_code = 6


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount; the fields of containerd's ``containerd.types.Mount``."""

    type: str
    """Such as ``bind``; the kernel ignores it for binds, so ``none`` is another word for it."""
    source: str
    target: str = ""
    """Below the root of the container; empty for that root itself."""
    options: tuple[str, ...] = ()


def binds(sources: Iterable[tuple[StorePath, str]], *, type: str = "bind") -> tuple[Mount, ...]:  # noqa: A002 - the name of the field
    """The read-only binds that put store paths where they belong.

    Args:
        sources: the paths, each with where it lies on this machine; any order, may repeat.
        type: of each mount.

    Returns:
        One mount a path, by target, so that equal closures give equal mounts.
    """
    return tuple(
        Mount(type, source, str(path), READ_ONLY) for path, source in sorted(dict(sources).items())
    )


def to_json(mounts: Sequence[Mount]) -> bytes:
    """One JSON document: the closure, and its mounts.

    Raises:
        InexpressibleError: a source is not UTF-8.
    """
    document = {
        "version": VERSION,
        "closure": [mount.target for mount in mounts],
        "mounts": [
            {
                "type": mount.type,
                "source": _utf8(mount.source, "json"),
                "target": mount.target,
                "options": list(mount.options),
            }
            for mount in mounts
        ],
    }
    return _json(document)


def to_oci(mounts: Sequence[Mount]) -> bytes:
    """What belongs into ``mounts`` of an OCI runtime's config.json: a JSON array.

    Raises:
        InexpressibleError: a source is not UTF-8.
    """
    return _json(
        [
            {
                "destination": mount.target,
                "type": mount.type,
                "source": _utf8(mount.source, "oci"),
                "options": list(mount.options),
            }
            for mount in mounts
        ]
    )


def to_fstab(mounts: Sequence[Mount], *, files: Collection[str] = ()) -> bytes:
    """Lines for fstab(5). mount(8) makes a directory where there is none, but no file.

    Args:
        mounts: which.
        files: the targets that are no directories: what to make first is said in a comment.

    Source: util-linux, libmount/src/tab_parse.c: blanks, newlines and backslashes in octal.
    """
    return _bytes("".join(_line(mount, is_file=mount.target in files) for mount in mounts))


def to_bwrap(mounts: Sequence[Mount]) -> bytes:
    """Arguments for ``bwrap --args FD``, each ended by a NUL.

    Raises:
        InexpressibleError: more than bubblewrap takes.
    """
    arguments = [
        argument for mount in mounts for argument in ("--ro-bind", mount.source, mount.target)
    ]
    if len(arguments) > MAX_BWRAP:
        raise InexpressibleError(
            "more arguments than bwrap takes", format="bwrap", arguments=len(arguments)
        )
    return _bytes("".join(f"{argument}\0" for argument in arguments))


def to_systemd(mounts: Sequence[Mount]) -> bytes:
    """A mount unit for each, below a comment that names its file, as ``systemctl cat`` shows them.

    Raises:
        InexpressibleError: a source with a control character or one that is not UTF-8; a unit
            name that is too long.
    """
    return _bytes("\n".join(map(_unit, mounts)))


def render(name: str, mounts: Sequence[Mount], *, files: Collection[str] = ()) -> bytes:
    """`mounts` in the format called `name`, one of `FORMATS`.

    Args:
        name: which.
        mounts: which.
        files: as `to_fstab` takes them.

    Raises:
        InexpressibleError: the format has no way to say that.
    """
    return to_fstab(mounts, files=files) if name == "fstab" else _RENDERERS[name](mounts)


_RENDERERS: Mapping[str, Callable[[Sequence[Mount]], bytes]] = {
    "json": to_json,
    "oci": to_oci,
    "fstab": to_fstab,
    "bwrap": to_bwrap,
    "systemd": to_systemd,
}
FORMATS = tuple(_RENDERERS)
"""The names of the formats."""


def unit_name(target: str) -> str:
    """The name of the unit that mounts at `target`, as ``systemd-escape --path`` makes it.

    Args:
        target: absolute, without doubled slashes or dots as components.

    Raises:
        InexpressibleError: it is too long.

    Source: systemd, src/basic/unit-name.c, `unit_name_path_escape`.
    """
    raw = target.strip("/").encode("utf-8", "surrogateescape")
    escaped = "".join(_escaped(byte, first=place == 0) for place, byte in enumerate(raw)) or "-"
    name = f"{escaped}.mount"
    if len(name) > MAX_UNIT_NAME:
        raise InexpressibleError(
            "the name of the mount unit is too long for systemd",
            format="systemd",
            path=target,
            length=len(name),
            hint="use --format fstab, which systemd reads too",
        )
    return name


def _escaped(byte: int, *, first: bool) -> str:
    character = chr(byte)
    if character == "/":
        return "-"
    if _PLAIN_IN_UNIT.match(character) and not (first and character == "."):
        return character
    return f"\\x{byte:02x}"


def _line(mount: Mount, *, is_file: bool) -> str:
    source, target = (text.translate(_FSTAB) for text in (mount.source, mount.target))
    note = f"# a file; before: install -D -m 0444 /dev/null {target}\n" if is_file else ""
    options = mount.options if is_file else (*mount.options, _MAKE)
    return f"{note}{source} {target} none {','.join(options)} 0 0\n"


def _unit(mount: Mount) -> str:
    source = _utf8(mount.source, "systemd")
    if _CONTROL.search(source):
        raise InexpressibleError(
            "no unit can name a path with a control character", format="systemd", file=source
        )
    return (
        f"# /etc/systemd/system/{unit_name(mount.target)}\n"
        "[Unit]\n"
        f"Description={_specifiers(mount.target)} from the store of nixfetch\n"
        "\n"
        "[Mount]\n"
        f"What={_specifiers(source)}\n"
        f"Where={_specifiers(mount.target)}\n"
        "Type=none\n"
        f"Options={','.join(mount.options)}\n"
        "\n"
        "[Install]\n"
        "WantedBy=local-fs.target\n"
    )


def _specifiers(text: str) -> str:
    """`text` where systemd would put something else for ``%x``."""
    return text.replace("%", "%%")


def _utf8(text: str, name: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InexpressibleError(
            "this format has no way to say a path that is not UTF-8", format=name, file=text
        ) from error
    return text


def _json(document: object) -> bytes:
    return f"{json.dumps(document, indent=2)}\n".encode()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
