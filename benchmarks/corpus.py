"""Signed caches of made-up closures: deterministic, made without Nix."""

from __future__ import annotations

import hashlib
import lzma
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import zstandard

from nixfetch.formats import base32
from nixfetch.formats.hashes import sha256
from nixfetch.formats.nar import Contents, Directory, End, Event, NarWriter, Regular
from nixfetch.formats.narinfo import NarInfo
from nixfetch.formats.signing import SecretKey
from nixfetch.formats.storepath import StorePath

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

KEY = SecretKey.from_seed("bench-1", hashlib.sha256(b"nixfetch benchmarks").digest())
_WORDS = 4096  # distinct words that text is made of
_CODECS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "none": ("", lambda nar: nar),
    "zstd": (".zst", lambda nar: zstandard.ZstdCompressor(level=3).compress(nar)),
    "xz": (".xz", lambda nar: lzma.compress(nar, preset=1)),
}
"""By their names: what ends the name of a file, and how it is made."""


@dataclass(frozen=True, slots=True)
class Profile:
    """The shape of a closure."""

    paths: int
    files: int
    """A path, on average."""
    size: int
    """Bytes a file, on average."""


PROFILES = {
    "small": Profile(paths=57, files=32, size=33_000),
    "medium": Profile(paths=239, files=112, size=38_000),
    "manysmall": Profile(paths=1, files=42_000, size=6_200),
    "big": Profile(paths=1, files=3, size=100_000_000),
    "walk1000": Profile(paths=1000, files=1, size=100),
}


def make(directory: Path, profile: Profile, compression: str) -> list[StorePath]:
    """Write a cache of one closure; gives its paths, the root last."""
    random_ = random.Random(f"{profile} corpus")
    (directory / "nar").mkdir(parents=True)
    (directory / "nix-cache-info").write_text(
        "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n"
    )
    words = [random_.randbytes(random_.randint(2, 9)) for _ in range(_WORDS)]
    paths: list[StorePath] = []
    for number in range(profile.paths):
        last = number == profile.paths - 1
        below = paths if last else random_.sample(paths, min(len(paths), 6))
        digest = hashlib.sha256(f"{profile} {number}".encode()).digest()[:20]
        path = StorePath.parse(f"{base32.encode(digest)}-bench-{number}")
        nar = _nar(profile, random_, words)
        _publish(directory, path, nar, tuple(sorted(below)), compression)
        paths.append(path)
    return paths


def make_versions(directory: Path, compression: str, *, changed: float = 0.02) -> list[StorePath]:
    """Write a cache of two versions of one closure of 5 000 files; gives the root of each.

    Every path of the second has another hash, as after a rebuild.

    Args:
        directory: of the cache.
        compression: zstd or none.
        changed: the share of files that differ between the two.
    """
    (directory / "nar").mkdir(parents=True)
    (directory / "nix-cache-info").write_text("StoreDir: /nix/store\nPriority: 30\n")
    roots = []
    for version in (1, 2):
        below: list[StorePath] = []
        for number in range(10):
            digest = hashlib.sha256(b"version %d of %d" % (version, number)).digest()[:20]
            path = StorePath.parse(f"{base32.encode(digest)}-bench-{number}-{version}")
            writer = NarWriter()
            events = _version(number, version, changed)
            nar = b"".join(writer.apply(event) for event in events)
            _publish(directory, path, nar, tuple(sorted(below)), compression)
            below.append(path)
        roots.append(below[-1])
    return roots


def _version(number: int, version: int, changed: float) -> Iterator[Event]:
    yield Directory(b"")
    for file in range(500):
        first = random.Random(f"{number} {file}")
        differs = first.random() < changed
        random_ = random.Random(f"{number} {file} {version if differs else 1}")
        data = random_.randbytes(random_.randint(500, 40_000))
        yield Regular(b"f%05d" % file, len(data), executable=False, offset=0)
        yield Contents(memoryview(data))
        yield End()
    yield End()


def _publish(
    directory: Path, path: StorePath, nar: bytes, references: tuple[StorePath, ...], codec: str
) -> None:
    extension, compress = _CODECS[codec]
    packed = compress(nar)
    name = f"nar/{sha256(packed).base32}.nar{extension}"
    info = NarInfo(
        path=path,
        url=name,
        compression=codec,
        file_hash=sha256(packed),
        file_size=len(packed),
        nar_hash=sha256(nar),
        nar_size=len(nar),
        references=references,
    )
    signed = NarInfo(
        **{field: getattr(info, field) for field in info.__slots__ if field != "signatures"},
        signatures=(KEY.sign(info.fingerprint()),),
    )
    (directory / name).write_bytes(packed)
    (directory / f"{path.hash_part}.narinfo").write_bytes(signed.render())


def _nar(profile: Profile, random_: random.Random, words: list[bytes]) -> bytes:
    writer = NarWriter()
    return b"".join(writer.apply(event) for event in _tree(profile, random_, words))


def _tree(profile: Profile, random_: random.Random, words: list[bytes]) -> Iterator[Event]:
    files = (
        max(1, int(profile.files * random_.uniform(0.5, 1.5)))
        if profile.paths > 1
        else profile.files
    )
    yield Directory(b"")
    for directory in range((files + 31) // 32):
        yield Directory(b"d%05d" % directory)
        for file in range(min(32, files - 32 * directory)):
            size = int(profile.size * random_.uniform(0.2, 1.8))
            text = b"".join(random_.choices(words, k=min(size, 200_000) // 6 + 1))
            data = (text * (size // len(text) + 1))[:size]
            yield Regular(b"f%05d" % file, len(data), file % 8 == 0, 0)
            if data:
                yield Contents(memoryview(data))
            yield End()
        yield End()
    yield End()
