"""Content addresses by us and by real Nix, on the same files.

Asks the Nix in PATH and, where NIXFETCH_TEST_CHROOT names the root of another system with a Nix in
it (needs root), that one too.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from nixfetch.formats.contentaddress import ContentAddress, Method
from nixfetch.formats.hashes import Hash, sha256
from nixfetch.formats.nar import NarReader
from nixfetch.formats.narinfo import NarInfo
from nixfetch.formats.storepath import StorePath
from nixfetch.plan.content import content_check
from nixfetch.streams.references import SelfReferenceHasher
from trees import SAMPLE, File, Link, Tree, plant, textbook
from unit.formats.test_nar import CASES

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.differential

ALGORITHMS = ["md5", "sha1", "sha256", "sha512"]
TREES: dict[str, Tree] = {
    "file": File(b"hello"),
    "empty": File(b""),
    "executable": File(b"#!/bin/sh\n", executable=True),
    "directory": SAMPLE,
    "deep": {b"a": {b"b": {b"c": {b"d": Link(b"../../../..")}}}},
}
OFFSETS_DROPPED = (2, 17), (2, 35)  # from, and before: no offsets in hashes of self references
STRICT_SINCE = (2, 34)
"""The first version known to judge NARs as strictly as we do."""


@dataclass(frozen=True, slots=True)
class Nix:
    """A real Nix, with an empty store of its own."""

    root: Path
    """Of its system, as we see it."""
    place: Path
    """An empty directory, as it sees it."""

    @property
    def version(self) -> tuple[int, ...]:
        text = self.run("nix", "--version").split()[-1]
        return tuple(int(part) for part in text.split(".")[:2])

    def outside(self, path: Path) -> Path:
        """Where a file of that system is for us."""
        return self.root / path.relative_to("/")

    def run(self, *command: str | Path, stdin: bytes = b"") -> str:
        done = self.attempt(*command, stdin=stdin)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode().strip()

    def attempt(
        self, *command: str | Path, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        chroot = [] if self.root == Path("/") else ["chroot", str(self.root)]
        return subprocess.run(
            [*chroot, *map(str, command)],
            input=stdin,
            capture_output=True,
            timeout=60,
            check=False,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.place),
                "NIX_CONFIG": "build-users-group =\nsubstituters =\n"
                "experimental-features = nix-command",
            },
        )

    def store(self, *command: str | Path, stdin: bytes = b"") -> str:
        """Run `nix-store` on our store."""
        return self.run("nix-store", "--store", self.place / "root", *command, stdin=stdin)

    def put(self, name: str, tree: Tree) -> Path:
        """Make `tree` a file of that system."""
        path = self.place / name
        plant(tree, self.outside(path))
        return path

    def info(self, path: str) -> dict[str, Any]:
        store = self.place / "root"
        # 2.8 would speak of the outputs of a derivation.
        itself = ["--derivation"] if path.endswith(".drv") else []
        printed = self.run("nix", "path-info", "--json", *itself, "--store", store, path)
        answer = json.loads(printed)
        if isinstance(answer, list):  # before 2.19
            [entry] = answer
        else:
            [entry] = answer.values()
        assert isinstance(entry, dict)
        return entry


@contextmanager
def nix_of(root: Path) -> Iterator[Nix]:
    inside = root / "tmp"
    with tempfile.TemporaryDirectory(dir=inside) as made:
        nix = Nix(root, Path("/", Path(made).relative_to(root)))
        yield nix
        store = Path(made, "root")
        if store.exists():  # read-only directories are in the way of whoever is not root
            subprocess.run(["chmod", "-R", "u+w", store], check=True)


@pytest.fixture(params=["path", "chroot"], scope="module")
def nix(request: pytest.FixtureRequest) -> Iterator[Nix]:
    if request.param == "path":
        if shutil.which("nix") is None:
            pytest.skip("nix is not installed")
        root = Path("/")
    else:
        other = os.environ.get("NIXFETCH_TEST_CHROOT")
        if not other:
            pytest.skip("NIXFETCH_TEST_CHROOT is not set")
        if os.geteuid() != 0:
            pytest.skip("chroot needs root")
        root = Path(other)
    with nix_of(root) as found:
        yield found


def hashed(algorithm: str, data: bytes) -> Hash:
    return Hash(algorithm, hashlib.new(algorithm, data, usedforsecurity=False).digest())


def full_paths(known: dict[str, Any]) -> list[str]:
    """The references of a path; some versions of Nix print base names."""
    return [f"/nix/store/{text.removeprefix('/nix/store/')}" for text in known["references"]]


def agrees(nix: Nix, path: str, address: ContentAddress) -> None:
    """Fail unless real Nix and we say the same of a path in its store, and of its content."""
    known = nix.info(path)
    assert known["ca"] == str(address)
    physical = nix.place / "root" / path.removeprefix("/")
    nar = nix.attempt("nix-store", "--dump", physical).stdout
    info = NarInfo(
        path=StorePath.parse_full(path),
        nar_hash=Hash.parse(known["narHash"]),
        nar_size=known["narSize"],
        references=tuple(sorted(map(StorePath.parse_full, full_paths(known)))),
        url="nar/x",
        ca=address,
    )
    assert address.is_address_of(info.path, info.references)
    assert (sha256(nar), len(nar)) == (info.nar_hash, info.nar_size)
    check = content_check(info)
    assert check is not None
    check.update(nar)
    for event in NarReader().feed(nar):
        check.apply(event)
    check.finish()


@pytest.mark.parametrize("name", TREES)
def test_nars_and_their_hashes(nix: Nix, name: str) -> None:
    path, nar = nix.put(f"nar-{name}", TREES[name]), textbook(TREES[name])
    assert nix.attempt("nix-store", "--dump", path).stdout == nar
    for algorithm in ALGORITHMS:
        printed = nix.run("nix", "hash", "path", "--type", algorithm, "--base32", path)
        ours = hashed(algorithm, nar)
        assert printed == ours.base32
        printed = nix.run("nix", "hash", "path", "--type", algorithm, "--sri", path)
        assert printed == ours.sri
        assert Hash.parse(printed) == ours


@pytest.mark.parametrize("name", TREES)
def test_added_paths(nix: Nix, name: str) -> None:
    path = nix.put(f"added-{name}", TREES[name])
    address = ContentAddress(Method.RECURSIVE, sha256(textbook(TREES[name])))
    added = nix.store("--add", path)
    assert added == str(address.path(path.name))
    agrees(nix, added, address)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", TREES)
def test_fixed_recursive(nix: Nix, name: str, algorithm: str) -> None:
    path = nix.put(f"fixed-{name}-{algorithm}", TREES[name])
    hash_ = hashed(algorithm, textbook(TREES[name]))
    address = ContentAddress(Method.RECURSIVE, hash_)
    added = nix.store("--add-fixed", "--recursive", algorithm, path)
    assert added == str(address.path(path.name))
    printed = nix.store("--print-fixed-path", "--recursive", algorithm, hash_.hex, path.name)
    assert printed == added
    agrees(nix, added, address)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("contents", [b"hello", b""])
def test_fixed_flat(nix: Nix, contents: bytes, algorithm: str) -> None:
    path = nix.put(f"flat-{algorithm}-{len(contents)}", File(contents))
    hash_ = hashed(algorithm, contents)
    address = ContentAddress(Method.FLAT, hash_)
    added = nix.store("--add-fixed", algorithm, path)
    assert added == str(address.path(path.name))
    assert nix.store("--print-fixed-path", algorithm, hash_.base32, path.name) == added
    agrees(nix, added, address)


def evaluate(nix: Nix, expression: str) -> str:
    store = nix.place / "root"
    command = ("nix-instantiate", "--eval", "--read-write-mode", "--store", store)
    return nix.run(*command, "-E", expression).strip('"')


def test_text_with_references(nix: Nix) -> None:
    first = evaluate(nix, 'builtins.toFile "first" "hello"')
    second = evaluate(nix, 'builtins.toFile "second" "world"')
    both = evaluate(
        nix,
        'builtins.toFile "both" "see ${builtins.toFile "first" "hello"}'
        ' and ${builtins.toFile "second" "world"}"',
    )
    text = ContentAddress(Method.TEXT, sha256(f"see {first} and {second}".encode()))
    references = [StorePath.parse_full(first), StorePath.parse_full(second)]
    assert both == str(text.path("both", references))
    agrees(nix, first, ContentAddress(Method.TEXT, sha256(b"hello")))
    agrees(nix, both, text)


def test_derivations_are_texts(nix: Nix) -> None:
    expression = (
        'derivation { name = "drv"; system = "x86_64-linux"; builder = "/bin/sh";'
        ' src = builtins.toFile "first" "hello"; }'
    )
    path = nix.run("nix-instantiate", "--store", nix.place / "root", "-E", expression)
    derivation = nix.outside(nix.place / "root" / path.removeprefix("/")).read_bytes()
    agrees(nix, path, ContentAddress(Method.TEXT, sha256(derivation)))


def with_references(nix: Nix, name: str, own: str, reference: str) -> str:
    """A path with these references that is not content-addressed, in the store of `nix`."""
    base = f"{own}-{name}"
    mentions = f"I am /nix/store/{base}, twice {base}, and know {reference}".encode()
    tree: Tree = {b"me": File(mentions), b"link": Link(f"/nix/store/{base}/me".encode())}
    physical = nix.outside(nix.place / "root/nix/store" / base)
    plant(tree, physical)
    path, nar = f"/nix/store/{base}", textbook(tree)
    lines = [path, sha256(nar).hex, str(len(nar)), "", "2", path, reference]
    nix.store("--load-db", stdin="".join(f"{line}\n" for line in lines).encode())
    return path


def test_self_references(nix: Nix) -> None:
    """Nix hashes the offsets of a path's mentions of itself, but for 2.17 to 2.34."""
    other = evaluate(nix, 'builtins.toFile "other" "hello"')
    store = nix.place / "root"
    before = with_references(nix, "selfish", "00bgd045z0d4icpbc2yyz4gx48ak44la", other)
    nix.run("nix", "store", "make-content-addressed", "--store", store, before)
    [made] = [
        f"/nix/store/{file.name}"
        for file in nix.outside(store / "nix/store").iterdir()
        if file.name.endswith("-selfish") and file.name not in before
    ]
    path = StorePath.parse_full(made)
    physical = nix.outside(store / made.removeprefix("/"))
    mentions = (physical / "me").read_bytes()
    target = os.fsencode((physical / "link").readlink())
    hasher = SelfReferenceHasher(path.hash_part.encode(), hashlib.sha256())
    hasher.update(textbook({b"me": File(mentions), b"link": Link(target)}))
    digests = hasher.digests()
    dropped, restored = OFFSETS_DROPPED
    plain = dropped <= nix.version < restored
    digest = digests.without_offsets if plain else digests.with_offsets
    address = ContentAddress(Method.RECURSIVE, Hash("sha256", digest))
    references = {StorePath.parse_full(text) for text in full_paths(nix.info(made))}
    assert len(references) == 2  # itself, and `other` under an address of another kind
    assert address.path("selfish", references - {path}, self_reference=True) == path
    agrees(nix, made, address)


@pytest.mark.parametrize("name", CASES)
def test_nars_that_we_refuse(nix: Nix, name: str) -> None:
    nar, problem = CASES[name]
    if nix.version < STRICT_SINCE:
        pytest.skip("this Nix is not strict yet")
    done = nix.attempt("nix-store", "--restore", nix.place / f"out-{name}", stdin=nar)
    # Nix does not look at what follows the archive.
    assert (done.returncode == 0) == (problem == "bytes after the end of the archive")
