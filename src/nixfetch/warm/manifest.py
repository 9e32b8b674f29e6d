"""What is to be kept warm, as text: TOML, or a plain list of store paths. Asks nobody.

    # a list: a store path a line, and comments

    [[roots]]                                          # TOML: any number of these
    name = "tools"                                     # of the set of roots; else roots-1, …
    paths = ["/nix/store/…"]                           # exactly one of: paths,
    store-paths = "https://…/store-paths.xz"           # a list at a URL or in a file,
    hydra = "https://…/job/…/latest-finished"          # the outputs of a build,
    pods = "pods.json"                                 # images in `kubectl get pods -A -o json`,
    cache = "s3://…"                                   # all that a bucket or directory has
    match = ["*-firefox-1*"]                           # only names like these
    outputs = ["out"]                                  # of hydra only; else all

    [limits]
    bandwidth = "20M"  max-bytes = "50G"  max-duration = "2h"
    [[limits.timetable]]
    times = "08:00-18:00"  bandwidth = "2M"

Names of files are relative to the manifest.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from nixfetch.errors import FormatError, NixfetchError, facts
from nixfetch.formats.storepath import STORE_DIR, StorePath
from nixfetch.plan.timetable import Slot, Timetable

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_SIZE = 64 * 1024 * 1024  # bytes; a list of 10^6 paths has less
KINDS = ("paths", "store-paths", "hydra", "pods", "cache")
_ROOT_KEYS = frozenset({"name", "match", "outputs", *KINDS})
_LIMIT_KEYS = frozenset({"bandwidth", "max-bytes", "max-duration", "timetable"})
_SLOT_KEYS = frozenset({"times", "bandwidth"})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZE = re.compile(r"(\d{1,15})([KMGT]?)", re.IGNORECASE)
_DURATION = re.compile(r"(?:\d{1,6}[dhms])+")
_DURATION_PART = re.compile(r"(\d{1,6})([dhms])")


class ManifestError(NixfetchError):
    """A manifest says nothing that can be done. Facts: `file`, `key`."""

    exit_code = 78


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSpec:
    """Where some of the paths come from."""

    name: str
    """Of the set of roots that keeps them."""
    kind: str
    """One of `KINDS`."""
    where: str = ""
    """A URL or a file, for all kinds but ``paths``."""
    paths: tuple[StorePath, ...] = ()
    """For ``paths``."""
    match: tuple[str, ...] = ()
    """Patterns of names as of a shell, ``<hash>-<name>``; all without one."""
    outputs: tuple[str, ...] = ()
    """For ``hydra``; all without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestLimits:
    """How much a run may take. Bytes, seconds; None: without limit."""

    max_bytes: int | None = None
    max_duration: float | None = None
    timetable: Timetable = field(default_factory=Timetable)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What one file says."""

    name: str
    """Of the file, without its ending: the sets of its roots begin with it."""
    sources: tuple[SourceSpec, ...]
    limits: ManifestLimits = field(default_factory=ManifestLimits)

    @classmethod
    def parse(cls, raw: bytes, *, name: str) -> Manifest:
        """Read a manifest.

        Args:
            raw: all of it.
            name: what to call it: letters, digits, ``.``, ``_`` and ``-``.

        Raises:
            ManifestError: it is malformed, or has a key that is not known.
        """
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            raise ManifestError("manifest is not text") from None
        if _NAME.fullmatch(name) is None:
            raise ManifestError(
                "name of the manifest cannot be that of roots",
                hint="letters, digits, dots, dashes and underlines",
                name=name[:100],
            )
        if _is_list(text):
            source = SourceSpec(name="paths", kind="paths", paths=_paths(parse_list(text)))
            return cls(name, (source,))
        try:
            document = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise ManifestError("manifest is not TOML", reason=str(error)[:200]) from error
        return cls(name, _sources(document), _limits(document))


def parse_list(text: str) -> list[str]:
    """The lines of a plain list, without comments and empty ones."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def _is_list(text: str) -> bool:
    """Whether its first line is a store path; an empty list is one too."""
    lines = parse_list(text)
    return not lines or lines[0].startswith(f"{STORE_DIR}/")


def _paths(texts: Iterable[str]) -> tuple[StorePath, ...]:
    paths = []
    for text in texts:
        try:
            paths.append(StorePath.parse_full(text))
        except FormatError as error:
            raise ManifestError("not a store path", text=text[:300], reason=error.problem) from None
    return tuple(dict.fromkeys(paths))


