from __future__ import annotations

import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

import nixfetch
from nixfetch import CancelledError, FetchFailedError, PathNotValidError, StorePath
from node import Node, names, never
from simulated_cache import (
    OTHER_KEY,
    FlippedByte,
    Link,
    Refused,
    SignedBy,
    SimulatedCache,
    Slow,
    Truncated,
    store_path,
)
from snapshotter.closurelist import NotAClosureError
from snapshotter.errors import PreconditionError
from snapshotter.labels import NixLayer
from snapshotter.substitute import Substitute, _tops
from unit.store.disk_trees import descriptors, place_of_nobody, python

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOBODY = store_path("nobody")


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """A cold one; its cache has an app that needs lib and libc, and a tool that needs libc."""
    node = Node(tmp_path)
    libc = node.cache.add("libc", {b"libc.so": b"code"}, references=[store_path("libc")])
    lib = node.cache.add("lib", {b"lib.so": b"code"}, references=[libc])
    node.cache.add("app", {b"bin": {b"app": b"#!"}}, references=[lib, libc])
    node.cache.add("tool", b"file", references=[libc])
    node.cache.add("alone", {b"x": b"y"})
    return node


@pytest.fixture
def substitute(node: Node) -> Iterator[Substitute]:
    with node.substitute() as substitute:
        yield substitute


def layer(*found: str, closure: StorePath | None = None) -> NixLayer:
    return NixLayer(tuple(map(store_path, found)), closure)


# Having them.


def test_a_cold_node(node: Node, substitute: Substitute) -> None:
    """What the labels leave out comes too, in one call; the root is what nothing refers to."""
    paths = substitute.ensure(layer("app", "lib"), root="1", cancelled=never)
    assert names(paths) == ["app", "lib", "libc"]
    assert list(paths) == sorted(paths)
    assert node.fetches == [[store_path("app"), store_path("lib")]]
    assert node.rooted() == {"snapshotter-1": {"app"}}
    assert node.collect() == set()


def test_a_warm_node_asks_nobody(node: Node, substitute: Substitute) -> None:
    first = substitute.ensure(layer("app"), root="1", cancelled=never)
    node.cache.requests.clear()
    assert substitute.ensure(layer("app", "libc"), root="2", cancelled=never) == first
    assert len(node.fetches) == 1
    assert node.cache.requests == []
    assert node.rooted() == {"snapshotter-1": {"app"}, "snapshotter-2": {"app"}}


def test_a_layer_of_nothing(node: Node, substitute: Substitute) -> None:
    assert substitute.ensure(layer(), root="1", cancelled=never) == ()
    assert node.rooted() == {"snapshotter-1": set()}
    assert node.fetches == []


def test_a_list_of_a_closure(node: Node, substitute: Substitute) -> None:
    """It is kept, and is no part of what a container sees."""
    info = node.add_closure_info(*map(store_path, ("app", "lib", "libc", "tool")))
    paths = substitute.ensure(layer(closure=info), root="1", cancelled=never)
    assert names(paths) == ["app", "lib", "libc", "tool"]
    assert node.fetches == [[info]]
    assert node.rooted() == {"snapshotter-1": {"closure-info"}}
    assert substitute.ensure(layer("alone", closure=info), root="2", cancelled=never) == tuple(
        sorted([*paths, store_path("alone")])
    )
    assert node.rooted()["snapshotter-2"] == {"closure-info", "alone"}
    assert node.collect() == set()


def test_a_list_that_does_not_refer_to_what_it_lists(node: Node, substitute: Substitute) -> None:
    text = f"{store_path('tool')}\n{store_path('tool')}\n{store_path('alone')}\n".encode()
    info = node.add_closure_info(text=text)
    paths = substitute.ensure(layer(closure=info), root="1", cancelled=never)
    assert names(paths) == ["alone", "libc", "tool"]
    assert node.rooted() == {"snapshotter-1": {"alone", "closure-info", "tool"}}


