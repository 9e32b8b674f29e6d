"""Examines this machine: its store, its disk, its libraries, its proxies. Asks nobody."""

from __future__ import annotations

import ctypes
import os
import sqlite3
import ssl
import zlib
from typing import TYPE_CHECKING

from nixfetch.doctor.checks import Check
from nixfetch.errors import NixfetchError, StoreError
from nixfetch.store import LocalStore
from nixfetch.store.disk import is_there
from nixfetch.store.layout import Layout
from nixfetch.streams import codecs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

_LITTLE_SPACE = 1024**3  # bytes; a desktop's closure has a few
_FEW_FILES = 20_000  # inodes; one closure may take as many
_BACKDOORED = frozenset({"5.6.0", "5.6.1"})  # liblzma, CVE-2024-3094
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


def examine_machine(
    root: Path, *, environ: Mapping[str, str], notes: Sequence[str] = ()
) -> Iterator[Check]:
    """Look at what fetching needs of this machine; each finding as it comes.

    Args:
        root: of the store.
        environ: the environment.
        notes: what was passed over when settings were read.
    """
    for note in notes:
        yield Check(name="settings", state="warn", found=note, fix="nixfetch config show --origin")
    layout = Layout(root)
    yield _writable(layout)
    yield from _disk(_nearest(layout.store))
    yield _database(layout)
    yield _decoders()
    yield _libraries()
    yield _proxies(environ)


def _nearest(path: Path) -> Path:
    """`path`, or the closest directory above it that is there and can be reached."""
    return next((place for place in (path, *path.parents) if os.path.isdir(place)), path)  # noqa: PTH112 - `Path.is_dir` raises where nobody may look


def _writable(layout: Layout) -> Check:
    place = _nearest(layout.store)
    fine = os.access(place, os.W_OK | os.X_OK)
    new = "" if place == layout.store else ", which is to be made"
    if not os.access(place, os.X_OK):
        return Check(
            name="store",
            state="fail",
            found=f"{layout.root}: out of reach, we may not search {place}",
            fix="have that directory opened (chmod +x), or take another --store ROOT",
            exit_code=StoreError.exit_code,
        )
    return Check(
        name="store",
        state="ok" if fine else "fail",
        found=f"{layout.root}{new}: {'writable' if fine else f'we may not write to {place}'}",
        fix=None if fine else "another --store ROOT, or run it as who owns that one",
        exit_code=0 if fine else StoreError.exit_code,
    )


def _disk(place: Path) -> Iterator[Check]:
    try:
        disk = os.statvfs(place)
    except OSError as error:
        yield Check(
            name="disk",
            state="fail",
            found=f"{place}: {error.strerror}",
            exit_code=StoreError.exit_code,
        )
        return
    free, files = disk.f_bavail * disk.f_frsize, disk.f_favail
    tight = free < _LITTLE_SPACE or (disk.f_files > 0 and files < _FEW_FILES)
    inodes = f" and {files} inodes" if disk.f_files else ""
    yield Check(
        name="disk",
        state="warn" if tight else "ok",
        found=f"{free / 1024**3:.1f} GiB{inodes} free at {place}",
        fix="nixfetch gc deletes what no root needs" if tight else None,
        facts={"free_bytes": free, "free_files": files if disk.f_files else None},
    )


def _database(layout: Layout) -> Check:
    try:
        if not is_there(layout.database / "db.sqlite"):
            return Check(name="database", found="none yet: the first fetch makes it")
        with LocalStore(layout.root, read_only=True) as store:
            store.check_database()
            paths = len(store.all_valid())
    except NixfetchError as error:
        return Check.failed("database", error, fix="nixfetch verify --rebuild-db makes a new one")
    return Check(name="database", found=f"sound, {paths} paths", facts={"paths": paths})


def _decoders() -> Check:
    possible = codecs.supported()
    able = sorted(name for name, there in possible.items() if there)
    lacking = sorted(set(codecs_by_extra()) - set(able))
    found = " ".join(able)
    return Check(
        name="decoders",
        state="warn" if lacking else "ok",
        found=f"{found}; not {' '.join(lacking)}" if lacking else found,
        fix=f"pip install 'nixfetch[{','.join(lacking)}]', for the few caches that use it"
        if lacking
        else None,
        facts={"able": able, "lacking": lacking},
    )


def codecs_by_extra() -> tuple[str, ...]:
    """Compressions whose decoder comes with an extra of ours, named alike."""
    return ("lz4",)


def _libraries() -> Check:
    liblzma = _liblzma()
    versions = {
        "liblzma": liblzma,
        "zlib": zlib.ZLIB_RUNTIME_VERSION,
        "zstd": _zstd(),
        "openssl": ssl.OPENSSL_VERSION,
        "sqlite": sqlite3.sqlite_version,
    }
    bad = liblzma in _BACKDOORED
    return Check(
        name="libraries",
        state="fail" if bad else "ok",
        found=", ".join(f"{name} {version}" for name, version in versions.items() if version),
        fix="this liblzma has a back door (CVE-2024-3094): replace it at once" if bad else None,
        facts=versions,
        exit_code=StoreError.exit_code if bad else 0,
    )


def _liblzma() -> str | None:
    """Its version; Python does not say it, so the library is asked."""
    import _lzma

    try:
        ask = ctypes.CDLL(_lzma.__file__).lzma_version_string
    except (AttributeError, OSError):  # built in, or without names
        return None
    ask.restype = ctypes.c_char_p
    answer = ask()
    return answer.decode("ascii", "replace") if isinstance(answer, bytes) else None


def _zstd() -> str:
    import zstandard

    return ".".join(map(str, zstandard.ZSTD_VERSION))


def _proxies(environ: Mapping[str, str]) -> Check:
    seen = {
        name: _without_login(value)
        for name, value in environ.items()
        if name.lower() in _PROXIES and value
    }
    found = ", ".join(f"{name}={value}" for name, value in sorted(seen.items()))
    return Check(name="proxies", found=found or "none", facts=seen)


def _without_login(text: str) -> str:
    return text.rpartition("@")[2] if "@" in text else text
