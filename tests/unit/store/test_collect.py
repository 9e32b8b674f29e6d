from __future__ import annotations

import fcntl
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING

import pytest

from garden import Garden
from nixfetch.store import LocalStore, Roots
from nixfetch.store.collect import Collected, _Collector, collect
from nixfetch.store.database import Database
from nixfetch.store.disk import DiskError
from nixfetch.store.journal import Journal, staging_name
from nixfetch.store.layout import Layout
from nixfetch.store.local import ReadOnlyStoreError
from nixfetch.store.meter import Meter
from nixfetch.store.newroots import CollectorRunningError, collecting
from nixfetch.store.reserve import give_up_reserve, keep_reserve
from nixfetch.store.temproots import TempRoots
from unit.store.disk_trees import NOBODY, TESTS, descriptors, entries, python

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nixfetch.formats.storepath import StorePath

CHAIN: dict[str, list[str]] = {
    "lib": ["lib"],
    "tool": ["lib"],
    "app": ["tool", "lib"],
    "old": ["lib"],
    "alone": [],
}


@pytest.fixture
def garden(memory_path: Path) -> Garden:
    garden = Garden(memory_path / "root")
    garden.plant(CHAIN, files=4)
    garden.grow()
    return garden


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """Nobody uses anything."""
    (tmp_path / "proc").mkdir()
    return tmp_path / "proc"


@pytest.fixture
def gc(garden: Garden, proc: Path) -> Callable[..., Collected]:
    """Collects in the garden."""

    def run(**options: object) -> Collected:
        read_only = bool(options.get("dry_run"))
        with LocalStore(garden.root, read_only=read_only) as store:
            return collect(store, proc=proc, **options)  # type: ignore[arg-type] # by name

    return run


def names(paths: tuple[StorePath, ...]) -> list[str]:
    return sorted(path.name for path in paths)


def keep(garden: Garden, *paths: str) -> None:
    with LocalStore(garden.root) as store:
        for path in paths:
            Roots(store).add(path, garden.path(path))


def files(directory: Path) -> list[Path]:
    """All below `directory` but what SQLite makes for readers."""
    found = sorted(directory.rglob("*"))
    return [file for file in found if not file.name.endswith(("-shm", "-wal"))]


def size(directory: Path) -> int:
    """Bytes on the disk below `directory`, each file once."""
    inodes = {}
    for entry in [directory, *directory.rglob("*")]:
        status = entry.lstat()
        inodes[status.st_ino] = status.st_blocks * 512
    return sum(inodes.values())


# What goes, and what stays.


def test_what_no_root_reaches_goes(garden: Garden, gc: Callable[..., Collected]) -> None:
    keep(garden, "tool")
    before = size(garden.root / "nix/store")
    deleted: list[StorePath] = []
    collected = gc(on_deleted=deleted.append)
    assert names(collected.paths) == ["alone", "app", "old"]
    assert collected.paths == tuple(deleted)
    assert garden.valid() == garden.on_disk() == ["lib", "tool"]
    assert collected.bytes_freed == before - size(garden.root / "nix/store")
    assert collected.links_removed == 6  # two files of each path are its own
    assert collected.failures == ()
    assert collected.leftovers == ()
    assert gc() == Collected()


def test_without_roots_nothing_stays(garden: Garden, gc: Callable[..., Collected]) -> None:
    collected = gc()
    assert names(collected.paths) == sorted(CHAIN)
    order = [path.name for path in collected.paths]
    assert order.index("app") < order.index("tool") < order.index("lib")
    assert garden.valid() == garden.on_disk() == []
    assert entries(garden.root / "nix/store/.links") == []
    garden.grow()
    assert garden.valid() == sorted(CHAIN)