@pytest.mark.parametrize(
    "text",
    [
        b"/etc\n",
        b"/nix/store\n",
        b"\n",
        b"/nix/store/../../etc\n",
        f"{store_path('app')}/bin\n".encode(),
        f"{store_path('app')}\r\n".encode(),
        f"{store_path('app')}\n\n".encode(),
        f"{store_path('app')}\0\n".encode(),
        f"{store_path('app')}\n--option\n".encode(),
        "/nix/store/ä\n".encode(),
        b"\xff\n",
        b"x" * 6_000_000,
        b"/nix/store/" + b"0" * 32 + b"-a\n" * 20_001,
        f"{store_path('alone')}\n".encode() * 20_001,
    ],
)
def test_a_list_that_is_not_to_be_believed(node: Node, substitute: Substitute, text: bytes) -> None:
    info = node.add_closure_info(text=text)
    with pytest.raises(NotAClosureError) as caught:
        substitute.ensure(layer(closure=info), root="1", cancelled=never)
    assert caught.value.facts["path"] == info
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400
    assert node.rooted() == {}


@pytest.mark.parametrize("kind", ["no list", "a link", "a directory", "a file", "a linked path"])
def test_what_is_no_closure(node: Node, substitute: Substitute, kind: str) -> None:
    trees = {
        "no list": {b"registration": b""},
        "a link": {b"store-paths": Link(b"/etc/passwd")},
        "a directory": {b"store-paths": {}},
        "a file": b"/etc\n",
        "a linked path": Link(b"/etc"),
    }
    info = node.cache.add("closure-info", trees[kind])  # type: ignore[arg-type] # trees of all kinds
    with pytest.raises(NotAClosureError):
        substitute.ensure(layer(closure=info), root="1", cancelled=never)
    assert node.rooted() == {}


def test_a_list_without_an_end_of_its_last_line(node: Node, substitute: Substitute) -> None:
    info = node.add_closure_info(text=str(store_path("alone")).encode())
    assert names(substitute.ensure(layer(closure=info), root="1", cancelled=never)) == ["alone"]
    empty = node.cache.add("empty-info", {b"store-paths": b""})
    assert substitute.ensure(layer(closure=empty), root="2", cancelled=never) == ()


# What goes wrong.


def reasons(error: FetchFailedError) -> str:
    return "; ".join(str(path.error) for path in error.report.failures)


def test_a_path_that_no_cache_has(node: Node, substitute: Substitute) -> None:
    with pytest.raises(FetchFailedError) as caught:
        substitute.ensure(NixLayer((NOBODY, store_path("app"))), root="1", cancelled=never)
    assert str(NOBODY) in reasons(caught.value)
    assert node.cache.url in reasons(caught.value)
    assert node.rooted() == {}
    assert node.leftovers() == []


def test_what_was_wrong_is_named_and_once_it_is_put_right_all_is_well(
    node: Node, substitute: Substitute
) -> None:
    lib = store_path("lib")
    narinfo, nar = node.cache.narinfo_name(lib), node.cache.nar_name(lib)
    for name, fault, said in (
        (narinfo, SignedBy(OTHER_KEY), ("other-1", "simulated-1", "no trusted key")),
        (nar, Truncated(100), ()),
        (nar, FlippedByte(60), ()),
        (nar, Refused(times=1000), ("busy or broken",)),
    ):
        node.cache.faults = {name: fault}
        with pytest.raises(FetchFailedError) as caught:
            substitute.ensure(layer("app"), root="1", cancelled=never)
        text = reasons(caught.value)
        for word in (str(lib), node.cache.url, *said):
            assert word in text, (fault, text)
        assert node.rooted() == {}
        assert node.leftovers() == []
        assert "app" not in node.valid()
    node.cache.faults = {}
    assert len(substitute.ensure(layer("app"), root="1", cancelled=never)) == 3
    assert node.rooted() == {"snapshotter-1": {"app"}}


def test_a_cache_that_is_down(node: Node, substitute: Substitute) -> None:
    node.cache.fault = Refused(times=10**6)
    with pytest.raises(FetchFailedError) as caught:
        substitute.ensure(layer("app"), root="1", cancelled=never)
    assert caught.value.exit_code == 5
    assert node.cache.url in reasons(caught.value)
    node.cache.fault = None
    assert len(substitute.ensure(layer("app"), root="1", cancelled=never)) == 3


