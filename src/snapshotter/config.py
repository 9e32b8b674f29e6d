"""The settings of the daemon: flags over a TOML file over defaults.

Strict: an unknown key, or a value of another type, is a mistake that its author wants to hear of.
Whom to fetch from and whom to trust are settings of `nixfetch`, from its own files, variables and
flags.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import nixfetch
from snapshotter.errors import InvalidArgumentError, SnapshotterError
from snapshotter.overlay import check_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

MAX_FILE = 1024 * 1024  # bytes; ours have some hundred
MAX_SOCKET = 106  # bytes; sun_path less its terminator, and less the dot of a passing name
MAX_MOUNTS = 20_000  # the kernel's own limit is 100 000 a mount namespace

MAX_NAME = 76  # characters of a namespace; containerd's limit

MountMode = Literal["auto", "target", "lower"]
LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

_NAME = re.compile(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*\Z")


class SettingsError(SnapshotterError):
    """A setting cannot be used. Carries `setting`, and `file` where it is one's."""

    exit_code = 78


@dataclass(frozen=True, slots=True)
class ImageService:
    """Of the image service that kubelet calls: the table ``[image-service]``.

    Its keys may also have underscores, as nix-snapshotter spells them.
    """

    enable: bool = True
    containerd_address: Path | None = None
    """Containerd's own socket, where it is not the one of `Settings`."""
    namespace: str = "k8s.io"
    """Of containerd, in which CRI has its images."""
    snapshotter: str = "nix"
    """What containerd calls this daemon: the key below ``proxy_plugins``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All of them; the keys in TOML have dashes."""

    root: Path = Path("/var/lib/nixfetch-snapshotter")
    """Where snapshots are kept."""
    address: Path = Path("/run/nixfetch-snapshotter/snapshotter.sock")
    """The socket that containerd is to call."""
    store: Path = Path("/var/lib/nixfetch")
    """The root of the store, as ``nixfetch --store`` takes it."""
    containerd_address: Path | None = Path("/run/containerd/containerd.sock")
    """Containerd's own socket, to ask for its version; an empty text is none."""
    mount_mode: MountMode = "auto"
    """How containers get store paths: as binds with a target (containerd 1.7 and later), or as the
    first lower layer; ``auto`` asks containerd."""
    max_binds: int = 1000
    """Closures of more paths are a lower layer in any mode."""
    durable: bool = True
    """Whether what was answered survives a power cut."""
    metrics_address: str | None = None
    """Where Prometheus finds metrics: ``127.0.0.1:PORT`` or ``unix:/PATH``."""
    log_format: LogFormat = "text"
    log_level: LogLevel = "info"
    image_service: ImageService = field(default_factory=ImageService)
    """Not there without a socket of containerd."""


NAMES = tuple(field.name for field in fields(Settings))
"""Of all settings, as flags and `load` have them."""


def load(flags: Mapping[str, object], file: Path | None = None) -> Settings:
    """Read all settings.

    Args:
        flags: those that were given, by the name of the field.
        file: of settings; must be there when it is named.

    Raises:
        SettingsError: a setting or the file is not usable.
    """
    settings = Settings()
    if file is not None:
        settings = replace(settings, **_of_file(file))
    given = {
        name: _checked(name, value, {"flag": f"--{_key(name)}"})
        for name, value in flags.items()
        if value is not None
    }
    settings = replace(settings, **given)
    try:
        check_directory(settings.root)
    except InvalidArgumentError as error:
        raise SettingsError(error.problem, hint=error.hint, **error.facts) from error
    if len(str(settings.address).encode()) > MAX_SOCKET:
        raise SettingsError("path of the socket is too long", setting="address", limit=MAX_SOCKET)
    return settings


