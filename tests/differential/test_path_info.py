"""`nixfetch path-info` and `nix path-info` say the same of the same paths.

Asks the Nix in PATH and, where NIXFETCH_TEST_CHROOT names the root of another system with a Nix in
it, that one as well. Each is given copies: Nix writes into caches and stores that it reads.

What is compared depends on the version. Nix 2.34 has both JSON formats: our text is its text, byte
for byte. Nix 2.8 prints a list; `as_2_8` turns our format 1 into it, and lists what 2.8 leaves
out: null, false, no signatures, and the fields that came later. Text is equal in both, but for
`--human-readable`, whose units changed, and for the order of several signatures.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from data_dir import data_dir
from nixfetch.cache import BinaryCache, CacheGroup
from nixfetch.cli import app
from nixfetch.cli.output import Output
from nixfetch.fetch import fetch_closure
from nixfetch.formats.contentaddress import Method
from nixfetch.formats.signing import SecretKey
from nixfetch.formats.storepath import StorePath
from nixfetch.plan.trust import TrustPolicy
from nixfetch.store import LocalStore
from nixfetch.transport.file import FileTransport
from simulated_cache import SimulatedCache, store_path

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.differential

FIXTURES = Path(__file__).parents[2] / "fixtures"
CACHES = ("cache-xz", "cache-zstd", "cache-none")
CLOSURE: list[str] = json.loads((FIXTURES / "paths.json").read_text())["closure"]
ROOT = CLOSURE[-1]
GONE = f"/nix/store/{'0' * 32}-gone"
FEATURES = "nix-command git-hashing blake3-hashes"
CONFIG = f"build-users-group =\nsubstituters =\nexperimental-features = {FEATURES}"
UNKNOWN_TO_2_8 = ("CA: fixed:git:", "CA: fixed:r:blake3:", "CA: fixed:blake3:")
TEXT_FLAGS = (["-s"], ["-r"], ["-r", "-s"], ["-r", "-s", "-S", "--sigs"], ["--sigs"], ["-S"])


@dataclass(frozen=True, slots=True)
class Nix:
    """One Nix and a directory that it can reach."""

    chroot: Path | None
    directory: Path
    """As we see it."""

    def outside(self, path: Path) -> str:
        """`path` as this Nix sees it."""
        return str(path if self.chroot is None else Path("/") / path.relative_to(self.chroot))

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = ["nix", *words]
        if self.chroot is not None:
            command = ["chroot", str(self.chroot), *command]
        home = {"PATH": os.environ["PATH"], "HOME": self.outside(self.directory)}
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**home, "NIX_CONFIG": CONFIG},
        )

    @property
    def has_formats(self) -> bool:
        """Whether it knows ``--json-format``."""
        number = self.run("--version").stdout.split()[-1]
        return tuple(map(int, number.split(".")[:2])) >= (2, 34)

    def copy(self, directory: Path, *without: str) -> Path:
        """A copy of a cache or store, within its reach."""
        copy = Path(tempfile.mkdtemp(dir=self.directory), "copy")
        shutil.copytree(directory, copy, symlinks=True, ignore=shutil.ignore_patterns(*without))
        return copy

    def path_info(self, store: str, *words: str) -> str:
        done = self.run("path-info", "--store", store, *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def of_cache(self, cache: Path, *words: str) -> str:
        return self.path_info(f"file://{self.outside(self.copy(cache, 'nar'))}", *words)

    def of_store(self, store: Path, *words: str) -> str:
        return self.path_info(self.outside(self.copy(store)), *words)


@pytest.fixture(params=["path", "chroot"])
def nix(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nix]:
    """Each Nix that is there."""
    if request.param == "path":
        if shutil.which("nix") is None:
            pytest.skip("no nix in PATH")
        yield Nix(None, tmp_path_factory.mktemp("nix"))
        return
    named = os.environ.get("NIXFETCH_TEST_CHROOT")
    if not named or os.geteuid() != 0:
        pytest.skip("NIXFETCH_TEST_CHROOT is not set, or we are not root")
    directory = Path(tempfile.mkdtemp(prefix="nixfetch-", dir=Path(named, "tmp")))
    try:
        yield Nix(Path(named), directory)
    finally:
        shutil.rmtree(directory)


@pytest.fixture
def formats(nix: Nix) -> Nix:
    """Each Nix that has both JSON formats."""
    if not nix.has_formats:
        pytest.skip("this nix has no --json-format")
    return nix


def ours(where: list[str], *words: str, code: int = 0, verb: str = "path-info") -> str:
    """What `nixfetch` prints."""
    out, err = io.BytesIO(), io.BytesIO()
    home = {"HOME": "/nowhere", "NIX_CONF_DIR": "/nowhere"}
    found = app.run([verb, *words, *where], output=Output(out, err), environ=home)
    assert found == code, err.getvalue().decode()
    return out.getvalue().decode()


def of_cache(cache: Path, *words: str, code: int = 0) -> str:
    return ours(["--from", f"file://{cache}"], *words, code=code)


def of_store(store: Path, *words: str, code: int = 0) -> str:
    return ours(["--store", str(store), "--local"], *words, code=code)


def as_2_8(document: dict[str, Any]) -> dict[str, Any]:
    """What Nix 2.8 says, by path, as it follows from our format 1."""
    later = {"storeDir", "version", "compression"}
    return {
        path: {"path": path, "valid": False} if info is None else _info_of_2_8(path, info, later)
        for path, info in document.items()
    }


def _info_of_2_8(path: str, info: dict[str, Any], later: set[str]) -> dict[str, Any]:
    said = {
        name: value
        for name, value in info.items()
        if name not in later and value not in (None, False) and (name, value) != ("signatures", [])
    }
    return {"path": path, **said}


def by_path(listed: str) -> dict[str, Any]:
    """The list that Nix 2.8 prints, as a dictionary."""
    return {info["path"]: info for info in json.loads(listed)}


def paths_of(cache: Path, nix: Nix) -> list[str]:
    """All paths of a cache that `nix` can read, by its narinfos."""
    texts = [file.read_text() for file in sorted(cache.glob("*.narinfo"))]
    return [
        line.removeprefix("StorePath: ")
        for text in texts
        if nix.has_formats or not any(kind in text for kind in UNKNOWN_TO_2_8)
        for line in text.splitlines()
        if line.startswith("StorePath: ")
    ]


def assert_cache_is_the_same(nix: Nix, cache: Path, paths: list[str]) -> None:
    """The JSON of `paths`, with and without closure sizes."""
    for flags in (["--json"], ["--json", "-S"]):
        if nix.has_formats:
            for number in ("1", "2"):
                words = [*flags, "--json-format", number, *paths]
                assert of_cache(cache, *words) == nix.of_cache(cache, *words)
        else:
            expected = by_path(nix.of_cache(cache, *flags, *paths))
            assert as_2_8(json.loads(of_cache(cache, *flags, *paths))) == expected


# Caches.


@pytest.mark.parametrize("name", CACHES)
def test_json_of_the_fixture_caches(nix: Nix, name: str) -> None:
    assert_cache_is_the_same(nix, FIXTURES / name, CLOSURE)


@pytest.mark.parametrize("flags", [["-r"], ["-r", "-S"]])
def test_recursive_json(nix: Nix, flags: list[str]) -> None:
    cache = FIXTURES / "cache-xz"
    assert_cache_is_the_same(nix, cache, [*flags, ROOT])


@pytest.mark.parametrize("flags", TEXT_FLAGS)
@pytest.mark.parametrize("paths", [[ROOT], CLOSURE], ids=["root", "closure"])
def test_text(nix: Nix, flags: list[str], paths: list[str]) -> None:
    cache = FIXTURES / "cache-xz"
    assert of_cache(cache, *flags, *paths) == nix.of_cache(cache, *flags, *paths)


def test_closure_is_a_recursive_listing(nix: Nix) -> None:
    cache = FIXTURES / "cache-xz"
    key = (FIXTURES / "keys" / "fixture-1.public").read_text().strip()
    where = ["--from", f"file://{cache}", "--trusted-key", key]
    assert ours(where, ROOT, verb="closure") == nix.of_cache(cache, "-r", ROOT)


def test_default_json_is_that_of_the_newer_nix(formats: Nix) -> None:
    cache = FIXTURES / "cache-xz"
    assert of_cache(cache, "--json", ROOT) == formats.of_cache(cache, "--json", ROOT)


def test_what_is_not_there_is_null(nix: Nix) -> None:
    cache = FIXTURES / "cache-xz"
    if nix.has_formats:
        for number in ("1", "2"):
            words = ["--json", "--json-format", number, GONE, ROOT]
            assert of_cache(cache, *words, code=3) == nix.of_cache(cache, *words)
    else:
        document = json.loads(of_cache(cache, "--json", GONE, ROOT, code=3))
        assert as_2_8(document) == by_path(nix.of_cache(cache, "--json", GONE, ROOT))


def test_a_closure_that_is_not_there_makes_its_path_null(formats: Nix, tmp_path: Path) -> None:
    cache = SimulatedCache()
    lower = cache.add("lower", references=[store_path("gone")])
    paths = [str(lower), str(cache.add("upper", references=[lower])), str(cache.add("whole"))]
    cache.dump(tmp_path / "cache")
    for number in ("1", "2"):
        words = ["--json", "--json-format", number, "-S", *paths]
        said = of_cache(tmp_path / "cache", *words, code=3)
        assert said == formats.of_cache(tmp_path / "cache", *words)


def odd_cache() -> SimulatedCache:
    """Narinfos that leave out what they may, and signatures in an order that is not theirs."""
    cache = SimulatedCache()
    for method in Method:
        cache.add(f"ca-{method.name.lower()}", b"content", ca=method)
    cache.add("self", references=[store_path("self")])
    cache.add("deriver", deriver=store_path("deriver.drv"))
    bare, zero, large = (cache.infos[cache.add(name)] for name in ("bare", "zero", "large"))
    cache.publish(replace(bare, file_hash=None, file_size=None), key=cache.key)
    cache.publish(replace(zero, file_size=0), key=cache.key)
    cache.publish(replace(large, nar_size=2**64 - 1), key=cache.key)
    info = cache.infos[cache.add("signed")]
    names = ["b", "a.x", "a", "a-1", "a", "a1", "B", "a"]
    keys = [SecretKey.from_seed(name, bytes([*[0] * 31, at])) for at, name in enumerate(names)]
    signatures = tuple(key.sign(info.fingerprint()) for key in keys)
    cache.publish(replace(info, signatures=(*signatures, signatures[0])), key=None)
    name = cache.narinfo_name(cache.add("no-compression"))
    cache.objects[name] = cache.objects[name].replace(b"Compression: none\n", b"")
    return cache


def test_odd_narinfos(nix: Nix, tmp_path: Path) -> None:
    odd_cache().dump(tmp_path)
    paths = paths_of(tmp_path, nix)
    if nix.has_formats:
        for number in ("1", "2"):
            words = ["--json", "--json-format", number, *paths]
            assert of_cache(tmp_path, *words) == nix.of_cache(tmp_path, *words)
        words = ["-s", "--sigs", *paths]
        assert of_cache(tmp_path, *words) == nix.of_cache(tmp_path, *words)
        return
    document = as_2_8(json.loads(of_cache(tmp_path, "--json", *paths)))
    for info in document.values():
        if "signatures" in info:
            info["signatures"].sort()
    assert document == by_path(nix.of_cache(tmp_path, "--json", *paths))


def test_human_readable_sizes(formats: Nix, tmp_path: Path) -> None:
    edges = [
        2**power * factor // 1024
        for power in (0, 10, 20, 30, 40, 50, 60, 62)
        for factor in (1024, 1025)
    ]
    near = {edge + add for edge in edges for add in (-1, 0, 1)} - {0}
    cache = SimulatedCache()
    for size in near | {51, 52, 1587, 1588, 10188, 10235, 102349}:
        cache.publish(replace(cache.infos[cache.add(f"s{size}")], nar_size=size), key=cache.key)
    cache.dump(tmp_path)
    words = ["-s", "--human-readable", *map(str, cache.infos)]
    assert of_cache(tmp_path, *words) == formats.of_cache(tmp_path, *words)


def test_collected_caches(nix: Nix) -> None:
    caches = [file.parent for file in sorted(data_dir("nix-caches").glob("*/nix-cache-info"))]
    assert caches
    for cache in caches:
        assert_cache_is_the_same(nix, cache, paths_of(cache, nix))


def test_collected_narinfos(formats: Nix, tmp_path: Path) -> None:
    """Where both show it: what either refuses is the business of the narinfo tests."""
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "nix-cache-info").write_text("StoreDir: /nix/store\n")
    paths = []
    for file in sorted(data_dir("real-narinfo").glob("*.narinfo")):
        [path, *_] = [line for line in file.read_text().splitlines() if "StorePath:" in line]
        path = path.partition(":")[2].strip()
        if file.name == f"{StorePath.parse_full(path).hash_part}.narinfo":
            shutil.copy(file, cache)
            paths.append(path)
    store = f"file://{formats.outside(formats.copy(cache))}"
    compared = 0
    for path in paths:
        words = ["--json", "--json-format", "2", path]
        said = formats.run("path-info", "--store", store, *words)
        if said.returncode == 0:
            assert of_cache(cache, *words) == said.stdout
            compared += 1
    assert compared >= len(paths) - 3


# Stores.


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that we made: the closure of the fixtures, content-addressed paths among it."""
    root = tmp_path_factory.mktemp("store")
    with (
        CacheGroup([BinaryCache(FileTransport(FIXTURES / "cache-zstd"))]) as caches,
        LocalStore(root) as store,
    ):
        fetch_closure(
            [StorePath.parse_full(ROOT)],
            caches=caches,
            policy=TrustPolicy(check=False),
            store=store,
        )
    return root


