from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from snapshotter import rows
from snapshotter.database import DatabaseError
from snapshotter.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    NotFoundError,
    PreconditionError,
)
from snapshotter.lifecycle import REF, Kind, Usage
from snapshotter.metastore import Metastore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOTHING = Usage(0, 0)


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000_123_456_789

    def __call__(self) -> int:
        self.now += 1
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Metastore]:
    with closing(Metastore(tmp_path / "db", durable=False, now=clock)) as store:
        yield store


def active(store: Metastore, key: str, parent: str = "", **labels: str) -> int:
    snapshot = store.create(Kind.ACTIVE, key, parent, labels)
    store.finish(snapshot.id)
    return snapshot.id


def layer(store: Metastore, name: str, parent: str = "", *paths: str, ref: str = "") -> int:
    id_ = active(store, f"{name}-key", parent)
    labels = {REF: ref} if ref else {}
    store.commit(f"{name}-key", name, labels, Usage(4096, 1), paths=paths)
    return id_


def test_a_snapshot_is_seen_once_it_is_finished(store: Metastore) -> None:
    snapshot = store.create(Kind.ACTIVE, "k", "", {"a": "1"})
    with pytest.raises(NotFoundError):
        store.info("k")
    with pytest.raises(NotFoundError):
        store.snapshot("k")
    with pytest.raises(NotFoundError):
        store.remove("k")
    with pytest.raises(NotFoundError):
        store.update("k", {}, ())
    with pytest.raises(NotFoundError):
        store.commit("k", "n", {}, NOTHING)
    assert store.walk() == []
    assert store.unfinished() == [snapshot.id]
    assert store.ids() == {snapshot.id}
    store.finish(snapshot.id)
    info = store.info("k")
    assert (info.name, info.parent, info.kind, dict(info.labels)) == (
        "k",
        "",
        Kind.ACTIVE,
        {"a": "1"},
    )
    assert store.unfinished() == []


def test_times_are_in_nanoseconds(store: Metastore, clock: Clock) -> None:
    active(store, "k")
    created = clock.now
    assert store.info("k").created_ns == store.info("k").updated_ns == created
    after = store.update("k", {"a": "1"}, ())
    assert (after.created_ns, after.updated_ns) == (created, created + 1)
    store.commit("k", "n", {}, NOTHING)
    assert store.info("n").created_ns == store.info("n").updated_ns == created + 2


def test_a_name_is_reserved_from_the_start(store: Metastore) -> None:
    store.create(Kind.ACTIVE, "k", "", {})
    with pytest.raises(AlreadyExistsError):
        store.create(Kind.VIEW, "k", "", {})
    active(store, "other")
    with pytest.raises(AlreadyExistsError):
        store.commit("other", "k", {}, NOTHING)


def test_what_cannot_be_made_can_be_abandoned(store: Metastore) -> None:
    snapshot = store.create(Kind.ACTIVE, "k", "", {"a": "1"})
    store.abandon(snapshot.id)
    store.abandon(active(store, "k"))  # what is finished stays
    assert store.info("k").labels == {}


def test_ids_are_never_used_twice(store: Metastore) -> None:
    first = active(store, "a")
    store.remove("a")
    assert active(store, "a") > first


@pytest.mark.parametrize("kind", [Kind.ACTIVE, Kind.VIEW])
def test_parents(store: Metastore, kind: Kind) -> None:
    with pytest.raises(NotFoundError, match="parent"):
        store.create(kind, "k", "nobody", {})
    active(store, "active")
    with pytest.raises(InvalidArgumentError):
        store.create(kind, "k", "active", {})
    one = layer(store, "one")
    two = layer(store, "two", "one")
    snapshot = store.create(kind, "k", "two", {})
    assert snapshot.parents == (two, one)
    store.finish(snapshot.id)
    found = store.snapshot("k")
    assert (found.id, found.kind, found.parents) == (snapshot.id, kind, (two, one))
    assert store.info("k").parent == "two"