def test_a_tree_that_somebody_removed(node: Node, substitute: Substitute) -> None:
    substitute.ensure(layer("app"), root="1", cancelled=never)
    shutil.rmtree(node.on_disk(store_path("lib")))
    with pytest.raises(PreconditionError, match="not there") as caught:
        substitute.ensure(layer("app"), root="2", cancelled=never)
    assert caught.value.facts["path"] == store_path("lib")
    assert caught.value.hint is not None
    assert set(node.rooted()) == {"snapshotter-1"}


def test_who_gives_up_in_the_middle(node: Node, substitute: Substitute) -> None:
    gate = threading.Event()
    node.cache.faults = {node.cache.nar_name(store_path("lib")): Slow(gate, 10)}
    begin = time.monotonic()
    try:
        with pytest.raises(CancelledError):
            substitute.ensure(
                layer("app"), root="1", cancelled=lambda: time.monotonic() > begin + 0.3
            )
    finally:
        gate.set()
    assert time.monotonic() - begin < 30
    assert node.rooted() == {}
    node.cache.faults = {}
    assert len(substitute.ensure(layer("app"), root="1", cancelled=never)) == 3
    assert node.leftovers() == []


# Several at a time.


def test_many_who_want_the_same(node: Node, substitute: Substitute) -> None:
    with ThreadPoolExecutor(16) as pool:
        found = list(
            pool.map(
                lambda number: substitute.ensure(layer("app"), root=str(number), cancelled=never),
                range(16),
            )
        )
    assert len(set(found)) == 1
    assert len(node.rooted()) == 16
    assert sorted(node.cache.opened_nars) == sorted(set(node.cache.opened_nars))


def test_many_who_want_some_of_the_same(tmp_path: Path) -> None:
    """Each path is asked for once."""
    node = Node(tmp_path)
    shared = [node.cache.add(f"shared{number}", b"%d" % number) for number in range(40)]
    tops = [node.cache.add(f"top{number}", b"top", references=shared) for number in range(16)]
    with node.substitute() as substitute, ThreadPoolExecutor(16) as pool:
        list(
            pool.map(
                lambda top: substitute.ensure(NixLayer((top,)), root=top.name, cancelled=never),
                tops,
            )
        )
    assert len(node.cache.opened_nars) == 56
    assert len(set(node.cache.opened_nars)) == 56
    assert len(node.valid()) == 56
    assert len(node.rooted()) == 16


def test_all_who_wait_hear_why_it_failed(node: Node, substitute: Substitute) -> None:
    gate = threading.Event()
    node.cache.faults = {node.cache.narinfo_name(store_path("lib")): Slow(gate)}
    node.cache.objects[node.cache.narinfo_name(store_path("lib"))] = b"nonsense"

    def ensure(number: int) -> str:
        with pytest.raises(FetchFailedError) as caught:
            substitute.ensure(layer("app"), root=str(number), cancelled=never)
        return reasons(caught.value)

    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(ensure, number) for number in range(4)]
        while not node.cache.open_bodies:
            time.sleep(0.01)
        time.sleep(0.2)
        gate.set()
        texts = {future.result(timeout=60) for future in waiting}
    assert len(texts) == 1
    assert len(node.fetches) == 1
    assert node.rooted() == {}


def test_who_waits_for_one_that_gives_up_goes_on(node: Node, substitute: Substitute) -> None:
    gate, gone = threading.Event(), threading.Event()
    node.cache.faults = {node.cache.nar_name(store_path("lib")): Slow(gate, 10)}

    def first() -> None:
        with pytest.raises(CancelledError):
            substitute.ensure(layer("app"), root="1", cancelled=gone.is_set)

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(first)
        while not node.fetches:
            time.sleep(0.01)
        other = pool.submit(substitute.ensure, layer("app"), root="2", cancelled=never)
        time.sleep(0.2)
        gone.set()
        one.result(timeout=60)
        gate.set()
        node.cache.faults = {}
        assert len(other.result(timeout=60)) == 3
    assert node.rooted() == {"snapshotter-2": {"app"}}


