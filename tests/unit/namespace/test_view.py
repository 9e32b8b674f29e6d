"""As root, in threads: the kernel gives a mount namespace to a thread as it does to a process."""

from __future__ import annotations

import errno
import os
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nixfetch import kernel
from nixfetch.formats.storepath import STORE_DIR
from nixfetch.kernel import MountFlag
from nixfetch.namespace import NotExecutableError, ViewError, own, show_closure, view
from nixfetch.store.present import Kind, Present
from simulated_cache import store_path

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER, FILE, LINK = (
    Present(store_path("folder"), Kind.DIRECTORY),
    Present(store_path("file"), Kind.FILE),
    Present(store_path("link"), Kind.SYMLINK),
)
OTHER = store_path("other")

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store directory with one path more than will be shown."""
    store = tmp_path / "nix/store"
    (store / FOLDER.path.base / "bin").mkdir(parents=True)
    (store / FOLDER.path.base / "bin/x").write_text("folder")
    (store / FILE.path.base).write_text("file")
    (store / LINK.path.base).symlink_to(str(FILE.path))
    (store / OTHER.base).mkdir()
    return store


def alone(work: Callable[[], None]) -> None:
    """Do `work` in a thread, whose namespace goes with it; raise what it raises."""
    raised: list[BaseException] = []

    def attempt() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - of the thread, raised below
            raised.append(error)

    before = mounts("self")
    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    assert mounts("self") == before
    if raised:
        raise raised[0]


def mounts(task: str = "thread-self") -> list[str]:
    """Where something is mounted."""
    return [line.split()[4] for line in Path(f"/proc/{task}/mountinfo").read_text().splitlines()]


def names(directory: str) -> list[str]:
    """What lies in it, ascending."""
    return sorted(entry.name for entry in Path(directory).iterdir())


# Machines on which a program is run.


def with_store() -> None:
    """A Nix of its own, with paths of its own."""
    own.enter()
    without_nix()
    Path(STORE_DIR, "somebody").mkdir(parents=True)
    Path("/nix/var/nix").mkdir(parents=True)


def with_nix() -> None:
    """A /nix that has no store, but other things."""
    own.enter()
    without_nix()
    Path("/nix/var/nix").mkdir(parents=True)
    Path("/nix/file").touch()


def without_nix() -> None:
    """No /nix, in a root directory that can be written to."""
    own.enter()
    site = view._site()
    view._renew(Path("/"), site, without="nix")
    view._enter_root(site)


def sealed() -> None:
    """No /nix, in a root directory that cannot be written to."""
    without_nix()
    view._seal(Path("/"))


def linked() -> None:
    """A /nix that leads elsewhere."""
    without_nix()
    Path("/elsewhere/store").mkdir(parents=True)
    Path("/nix").symlink_to("elsewhere")


def chroot() -> None:
    """No /nix, in a root directory that is no mount."""
    without_nix()
    Path("/inside").mkdir()
    for name in ("tmp", "proc", "bin", "usr"):
        if Path("/", name).is_symlink():
            Path("/inside", name).symlink_to(Path("/", name).readlink())
            continue
        Path("/inside", name).mkdir()
        kernel.mount(
            b"/%b" % name.encode(),
            b"/inside/%b" % name.encode(),
            MountFlag.BIND | MountFlag.REC,
        )
    here = Path.cwd()
    os.chroot("/inside")
    os.chdir(here)


MACHINES = (with_store, with_nix, without_nix, sealed, linked, chroot)


@pytest.mark.parametrize("machine", MACHINES)
def test_the_closure_is_in_view_and_nothing_else_changes(
    machine: Callable[[], None], store: Path
) -> None:
    def work() -> None:
        machine()
        top = {*names("/"), "nix"}
        others = set(names("/nix")) if Path("/nix").is_dir() else set()
        os.chdir(store)
        show_closure([FOLDER, FILE, LINK], store=store)
        shown = [each.path.base for each in (FOLDER, FILE, LINK)]
        assert names(STORE_DIR) == sorted(shown)
        assert Path(str(FOLDER.path), "bin/x").read_text() == "folder"
        assert Path(str(FILE.path)).read_text() == "file"
        assert Path(str(LINK.path)).readlink() == Path(str(FILE.path))
        for place in (STORE_DIR, str(FOLDER.path), f"{FOLDER.path}/bin"):
            with pytest.raises(OSError, match="Read-only") as caught:
                Path(place, "new").touch()
            assert caught.value.errno == errno.EROFS
        with pytest.raises(OSError, match="Read-only"):
            Path(str(FILE.path)).write_text("other")
        assert set(names("/")) == top
        assert set(names("/nix")) == {*others, "store"}
        assert Path.cwd() == store
        assert (store / "..").resolve().name == "nix"
        below = f"{os.path.realpath(STORE_DIR)}/"
        assert sum(mount.startswith(below) for mount in mounts()) == 2

    alone(work)


@pytest.mark.parametrize("machine", [with_store, without_nix])
def test_what_is_mounted_elsewhere_stays_in_view(
    machine: Callable[[], None], store: Path, tmp_path: Path
) -> None:
    """Also below the directory in which a new root directory is put together."""

    def work() -> None:
        machine()
        place = tmp_path / "mounted"
        place.mkdir()
        kernel.mount(b"t", bytes(place), MountFlag(0), filesystem=b"tmpfs")
        (place / "here").write_text("there")
        show_closure([FOLDER], store=store)
        assert (place / "here").read_text() == "there"
        assert Path("/proc/self/stat").exists()

    alone(work)


def test_closures_can_be_shown_in_turn(store: Path) -> None:
    def work() -> None:
        show_closure([FOLDER, FILE], store=store)
        show_closure([FILE], store=store)
        assert names(STORE_DIR) == [FILE.path.base]

    alone(work)


def test_a_store_that_is_in_view_already(store: Path) -> None:
    """``--store /`` on a machine with Nix."""

    def work() -> None:
        with_store()
        kernel.mount(bytes(store), STORE_DIR.encode(), MountFlag.BIND)
        show_closure([FOLDER], store=Path(STORE_DIR))
        assert names(STORE_DIR) == [FOLDER.path.base]
        assert Path(str(FOLDER.path), "bin/x").read_text() == "folder"

    alone(work)


@pytest.mark.parametrize(
    ("where", "then"),
    [(str(FOLDER.path), str(FOLDER.path)), (str(OTHER), "/")],
)
def test_a_working_directory_in_what_is_covered(store: Path, where: str, then: str) -> None:
    """It is the one of that name, if there is one."""

    def work() -> None:
        with_store()
        kernel.mount(bytes(store), STORE_DIR.encode(), MountFlag.BIND)
        os.chdir(where)
        show_closure([FOLDER], store=store)
        assert Path.cwd() == Path(then)

    alone(work)


@pytest.mark.parametrize("machine", [with_store, without_nix])
def test_a_working_directory_that_was_removed(
    machine: Callable[[], None], store: Path, tmp_path: Path
) -> None:
    def work() -> None:
        machine()
        gone = tmp_path / "gone"
        gone.mkdir()
        os.chdir(gone)
        gone.rmdir()
        show_closure([FOLDER], store=store)
        if machine is with_store:
            with pytest.raises(FileNotFoundError):
                Path.cwd()
        else:
            assert Path.cwd() == Path("/")

    alone(work)


def test_modes_do_not_depend_on_the_umask(store: Path) -> None:
    def work() -> None:
        without_nix()
        os.umask(0o077)
        show_closure([FOLDER, FILE], store=store)
        for place in ("/", "/nix", STORE_DIR):
            assert Path(place).stat().st_mode & 0o777 == 0o755
        assert os.umask(0o022) == 0o077

    alone(work)


def test_a_store_without_exec_is_refused(store: Path) -> None:
    def work() -> None:
        own.enter()
        kernel.mount(b"t", bytes(store), MountFlag.NOEXEC, filesystem=b"tmpfs")
        show_closure([], store=store)

    with pytest.raises(NotExecutableError) as caught:
        alone(work)
    assert caught.value.facts == {"store": str(store)}


def test_what_is_gone_since_is_an_error(store: Path) -> None:
    gone = Present(store_path("gone"), Kind.DIRECTORY)
    with pytest.raises(ViewError) as caught:
        alone(partial(show_closure, [gone], store=store))
    assert caught.value.facts["errno"] == "ENOENT"
    assert caught.value.facts["file"] == str(gone.path)


def test_mounts_that_would_get_out_are_not_made(store: Path) -> None:
    """In a chroot of a machine whose mounts are shared; what others see must not change."""

    def work() -> None:
        chroot()
        # What cannot be said of the root directory of a chroot, another mount there can be.
        kernel.mount(None, b"/usr", MountFlag(1 << 20))
        show_closure([FOLDER], store=store)

    with pytest.raises(own.NamespaceError, match="get out"):
        alone(work)


def test_what_cannot_be_reached_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as a network file system whose server is away."""
    (tmp_path / "gone").mkdir()
    (entry,) = os.scandir(tmp_path)
    (tmp_path / "gone").rmdir()
    view._bind(entry, entry.path, tmp_path / "target")
    assert names(str(tmp_path)) == ["target"]
    assert f"{entry.path} is empty for the program: No such file or directory" in caplog.text