def test_a_parent_cannot_go(store: Metastore) -> None:
    layer(store, "one")
    child = store.create(Kind.ACTIVE, "k", "one", {})
    for _ in range(2):  # neither while its child is made nor later
        with pytest.raises(PreconditionError, match="cannot remove"):
            store.remove("one")
        store.finish(child.id)
    store.remove("k")
    store.remove("one")
    assert store.ids() == set()


def test_a_commit_gives_up_the_key_and_the_labels(store: Metastore) -> None:
    id_ = active(store, "k", a="1")
    store.commit("k", "n", {"b": "2"}, Usage(8192, 2))
    with pytest.raises(NotFoundError):
        store.info("k")
    assert (store.info("n").kind, dict(store.info("n").labels)) == (Kind.COMMITTED, {"b": "2"})
    assert store.usage("n") == (id_, Kind.COMMITTED, Usage(8192, 2))
    with pytest.raises(PreconditionError):
        store.commit("n", "again", {}, NOTHING)


def test_a_commit_that_fails_changes_nothing(store: Metastore) -> None:
    layer(store, "one")
    layer(store, "two")
    active(store, "k", "one", a="1")
    before = store.walk()
    with pytest.raises(AlreadyExistsError):
        store.commit("k", "two", {}, NOTHING)
    with pytest.raises(InvalidArgumentError):
        store.commit("k", "n", {}, NOTHING, parent="two")
    with pytest.raises(NotFoundError):
        store.commit("nobody", "n", {}, NOTHING)
    store.create(Kind.VIEW, "view", "", {})
    with pytest.raises(NotFoundError):
        store.commit("view", "n", {}, NOTHING)
    assert store.walk() == before


def test_a_parent_may_come_with_the_commit(store: Metastore) -> None:
    one = layer(store, "one")
    active(store, "k")
    with pytest.raises(NotFoundError):
        store.commit("k", "n", {}, NOTHING, parent="nobody")
    store.commit("k", "n", {}, NOTHING, parent="one")
    assert store.info("n").parent == "one"
    assert store.snapshot("n").parents == (one,)


def test_store_paths_of_a_chain(store: Metastore) -> None:
    layer(store, "one", "", "/a", "/b")
    layer(store, "plain", "one")
    top = layer(store, "two", "plain", "/b", "/c")
    container = store.create(Kind.ACTIVE, "k", "two", {})
    assert container.paths == ("/b", "/c", "/a")
    assert not container.own_paths
    store.finish(container.id)
    assert store.snapshot("k").paths == ("/b", "/c", "/a")
    assert store.snapshot("two").own_paths
    assert not store.snapshot("plain").own_paths
    assert store.own_paths(top) == ("/b", "/c")
    assert store.rooted() == {top, store.snapshot("one").id}
    removed = store.remove("k")
    assert (removed.id, removed.own_paths, removed.farm) == (container.id, False, None)
    assert store.remove("two").own_paths


def test_a_commit_keeps_the_store_paths_of_its_preparation(store: Metastore) -> None:
    snapshot = store.create(Kind.ACTIVE, "k", "", {}, unpacking=True)
    store.finish(snapshot.id, paths=["/a"])
    assert store.snapshot("k").unpacking
    store.commit("k", "n", {}, NOTHING)
    assert store.own_paths(snapshot.id) == ("/a",)


def test_a_layer_that_needs_no_blob(store: Metastore) -> None:
    snapshot = store.create(Kind.ACTIVE, "k", "", {REF: "sha256:1"}, unpacking=True)
    assert store.layer("sha256:1", "") is None
    assert store.finish_layer(snapshot.id, "sha256:1", Usage(4096, 3), paths=["/a"])
    assert store.layer("sha256:1", "") == "k"
    assert store.layer("sha256:1", "another parent") is None
    assert store.layer("sha256:2", "") is None
    assert store.info("k").kind is Kind.COMMITTED
    assert store.usage("k")[2] == Usage(4096, 3)