def assert_store_is_the_same(nix: Nix, store: Path) -> None:
    if nix.has_formats:
        for number in ("1", "2"):
            words = ["--json", "--json-format", number, "-S", *CLOSURE]
            assert of_store(store, *words) == nix.of_store(store, *words)
    else:
        expected = by_path(nix.of_store(store, "--json", "-S", *CLOSURE))
        assert as_2_8(json.loads(of_store(store, "--json", "-S", *CLOSURE))) == expected


def test_json_of_a_store_that_we_made(nix: Nix, store: Path) -> None:
    assert_store_is_the_same(nix, store)


@pytest.mark.parametrize("flags", TEXT_FLAGS)
def test_text_of_a_store_that_we_made(nix: Nix, store: Path, flags: list[str]) -> None:
    assert of_store(store, *flags, ROOT) == nix.of_store(store, *flags, ROOT)


def test_what_is_not_in_the_store_is_null(formats: Nix, store: Path) -> None:
    words = ["--json", "--json-format", "1", GONE, ROOT]
    assert of_store(store, *words, code=3) == formats.of_store(store, *words)


def test_a_store_that_nix_made(nix: Nix) -> None:
    store = nix.directory / "store"
    cache = f"file://{nix.outside(nix.copy(FIXTURES / 'cache-xz'))}"
    words = ["copy", "--no-check-sigs", "--from", cache, "--to", nix.outside(store), ROOT]
    done = nix.run(*words)
    assert done.returncode == 0, done.stderr
    assert_store_is_the_same(nix, store)
