from __future__ import annotations

import shutil
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import nixfetch
from fake_closures import FakeClosures, FakeFarms, store_path
from snapshotter.core import Mode, Snapshotter
from snapshotter.errors import (
    AlreadyExistsError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PreconditionError,
    UnavailableError,
)
from snapshotter.filters import Filter
from snapshotter.labels import NIX_CLOSURE, NIX_LAYER, NIX_LAYER_COMPLETE, NIX_STORE_PATH
from snapshotter.layers import Layers
from snapshotter.lifecycle import REF, Kind, chain_id
from snapshotter.metastore import Metastore
from snapshotter.oci import nixlayer
from snapshotter.overlay import Overlay

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nixfetch import StorePath

PATIENCE = 30.0  # seconds; none of this takes one
ONE, TWO, TEXT, LINK = (store_path(name) for name in ("one", "two", "words.txt", "to.link"))
EXTRACT = "default/3/extract-123-abcd sha256:feed"


class World:
    """A snapshotter, and what it works on."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.mode: Mode = "target"
        self.closures = FakeClosures(place / "store")
        self.farms = FakeFarms(place / "farms")
        self.store = Metastore(place / "db", durable=False)
        self.snapshotter = self.start()

    def start(self, *, max_binds: int = 10) -> Snapshotter:
        return Snapshotter(
            store=self.store,
            layers=Layers(self.place),
            overlay=Overlay(("index=off",)),
            closures=self.closures,
            farms=self.farms,
            mode=lambda: self.mode,
            max_binds=max_binds,
        )

    def layer(self, name: str, parent: str = "", *paths: StorePath) -> None:
        """A committed one, as an unpacker makes it."""
        labels = nix_labels(*paths) if paths else {}
        key = f"default/1/extract-1-{name} {name}"
        self.snapshotter.prepare(key, parent, labels)
        if paths:
            self.unpack(key, *paths)
        self.snapshotter.commit(name, key, labels)

    def unpack(self, key: str, *paths: StorePath) -> None:
        """Make the places for store paths that the blob of a layer has."""
        store = self.upper(key) / "nix/store"
        store.mkdir(parents=True)
        for path in paths:
            if path == TEXT:
                (store / path.base).touch()
            else:
                (store / path.base).mkdir()

    def directories(self, of: str = "snapshots") -> list[str]:
        return sorted(entry.name for entry in (self.place / of).iterdir())

    def upper(self, key: str) -> Path:
        return Path(Layers(self.place).upper(self.store.snapshot(key).id))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    with closing(world.snapshotter):
        yield world


def nix_labels(*paths: StorePath, complete: bool = False, ref: str = "") -> dict[str, str]:
    labels = {f"{NIX_STORE_PATH}{number}": str(path) for number, path in enumerate(paths)}
    labels[NIX_LAYER] = "true"
    if complete:
        labels[NIX_LAYER_COMPLETE] = "true"
    return labels | ({REF: ref} if ref else {})


def whole(*paths: StorePath, parent: str = "") -> str:
    """What containerd calls a layer of places for `paths`, and nothing else."""
    chain = chain_id(parent, nixlayer.diff_id({path: path == TEXT for path in paths}))
    assert chain is not None
    return chain


def failing(error: nixfetch.NixfetchError) -> Callable[[Callable[[], bool]], None]:
    def fail(_: object) -> None:
        raise error

    return fail


# Ordinary layers.


def test_an_image_and_its_container(world: World) -> None:
    (base,) = world.snapshotter.prepare("a", "", {})
    assert (base.type, base.source, base.target) == ("bind", str(world.upper("a")), "")
    assert base.options == ("rw", "rbind")
    world.snapshotter.commit("one", "a", {})
    world.layer("two", "one")
    (root,) = world.snapshotter.prepare("container", "two", {})
    upper = world.upper("container")
    assert root.type == "overlay"
    assert root.options == (
        f"workdir={upper.parent}/work",
        f"upperdir={upper}",
        f"lowerdir={world.upper('two')}:{world.upper('one')}",
        "index=off",
    )
    assert world.snapshotter.mounts("container") == [root]
    assert world.closures.fetches == 0
    assert world.closures.rooted == {}


def test_views(world: World) -> None:
    world.layer("one")
    world.layer("two", "one")
    (empty,) = world.snapshotter.view("v0", "", {})
    assert (empty.type, empty.options) == ("bind", ("ro", "rbind"))
    (one,) = world.snapshotter.view("v1", "one", {})
    assert (one.source, one.options) == (str(world.upper("one")), ("ro", "rbind"))
    (two,) = world.snapshotter.view("v2", "two", {})
    assert two.options == (f"lowerdir={world.upper('two')}:{world.upper('one')}", "index=off")
    with pytest.raises(PreconditionError):
        world.snapshotter.commit("n", "v2", {})


def test_names_that_are_taken(world: World) -> None:
    world.layer("one")
    world.snapshotter.prepare("k", "one", {})
    for make in (world.snapshotter.prepare, world.snapshotter.view):
        for name in ("k", "one"):
            with pytest.raises(AlreadyExistsError):
                make(name, "", {})
    with pytest.raises(AlreadyExistsError):
        world.snapshotter.commit("one", "k", {})
    world.snapshotter.commit("two", "k", {})
    assert len(world.directories()) == 2


def test_what_is_not_there(world: World) -> None:
    for ask in (
        world.snapshotter.mounts,
        world.snapshotter.stat,
        world.snapshotter.usage,
        world.snapshotter.remove,
    ):
        with pytest.raises(NotFoundError):
            ask("nobody")
    with pytest.raises(NotFoundError):
        world.snapshotter.prepare("k", "nobody", {})
    with pytest.raises(NotFoundError):
        world.snapshotter.commit("n", "nobody", {})
    assert world.directories() == []


def test_what_makes_no_sense_leaves_nothing(world: World) -> None:
    world.snapshotter.prepare("active", "", {})
    with pytest.raises(InvalidArgumentError):
        world.snapshotter.prepare("k", "active", {})
    with pytest.raises(InvalidArgumentError):
        world.snapshotter.prepare("", "", {})
    with pytest.raises(InvalidArgumentError):
        world.snapshotter.commit("", "active", {})
    with pytest.raises(InvalidArgumentError):
        world.snapshotter.prepare("k", "", {"a": "x" * 5000})
    world.layer("one")
    with pytest.raises(PreconditionError):
        world.snapshotter.mounts("one")
    assert [info.name for info in world.snapshotter.walk()] == ["active", "one"]


def test_a_directory_that_cannot_be_made_leaves_no_row(world: World) -> None:
    (world.place / "snapshots/1").mkdir()
    with pytest.raises(InternalError):
        world.snapshotter.prepare("k", "", {})
    assert world.store.ids() == set()
    world.snapshotter.prepare("k", "", {})


def test_usage(world: World) -> None:
    world.snapshotter.prepare("k", "", {})
    (world.upper("k") / "file").write_bytes(b"x" * 50_000)
    before = world.snapshotter.usage("k")
    assert before.inodes == 2
    assert before.size >= 50_000
    world.snapshotter.commit("n", "k", {})
    assert world.snapshotter.usage("n") == before
    world.snapshotter.view("v", "n", {})
    assert world.snapshotter.usage("v").inodes == 0


def test_removal_and_the_space_it_frees(world: World) -> None:
    world.layer("one")
    world.snapshotter.prepare("k", "one", {})
    with pytest.raises(PreconditionError, match="remove"):
        world.snapshotter.remove("one")
    world.snapshotter.remove("k")
    world.snapshotter.remove("one")
    assert world.directories() == []
    assert world.directories("removed") == ["1", "2"]
    assert world.snapshotter.rubbish.is_set()
    world.snapshotter.cleanup()
    assert world.directories("removed") == []
    assert not world.snapshotter.rubbish.is_set()


def test_a_walk_takes_filters(world: World) -> None:
    world.layer("one")
    world.snapshotter.prepare("k", "one", {"a": "1"})
    found = world.snapshotter.walk(Filter.parse(["labels.a==1,parent==one", "kind==view"]))
    assert [info.name for info in found] == ["k"]
    assert [info.name for info in world.snapshotter.walk(Filter.parse(["name==one"]))] == ["one"]
    assert world.snapshotter.counts() == {Kind.ACTIVE: 1, Kind.COMMITTED: 1}


# Layers of store paths.


def test_a_layer_of_store_paths(world: World) -> None:
    labels = nix_labels(ONE, TEXT)
    (mount,) = world.snapshotter.prepare(EXTRACT, "", labels)
    assert mount.options == ("rw", "rbind")  # its places are written by whoever unpacks it
    assert world.closures.fetches == 1
    assert list(world.closures.rooted.values()) == [(ONE, TEXT)]
    assert world.snapshotter.mounts(EXTRACT) == [mount]
    world.unpack(EXTRACT, ONE, TEXT)
    world.snapshotter.commit("layer", EXTRACT, labels)
    store = world.upper("layer") / "nix/store"
    assert sorted(entry.name for entry in store.iterdir()) == [ONE.base, TEXT.base]
    assert (store / TEXT.base).is_file()
    assert dict(world.snapshotter.stat("layer").labels) == labels


def test_containers_get_read_only_binds(world: World) -> None:
    world.layer("one", "", TWO, ONE)
    world.layer("plain", "one")
    world.layer("two", "plain", ONE, TEXT)
    root, *binds = world.snapshotter.prepare("container", "two", {})
    assert root.type == "overlay"
    assert [bind.target for bind in binds] == [str(path) for path in sorted([ONE, TEXT, TWO])]
    assert {bind.type for bind in binds} == {"none"}
    assert {bind.options for bind in binds} == {("ro", "rbind")}
    assert [Path(bind.source).name for bind in binds] == [ONE.base, TWO.base, TEXT.base]
    assert world.snapshotter.mounts("container") == [root, *binds]
    assert world.farms.made == {}


def test_a_view_is_one_mount(world: World) -> None:
    world.layer("one", "", ONE)
    (root,) = world.snapshotter.view("view", "one", {})
    assert root.type == "overlay"
    assert list(world.farms.made.values()) == [(ONE,)]


def test_what_is_unpacked_above_gets_none(world: World) -> None:
    world.layer("one", "", ONE)
    assert len(world.snapshotter.prepare(EXTRACT, "one", {})) == 1
    assert len(world.snapshotter.prepare("k", "one", {REF: "sha256:1"})) == 1
    assert len(world.snapshotter.prepare("layer", "one", nix_labels(TWO))) == 1


def test_in_lower_mode_the_closure_is_the_first_lower_layer(world: World) -> None:
    world.mode = "lower"
    world.layer("one", "", ONE, LINK)
    (root,) = world.snapshotter.prepare("container", "one", {})
    farm = world.upper("container").parent / "farm"
    assert root.options[2] == f"lowerdir={farm}:{world.upper('one')}"
    assert farm.resolve().name in world.farms.names()
    assert world.farms.made[farm.resolve().name] == (ONE, LINK)
    (view,) = world.snapshotter.view("view", "one", {})
    assert view.type == "overlay"
    assert world.snapshotter.mounts("container") == [root]
    world.snapshotter.cleanup()
    assert len(world.farms.names()) == 1
    world.snapshotter.remove("container")
    world.snapshotter.cleanup()
    assert len(world.farms.names()) == 1  # the view has it
    world.snapshotter.remove("view")
    world.snapshotter.cleanup()
    assert world.farms.names() == set()


def test_large_closures_are_a_lower_layer_in_any_mode(world: World) -> None:
    world.layer("one", "", *(store_path(f"p{number}") for number in range(10)))
    assert len(world.snapshotter.prepare("below", "one", {})) == 11
    world.layer("two", "one", ONE)
    assert len(world.snapshotter.prepare("above", "two", {})) == 1


def test_a_path_that_is_a_link_is_never_bound(world: World) -> None:
    world.layer("one", "", ONE, LINK)
    places = sorted(entry.name for entry in (world.upper("one") / "nix/store").iterdir())
    assert places == sorted([ONE.base, LINK.base])  # as its blob has them
    root, *binds = world.snapshotter.prepare("container", "one", {})
    assert [bind.target for bind in binds] == [str(ONE)]
    assert "/farm:" in root.options[2]
    assert list(world.farms.made.values()) == [(LINK,)]


def test_a_mode_that_changes_is_the_one_of_the_next_mounts(world: World) -> None:
    world.layer("one", "", ONE)
    world.snapshotter.prepare("container", "one", {})
    world.mode = "lower"
    assert len(world.snapshotter.mounts("container")) == 1
    world.snapshotter.cleanup()
    assert len(world.farms.names()) == 1
    world.mode = "target"
    assert len(world.snapshotter.mounts("container")) == 2
    world.snapshotter.cleanup()
    assert len(world.farms.names()) == 1  # it may still be mounted from there


def test_paths_are_checked_again_whenever_they_are_handed_out(world: World) -> None:
    world.layer("one", "", ONE)
    world.snapshotter.prepare("container", "one", {})
    world.closures.valid.clear()
    with pytest.raises(PreconditionError):
        world.snapshotter.mounts("container")
    with pytest.raises(PreconditionError):
        world.snapshotter.prepare("another", "one", {})
    assert [info.name for info in world.snapshotter.walk()] == ["container", "one"]


def test_what_is_written_into_the_database_is_not_believed(world: World) -> None:
    world.layer("one", "", ONE)
    with world.store._writing() as db:
        db.run("update nix_paths set path = '/etc'")
    with pytest.raises(InternalError, match="no store path"):
        world.snapshotter.prepare("container", "one", {})


@pytest.mark.parametrize(
    "labels",
    [
        {NIX_LAYER: "true", f"{NIX_STORE_PATH}0": "/etc"},
        {f"{NIX_STORE_PATH}0": str(ONE)},
        {NIX_CLOSURE: "/nix/store"},
    ],
)
def test_evil_labels(world: World, labels: dict[str, str]) -> None:
    with pytest.raises(InvalidArgumentError):
        world.snapshotter.prepare(EXTRACT, "", labels)
    assert world.store.ids() == set()
    world.snapshotter.prepare(EXTRACT, "", {})
    with pytest.raises(InvalidArgumentError):
        world.snapshotter.commit("n", EXTRACT, labels)


def test_an_update_of_labels_mounts_nothing(world: World) -> None:
    world.layer("one")
    world.snapshotter.update("one", nix_labels(ONE), ())
    assert len(world.snapshotter.prepare("container", "one", {})) == 1


@pytest.mark.parametrize(
    "error",
    [UnavailableError("down"), nixfetch.CancelledError("gone"), nixfetch.StoreError("full")],
)
def test_a_failure_leaves_nothing(world: World, error: nixfetch.NixfetchError) -> None:
    world.closures.on_fetch = failing(error)
    with pytest.raises(type(error)):
        world.snapshotter.prepare(EXTRACT, "", nix_labels(ONE))
    assert world.store.ids() == set()
    assert world.directories() == []
    assert world.closures.rooted == {}
    world.closures.on_fetch = lambda _: None
    world.snapshotter.prepare(EXTRACT, "", nix_labels(ONE))


def test_the_root_of_a_layer_goes_with_it(world: World) -> None:
    world.layer("one", "", ONE)
    world.layer("two", "", ONE)
    world.snapshotter.remove("one")
    assert len(world.closures.rooted) == 1
    world.snapshotter.remove("two")
    assert world.closures.rooted == {}


# Layers that need no blob.


def test_a_layer_that_labels_describe_wholly_needs_no_blob(world: World) -> None:
    ref = whole(ONE, TEXT)
    labels = nix_labels(ONE, TEXT, complete=True, ref=ref)
    with pytest.raises(AlreadyExistsError):
        world.snapshotter.prepare(EXTRACT, "", labels)
    wanted = Filter.parse([f'labels."{REF}"=="{ref}",parent==""'])
    (info,) = world.snapshotter.walk(wanted)
    assert info.kind is Kind.COMMITTED
    names = sorted(entry.name for entry in (world.upper(info.name) / "nix/store").iterdir())
    assert names == [ONE.base, TEXT.base]
    assert world.snapshotter.usage(info.name).inodes == 5
    assert len(world.closures.rooted) == 1
    assert len(world.snapshotter.prepare("container", info.name, {})) == 3
    # Another node of containerd's, another namespace: there it is.
    for key in ("other/extract-9-x sha256:feed", EXTRACT):
        with pytest.raises(AlreadyExistsError):
            world.snapshotter.prepare(key, "", labels)
    assert len(world.snapshotter.walk(wanted)) == 1
    assert len(world.closures.rooted) == 1


@pytest.mark.parametrize(
    "parent", ["default/2/sha256:" + "a" * 64, "x/extract-1-b sha256:" + "b" * 64]
)
def test_above_other_layers_too(world: World, parent: str) -> None:
    world.layer(parent)
    labels = nix_labels(ONE, complete=True, ref=whole(ONE, parent=parent))
    with pytest.raises(AlreadyExistsError):
        world.snapshotter.prepare(EXTRACT, parent, labels)


@pytest.mark.parametrize(
    "labels",
    [
        nix_labels(ONE, ref="sha256:1"),
        nix_labels(ONE, complete=True),
        # Labels that lie: another layer has that digest, and would be replaced by this one.
        nix_labels(ONE, complete=True, ref=whole(TWO)),
        nix_labels(ONE, complete=True, ref=whole(ONE, TWO)),
        nix_labels(ONE, complete=True, ref=whole(ONE, parent="sha256:" + "a" * 64)),
        nix_labels(LINK, complete=True, ref=whole(LINK)),  # where it leads makes a difference
    ],
)
def test_all_other_layers_are_unpacked(world: World, labels: dict[str, str]) -> None:
    assert len(world.snapshotter.prepare(EXTRACT, "", labels)) == 1
    assert world.snapshotter.stat(EXTRACT).kind is Kind.ACTIVE


def test_two_who_prepare_the_same_layer_at_once(world: World) -> None:
    labels = nix_labels(ONE, complete=True, ref=whole(ONE))
    both = threading.Barrier(2)

    def fetch(_: object) -> None:
        both.wait(PATIENCE)

    world.closures.on_fetch = fetch
    outcomes: list[str] = []

    def prepare(key: str) -> None:
        try:
            world.snapshotter.prepare(key, "", labels)
        except AlreadyExistsError as error:
            outcomes.append(error.problem)

    threads = [threading.Thread(target=prepare, args=[key]) for key in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(outcomes) == ["layer is ready", "layer is ready: another was faster"]
    assert len(world.store.ids()) == len(world.closures.rooted) == len(world.directories()) == 1


def test_two_with_the_same_key_at_once(world: World) -> None:
    fetching, go_on = threading.Event(), threading.Event()

    def fetch(_: object) -> None:
        fetching.set()
        assert go_on.wait(PATIENCE)

    world.closures.on_fetch = fetch
    outcomes: list[object] = []

    def prepare() -> None:
        try:
            outcomes.append(len(world.snapshotter.prepare("k", "", nix_labels(ONE))))
        except AlreadyExistsError:
            outcomes.append("exists")

    threads = [threading.Thread(target=prepare) for _ in range(2)]
    threads[0].start()
    assert fetching.wait(PATIENCE)
    threads[1].start()
    # Nobody else waits meanwhile: no transaction is open.
    world.snapshotter.prepare("other", "", {})
    with pytest.raises(NotFoundError):
        world.snapshotter.stat("k")
    go_on.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert outcomes == [1, "exists"]


def test_who_gave_up_is_told_to_the_fetch(world: World) -> None:
    def fetch(cancelled: Callable[[], bool]) -> None:
        assert cancelled()
        raise nixfetch.CancelledError("nobody waits")

    world.closures.on_fetch = fetch
    with pytest.raises(nixfetch.CancelledError):
        world.snapshotter.prepare("k", "", nix_labels(ONE), cancelled=lambda: True)
    assert world.store.ids() == set()


# Layers whose labels never came.


def unpacked(world: World, *names: str, parent: str = "") -> None:
    """Prepare `EXTRACT`, and write places of those names."""
    world.snapshotter.prepare(EXTRACT, parent, {})
    for name in names:
        place = world.upper(EXTRACT) / "nix/store" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".txt"):
            place.touch()
        else:
            place.mkdir()


def test_a_layer_without_labels_is_known_by_its_places(world: World) -> None:
    unpacked(world, ONE.base, TEXT.base)
    world.snapshotter.commit("layer", EXTRACT, {})
    assert world.closures.fetches == 1
    assert list(world.closures.rooted.values()) == [(ONE, TEXT)]
    assert len(world.snapshotter.prepare("container", "layer", {})) == 3


def test_labels_that_come_with_the_commit_are_none_that_count(world: World) -> None:
    world.snapshotter.prepare(EXTRACT, "", {})
    world.snapshotter.commit("layer", EXTRACT, nix_labels(ONE))
    assert len(world.snapshotter.prepare("container", "layer", {})) == 1


def test_a_layer_has_the_paths_that_it_has_places_for_whatever_its_labels_say(world: World) -> None:
    # Others share the layer by its digest: the labels of one image would be theirs.
    for name, labels, places, expected in (
        ("stranger", nix_labels(TWO), (), []),
        ("fewer", nix_labels(ONE), (ONE, TWO), [ONE, TWO]),
        ("more", nix_labels(ONE, TWO), (ONE,), [ONE]),
        ("others", nix_labels(TWO), (ONE,), [ONE]),
    ):
        key = f"default/1/extract-1-{name} {name}"
        world.snapshotter.prepare(key, "", labels)
        if places:
            world.unpack(key, *places)
        world.snapshotter.commit(name, key, labels)
        _, *binds = world.snapshotter.prepare(f"container of {name}", name, {})
        assert [bind.target for bind in binds] == sorted(map(str, expected)), name
        rooted = [paths for paths in world.closures.rooted.values() if paths == tuple(expected)]
        assert len(rooted) == (1 if expected else 0), name
        world.snapshotter.remove(f"container of {name}")
        world.snapshotter.remove(name)
        assert world.closures.rooted == {}


def unfetched(code: int, *paths: StorePath) -> nixfetch.FetchFailedError:
    """The error of a fetch that had none of `paths`."""

    class Reason(nixfetch.NixfetchError):
        exit_code = code

    report = nixfetch.Report(store="/", requested=paths)
    for path in paths:
        report.paths[path] = nixfetch.PathReport(
            path=path, status=nixfetch.Status.FAILED, error=Reason("no")
        )
    return nixfetch.FetchFailedError(report)


def test_an_ordinary_layer_may_have_an_empty_directory_that_nobody_knows(world: World) -> None:
    unpacked(world, ONE.base)
    world.closures.on_fetch = failing(unfetched(3, ONE))
    world.snapshotter.commit("layer", EXTRACT, {})
    assert world.closures.rooted == {}
    assert len(world.snapshotter.prepare("container", "layer", {})) == 1


@pytest.mark.parametrize(
    "error", [unfetched(5, ONE, TWO), unfetched(4, ONE, TWO), unfetched(3, ONE)]
)
def test_a_layer_that_is_known_and_cannot_be_had(
    world: World, error: nixfetch.NixfetchError
) -> None:
    unpacked(world, ONE.base, TWO.base)
    world.closures.on_fetch = failing(error)
    with pytest.raises(nixfetch.FetchFailedError):
        world.snapshotter.commit("layer", EXTRACT, {})
    assert world.snapshotter.stat(EXTRACT).kind is Kind.ACTIVE
    world.closures.on_fetch = lambda _: None
    world.snapshotter.commit("layer", EXTRACT, {})


def test_a_commit_that_fails_leaves_no_root(world: World) -> None:
    world.layer("taken")
    unpacked(world, ONE.base)
    with pytest.raises(AlreadyExistsError):
        world.snapshotter.commit("taken", EXTRACT, {})
    assert world.closures.rooted == {}


# What a crash leaves.


def test_a_snapshot_that_was_being_made_is_gone(world: World) -> None:
    snapshot = world.store.create(Kind.ACTIVE, "k", "", {})
    Layers(world.place).make(snapshot.id, Kind.ACTIVE, parent=None)
    world.closures.add(ONE)
    world.closures.root(f"{world.store.instance}-{snapshot.id}", [ONE])
    world.snapshotter.recover()
    assert world.store.ids() == set()
    assert world.directories() == []
    assert world.closures.rooted == {}
    world.snapshotter.prepare("k", "", {})


def test_directories_and_roots_of_nobody_are_gone(world: World) -> None:
    world.layer("one", "", ONE)
    Layers(world.place).make(99, Kind.ACTIVE, parent=None)
    world.closures.root(f"{world.store.instance}-99", [ONE])
    world.closures.root("0badcafe-1", [ONE])  # of another daemon
    world.snapshotter.recover()
    assert world.directories() == ["1"]
    assert set(world.closures.rooted) == {f"{world.store.instance}-1", "0badcafe-1"}


def test_a_container_that_came_back_without_its_directory_is_forgotten(world: World) -> None:
    world.layer("one")
    world.snapshotter.prepare("lost", "one", {})
    world.snapshotter.prepare("kept", "one", {})
    shutil.rmtree(world.upper("lost").parent)
    world.snapshotter.recover()
    assert [info.name for info in world.snapshotter.walk()] == ["kept", "one"]


def test_roots_that_are_missing_are_made_again(world: World) -> None:
    world.layer("one", "", ONE)
    world.layer("two", "", TWO)
    world.closures.rooted.clear()
    world.closures.valid.discard(TWO)
    world.snapshotter.recover()
    assert world.closures.rooted == {f"{world.store.instance}-1": (ONE,)}


def test_a_running_container_has_the_same_mounts_after_a_restart(world: World) -> None:
    world.layer("one", "", ONE, LINK)
    before = world.snapshotter.prepare("container", "one", {})
    again = world.start()
    again.recover()
    again.cleanup()
    assert again.mounts("container") == before