def test_one_layer_of_a_chain_is_enough(store: Metastore) -> None:
    snapshots = [
        store.create(Kind.ACTIVE, key, "", {REF: "sha256:1"}, unpacking=True)
        for key in ("first", "second")
    ]
    assert store.finish_layer(snapshots[1].id, "sha256:1", NOTHING, paths=["/a"])
    assert not store.finish_layer(snapshots[0].id, "sha256:1", NOTHING, paths=["/a"])
    assert store.unfinished() == [snapshots[0].id]
    assert store.layer("sha256:1", "") == "second"


def test_an_ordinary_layer_stands_for_no_other(store: Metastore) -> None:
    layer(store, "ordinary", ref="sha256:1")
    assert store.layer("sha256:1", "") is None


def test_farms_in_use(store: Metastore) -> None:
    snapshot = store.create(Kind.ACTIVE, "k", "", {})
    store.finish(snapshot.id, farm="one")
    other = active(store, "other")
    assert store.farms() == {"one"}
    store.set_farm(other, "two")
    assert store.farms() == {"one", "two"}
    assert store.snapshot("other").farm == "two"
    assert store.remove("k").farm == "one"
    assert store.farms() == {"two"}


def test_walks_can_be_narrowed(store: Metastore) -> None:
    layer(store, "one", ref="sha256:1")
    layer(store, "two", "one", ref="sha256:2")
    for number in range(30):  # more than labels are looked up for one by one
        active(store, f"k{number:02}", "two", number=str(number))

    def names(**where: str) -> list[str]:
        return [
            info.name for info in store.walk({k.replace("_", " "): v for k, v in where.items()})
        ]

    assert names() == [*(f"k{number:02}" for number in range(30)), "one", "two"]
    assert names(name="one") == ["one"]
    assert names(parent="one") == ["two"]
    assert names(parent="") == ["one"]
    assert names(label_number="7") == ["k07"]
    assert names(label_number="7", parent="one") == []
    assert [info.labels.get("number") for info in store.walk()][:2] == ["0", "1"]
    assert [info.name for info in store.walk({f"label {REF}": "sha256:2"})] == ["two"]


def test_chains_are_found_by_an_index(store: Metastore) -> None:
    plan = f"explain query plan select snapshot_id from labels where {rows.REF_IS}"
    with store._reading() as db:
        assert "INDEX refs" in db.rows(plan, ["sha256:1"])[0][-1]


def test_counts(store: Metastore) -> None:
    layer(store, "one")
    active(store, "a")
    store.create(Kind.VIEW, "unfinished", "", {})
    assert store.counts() == {Kind.COMMITTED: 1, Kind.ACTIVE: 1}


def test_all_of_it_is_there_again(tmp_path: Path) -> None:
    with closing(Metastore(tmp_path / "db")) as store:
        layer(store, "one", "", "/a")
        active(store, "k", "one", a="1")
        before, instance = store.walk(), store.instance
    with closing(Metastore(tmp_path / "db")) as store:
        assert store.walk() == before
        assert store.instance == instance
        assert store.snapshot("k").paths == ("/a",)


def test_a_database_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "db").write_bytes(b"nonsense " * 1000)
    with pytest.raises(DatabaseError):
        Metastore(tmp_path / "db")


def test_a_database_of_the_future(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "db")) as db:
        db.execute("pragma user_version = 99")
    with pytest.raises(DatabaseError, match="another version") as caught:
        Metastore(tmp_path / "db")
    assert caught.value.facts["version"] == 99


def test_many_threads_at_once(store: Metastore) -> None:
    layer(store, "base", "", "/a")
    errors: list[BaseException] = []

    def work(worker: int) -> None:
        try:
            for turn in range(20):
                key = f"{worker}-{turn}"
                id_ = active(store, key, "base", worker=str(worker))
                assert store.snapshot(key).id == id_
                assert store.info(key).labels["worker"] == str(worker)
                store.walk({"name": key})
                store.remove(key)
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert [info.name for info in store.walk()] == ["base"]