def _sources(document: dict[str, Any]) -> tuple[SourceSpec, ...]:
    _known(document, frozenset({"roots", "limits"}))
    tables = document.get("roots", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ManifestError("roots are [[roots]] tables", key="roots")
    sources = []
    for number, table in enumerate(tables, start=1):
        with facts(key=f"roots, number {number}"):
            sources.append(_source(table, number))
    names = [source.name for source in sources]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ManifestError("two roots of one name", name=twice[0])
    return tuple(sources)


def _source(table: dict[str, Any], number: int) -> SourceSpec:
    _known(table, _ROOT_KEYS)
    kinds = [kind for kind in KINDS if kind in table]
    if len(kinds) != 1:
        raise ManifestError("say one of these", keys=" | ".join(KINDS))
    [kind] = kinds
    name = table.get("name", f"roots-{number}")
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise ManifestError("unusable name", hint="letters, digits, dots, dashes and underlines")
    if "outputs" in table and kind != "hydra":
        raise ManifestError("outputs go with hydra")
    spec = SourceSpec(
        name=name,
        kind=kind,
        match=_strings(table, "match"),
        outputs=_strings(table, "outputs"),
    )
    if kind == "paths":
        return replace(spec, paths=_paths(_strings(table, "paths")))
    where = table[kind]
    if not isinstance(where, str) or not where:
        raise ManifestError("expected a URL or a file", key=kind)
    return replace(spec, where=where)


def _limits(document: dict[str, Any]) -> ManifestLimits:
    table = document.get("limits", {})
    if not isinstance(table, dict):
        raise ManifestError("limits are a [limits] table", key="limits")
    with facts(key="limits"):
        _known(table, _LIMIT_KEYS)
        slots = table.get("timetable", [])
        if not isinstance(slots, list) or not all(isinstance(slot, dict) for slot in slots):
            raise ManifestError("a timetable is [[limits.timetable]] tables")
        for slot in slots:
            _known(slot, _SLOT_KEYS)
        return ManifestLimits(
            max_bytes=_optional(table, "max-bytes", parse_size),
            max_duration=_optional(table, "max-duration", parse_duration),
            timetable=Timetable(
                tuple(_slot(slot) for slot in slots), _optional(table, "bandwidth", parse_size)
            ),
        )


def _slot(table: dict[str, Any]) -> Slot:
    try:
        return Slot.parse(str(table.get("times", "")), _optional(table, "bandwidth", parse_size))
    except FormatError as error:
        raise ManifestError(error.problem, hint=error.hint, **error.facts) from error


def _optional(table: dict[str, Any], key: str, read: Any) -> Any:
    return read(str(table[key])) if key in table else None


def parse_size(text: str) -> int:
    """Bytes: ``1048576``, ``512K``, ``2G``, in powers of 1024.

    Raises:
        ManifestError: it is none, or 0.
    """
    match = _SIZE.fullmatch(text.strip())
    size = int(match[1]) * _UNITS[match[2].upper()] if match else 0
    if not size:
        raise ManifestError("not a size", text=text[:80], hint="such as 512K, 20M or 2G")
    return size


def parse_duration(text: str) -> float:
    """Seconds: ``90s``, ``30m``, ``2h``, ``1h30m``.

    Raises:
        ManifestError: it is none, or 0.
    """
    whole = _DURATION.fullmatch(text.strip())
    parts = _DURATION_PART.findall(text) if whole else []
    seconds = sum(int(number) * _SECONDS[unit] for number, unit in parts)
    if not seconds:
        raise ManifestError("not a duration", text=text[:80], hint="such as 90s, 30m or 1h30m")
    return float(seconds)


def _strings(table: dict[str, Any], key: str) -> tuple[str, ...]:
    values = table.get(key, [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ManifestError("expected a list of strings", key=key)
    return tuple(values)


def _known(table: dict[str, Any], keys: frozenset[str]) -> None:
    for key in table:
        if key not in keys:
            meant = get_close_matches(key, keys, n=1)
            hint = f"did you mean {meant[0]}?" if meant else f"known: {', '.join(sorted(keys))}"
            raise ManifestError("unknown key in the manifest", key=key[:80], hint=hint)
