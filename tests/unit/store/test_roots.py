from __future__ import annotations

import os
import shutil
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from garden import Garden
from nixfetch.errors import StoreError
from nixfetch.store import LocalStore, Root, RootKind, Roots
from nixfetch.store.gone import TreeGoneError
from nixfetch.store.local import ReadOnlyStoreError
from nixfetch.store.newroots import collecting
from nixfetch.store.roots import (
    NoSuchRootError,
    PathNotValidError,
    RootNameError,
    RootTakenError,
    find_roots,
    numbered,
    parse_root,
)
from simulated_cache import store_path
from unit.store.disk_trees import entries

if TYPE_CHECKING:
    from collections.abc import Iterator

A, B, C = map(store_path, "abc")
LONG, DEEP = "x" * 256, "/" + "x/" * 2100 + "y"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    garden = Garden(tmp_path_factory.mktemp("garden"))
    garden.plant({"a": [], "b": ["a"]})
    garden.grow()
    return garden.root


@pytest.fixture
def store(root: Path) -> Iterator[LocalStore]:
    """Open, without roots."""
    with LocalStore(root) as store:
        for directory in (store.layout.gc_roots, store.layout.profiles):
            remove_links(directory)
        yield store


def remove_links(directory: Path) -> None:
    for entry in directory.rglob("*"):
        if entry.is_symlink() or entry.is_file():
            entry.unlink()


def seen(store: LocalStore) -> list[tuple[str, str, str | None, bool]]:
    return [
        (root.kind.value, root.name, root.path.name if root.path else None, root.is_valid)
        for root in Roots(store).list()
    ]


# Names.


@pytest.mark.parametrize("text", ["a", "a b", ".hidden", "x" * 255, "-", "\u00fc", "\udcff"])
def test_names(text: str, store: LocalStore) -> None:
    Roots(store).add(text, A)
    link = store.layout.named_roots / text
    assert os.readlink(link) == str(A)  # noqa: PTH115 - as it is written
    assert [root.name for root in Roots(store).list()] == [text]
    Roots(store).remove(text)
    assert not link.is_symlink()


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "a\nb", "a\x7f", "/", "a/", "a/..", "./.", "\0", LONG, "\u00fc" * 128, DEEP],
)
def test_what_nothing_can_be_called(text: str, store: LocalStore) -> None:
    with pytest.raises(RootNameError):
        parse_root(text)
    with pytest.raises(RootNameError):
        Roots(store).add(text, A)
    with pytest.raises(RootNameError):
        Roots(store).remove(text)


def test_several_paths_are_numbered() -> None:
    assert [numbered("web", number) for number in (1, 2, 3)] == ["web", "web-2", "web-3"]


# Making and removing.


def test_a_name_is_replaced(store: LocalStore) -> None:
    roots = Roots(store)
    roots.add("web", A)
    roots.add("web", B)
    assert seen(store) == [("named", "web", "b", True)]
    assert entries(store.layout.named_roots) == ["web"]
    assert entries(store.layout.new_links) == []


def test_a_link_and_what_knows_it(store: LocalStore, tmp_path: Path) -> None:
    link = tmp_path / "result"
    Roots(store).add(str(tmp_path / "x/../result"), A)
    assert link.readlink() == Path(str(A))
    [known] = store.layout.indirect_roots.iterdir()
    assert known.readlink() == link
    Roots(store).add(str(link), B)
    assert link.readlink() == Path(str(B))
    assert seen(store) == [("link", str(link), "b", True)]
    assert entries(tmp_path) == ["result"]
    Roots(store).remove(str(link))
    assert not link.is_symlink()
    assert seen(store) == []


def test_a_relative_link(store: LocalStore, tmp_path: Path) -> None:
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        Roots(store).add("./result", A)
        Roots(store).remove(f"../{tmp_path.name}/result")
    finally:
        os.chdir(before)
    assert entries(tmp_path) == []