def test_who_waits_may_give_up_too(node: Node) -> None:
    gate, gone = threading.Event(), threading.Event()
    node.cache.faults = {node.cache.nar_name(store_path("lib")): Slow(gate, 10)}

    def wait(substitute: Substitute, *found: str) -> None:
        with pytest.raises(CancelledError):
            substitute.ensure(layer(*found), root="x", cancelled=gone.is_set)

    with nixfetch.LocalStore(node.root) as store, ThreadPoolExecutor(3) as pool:
        substitute = Substitute(store, node.fetch, at_once=1)
        first = pool.submit(substitute.ensure, layer("app"), root="1", cancelled=never)
        while not node.cache.open_bodies:
            time.sleep(0.01)
        others = [pool.submit(wait, substitute, *found) for found in (["app"], ["alone"])]
        time.sleep(0.3)
        gone.set()
        for other in others:
            other.result(timeout=60)
        gate.set()
        assert len(first.result(timeout=60)) == 3
    assert node.rooted() == {"snapshotter-1": {"app"}}


def test_a_collector_meanwhile(node: Node, substitute: Substitute) -> None:
    """Whoever was answered finds it all there, whenever it runs."""
    over = threading.Event()

    def collect() -> None:
        while not over.is_set():
            node.collect()

    collector = threading.Thread(target=collect)
    collector.start()
    try:
        for number in range(12):
            paths = substitute.ensure(layer("app", "tool"), root=str(number), cancelled=never)
            assert len(substitute.sources(paths)) == 4
            substitute.unroot(str(number))
    finally:
        over.set()
        collector.join()


# Their roots.


def test_roots_come_and_go(node: Node, substitute: Substitute) -> None:
    with pytest.raises(PathNotValidError):
        substitute.root("a", [store_path("app")])
    paths = substitute.ensure(layer("app"), root="a", cancelled=never)
    substitute.unroot("a")
    substitute.unroot("a")
    substitute.root("b", paths)
    substitute.root("c", [store_path("libc")])
    assert substitute.roots() == {"b", "c"}
    assert node.rooted() == {"snapshotter-b": {"app"}, "snapshotter-c": {"libc"}}
    substitute.sweep()
    substitute.unroot("b")
    assert node.collect() == {"app", "lib"}


def test_roots_of_others_are_not_ours(node: Node, substitute: Substitute) -> None:
    substitute.ensure(layer("app"), root="a", cancelled=never)
    with nixfetch.LocalStore(node.root) as store:
        nixfetch.Roots(store).add_set("mine", [store_path("app")])
        nixfetch.Roots(store).add("web", store_path("app"))
    assert substitute.roots() == {"a"}


def test_tops_reach_everything() -> None:
    a, b, c, d, e = map(store_path, "abcde")
    assert _tops({a: (a, b), b: (c,), c: ()}) == [a]
    assert _tops({a: (), b: (b,)}) == sorted([a, b])
    circle = {a: (b,), b: (c,), c: (a,), d: (c, d), e: ()}
    assert set(_tops(circle)) == {d, e}
    assert len(_tops({a: (b,), b: (a,), c: (d,), d: (c,)})) == 2


# Where they are.


def test_sources_are_physical(node: Node, substitute: Substitute) -> None:
    paths = substitute.ensure(layer("app", "tool"), root="1", cancelled=never)
    assert substitute.sources(paths) == [(path, str(node.on_disk(path))) for path in paths]
    assert substitute.links(paths) == ()


@pytest.mark.parametrize(
    "base",
    [
        "",
        ".",
        "..",
        ".links",
        "../../etc",
        "../../../../etc",
        f"{store_path('app').base}/../../etc",
        f"{store_path('app').base}/bin",
        f"{store_path('app').base}\n",
        "/etc",
        "--option",
    ],
)
def test_what_was_put_into_a_database_of_rows(substitute: Substitute, base: str) -> None:
    """A `StorePath` that nobody parsed."""
    substitute.ensure(layer("app"), root="1", cancelled=never)
    for ask in (substitute.sources, substitute.links):
        with pytest.raises(PreconditionError, match="no store path"):
            ask([store_path("app"), StorePath(base)])


def test_a_path_that_is_not_valid_has_no_source(node: Node, substitute: Substitute) -> None:
    substitute.ensure(layer("app"), root="1", cancelled=never)
    node.on_disk(NOBODY).mkdir()  # there, and not registered
    with pytest.raises(PreconditionError, match="not valid"):
        substitute.sources([NOBODY])
    with pytest.raises(PreconditionError, match="not valid"):
        substitute.sources([store_path("alone")])