def test_a_dry_run_says_the_same_and_changes_nothing(
    garden: Garden, gc: Callable[..., Collected]
) -> None:
    keep(garden, "tool")
    garden.tree("junk").mkdir()
    state = garden.root / "nix/var/nix"
    stale = state / "gcroots/auto/x"
    stale.parent.mkdir(exist_ok=True)
    stale.symlink_to(garden.root / "none")
    (state / "temproots/99999999").write_text(f"{garden.path('old')}\0")
    before = files(garden.root)
    deleted: list[StorePath] = []
    foreseen = gc(dry_run=True, on_deleted=deleted.append)
    assert files(garden.root) == before
    collected = gc()
    assert foreseen.paths == tuple(deleted) == collected.paths
    assert foreseen.leftovers == collected.leftovers == (garden.path("junk").base,)
    assert 0 < foreseen.bytes_freed <= collected.bytes_freed
    assert not stale.is_symlink()
    assert entries(state / "temproots") == []


def test_a_deriver_stays_with_its_output(memory_path: Path, proc: Path) -> None:
    garden = Garden(memory_path / "root")
    garden.plant(
        {"source": [], "out.drv": ["source"], "out": [], "other.drv": ["source"]},
        derivers={"out": "out.drv"},
    )
    garden.grow()
    keep(garden, "out")
    with LocalStore(garden.root) as store:
        assert names(collect(store, proc=proc).paths) == ["other.drv"]
    assert garden.valid() == ["out", "out.drv", "source"]


def test_what_is_held_here_or_elsewhere_stays(
    garden: Garden, gc: Callable[..., Collected], proc: Path
) -> None:
    with LocalStore(garden.root) as other, LocalStore(garden.root) as store:
        other.hold([garden.path("tool")])
        store.hold([garden.path("alone")])
        assert names(collect(store, proc=proc).paths) == ["app", "old"]
    assert names(gc().paths) == ["alone", "lib", "tool"]


def test_what_a_process_uses_stays(
    garden: Garden, gc: Callable[..., Collected], proc: Path
) -> None:
    (proc / "7/fd").mkdir(parents=True)
    (proc / "7/exe").symlink_to(garden.tree("tool") / "file0")
    assert names(gc().paths) == ["alone", "app", "old"]
    (proc / "7/exe").unlink()
    (proc / "7/exe").symlink_to(f"{garden.path('lib')}/file0")
    assert names(gc().paths) == ["tool"]


def test_a_root_that_comes_meanwhile_is_spared_with_what_it_reaches(
    garden: Garden, proc: Path
) -> None:
    age(garden, alone=1)
    deleted: list[str] = []
    with LocalStore(garden.root) as store, ExitStack() as stack:

        def root_the_tool(path: StorePath) -> None:
            deleted.append(path.name)
            if len(deleted) == 1:
                other = stack.enter_context(LocalStore(garden.root))
                assert other.hold([garden.path("tool")])

        collect(store, at_once=1, on_deleted=root_the_tool, proc=proc)
    assert deleted[0] == "alone"
    assert sorted(deleted) == ["alone", "app", "old"]
    assert garden.valid() == garden.on_disk() == ["lib", "tool"]


def age(garden: Garden, **registered: int) -> None:
    """Change when paths were registered, in seconds since 1970."""
    with closing(sqlite3.connect(garden.root / "nix/var/nix/db/db.sqlite")) as raw, raw:
        for name, time_ in registered.items():
            raw.execute(
                "update ValidPaths set registrationTime = ? where path = ?",
                [time_, str(garden.path(name))],
            )


def test_what_is_fetched_anew_while_it_goes_is_whole(garden: Garden, proc: Path) -> None:
    """Somebody wants each path as soon as it is gone, and it is there for him."""
    deleted: list[str] = []
    with LocalStore(garden.root) as store, LocalStore(garden.root) as other:

        def fetch(path: StorePath) -> None:
            deleted.append(path.name)
            garden.fetch([path.name], other)
            assert other.valid([path]) == {path}

        collect(store, at_once=1, on_deleted=fetch, proc=proc)
    assert garden.valid() == garden.on_disk()
    assert set(deleted) <= set(garden.valid())