def test_a_link_takes_no_ones_place(store: LocalStore, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("data")
    other = tmp_path / "other"
    other.symlink_to(file)
    for taken in (file, other, tmp_path):
        with pytest.raises(RootTakenError) as caught:
            Roots(store).add(str(taken), A)
        assert caught.value.facts == {"link": str(taken)}
    assert file.read_text() == "data"
    assert seen(store) == []


def test_no_link_in_the_store(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(store.layout.store)
    for directory in (store.layout.store, Path("/nix/store"), tmp_path / "alias"):
        with pytest.raises(RootTakenError, match="in the store"):
            Roots(store).add(f"{directory}/result", A)


def test_a_path_that_is_not_valid(store: LocalStore, tmp_path: Path) -> None:
    for name in ("web", str(tmp_path / "result")):
        with pytest.raises(PathNotValidError) as caught:
            Roots(store).add(name, C)
        assert caught.value.facts == {"path": C}
    assert seen(store) == []


def test_a_path_whose_tree_is_gone(tmp_path: Path) -> None:
    garden = Garden(tmp_path)
    garden.plant({"a": []})
    garden.grow()
    shutil.rmtree(garden.tree("a"))
    with LocalStore(tmp_path) as store:
        with pytest.raises(TreeGoneError) as caught:
            Roots(store).add("name", A)
        assert Roots(store).list() == []
    assert caught.value.facts == {"path": A}


def test_what_is_not_there_cannot_be_removed(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(str(A))  # nobody's root
    for name in ("web", str(tmp_path / "none"), str(tmp_path / "link")):
        with pytest.raises(NoSuchRootError) as caught:
            Roots(store).remove(name)
        assert caught.value.exit_code == 1
    assert (tmp_path / "link").is_symlink()


def test_removing_leaves_what_took_the_place_of_a_link(store: LocalStore, tmp_path: Path) -> None:
    link = tmp_path / "result"
    Roots(store).add(str(link), A)
    link.unlink()
    link.write_text("mine")
    Roots(store).remove(str(link))
    assert link.read_text() == "mine"
    Roots(store).add(str(tmp_path / "gone"), A)
    (tmp_path / "gone").unlink()
    Roots(store).remove(str(tmp_path / "gone"))
    assert seen(store) == []


def test_removing_a_link_of_gcroots(store: LocalStore) -> None:
    link = store.layout.gc_roots / "mine"
    link.symlink_to(str(A))
    assert seen(store) == [("direct", str(link), "a", True)]
    Roots(store).remove(str(link))
    assert seen(store) == []
    with pytest.raises(NoSuchRootError):
        Roots(store).remove(str(link))


def test_a_missing_directory(store: LocalStore, tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        Roots(store).add(str(tmp_path / "none/result"), A)
    assert caught.value.facts["errno"] == "ENOENT"
    assert seen(store) == []


def test_a_store_that_is_open_for_reading(root: Path, store: LocalStore) -> None:
    with LocalStore(root, read_only=True) as reader:
        assert Roots(reader).list() == []
        with pytest.raises(ReadOnlyStoreError):
            Roots(reader).add("web", A)
        with pytest.raises(ReadOnlyStoreError):
            Roots(reader).remove("web")


def test_a_collector_at_work_is_told_though_the_path_is_held(store: LocalStore) -> None:
    store.hold([A])
    with collecting(store.layout) as new_roots:
        thread = threading.Thread(target=Roots(store).add, args=["web", A])
        thread.start()
        thread.join()
        assert new_roots.claim([A.hash_part]) == {A.hash_part}


def test_many_replace_one_root_at_a_time(store: LocalStore) -> None:
    """Whoever looks sees one of them, and a sweep meanwhile costs nobody anything."""
    roots, over = Roots(store), threading.Event()
    link = store.layout.named_roots / "web"
    roots.add("web", A)

    def sweep() -> None:
        while not over.is_set():
            with suppress(FileNotFoundError):
                for scratch in store.layout.new_links.iterdir():
                    scratch.unlink(missing_ok=True)
            assert link.readlink().name in {A.base, B.base}

    def replace() -> None:
        for path in (A, B) * 10:
            roots.add("web", path)

    sweeper = threading.Thread(target=sweep)
    sweeper.start()
    threads = [threading.Thread(target=replace) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    over.set()
    sweeper.join()
    assert entries(store.layout.named_roots) == ["web"]


# What Nix's rules make of what lies there.


def make(store: LocalStore, entry: str, target: str | Path) -> Path:
    link = store.layout.state / entry
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(target)
    return link


def test_all_kinds(store: LocalStore, tmp_path: Path) -> None:
    Roots(store).add("web", A)
    Roots(store).add(str(tmp_path / "out"), B)
    make(store, "gcroots/direct", f"{A}/bin/tool")
    make(store, "gcroots/per-user/me/x", str(A))
    profile = make(store, "profiles/default-1-link", str(B))
    make(store, "profiles/default", "default-1-link")
    make(store, "gcroots/gone", str(C))
    (store.layout.gc_roots / B.base).touch()
    gone = make(store, "gcroots/auto/x", tmp_path / "gone")
    found = {(root.kind, root.entry.name, root.path, root.is_valid) for root in Roots(store).list()}
    [known] = {entry for entry in entries(store.layout.indirect_roots) if entry != "x"}
    assert found == {
        (RootKind.NAMED, "web", A, True),
        (RootKind.LINK, known, B, True),
        (RootKind.LINK, "x", None, False),
        (RootKind.PROFILE, "default-1-link", B, True),
        (RootKind.PROFILE, "default", B, True),
        (RootKind.PER_USER, "x", A, True),
        (RootKind.DIRECT, "direct", A, True),
        (RootKind.DIRECT, "gone", C, False),
        (RootKind.DIRECT, B.base, B, True),
    }
    stale = Root(kind=RootKind.LINK, entry=gone, link=tmp_path / "gone", path=None)
    assert [root for root in Roots(store).list() if root.is_stale] == [stale]
    assert {root.link for root in Roots(store).list() if root.path == B} >= {
        tmp_path / "out",
        profile,
    }


def test_what_keeps_nothing(store: LocalStore, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "two").symlink_to(tmp_path / "three")
    (tmp_path / "three").symlink_to(str(A))
    (tmp_path / "odd").symlink_to("/nix/store/.links")
    make(store, "gcroots/physical", store.layout.physical(A))
    make(store, "gcroots/file", tmp_path / "file")
    make(store, "gcroots/auto/file", tmp_path / "file")
    make(store, "gcroots/auto/two", tmp_path / "two")  # a link to a link to a link
    make(store, "gcroots/auto/odd", tmp_path / "odd")
    make(store, "gcroots/store", "/nix/store")
    make(store, "gcroots/nobody", tmp_path / "none")  # not in auto: not even stale
    make(store, "gcroots/circle", "circle")
    (store.layout.gc_roots / "note.txt").touch()
    os.mkfifo(store.layout.gc_roots / C.base)
    assert seen(store) == []
    (store.layout.gc_roots / C.base).unlink()


def test_unreadable_places_are_passed_over_with_a_word(
    store: LocalStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    make(store, "gcroots/auto/below-a-file", tmp_path / "file/link")
    assert list(find_roots(store.layout)) == []
    assert "cannot see what the root" in caplog.text
