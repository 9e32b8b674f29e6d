from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from nixfetch.cache import BinaryCache, CacheGroup
from nixfetch.mirror import Sources, open_mirror
from nixfetch.plan.retry import RetrySchedule
from nixfetch.store import LocalStore, RootKind, Roots
from nixfetch.warm import Limits, Manifest, Resolver, WarmReport, resolve, warm_mirror, warm_store
from nixfetch.warm.report import textfile
from simulated_cache import POLICY, FlippedByte, Missing, SimulatedCache, store_path

if TYPE_CHECKING:
    from pathlib import Path

    from nixfetch.formats.storepath import StorePath


class World:
    """A cache, a store, and manifests that change."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.cache = SimulatedCache()
        self.manifests: dict[str, str] = {}

    def resolver(self) -> Resolver:
        return Resolver(
            transport=lambda _url, _accept: self.cache,
            mirror=open_mirror,
            images=lambda _: (),
            persist=lambda act: act(),
            directory=self.directory,
        )

    def warm(self, **how: object) -> WarmReport:
        with CacheGroup([self.client()]) as caches, LocalStore(self.directory / "store") as store:
            return warm_store(
                self.wanted("store"),
                caches=caches,
                policy=POLICY,
                store=store,
                **how,  # type: ignore[arg-type]
            )

    def client(self) -> BinaryCache:
        return BinaryCache(self.cache, retry=RetrySchedule(tries=1))

    def wanted(self, target: str):  # type: ignore[no-untyped-def] # noqa: ANN201 - of resolve
        return resolve(
            (
                (Manifest.parse(text.encode(), name=name), self.resolver())
                for name, text in self.manifests.items()
            ),
            target=target,
        )

    def sets(self) -> dict[str, set[StorePath]]:
        with LocalStore(self.directory / "store", read_only=True) as store:
            found: dict[str, set[StorePath]] = {name: set() for name in Roots(store).sets()}
            for root in Roots(store).list():
                if root.kind is RootKind.SET and root.path is not None:
                    found.setdefault(root.name, set()).add(root.path)
        return found


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def listed(*paths: StorePath) -> str:
    return "".join(f"{path}\n" for path in paths)


def statuses(report: WarmReport) -> dict[StorePath, str]:
    return {path: entry.status for path, entry in report.paths.items()}


def test_roots_follow_the_manifest(world: World) -> None:
    a, b, c = (world.cache.add(name) for name in "abc")
    world.manifests["nodes"] = listed(a, b)
    report = world.warm()
    assert report.exit_code == 0
    assert statuses(report) == {a: "fetched", b: "fetched"}
    assert world.sets() == {"warm:nodes:paths": {a, b}}
    world.manifests["nodes"] = listed(b, c)
    report = world.warm()
    assert statuses(report) == {b: "present", c: "fetched"}
    assert world.sets() == {"warm:nodes:paths": {b, c}}
    assert report.unrooted == 1
    world.manifests["nodes"] = f'[[roots]]\nname = "other"\npaths = ["{c}"]\n'
    assert world.warm().unrooted == 1
    assert world.sets() == {"warm:nodes:other": {c}}


def test_manifests_keep_apart(world: World) -> None:
    a, b = (world.cache.add(name) for name in "ab")
    world.manifests = {"one": listed(a), "one.two": listed(b)}
    world.warm()
    del world.manifests["one.two"]
    world.manifests["one"] = ""
    report = world.warm()
    assert world.sets() == {"warm:one:paths": set(), "warm:one.two:paths": {b}}
    assert (report.exit_code, report.unrooted) == (0, 1)


def test_nothing_to_do_asks_nobody(world: World) -> None:
    a = world.cache.add("a")
    world.manifests["nodes"] = listed(a)
    world.warm()
    world.cache.requests.clear()
    assert statuses(world.warm()) == {a: "present"}
    assert world.cache.requests == []


def test_a_path_that_is_nowhere(world: World) -> None:
    a, lost = world.cache.add("a"), store_path("lost")
    world.manifests["nodes"] = listed(a, lost)
    report = world.warm()
    assert report.exit_code == 3
    assert statuses(report) == {a: "fetched", lost: "failed"}
    assert [(source.wanted, source.lacking) for source in report.sources] == [(2, 1)]
    assert world.sets() == {"warm:nodes:paths": {a}}


def test_what_was_stays_until_what_comes_is_there(world: World) -> None:
    old, new = world.cache.add("old"), world.cache.add("new")
    world.manifests["nodes"] = listed(old)
    world.warm()
    world.manifests["nodes"] = listed(new)
    world.cache.faults[world.cache.narinfo_name(new)] = Missing()
    report = world.warm()
    assert (report.exit_code, report.unrooted) == (3, 0)
    assert world.sets() == {"warm:nodes:paths": {old}}
    world.cache.faults.clear()
    assert world.warm().exit_code == 0
    assert world.sets() == {"warm:nodes:paths": {new}}


def test_a_source_that_does_not_answer_changes_nothing(world: World) -> None:
    a, b = world.cache.add("a"), world.cache.add("b")
    file = world.directory / "list"
    file.write_text(listed(a))
    world.manifests["nodes"] = '[[roots]]\nstore-paths = "list"\n'
    world.warm()
    file.unlink()
    world.manifests["nodes"] += f'[[roots]]\npaths = ["{b}"]\n'
    report = world.warm()
    assert report.exit_code == 5
    assert report.sources[0].error is not None
    assert world.sets() == {"warm:nodes:roots-1": {a}, "warm:nodes:roots-2": {b}}


def test_a_path_that_is_not_to_be_believed(world: World) -> None:
    a = world.cache.add("a", {b"f": bytes(999)})
    world.cache.faults[world.cache.nar_name(a)] = FlippedByte(300)
    world.manifests["nodes"] = listed(a, store_path("lost"))
    assert world.warm().exit_code == 4


def test_limits(world: World) -> None:
    paths = [world.cache.add(f"p{number}", {b"f": bytes(50_000)}) for number in range(9)]
    world.manifests["nodes"] = listed(*paths)
    report = world.warm(limits=Limits(max_bytes=1), jobs=1)
    assert (report.exit_code, report.stopped) == (3, "max-bytes")
    assert report.those("pending") or report.those("fetched")
    clock = iter(float(number) for number in range(10**6))
    report = world.warm(limits=Limits(max_seconds=0.5), now=lambda: next(clock) + 2e9)
    assert report.stopped == "max-duration"
    assert world.warm().exit_code == 0
    assert len(world.sets()["warm:nodes:paths"]) == 9


def test_a_store_that_cannot_go_on(world: World) -> None:
    a = world.cache.add("a", {b"f": bytes(999)})
    world.manifests["nodes"] = listed(a)
    report = world.warm(min_free=2**60)
    assert report.exit_code == 6
    assert report.failure is not None
    assert report.to_json()["failure"]


def test_into_a_mirror(world: World) -> None:
    a, b = world.cache.add("a"), world.cache.add("b")
    lost = store_path("lost")
    world.manifests["nodes"] = listed(a, b, lost)

    def warm(**how: object) -> WarmReport:
        with (
            CacheGroup([world.client()]) as caches,
            closing(open_mirror(str(world.directory / "mirror"))) as mirror,
        ):
            sources = Sources(caches, POLICY)
            return warm_mirror(
                world.wanted("mirror"),
                sources=sources,
                destination=mirror,
                **how,  # type: ignore[arg-type]
            )

    report = warm(limits=Limits(max_bytes=0))
    assert (report.exit_code, report.stopped) == (3, "max-bytes")
    report = warm()
    assert report.exit_code == 3
    assert statuses(report) == {a: "fetched", b: "fetched", lost: "failed"}
    assert [source.lacking for source in report.sources] == [1]
    (world.directory / "mirror/nix-cache-info").write_bytes(b"StoreDir: /elsewhere\n")
    report = warm()
    assert report.failure is not None
    assert report.exit_code == 5


def test_metrics(world: World) -> None:
    a = world.cache.add("a")
    world.manifests["nodes"] = listed(a)
    good = world.warm()
    text = textfile(good)
    ended = f"{good.started + good.seconds:.3f}"
    assert f"nixfetch_warm_last_success_timestamp_seconds {ended}\n" in text
    assert 'nixfetch_warm_paths{status="fetched"} 1\n' in text
    assert 'nixfetch_warm_source_up{source="nodes:paths"} 1\n' in text
    assert all(line.startswith(("#", "nixfetch_warm_")) for line in text.splitlines())
    world.manifests["nodes"] = listed(store_path("lost"))
    bad = textfile(world.warm(), before=text)
    assert f"nixfetch_warm_last_success_timestamp_seconds {ended}\n" in bad
    assert "nixfetch_warm_exit_code 3\n" in bad
    assert "nixfetch_warm_last_success_timestamp_seconds 0\n" in textfile(world.warm())