def test_what_a_new_path_refers_to_stays(garden: Garden, proc: Path) -> None:
    """Registered after the look for roots, by somebody who is gone before the deletion."""
    garden.cache.add("new", b"new", references=[garden.path("tool")])
    age(garden, alone=1)
    with LocalStore(garden.root) as store:

        def register(path: StorePath) -> None:
            if path.name == "alone":
                with closing(sqlite3.connect(store.layout.database / "db.sqlite")) as raw, raw:
                    raw.execute(
                        "insert into ValidPaths (path, hash, registrationTime) values (?, ?, 1)",
                        [str(garden.path("new")), f"sha256:{'0' * 64}"],
                    )
                    raw.execute(
                        "insert into Refs select a.id, b.id from ValidPaths a, ValidPaths b"
                        " where a.path = ? and b.path = ?",
                        [str(garden.path("new")), str(garden.path("tool"))],
                    )

        collected = collect(store, at_once=1, on_deleted=register, proc=proc)
    assert names(collected.paths) == ["alone", "app", "old"]
    assert garden.valid() == ["lib", "new", "tool"]


# Rows.


def test_nodes_and_forget(garden: Garden) -> None:
    with closing(Database(garden.root / "nix/var/nix/db")) as database:
        nodes = {node.path.name: node for node in database.nodes()}
        assert sorted(nodes) == sorted(CHAIN)
        for name, node in nodes.items():
            assert sorted(path.name for path in node.references) == sorted(CHAIN[name])
            assert node.nar_size > 0
            assert node.registered > 0
            assert node.deriver is None
        with database.writing():
            wanted = [garden.path(name) for name in ("lib", "tool", "alone", "none")]
            assert database.forget(wanted) == {garden.path("alone")}  # app refers to tool
            assert database.forget([*wanted, garden.path("app"), garden.path("old")]) == set(
                map(garden.path, ("lib", "tool", "app", "old"))
            )
        assert database.nodes() == []


def test_rows_that_refer_to_each_other_in_a_circle(
    garden: Garden, gc: Callable[..., Collected]
) -> None:
    with closing(sqlite3.connect(garden.root / "nix/var/nix/db/db.sqlite")) as raw, raw:
        raw.execute(
            "insert into Refs select a.id, b.id from ValidPaths a, ValidPaths b"
            " where a.path = ? and b.path = ?",
            [str(garden.path("lib")), str(garden.path("app"))],
        )
    assert names(gc().paths) == sorted(CHAIN)
    assert garden.valid() == garden.on_disk() == []


def test_a_row_without_a_tree_and_a_tree_without_a_row(
    garden: Garden, gc: Callable[..., Collected]
) -> None:
    keep(garden, "tool")
    garden.tree("app").rename(garden.tree("unknown"))
    collected = gc()
    assert names(collected.paths) == ["alone", "app", "old"]
    assert collected.leftovers == (garden.path("unknown").base,)
    assert garden.valid() == garden.on_disk() == ["lib", "tool"]


# Leftovers.


def test_what_nobody_is_at_work_on_goes(garden: Garden, gc: Callable[..., Collected]) -> None:
    keep(garden, "app")
    store = garden.root / "nix/store"
    gone = garden.path("gone")
    staging = staging_name(gone.hash_part)
    (store / staging).mkdir()
    (store / staging / "file").write_bytes(bytes(5000))
    (store / f"{gone.base}.lock").touch()
    (store / f"{gone.base}-2.lock").write_text("a tree that is called like a lock")
    (store / "junk").mkdir()
    (store / "tmp-1-1").mkdir()
    (store / ".tmp-link-1").touch()
    os.utime(store / ".tmp-link-1")
    collected = gc()
    assert garden.on_disk() == [".tmp-link-1", "app", "lib", "tool"]
    assert set(collected.leftovers) == {
        staging,
        f"{gone.base}.lock",
        f"{gone.base}-2.lock",
        "junk",
        "tmp-1-1",
    }
    assert collected.bytes_freed >= 5000