def _of_file(file: Path) -> dict[str, Any]:
    if file.exists() and not file.is_file():  # a pipe would be waited for
        raise SettingsError("file of settings is no regular file", file=file)
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_FILE + 1)
    except OSError as error:
        raise SettingsError(
            "file of settings cannot be read", file=file, reason=error.strerror
        ) from error
    if len(content) > MAX_FILE:
        raise SettingsError("file of settings is too large", file=file, limit=MAX_FILE)
    try:
        table = tomllib.loads(content.decode())
    # Numbers of thousands of digits are a bare ValueError, deep nesting is a RecursionError.
    except (ValueError, RecursionError) as error:
        raise SettingsError("malformed TOML", file=file, reason=str(error)) from error
    with nixfetch.facts(file=file):
        if "image_service" in table:
            table["image-service"] = table.pop("image_service")
        _check_keys(table, NAMES)
        found = {_field(key): value for key, value in table.items()}
        return {name: _checked(name, value, {}) for name, value in found.items()}


def _check_keys(table: Mapping[str, object], names: Iterable[str]) -> None:
    known = sorted(map(_key, names))
    for key in table:
        if key not in known:
            close = difflib.get_close_matches(_key(key), known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
            raise SettingsError("unknown key", setting=key, hint=hint)


def _key(name: str) -> str:
    return name.replace("_", "-")


def _field(key: str) -> str:
    return key.replace("-", "_")


def _checked(name: str, value: object, where: Mapping[str, object]) -> Any:
    """The value of a field, of its type."""
    try:
        return _KINDS[name](value)
    except ValueError as error:
        unfit = SettingsError("setting has an unfit value", setting=_key(name), wanted=str(error))
        unfit.facts.update(where)
        raise unfit from error


def _path(value: object) -> Path:
    if not isinstance(value, str | Path) or not Path(value).is_absolute() or "\0" in str(value):
        raise ValueError("an absolute path")
    return Path(value)


def _optional_path(value: object) -> Path | None:
    return None if value == "" else _path(value)


def _optional_text(value: object) -> str | None:
    if not isinstance(value, str):
        raise ValueError("a text")  # noqa: TRY004 - one kind of error for one kind of mistake
    return value or None


def _metrics_address(value: object) -> str | None:
    text = _optional_text(value)
    if text is not None and text.startswith("unix:") and not text.startswith("unix:/"):
        raise ValueError("127.0.0.1:PORT or unix:/PATH")
    return text


def _mounts(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_MOUNTS:
        raise ValueError(f"a number from 0 to {MAX_MOUNTS}")
    return value


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")  # noqa: TRY004 - as above
    return value


def _choice(choices: tuple[str, ...]) -> Callable[[object], str]:
    def check(value: object) -> str:
        if value not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return str(value)

    return check


def _name(value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_NAME or _NAME.match(value) is None:
        raise ValueError("a name of letters and digits, with single . _ - between them")
    return value


def _image_service(value: object) -> ImageService:
    if not isinstance(value, dict):
        raise ValueError("a table")  # noqa: TRY004 - as above
    kinds: Mapping[str, Callable[[object], Any]] = {
        "enable": _boolean,
        "containerd_address": _optional_path,
        "namespace": _name,
        "snapshotter": _name,
    }
    _check_keys({_key(key): each for key, each in value.items()}, kinds)
    found = {_field(key): each for key, each in value.items()}
    for name, each in found.items():
        try:
            found[name] = kinds[name](each)
        except ValueError as error:
            raise ValueError(f"{error} as {_key(name)}") from error
    return ImageService(**found)


_KINDS: Mapping[str, Callable[[object], Any]] = {
    "root": _path,
    "address": _path,
    "store": _path,
    "containerd_address": _optional_path,
    "mount_mode": _choice(get_args(MountMode)),
    "max_binds": _mounts,
    "durable": _boolean,
    "metrics_address": _metrics_address,
    "log_format": _choice(get_args(LogFormat)),
    "log_level": _choice(get_args(LogLevel)),
    "image_service": _image_service,
}
