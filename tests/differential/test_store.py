"""One store, two programs: what we make is read and trusted by real Nix, and the other way round.

The closure is that of the fixtures; the checks are Nix's own.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import places
from nixfetch.cache import BinaryCache, CacheGroup
from nixfetch.fetch import Report, Status, fetch_closure
from nixfetch.formats.hashes import Hash
from nixfetch.formats.nar.writer import write
from nixfetch.formats.narinfo import NarInfo
from nixfetch.formats.signing import PublicKey
from nixfetch.formats.storepath import StorePath
from nixfetch.plan.trust import TrustPolicy
from nixfetch.store import LocalStore, Registration
from nixfetch.store.dump import dump
from nixfetch.transport.file import FileTransport
from real_nix import SYSTEMS, RealNix, real_nix

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

pytestmark = pytest.mark.differential

FIXTURES = Path(__file__).parents[2] / "fixtures"
FACTS = json.loads((FIXTURES / "paths.json").read_text())
CLOSURE = [StorePath.parse_full(path) for path in FACTS["closure"]]
ROOT = StorePath.parse_full(FACTS["root"])
KEY = FACTS["keys"]["fixture-1"]["public"]
POLICY = TrustPolicy((PublicKey.parse(KEY),))
QUIET = {
    "reading the Nix store...",
    "checking path existence...",
    "checking hashes...",
    "checking link hashes...",
    "checking store hashes...",
}
"""What `nix-store --verify --check-contents` says when all is well."""


@pytest.fixture(params=SYSTEMS)
def nix(request: pytest.FixtureRequest) -> Iterator[RealNix]:
    with real_nix(request.param) as nix:
        yield nix


@pytest.fixture
def root(nix: RealNix) -> Path:
    """A place for a store of ours, without a store yet."""
    return nix.place / "ours"


def fetch(store: LocalStore, paths: Iterable[StorePath] = (ROOT,)) -> Report:
    transport = FileTransport(FIXTURES / "cache-xz")
    with CacheGroup([BinaryCache(transport)]) as caches:
        return fetch_closure(paths, caches=caches, policy=POLICY, store=store)


@pytest.fixture
def ours(root: Path) -> Path:
    """A store that we made."""
    with LocalStore(root) as store:
        fetch(store)
    return root


@pytest.fixture
def cache(nix: RealNix) -> str:
    """The fixtures for Nix: a copy, as Nix writes into caches that it only reads."""
    copy = nix.place / "cache"
    shutil.copytree(FIXTURES / "cache-xz", copy)
    return f"file://{nix.inside(copy)}"


@pytest.fixture
def theirs(nix: RealNix, cache: str) -> Path:
    """A store that Nix made."""
    store = nix.place / "theirs"
    copy(nix, cache, store, ROOT)
    return store


def copy(nix: RealNix, source: Path | str, target: Path, *paths: StorePath) -> None:
    wanted = [str(path) for path in paths] or ["--all"]
    command = ("nix", "copy", "--from", source, "--to", target, *wanted)
    nix.run(*command, settings={"trusted-public-keys": KEY})


def verified(nix: RealNix, store: Path) -> bool:
    """Whether Nix finds nothing wrong with a store and its contents."""
    done = nix.run("nix-store", "--store", store, "--verify", "--check-contents")
    assert set(done.stderr.decode().splitlines()) <= QUIET
    assert done.stdout == b""
    return True


def narinfo(path: StorePath) -> NarInfo:
    return NarInfo.parse((FIXTURES / "cache-xz" / f"{path.hash_part}.narinfo").read_bytes())


def registration(store: LocalStore, path: StorePath) -> Registration:
    known = store.get(path)
    assert known is not None
    return known


# Ours, read by Nix.


def test_nix_finds_nothing_wrong(nix: RealNix, ours: Path) -> None:
    assert verified(nix, ours)
    done = nix.run("nix-store", "--store", ours, "--verify-path", *map(str, CLOSURE))
    assert done.stdout + done.stderr == b""


def test_nix_sees_damage_where_there_is_some(nix: RealNix, ours: Path) -> None:
    """The check before is one that can fail."""
    file = ours / "nix/store" / StorePath.parse_full(FACTS["roles"]["file"]).base
    file.chmod(0o644)
    file.write_bytes(b"damage")
    command = ("nix-store", "--store", ours, "--verify", "--check-contents")
    assert b"was modified" in nix.run(*command, check=False).stderr


def test_nix_says_of_each_path_what_we_registered(nix: RealNix, ours: Path) -> None:
    found = nix.path_info(ours, str(ROOT))
    assert set(found) == set(map(str, CLOSURE))
    with LocalStore(ours, read_only=True) as store:
        for path in CLOSURE:
            known, entry = registration(store, path), found[str(path)]
            assert entry["narHash"] == known.nar_hash.sri
            assert entry["narSize"] == known.nar_size
            assert sorted(entry["references"]) == list(map(str, known.references))
            assert sorted(entry["signatures"]) == sorted(map(str, known.signatures))
            assert entry["ca"] == (str(known.ca) if known.ca else None)
            assert entry["deriver"] == (str(known.deriver) if known.deriver else None)
            assert entry["registrationTime"] == known.registered
            assert not entry.get("ultimate")


def test_nix_answers_questions(nix: RealNix, ours: Path) -> None:
    query = ("nix-store", "--store", ours, "-q")
    for path in CLOSURE:
        expected = sorted(map(str, narinfo(path).references))
        assert sorted(nix.lines(*query, "--references", str(path))) == expected
    assert set(nix.lines(*query, "--requisites", str(ROOT))) == set(map(str, CLOSURE))
    referrers = {str(path) for path in CLOSURE if CLOSURE[0] in narinfo(path).references}
    assert set(nix.lines(*query, "--referrers", str(CLOSURE[0]))) == referrers


def test_nix_copies_all_of_it(nix: RealNix, ours: Path) -> None:
    other = nix.place / "other"
    copy(nix, ours, other)
    assert verified(nix, other)
    with LocalStore(other, read_only=True) as store:
        assert set(store.all_valid()) == set(CLOSURE)


def test_nix_collects_all_of_it_and_nothing_else(nix: RealNix, ours: Path) -> None:
    dead = nix.lines("nix-store", "--store", ours, "--gc", "--print-dead")
    assert {line for line in dead if line.startswith("/")} == set(map(str, CLOSURE))
    nix.run("nix-store", "--store", ours, "--gc")
    left = set(places.names(ours / "nix/store"))
    assert left <= {".links"}
    with LocalStore(ours) as store:
        assert store.all_valid() == []
        fetch(store)
    assert verified(nix, ours)


def test_nix_spares_what_we_hold_and_what_we_unpack(nix: RealNix, ours: Path, root: Path) -> None:
    words = StorePath.parse_full(FACTS["roles"]["file"])
    say = StorePath.parse_full(FACTS["roles"]["static"])
    nar = our_nar(ours, say)
    with LocalStore(ours) as store:
        store.hold([words])
        trusted = POLICY.admit(narinfo(say))
        with store.adding(trusted) as sink:
            sink.write(nar[: len(nar) // 2])
            nix.run("nix-store", "--store", ours, "--gc")
            assert store.valid(CLOSURE) == {words, say}
            sink.write(nar[len(nar) // 2 :])
        nix.run("nix-store", "--store", ours, "--gc")
        store.settle()
        assert store.valid(CLOSURE) == {words, say}
    assert verified(nix, ours)
    nix.run("nix-store", "--store", ours, "--gc")
    with LocalStore(ours, read_only=True) as store:
        assert store.all_valid() == []


def test_nix_optimises_it_and_we_go_on(nix: RealNix, ours: Path) -> None:
    nix.run("nix-store", "--store", ours, "--optimise")
    assert verified(nix, ours)
    for path in CLOSURE:
        assert hash_of(ours, path) == narinfo(path).nar_hash


def test_nix_adds_to_what_we_began(nix: RealNix, root: Path, cache: str) -> None:
    with LocalStore(root) as store:
        fetch(store, CLOSURE[:4])
        held = store.all_valid()
        copy(nix, cache, root, ROOT)  # while we have it open
        assert set(store.all_valid()) == set(CLOSURE) > set(held)
    assert verified(nix, root)


# Nix's, read by us.


def our_nar(root: Path, path: StorePath) -> bytes:
    with LocalStore(root, read_only=True) as store:
        return b"".join(write(dump(store.fd, path.base.encode())))


def hash_of(root: Path, path: StorePath) -> Hash:
    return Hash("sha256", hashlib.sha256(our_nar(root, path)).digest())


def test_we_read_what_nix_made(theirs: Path) -> None:
    with LocalStore(theirs, read_only=True) as store:
        assert store.all_valid() == sorted(CLOSURE)
        assert store.valid(CLOSURE) == set(CLOSURE)
        for path in CLOSURE:
            known, info = registration(store, path), narinfo(path)
            assert (known.nar_hash, known.nar_size) == (info.nar_hash, info.nar_size)
            assert known.references == info.references
            assert set(known.signatures) == set(info.signatures)
            assert (known.ca, known.deriver) == (info.ca, info.deriver)
            assert store.by_hash_part(path.hash_part) == path
            assert hash_of(theirs, path) == info.nar_hash


def test_what_nix_has_is_not_fetched_again(theirs: Path) -> None:
    with LocalStore(theirs) as store:
        report = fetch(store)
    assert {entry.status for entry in report.paths.values()} == {Status.PRESENT}


def test_we_add_to_what_nix_began(nix: RealNix, cache: str) -> None:
    store_root = nix.place / "theirs"
    begun = CLOSURE[3]
    copy(nix, cache, store_root, begun)
    with LocalStore(store_root) as store:
        report = fetch(store)
        assert report.paths[begun].status is Status.PRESENT
        assert set(store.all_valid()) == set(CLOSURE)
    assert verified(nix, store_root)


def test_files_are_equal(ours: Path, theirs: Path) -> None:
    for path in CLOSURE:
        one, two = ours / "nix/store" / path.base, theirs / "nix/store" / path.base
        for mine, other in zip(everything(one), everything(two), strict=True):
            left, right = mine.lstat(), other.lstat()
            assert mine.relative_to(one) == other.relative_to(two)
            assert left.st_mode == right.st_mode, mine
            assert left.st_mtime_ns == right.st_mtime_ns, mine


def everything(top: Path) -> list[Path]:
    return sorted([top, *top.rglob("*")]) if not top.is_symlink() else [top]


def described(root: Path) -> dict[str, object]:
    """The tables of a store's database, column by column, and what hangs on each."""
    with closing(sqlite3.connect(root / "nix/var/nix/db/db.sqlite")) as raw:
        assert raw.execute("pragma journal_mode").fetchone() == ("wal",)
        names = [
            name for (name,) in raw.execute("select name from sqlite_master where type = 'table'")
        ]
        return {
            name: (
                [
                    (column, kind.lower(), notnull, default, key)
                    for _, column, kind, notnull, default, key in raw.execute(
                        f"pragma table_info({name})"
                    )
                ],
                sorted(raw.execute(f"pragma foreign_key_list({name})")),
                sorted(
                    raw.execute(
                        "select type, name from sqlite_master"
                        " where tbl_name = ? and type in ('index', 'trigger')",
                        [name],
                    )
                ),
            )
            for name in names
        }


def test_the_database_is_the_same(ours: Path, theirs: Path) -> None:
    mine, other = described(ours), described(theirs)
    assert {"ValidPaths", "Refs", "DerivationOutputs"} <= set(other)
    # Nix 2.8 does without it; newer ones cannot open a store for reading only without it.
    assert set(mine) - set(other) <= {"SchemaMigrations"}
    for table in mine.keys() & other.keys():
        assert mine[table] == other[table], table
    schema = [(root / "nix/var/nix/db/schema").read_text() for root in (ours, theirs)]
    assert schema[0] == schema[1]