def test_what_somebody_is_at_work_on_stays(garden: Garden, gc: Callable[..., Collected]) -> None:
    store = garden.root / "nix/store"
    locked, building, held = (garden.path(name) for name in ("locked", "building", "held"))
    for path in (locked, held):
        (store / path.base).mkdir()
    for name in (f"{locked.base}.lock", f"{building.base}.lock"):
        (store / name).touch()
    (store / f"{held.base}.chroot").mkdir()
    (store / "tmp-1-1").mkdir()
    with ExitStack() as stack:
        for name in (f"{locked.base}.lock", f"{building.base}.lock", "tmp-1-1"):
            fd = os.open(store / name, os.O_RDONLY)
            stack.callback(os.close, fd)
            fcntl.flock(fd, fcntl.LOCK_EX)
        stack.enter_context(LocalStore(garden.root)).hold([held])
        assert gc().leftovers == ()
    assert len(gc().leftovers) == 6
    assert garden.on_disk() == []


def test_what_is_being_unpacked_stays(garden: Garden, gc: Callable[..., Collected]) -> None:
    path = garden.cache.add("late", {b"file": b"data" * 1000})
    nar = garden.cache.objects[garden.cache.nar_name(path)]
    with LocalStore(garden.root) as store:
        with store.adding(garden.cache.trusted(path)) as sink:
            sink.write(nar[:1000])
            gc()
            sink.write(nar[1000:])
        gc()
        assert store.settle() == [path]
        assert gc().paths == ()
    assert garden.valid() == ["late"]
    assert names(gc().paths) == ["late"]


def test_who_comes_for_a_leftover_is_spared(garden: Garden, proc: Path) -> None:
    """Between the list of leftovers and their removal."""
    keep(garden, "app")
    path = garden.path("gone")
    (garden.root / "nix/store" / path.base).mkdir()
    with (
        LocalStore(garden.root) as store,
        closing(Database(store.layout.database)) as database,
        collecting(store.layout) as new_roots,
        closing(Journal(store.layout.inflight)) as journal,
    ):
        collector = _Collector(store, database, new_roots, journal)
        with closing(TempRoots(store.layout)) as roots:
            roots.add([path])
            collector._delete_leftovers([path.base])
        assert garden.tree("gone").is_dir()
        collector._delete_leftovers([garden.path("app").base])  # valid by now
        assert garden.tree("app").is_dir()


# How much.


def test_no_more_than_was_asked_for(garden: Garden, gc: Callable[..., Collected]) -> None:
    age(garden, old=1, alone=2)
    assert gc(max_delete=0).paths == ()
    assert names(gc(max_delete=1, dry_run=True).paths) == ["old"]
    collected = gc(max_delete=1)
    assert names(collected.paths) == ["old"]
    assert collected.bytes_freed > 0
    assert names(gc(max_delete=1).paths) == ["alone"]
    assert gc(keep_free=1).paths == ()
    assert gc(keep_free=2**62, max_delete=0).paths == ()
    assert names(gc(keep_free=2**62).paths) == ["app", "lib", "tool"]


def test_files_that_others_have_too_free_nothing(memory_path: Path) -> None:
    (memory_path / "store/.links").mkdir(parents=True)
    fd = os.open(memory_path / "store", os.O_RDONLY)
    try:
        meter = Meter(fd)
        for name, others in {"own": 0, "linked": 1, "shared": 2}.items():
            (memory_path / "store" / name).write_bytes(bytes(4096))
            for number in range(others):
                os.link(memory_path / "store" / name, memory_path / f"{name}{number}")
        meter.foresee(["own", "none"])
        assert (meter.freed, meter.expected) == (4096, 4096)
        meter.start()
        meter.foresee(["linked"])
        meter.foresee(["shared"])
        assert (meter.freed, meter.expected, meter.spent) == (4096, 8192, 4096)
    finally:
        os.close(fd)


def test_unused_links(memory_path: Path) -> None:
    links = memory_path / ".links"
    fd = os.open(memory_path, os.O_RDONLY)
    try:
        assert Meter(fd).remove_links(print) == 0  # there are none
        links.mkdir()
        (links / "unused").write_bytes(bytes(4096))
        (links / "used").write_bytes(b"")
        (links / "directory").mkdir()
        os.link(links / "used", memory_path / "file")
        meter = Meter(fd)
        assert meter.remove_links(print) == 1
        assert meter.freed == 4096
        assert entries(links) == ["directory", "used"]
    finally:
        os.close(fd)


