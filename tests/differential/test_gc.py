"""Garbage: real Nix and we call the same paths dead, and may collect and fetch together."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from garden import Garden
from nixfetch.cache import BinaryCache, CacheGroup
from nixfetch.fetch import fetch_closure
from nixfetch.formats.signing import PublicKey
from nixfetch.formats.storepath import StorePath
from nixfetch.plan.trust import TrustPolicy
from nixfetch.store import LocalStore, Roots
from nixfetch.store.collect import collect
from nixfetch.store.newroots import CollectorRunningError
from nixfetch.transport.file import FileTransport
from real_nix import SYSTEMS, RealNix, real_nix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.differential

FIXTURES = Path(__file__).parents[2] / "fixtures"
FACTS = json.loads((FIXTURES / "paths.json").read_text())
CLOSURE = [StorePath.parse_full(path) for path in FACTS["closure"]]
ROOT = StorePath.parse_full(FACTS["root"])
KEY = FACTS["keys"]["fixture-1"]["public"]
POLICY = TrustPolicy((PublicKey.parse(KEY),))
STORES = 20
ROUNDS = 10


@pytest.fixture(params=SYSTEMS)
def nix(request: pytest.FixtureRequest) -> Iterator[RealNix]:
    with real_nix(request.param) as nix:
        yield nix


def verified(nix: RealNix, store: Path) -> bool:
    """Whether Nix finds nothing wrong with a store and its contents."""
    done = nix.run("nix-store", "--store", store, "--verify", "--check-contents")
    said = [line for line in done.stderr.decode().splitlines() if not line.endswith("...")]
    assert said == []
    return True


def their_dead(nix: RealNix, store: Path) -> set[str]:
    lines = nix.lines("nix-store", "--store", store, "--gc", "--print-dead")
    return {line for line in lines if line.startswith("/nix/store/")}


def our_dead(store: Path) -> set[str]:
    with LocalStore(store, read_only=True) as opened:
        collected = collect(opened, dry_run=True)
    left = {f"/nix/store/{name}" for name in collected.leftovers if name[32:33] == "-"}
    return set(map(str, collected.paths)) | left


def grown(place: Path, chance: random.Random) -> Garden:
    """A store of some paths that refer to each other, some with a deriver."""
    garden = Garden(place)
    names = [f"p{number}" for number in range(chance.randint(3, 12))]
    derivers = {name: f"{name}.drv" for name in names if chance.random() < 0.3}
    references: dict[str, list[str]] = {}
    for name in names:
        known = list(references)
        if name in derivers:
            drv = derivers[name]
            references[drv] = chance.sample(known, min(len(known), chance.randint(0, 2)))
        references[name] = chance.sample(known, min(len(known), chance.randint(0, 3)))
        if chance.random() < 0.2:
            references[name].append(name)
    garden.plant(references, derivers=derivers, files=2)
    lost = {drv for drv in derivers.values() if chance.random() < 0.2}
    garden.grow(*(name for name in references if name not in lost))
    return garden


def root_some(garden: Garden, chance: random.Random, held: LocalStore) -> None:
    """Roots of all kinds, and some that look like roots and are none."""
    state = garden.root / "nix/var/nix"
    for number, path in enumerate(sorted(garden.cache.infos)):
        match chance.randint(0, 14):
            case 0:
                link(state / f"gcroots/direct{number}", str(path))
            case 1:
                link(state / f"gcroots/some/where/{number}", f"{path}/file0")
            case 2:
                Roots(held).add(f"named{number}", path) if held.valid([path]) else None
            case 3:  # by way of a link elsewhere; relative, so that both systems see it
                link(garden.root / f"out{number}", str(path))
                link(state / f"gcroots/auto/{number}", f"../../../../../out{number}")
            case 4:
                link(state / f"profiles/p{number}-1-link", str(path))
                link(state / f"profiles/p{number}", f"p{number}-1-link")
            case 5:
                link(state / f"gcroots/per-user/me/{number}", str(path))
            case 6:
                (state / "gcroots" / path.base).touch()
            case 7:
                held.hold([path])
            case 8:  # none: to nothing
                link(state / f"gcroots/auto/{number}", f"../../../../../gone{number}")
            case 9:  # none: over two links
                link(garden.root / f"out{number}", f"out{number}-2")
                link(garden.root / f"out{number}-2", str(path))
                link(state / f"gcroots/auto/{number}", f"../../../../../out{number}")
            case 10:  # none: no such path
                link(state / f"gcroots/other{number}", f"{path}-other")
            case 11:  # no path: left over
                (garden.root / "nix/store" / f"{path.base}-left").mkdir()
            case _:
                pass


def link(file: Path, target: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.symlink_to(target)


def test_we_agree_on_what_is_dead(nix: RealNix) -> None:
    some, none = 0, 0
    for seed in range(STORES):
        chance = random.Random(seed)
        garden = grown(nix.place / f"store{seed}", chance)
        with LocalStore(garden.root) as held:
            root_some(garden, chance, held)
            ours = our_dead(garden.root)
            theirs = their_dead(nix, garden.root)
            assert ours == theirs, f"seed {seed}"
            collected = collect(held)
            gone = {*map(str, collected.paths), *(f"/nix/store/{n}" for n in collected.leftovers)}
            assert gone == ours
            assert collected.failures == ()
            assert verified(nix, garden.root)
            assert their_dead(nix, garden.root) == our_dead(garden.root) == set()
        some += bool(ours)
        none += len(ours) < len(garden.cache.infos)
    assert some > STORES / 2
    assert none > STORES / 2


def test_both_leave_the_same(nix: RealNix) -> None:
    garden = grown(nix.place / "ours", random.Random(100))
    with LocalStore(garden.root) as store:
        Roots(store).add("web", store.all_valid()[3])
    theirs = nix.place / "theirs"
    subprocess.run(["cp", "-a", garden.root, theirs], check=True)
    with LocalStore(garden.root) as store:
        collect(store)
    nix.run("nix-store", "--store", theirs, "--gc")
    for below in ("nix/store", "nix/store/.links"):
        ours = {entry.name for entry in (garden.root / below).iterdir()}
        assert ours == {entry.name for entry in (theirs / below).iterdir()}
    with LocalStore(garden.root) as one, LocalStore(theirs) as other:
        assert one.all_valid() == other.all_valid()
    assert verified(nix, garden.root)


def printed_roots(nix: RealNix, store: Path) -> list[str]:
    lines = nix.lines("nix-store", "--store", store, "--gc", "--print-roots")
    return [line.replace('"', "") for line in lines]  # the newer one quotes names of files


def test_nix_sees_our_roots_and_we_its(nix: RealNix) -> None:
    garden = Garden(nix.place / "ours")
    garden.plant({"one": [], "two": [], "three": []})
    garden.grow()
    with LocalStore(garden.root) as store:
        one, two, three = store.all_valid()[:3]
        Roots(store).add("web", one)
        said = printed_roots(nix, garden.root)
        where = nix.inside(garden.root / "nix/var/nix/gcroots/nixfetch/web")
        assert f"{where} -> {one}" in said
        if nix.enter:
            return  # links of another system mean nothing here
        Roots(store).add(f"{garden.root}/result", two)
        add = ("--realise", str(three), "--add-root", garden.root / "theirs")
        nix.run("nix-store", "--store", garden.root, *add)
        said = printed_roots(nix, garden.root)
        assert f"{garden.root}/result -> {two}" in said
        listed = {root.name: root.path for root in Roots(store).list()}
        assert listed == {
            "web": one,
            f"{garden.root}/result": two,
            f"{garden.root}/theirs": three,
        }
        known = [root.entry for root in Roots(store).list() if root.path == three]
        Roots(store).remove(f"{garden.root}/theirs")
        Roots(store).add(f"{garden.root}/theirs", three)
        assert [root.entry for root in Roots(store).list() if root.path == three] == known


def test_several_paths_are_numbered_as_nix_does(nix: RealNix) -> None:
    garden = Garden(nix.place / "ours")
    garden.plant({"one": [], "two": [], "three": []})
    garden.grow()
    paths = list(garden.cache.infos)
    texts = list(map(str, paths))
    result = garden.root / "result"
    nix.run("nix-store", "--store", garden.root, "--add-root", result, "--realise", *texts)
    made = [garden.root / name for name in ("result", "result-2", "result-3")]
    assert [str(file.readlink()) for file in made] == list(map(str, paths))


# At the same time.


@contextmanager
def meanwhile(work: Callable[[], None]) -> Iterator[list[int]]:
    """Do something over and over; gives how often in a list that grows."""
    over = threading.Event()
    crashes: list[BaseException] = []
    done: list[int] = []

    def run() -> None:
        try:
            while not over.is_set():
                work()
                done.append(1)
                over.wait(0.05)
        except BaseException as error:  # noqa: BLE001 - raised below
            crashes.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield done
    finally:
        over.set()
        thread.join()
    for crash in crashes:
        raise crash


def test_nix_fetches_while_we_collect(nix: RealNix) -> None:
    cache = nix.place / "cache"
    shutil.copytree(FIXTURES / "cache-xz", cache)
    settings = {
        "substitute": "true",
        "substituters": f"file://{nix.inside(cache)}",
        "trusted-public-keys": KEY,
    }
    root = nix.place / "store"
    with LocalStore(root):
        pass

    def gc() -> None:
        with LocalStore(root) as store, suppress(CollectorRunningError):
            collect(store)

    with meanwhile(gc) as runs:
        number = 0
        while number < ROUNDS or len(runs) < ROUNDS:
            keep = root / f"nix/var/nix/gcroots/round{number}"
            wanted = ROOT if number % 2 else CLOSURE[number % len(CLOSURE)]
            words = ("--realise", str(wanted), "--add-root", keep)
            nix.run("nix-store", "--store", root, *words, settings=settings)
            with LocalStore(root, read_only=True) as store:
                assert store.valid([wanted]) == {wanted}
            keep.unlink()
            number += 1
    assert verified(nix, root)


def test_we_fetch_while_nix_collects(nix: RealNix) -> None:
    root = nix.place / "store"
    with LocalStore(root):
        pass

    def gc() -> None:
        nix.run("nix-store", "--store", root, "--gc")

    with (
        CacheGroup([BinaryCache(FileTransport(FIXTURES / "cache-xz"))]) as caches,
        meanwhile(gc) as runs,
    ):
        number = 0
        while number < ROUNDS or len(runs) < ROUNDS:
            wanted = ROOT if number % 2 else CLOSURE[number % len(CLOSURE)]
            with LocalStore(root) as store:
                report = fetch_closure([wanted], caches=caches, policy=POLICY, store=store)
                assert store.valid(list(report.paths)) == set(report.paths)
                for path in report.paths:
                    assert store.physical(path).lstat()
                Roots(store).add("web", wanted)
            seen = len(runs)
            while len(runs) == seen and number % 3 == 0:
                time.sleep(0.01)
            with LocalStore(root) as store:
                assert store.valid([wanted]) == {wanted}
                Roots(store).remove("web")
            number += 1
    assert verified(nix, root)


def test_both_collect_while_we_fetch(nix: RealNix) -> None:
    """One waits for the other, or says that the other is at work."""
    garden = Garden(nix.place / "store")
    garden.plant({f"p{number}": [f"p{number - 1}"] if number else [] for number in range(8)})
    garden.grow("p0")

    def theirs() -> None:
        nix.run("nix-store", "--store", garden.root, "--gc")

    def ours() -> None:
        with LocalStore(garden.root) as store, suppress(CollectorRunningError):
            collect(store)

    with meanwhile(theirs) as their_runs, meanwhile(ours) as our_runs:
        while len(their_runs) < ROUNDS or len(our_runs) < ROUNDS:
            with LocalStore(garden.root) as store:
                garden.fetch(["p7"], store)
                assert len(store.valid(list(garden.cache.infos))) == 8
    assert verified(nix, garden.root)
