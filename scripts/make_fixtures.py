"""Makes the fixtures: a signed closure that runs, as xz, zstd and uncompressed caches.

Knows the compiler and real Nix. Of nixfetch it knows base32 only, so that the fixtures
do not repeat our mistakes.

1. gcc links the programs of fixtures/src. A reference to another package is a placeholder
   of the length of a store path, since that path is not known yet.
2. Real Nix builds fixtures/src/demo.nix, whose builders put the real paths in, and signs.
   It runs in a root of its own: /nix is an empty directory of ours, the rest is bound from
   the system where Nix is installed. So the store is /nix/store without a sandbox, and a
   /nix of this machine is not touched.
3. Real Nix copies the closure to an xz and an uncompressed cache; the zstd cache is made
   from the latter here.
4. Each cache is fetched by each Nix at hand with signatures required, the store is
   verified, and its programs are run from it.

What comes out is a function of fixtures/src, fixtures/keys, gcc, liblzma and libzstd:
no clock, no randomness, no network.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import sys
import tempfile
from pathlib import Path

import zstandard

from nixfetch.formats import base32
from scripts.fixture_checks import check_cache, remove
from scripts.fixture_nix import Claim, Nix, check_version, claim, claims, installed_nix
from scripts.fixture_programs import link_programs, placeholder

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
SOURCES = FIXTURES / "src"
KEYS = FIXTURES / "keys"
KEY_NAMES = ("fixture-1", "fixture-2", "untrusted-1")
PRIORITIES = {"cache-zstd": 30, "cache-xz": 40, "cache-none": 50}  # lower is asked first
MAX_COMMITTED = 400 * 1024  # bytes of file contents; what a repository carries without regret
BIG_SIZE = 20 * 1024 * 1024  # bytes, about

ROOT = "nixfetch-demo-1.0"
UNSIGNED = ("nixfetch-demo-readme.txt", "nouns.txt", "phrases-1.0", "words-1.0.txt")
SIGNED_TWICE = ("greet-1.0", "libgreet-1.0", "tiny-libc-1.0")  # the closure of greet
ROLES = {
    "static": "say-1.0",
    "dynamic": "greet-1.0",
    "self-reference": "greet-1.0",
    "file": "words-1.0.txt",
    "symlink": "shapes-1.0",
    "source": "nixfetch-demo-source",
    "content-addressed": "phrases-1.0",
    "content-addressed-text": "nixfetch-demo-readme.txt",
    "content-addressed-flat": "words-1.0.txt",
}
PROGRAMS = {"static": ("say-1.0", "bin/say"), "dynamic": ("greet-1.0", "bin/greet")}
OUTPUT = {
    "static": "say: hello from the Nix store\nsay: argument: {program}\nsay: argument: you\n",
    "dynamic": "greet: hello, you!\ngreet: this line is a file of the store path of greet\n",
}

# ---------------------------------------------------------------- store paths


def make_keys(nix: Nix, work: Path) -> None:
    """Copies the keys into the work directory; makes those that are not there yet."""
    keys = work / "keys"
    keys.mkdir()
    KEYS.mkdir(exist_ok=True)
    for name in KEY_NAMES:
        secret, public = KEYS / f"{name}.secret", KEYS / f"{name}.public"
        if not secret.exists():
            text = nix.run("nix", "key", "generate-secret", "--key-name", name)
            secret.write_text(text + "\n")
        shutil.copy(secret, keys)
        if not public.exists():
            convert = f"nix key convert-secret-to-public <{nix.work}/keys/{name}.secret"
            public.write_text(nix.run("sh", "-c", convert) + "\n")


def build(nix: Nix, expression: str, *arguments: str) -> str:
    """Builds the one output of an expression of fixtures/src; gives its store path."""
    expression = f"{nix.work}/src/{expression}"
    return nix.run("nix-build", "--no-out-link", expression, *arguments).splitlines()[-1]


def sign(nix: Nix, key: str, paths: list[str]) -> None:
    nix.run("nix", "store", "sign", "--key-file", f"{nix.work}/keys/{key}.secret", *paths)


def build_closure(nix: Nix) -> str:
    """Builds and signs the closure; gives its root."""
    plain = build(nix, "phrases.nix")
    answer = json.loads(nix.run("nix", "store", "make-content-addressed", "--json", plain))
    phrases = str(answer["rewrites"][plain])
    elf = ("--arg", "elf", f"{nix.work}/elf")
    root = build(nix, "demo.nix", *elf, "--argstr", "phrases", phrases)
    closure = nix.run("nix-store", "--query", "--requisites", root).split()
    sign(nix, "fixture-1", [path for path in closure if not path.endswith(UNSIGNED)])
    sign(nix, "fixture-2", [path for path in closure if path.endswith(SIGNED_TWICE)])
    return root


# ---------------------------------------------------------------- caches


def start_cache(cache: Path) -> None:
    """Makes an empty cache; Nix keeps the nix-cache-info that it finds."""
    cache.mkdir()
    info = f"StoreDir: /nix/store\nWantMassQuery: 1\nPriority: {PRIORITIES[cache.name]}\n"
    (cache / "nix-cache-info").write_text(info)


def copy_to_cache(nix: Nix, cache: Path, root: str) -> None:
    start_cache(cache)
    compression = cache.name.removeprefix("cache-")
    url = f"file://{nix.work}/{cache.name}?compression={compression}&write-nar-listing=true"
    nix.run("nix", "copy", "--to", url, root)


def zstd_frames(nar: bytes) -> bytes:
    """Compresses to three frames of different make, and two skippable ones between and behind."""
    third = len(nar) // 3
    first, second, last = nar[:third], nar[third : 2 * third], nar[2 * third :]
    note = b"not part of the NAR"
    skippable = b"\x50\x2a\x4d\x18" + len(note).to_bytes(4, "little") + note
    return b"".join(
        [
            zstandard.ZstdCompressor(level=1).compress(first),
            skippable,
            zstandard.ZstdCompressor(level=19, write_checksum=True).compress(second),
            zstandard.ZstdCompressor(level=3, write_content_size=False).compress(last),
            skippable,
        ]
    )


def recompress(plain: Path, cache: Path) -> None:
    """Makes the zstd cache from the uncompressed one; signatures do not cover what changes."""
    start_cache(cache)
    (cache / "nar").mkdir()
    for narinfo in plain.glob("*.narinfo"):
        told = claim(narinfo.read_text())
        packed = zstd_frames((plain / told.field("URL")).read_bytes())
        digest = base32.encode(hashlib.sha256(packed).digest())
        (cache / f"nar/{digest}.nar.zst").write_bytes(packed)
        text = told.text
        for name, value in {
            "URL": f"nar/{digest}.nar.zst",
            "Compression": "zstd",
            "FileHash": f"sha256:{digest}",
            "FileSize": str(len(packed)),
        }.items():
            text = text.replace(f"{name}: {told.field(name)}\n", f"{name}: {value}\n", 1)
        (cache / narinfo.name).write_text(text)
    for listing in plain.glob("*.ls"):
        shutil.copy(listing, cache)


def describe(closure: list[Claim]) -> str:
    """Writes paths.json: what the tests and the demo need to know of the closure."""
    by_name = {c.name: c.path for c in closure}
    keys = {
        name: {
            "public": (KEYS / f"{name}.public").read_text().strip(),
            "public-file": f"keys/{name}.public",
            "secret-file": f"keys/{name}.secret",
            "signs": [c.path for c in closure if name in c.signed_by],
        }
        for name in KEY_NAMES
    }
    programs = {role: f"{by_name[name]}/{inside}" for role, (name, inside) in PROGRAMS.items()}
    document: dict[str, object] = {
        "root": by_name[ROOT],
        "closure": [c.path for c in closure],
        "roles": {role: by_name[name] for role, name in ROLES.items()},
        "programs": programs,
        "output": {role: OUTPUT[role].format(program=programs[role]) for role in programs},
        "unsigned": [c.path for c in closure if not c.signed_by],
        "caches": list(PRIORITIES),
        "keys": keys,
    }
    return json.dumps(document, indent=2) + "\n"


# ---------------------------------------------------------------- checks and what is put in place


def check_claims(closure: list[Claim]) -> None:
    """Nothing of what the fixtures promise got lost."""
    for told in closure:
        promised = set() if told.name in UNSIGNED else {"fixture-1"}
        promised |= {"fixture-2"} if told.name in SIGNED_TWICE else set()
        if set(told.signed_by) != promised or (not promised and not told.field("CA")):
            sys.exit(f"wrong signatures: {told.text}")
    kinds = {re.sub(r"sha256:.*", "", told.field("CA")) for told in closure}
    if kinds != {"", "fixed:r:", "fixed:", "text:"}:
        sys.exit(f"content addresses: {kinds}")
    by_name = {told.name: told for told in closure}
    if by_name["greet-1.0"].path not in by_name["greet-1.0"].references:
        sys.exit("greet does not refer to itself")


def check_placeholders(plain: Path) -> None:
    """Every reference in the programs was resolved."""
    for nar in plain.glob("nar/*.nar"):
        if placeholder("").encode() in nar.read_bytes():
            sys.exit(f"a placeholder was left in {nar.name}")


def drop_empty_directories(cache: Path) -> None:
    """Removes log and realisations, which Nix makes in every cache and git does not keep."""
    for directory in cache.iterdir():
        if directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()


def replace(made: Path, target: Path) -> None:
    """Puts what was made in the place of what is there."""
    if target.is_dir():
        shutil.rmtree(target)
    if made.is_dir():
        shutil.copytree(made, target)
    else:
        shutil.copy(made, target)


def contents(top: Path) -> dict[str, bytes]:
    """The files of a tree, or the one file."""
    files = [top] if top.is_file() else [path for path in top.rglob("*") if path.is_file()]
    return {str(path.relative_to(top)): path.read_bytes() for path in files}


# ---------------------------------------------------------------- the large path


def write_big(to: Path) -> None:
    """Writes about 20 MB: a third random, a third compressible, a third in small files."""
    source = random.Random(1)
    part = BIG_SIZE // 3
    to.mkdir()
    (to / "random").write_bytes(source.randbytes(part))
    line = b"%08d: the quick brown fox jumps over the lazy dog\n"
    (to / "text").write_bytes(b"".join(line % n for n in range(part // len(line % 0))))
    left, number = part, 0
    while left > 0:
        directory = to / "small" / f"{number % 50:02d}"
        directory.mkdir(parents=True, exist_ok=True)
        data = source.randbytes(source.randrange(2048)).hex().encode()
        (directory / f"{number:05d}").write_bytes(data)
        left, number = left - len(data), number + 1


def make_big(nix: Nix, work: Path, to: Path) -> None:
    """Makes an xz and a zstd cache with one large path, signed by fixture-1, and says its name."""
    write_big(work / "big")
    root = build(nix, "big.nix", "--arg", "content", f"{nix.work}/big")
    sign(nix, "fixture-1", [root])
    to.mkdir(parents=True, exist_ok=True)
    for name in ("cache-xz", "cache-zstd"):
        copy_to_cache(nix, work / name, root)
        drop_empty_directories(work / name)
        replace(work / name, to / name)
        shutil.rmtree(work / name)
    (to / "paths.json").write_text(json.dumps({"root": root, "closure": [root]}, indent=2) + "\n")
    print(f"{root}: in {to}")


# ---------------------------------------------------------------- all together


def make(options: argparse.Namespace, work: Path) -> None:
    nix = installed_nix(options.sid, work)
    check_version(nix)
    make_keys(nix, work)
    shutil.copytree(SOURCES, work / "src")
    if options.big:  # first: it is there even where another compiler makes other programs
        make_big(nix, work, options.big)
    link_programs(SOURCES, work / "elf")
    root = build_closure(nix)
    copy_to_cache(nix, work / "cache-xz", root)
    copy_to_cache(nix, work / "cache-none", root)
    recompress(work / "cache-none", work / "cache-zstd")
    closure = claims(work / "cache-none")
    check_claims(closure)
    check_placeholders(work / "cache-none")
    document = describe(closure)
    (work / "paths.json").write_text(document)
    on_this_machine = options.sid != Path("/") and shutil.which("nix")
    peers = [nix, Nix((), str(work))] if on_this_machine else [nix]
    for cache in PRIORITIES:
        for peer in peers:
            check_cache(peer, work, work / cache, document)
    finish(work, check=options.check)


def finish(work: Path, *, check: bool) -> None:
    """Puts the caches and paths.json into fixtures, or only compares them with what is there."""
    for cache in PRIORITIES:
        drop_empty_directories(work / cache)
    for name in (*PRIORITIES, "paths.json"):
        if not check:
            replace(work / name, FIXTURES / name)
        elif contents(work / name) != contents(FIXTURES / name):
            sys.exit(f"fixtures/{name} is not what this compiler and this Nix make of the sources")
    size = sum(p.stat().st_size for p in FIXTURES.rglob("*") if p.is_file())
    print(f"fixtures: {size} bytes" + (", as committed" if check else ""))
    if size > MAX_COMMITTED:
        sys.exit(f"more than {MAX_COMMITTED} bytes")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make-fixtures", description="Remakes fixtures/ from fixtures/src."
    )
    parser.add_argument(
        "--sid",
        type=lambda text: Path(text).resolve(),
        default=os.environ.get("NIXFETCH_SID", "/"),
        metavar="DIR",
        help="root of the system where Nix 2.34 is installed in /usr (default: $NIXFETCH_SID or /)",
    )
    parser.add_argument(
        "--big", type=Path, metavar="DIR", help="make caches of a 20 MB path there too"
    )
    parser.add_argument(
        "--check", action="store_true", help="change nothing: exit 1 unless all is equal"
    )
    return parser.parse_args(arguments)


def main() -> None:
    options = parse(sys.argv[1:])
    if os.uname().machine != "x86_64":
        sys.exit("make-fixtures: the programs are written for x86_64 only")
    if os.geteuid() != 0:
        sys.exit("make-fixtures: it mounts and chroots: run it as root")
    work = Path(tempfile.mkdtemp(prefix="make-fixtures-"))
    try:
        make(options, work)
    finally:
        remove(work)


if __name__ == "__main__":
    main()