def test_room_is_kept_for_the_next_run(garden: Garden, gc: Callable[..., Collected]) -> None:
    layout = Layout(garden.root)
    assert 0 < layout.reserve.stat().st_size <= 8 * 2**20  # since the store was made
    keep_reserve(layout)
    give_up_reserve(layout)
    give_up_reserve(layout)
    with LocalStore(garden.root):
        assert not layout.reserve.exists()
    gc()
    assert layout.reserve.stat().st_blocks > 0


def test_where_no_room_can_be_kept(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from nixfetch.store.layout import Layout\n"
        "from nixfetch.store.reserve import keep_reserve\n"
        "Layout(Path(sys.argv[1])).database.mkdir(parents=True)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "keep_reserve(Layout(Path(sys.argv[1])))\n"
    )
    python(code, tmp_path / "small")
    assert entries(Layout(tmp_path / "small").database) == []
    keep_reserve(Layout(tmp_path / "none"))
    layout = Layout(tmp_path)
    layout.reserve.mkdir(parents=True)
    keep_reserve(layout)
    with pytest.raises(DiskError):
        give_up_reserve(layout)


# What goes wrong.


def test_a_store_that_is_open_for_reading(garden: Garden, proc: Path) -> None:
    with LocalStore(garden.root, read_only=True) as store, pytest.raises(ReadOnlyStoreError):
        collect(store, proc=proc)
    assert garden.valid() == sorted(CHAIN)


def test_one_at_a_time(garden: Garden, gc: Callable[..., Collected], proc: Path) -> None:
    with LocalStore(garden.root) as store, collecting(store.layout):
        with pytest.raises(CollectorRunningError):
            collect(store, proc=proc)
        assert names(gc(dry_run=True).paths) == sorted(CHAIN)
    assert names(gc().paths) == sorted(CHAIN)


def test_an_error_of_the_caller_passes_and_the_next_run_goes_on(
    garden: Garden, gc: Callable[..., Collected], proc: Path
) -> None:
    before = descriptors()

    def fail(path: StorePath) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        gc(at_once=1, on_deleted=fail)
    assert descriptors() == before
    assert garden.valid() == garden.on_disk()
    assert len(garden.valid()) == len(CHAIN) - 1
    assert len(gc().paths) == len(CHAIN) - 1


def test_without_room_for_the_journal_trees_go_in_place(garden: Garden, proc: Path) -> None:
    with (
        LocalStore(garden.root) as store,
        closing(Database(store.layout.database)) as database,
        collecting(store.layout) as new_roots,
        closing(Journal(store.layout.inflight)) as journal,
    ):
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, journal._fd)
        os.close(full)
        collector = _Collector(store, database, new_roots, journal, at_once=2)
        collected = collector.run(lambda _: None, proc)
    assert names(collected.paths) == sorted(CHAIN)
    assert collected.failures == ()
    assert garden.on_disk() == []


def test_roots_that_cannot_be_read_leave_all_as_it_is(
    garden: Garden, gc: Callable[..., Collected]
) -> None:
    (garden.root / "nix/var/nix/temproots/1").mkdir()
    with pytest.raises(DiskError):
        gc()
    assert garden.valid() == garden.on_disk() == sorted(CHAIN)