def test_a_store_path_that_is_a_link(node: Node, substitute: Substitute) -> None:
    link = node.cache.add("link", Link(b"/etc"))
    paths = substitute.ensure(NixLayer((link,)), root="1", cancelled=never)
    assert substitute.links(paths) == (link,)
    sources, links = substitute.located(paths)
    assert links == (link,)
    assert sources == substitute.sources(path for path in paths if path != link)
    with pytest.raises(PreconditionError, match="no file or directory"):
        substitute.sources(paths)


@pytest.mark.parametrize("kind", ["link", "pipe", "nothing"])
def test_what_somebody_put_in_the_place_of_a_path(
    node: Node, substitute: Substitute, kind: str
) -> None:
    [*paths] = substitute.ensure(layer("alone"), root="1", cancelled=never)
    place = node.on_disk(store_path("alone"))
    shutil.rmtree(place)
    if kind == "link":
        place.symlink_to("/etc")
    elif kind == "pipe":
        os.mkfifo(place)
    with pytest.raises(PreconditionError):
        substitute.sources(paths)


def test_a_store_that_was_moved_away(node: Node, substitute: Substitute) -> None:
    paths = substitute.ensure(layer("alone"), root="1", cancelled=never)
    store = node.root / "nix/store"
    store.rename(node.root / "nix/moved")
    with pytest.raises(PreconditionError, match="cannot be looked at"):
        substitute.sources(paths)
    store.symlink_to("/etc")
    with pytest.raises(PreconditionError, match="not where it was"):
        substitute.sources(paths)


def test_nothing_stays_open(node: Node, substitute: Substitute) -> None:
    """But one descriptor that SQLite keeps for the next one who opens the same file."""

    def all_ways() -> None:
        substitute.ensure(layer("app"), root="1", cancelled=never)
        with pytest.raises(FetchFailedError):
            substitute.ensure(NixLayer((NOBODY,)), root="2", cancelled=never)
        substitute.sources(substitute.ensure(layer("app"), root="3", cancelled=never))
        substitute.unroot("1")

    all_ways()
    before = len(descriptors())
    for _ in range(3):
        all_ways()
    assert len(descriptors()) == before


def test_two_caches(tmp_path: Path) -> None:
    """What the second one has is taken from it; what none has names both."""
    one, other = SimulatedCache(), SimulatedCache(url="simulated://two")
    node = Node(tmp_path, one, other)
    path = other.add("only-there", b"x")
    with node.substitute() as substitute:
        assert substitute.ensure(NixLayer((path,)), root="1", cancelled=never) == (path,)
        with pytest.raises(FetchFailedError) as caught:
            substitute.ensure(NixLayer((NOBODY,)), root="2", cancelled=never)
    assert one.url in reasons(caught.value)
    assert other.url in reasons(caught.value)


ORDINARY_USER = """
import sys
from pathlib import Path
from nixfetch import LocalStore
from node import Node, never
from simulated_cache import Link
from snapshotter.farm import Farms
from snapshotter.labels import NixLayer
from unit.store.disk_trees import become_nobody
place = Path(sys.argv[1])
node = Node(place)
lib = node.cache.add("lib", {b"d": {b"e": {}, b"f": b"x"}, b"l": Link(b"d")})
app = node.cache.add("app", b"file", references=[lib])
import concurrent.futures, sqlite3, nixfetch.fetch, nixfetch.store.collect
node.open_caches().close(); nixfetch.collect; nixfetch.fetch_closure; nixfetch.CancelledError
become_nobody()
with node.substitute() as substitute, LocalStore(node.root) as store:
    paths = substitute.ensure(NixLayer((app,)), root="1", cancelled=never)
    farms = Farms(place / "farms", store)
    farm = farms.get(paths)
    print((farm / "nix/store" / lib.base / "l/f").read_text())
    farms.sweep([])
    print(farms.names(), substitute.roots())
    substitute.unroot("1")
print(sorted(node.collect()))
"""


def test_an_ordinary_user() -> None:
    """As in a user namespace: directories are read-only for their owner too."""
    with place_of_nobody() as place:
        said = python(ORDINARY_USER, place).splitlines()
    assert said == ["x", "set() {'1'}", "['app', 'lib']"]