def test_a_mounted_directory_is_not_emptied(memory_path: Path) -> None:
    """It looks as if it were of another file system."""
    (memory_path / "store/tree").mkdir(parents=True)
    fd = os.open(memory_path / "store", os.O_RDONLY)
    try:
        meter = Meter(fd)
        meter._device += 1
        with pytest.raises(OSError, match="cross-device"):
            meter.farewell(fd, b"tree")
    finally:
        os.close(fd)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_what_cannot_be_removed_is_said_and_the_rest_goes(garden: Garden, proc: Path) -> None:
    """An ordinary user, in a store in which one tree is not his."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from nixfetch.store import LocalStore\n"
        "from nixfetch.store.collect import collect\n"
        "from unit.store.disk_trees import become_nobody\n"
        "become_nobody()\n"
        "with LocalStore(sys.argv[1]) as store:\n"
        "    done = collect(store, proc=Path(sys.argv[2]))\n"
        "    print(*(path.name for path in done.paths))\n"
        "    print(*(failure.facts['errno'] for failure in done.failures))\n"
        "    print(*(failure.facts['path'] for failure in done.failures))\n"
        "    print(done.bytes_freed)\n"
    )
    for entry in [garden.root, *garden.root.rglob("*")]:
        os.chown(entry, NOBODY, NOBODY, follow_symlinks=False)
    garden.root.parent.chmod(0o755)
    foreign = garden.tree("app") / "foreign"
    garden.tree("app").chmod(0o755)
    foreign.mkdir(mode=0o755)
    (foreign / "file").write_bytes(bytes(4_000_000))
    proc.chmod(0o755)
    deleted, failures, named, freed = python(code, garden.root, proc).splitlines()
    assert sorted(deleted.split()) == sorted(set(CHAIN) - {"app"})
    assert failures == "EACCES"
    assert named == str(garden.path("app"))
    assert 0 < int(freed) < 4_000_000
    assert garden.valid() == []
    [left] = garden.on_disk()
    assert left.startswith("nixfetch.")


# Killed.


def test_killed_at_any_moment_it_leaves_garbage_only(
    garden: Garden, gc: Callable[..., Collected], tmp_path: Path, proc: Path
) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from nixfetch.store import LocalStore\n"
        "from nixfetch.store.collect import collect\n"
        "with LocalStore(sys.argv[1]) as store:\n"
        "    print('ready', flush=True)\n"
        "    tell = lambda path: print(path, flush=True)\n"
        "    collect(store, at_once=1, on_deleted=tell, proc=Path(sys.argv[2]))\n"
    )
    many = {f"p{number}": [f"p{number - 1}"] if number % 3 else [] for number in range(30)}
    garden.plant(many, files=20)
    chance = random.Random(1)
    killed = 0
    for _ in range(20):
        garden.grow()
        keep(garden, "tool")
        with subprocess.Popen(
            [sys.executable, "-c", code, garden.root, proc],
            env={"PYTHONPATH": str(TESTS), "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            for _ in range(chance.randint(1, 15)):
                process.stdout.readline()
            time.sleep(chance.uniform(0, 0.004))  # what one path takes
            process.send_signal(signal.SIGKILL)
            killed += process.wait() == -signal.SIGKILL
        assert set(garden.valid()) <= set(garden.on_disk())
        assert {"tool", "lib"} <= set(garden.valid())
        gc()
        assert garden.valid() == garden.on_disk() == ["lib", "tool"]
        assert entries(garden.root / "nix/var/nixfetch/inflight") == []
    assert killed >= 10  # the others were done


# In company.


def test_fetchers_and_collectors_do_not_hurt_each_other(garden: Garden, proc: Path) -> None:
    """Each fetcher finds what it asked for valid and whole as long as it holds it."""
    over = threading.Event()
    crashes: list[BaseException] = []
    runs = 0

    def collect_all_the_time() -> None:
        nonlocal runs
        while not over.is_set():
            with LocalStore(garden.root) as store, suppress(CollectorRunningError):
                collect(store, proc=proc)
                runs += 1

    def fetch(name: str) -> None:
        for _ in range(10):
            with LocalStore(garden.root, durable=False) as store:
                garden.fetch([name], store)
                wanted = {garden.path(name), *map(garden.path, CHAIN[name])}
                assert store.valid(wanted) == wanted
                for path in wanted:
                    assert sorted(entries(garden.tree(path.name))) == [
                        f"file{number}" for number in range(4)
                    ]

    def run(work: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - shown below
                crashes.append(error)

        thread = threading.Thread(target=guarded)
        thread.start()
        return thread

    collectors = [run(collect_all_the_time) for _ in range(2)]
    fetchers = [run(lambda name=name: fetch(name)) for name in CHAIN]  # type: ignore[misc] # bound now
    for thread in fetchers:
        thread.join()
    over.set()
    for thread in collectors:
        thread.join()
    for crash in crashes:
        raise crash
    assert runs > 5
    assert set(garden.valid()) <= set(garden.on_disk())
