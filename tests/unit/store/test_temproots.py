from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import threading
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from nixfetch.store.disk import DiskError
from nixfetch.store.layout import Layout
from nixfetch.store.temproots import (
    CollectorBusyError,
    StoreClosedError,
    TempRoots,
    _remove_dead,
    sweep,
)
from simulated_cache import store_path
from unit.store.disk_trees import descriptors, entries

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

A, B, C = map(store_path, "abc")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    # A long name: the address of a socket takes no more than 107 bytes.
    layout = Layout(tmp_path / ("long" * 30))
    layout.temp_roots.mkdir(parents=True)
    return layout


def listed(layout: Layout, name: str | None = None) -> list[str]:
    text = (layout.temp_roots / (name or str(os.getpid()))).read_text()
    assert text == "" or text.endswith("\0")
    return text.split("\0")[:-1]


def locked(file: Path, how: int = fcntl.LOCK_EX) -> bool:
    """Whether somebody holds a lock that excludes `how`."""
    with file.open("rb") as opened:
        try:
            fcntl.flock(opened, how | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


class Collector:
    """What a garbage collector at work is for others: a lock and a socket."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.heard: list[str] = []
        self.answer = b"1"
        self._clients: list[socket.socket] = []

    @contextmanager
    def locking(self) -> Iterator[None]:
        fd = os.open(self._layout.gc_lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    @contextmanager
    def listening(self) -> Iterator[None]:
        directory = self._layout.gc_socket.parent
        directory.mkdir(exist_ok=True)
        fd = os.open(directory, os.O_PATH)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"/proc/self/fd/{fd}/socket")
            os.close(fd)
            listener.listen()
            thread = threading.Thread(target=self._serve, args=[listener])
            thread.start()
            try:
                yield
            finally:
                for peer in (listener, *self._clients):
                    with suppress(OSError):  # hung up already
                        peer.shutdown(socket.SHUT_RDWR)
                thread.join()
                self._layout.gc_socket.unlink()

    def _serve(self, listener: socket.socket) -> None:
        with suppress(OSError):  # the end
            while True:
                client, _ = listener.accept()
                self._clients.append(client)
                with client, client.makefile("rb") as lines:
                    for line in lines:
                        self.heard.append(line.decode().removesuffix("\n"))
                        if not self.answer:
                            break
                        client.sendall(self.answer)


def test_the_file_is_as_nix_reads_it(layout: Layout) -> None:
    with closing(TempRoots(layout)) as roots:
        assert listed(layout) == []
        roots.add([A, B])
        roots.add([B, C, C])
        roots.add([])
        assert listed(layout) == [str(A), str(B), str(C), str(C)]
        assert locked(layout.temp_roots / str(os.getpid()), fcntl.LOCK_SH)
        assert not locked(layout.gc_lock)
    assert entries(layout.temp_roots) == []


def test_a_second_store_of_this_process_has_its_own_file(layout: Layout) -> None:
    with closing(TempRoots(layout)) as one, closing(TempRoots(layout)) as two:
        one.add([A])
        two.add([B])
        assert listed(layout) == [str(A)]
        assert listed(layout, f"{os.getpid()}-1") == [str(B)]
    assert entries(layout.temp_roots) == []


def test_the_list_of_a_dead_process_of_our_number_is_void(layout: Layout) -> None:
    (layout.temp_roots / str(os.getpid())).write_text("stale\0")
    with closing(TempRoots(layout)) as roots:
        roots.add([A])
        assert listed(layout) == [str(A)]


def test_closing_leaves_no_descriptor(layout: Layout) -> None:
    before = descriptors()
    with Collector(layout).locking(), Collector(layout).listening():
        roots = TempRoots(layout)
        roots.add([A])
        roots.close()
    assert descriptors() == before


def test_a_collector_at_work_is_told_first(layout: Layout) -> None:
    collector = Collector(layout)
    with closing(TempRoots(layout)) as roots:
        with collector.locking(), collector.listening():
            roots.add([A, B])
            roots.add([B, C])
        assert collector.heard == [str(A), str(B), str(C)]
        assert listed(layout) == [str(A), str(B), str(C)]
        again = Collector(layout)
        roots.add([store_path("d")])
        with again.locking(), again.listening():  # the old connection is of no use
            roots.add([store_path("e")])
        assert again.heard == [str(store_path("e"))]


def test_a_collector_that_began_since_is_told_again(layout: Layout) -> None:
    collector = Collector(layout)
    with closing(TempRoots(layout)) as roots:
        roots.add([A, B])
        roots.confirm([A])
        assert not locked(layout.gc_lock)
        with collector.locking(), collector.listening():
            roots.confirm([A])
        assert collector.heard == [str(A)]
        assert listed(layout) == [str(A), str(B)]


def test_a_collector_that_ends_meanwhile(layout: Layout) -> None:
    ending = threading.Event()

    def collect() -> None:
        with Collector(layout).locking():  # never listens
            ready.set()
            ending.wait(10)

    ready = threading.Event()
    thread = threading.Thread(target=collect)
    thread.start()
    ready.wait(10)
    threading.Timer(0.15, ending.set).start()
    with closing(TempRoots(layout)) as roots:
        roots.add([A])
        assert ending.is_set()
        assert listed(layout) == [str(A)]
    thread.join()


@pytest.mark.parametrize("answer", [b"", b"0"], ids=["hangs up", "says no"])
def test_a_collector_that_takes_nothing(layout: Layout, answer: bytes) -> None:
    collector = Collector(layout)
    collector.answer = answer
    with (
        collector.locking(),
        collector.listening(),
        closing(TempRoots(layout, patience=0.15)) as roots,
    ):
        with pytest.raises(CollectorBusyError) as caught:
            roots.add([A])
        assert listed(layout) == []
    assert caught.value.facts == {"lock": str(layout.gc_lock)}


def test_a_collector_that_is_silent(layout: Layout) -> None:
    directory = layout.gc_socket.parent
    directory.mkdir()
    fd = os.open(directory, os.O_PATH)
    with Collector(layout).locking(), socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{fd}/socket")
        os.close(fd)
        listener.listen()
        with closing(TempRoots(layout, patience=0.1)) as roots, pytest.raises(CollectorBusyError):
            roots.add([A])


def test_no_collector_begins_while_the_list_is_written(layout: Layout) -> None:
    """The lock must be held from the look for a collector until the list is complete."""
    with closing(TempRoots(layout)) as roots:
        layout.temp_roots.joinpath(str(os.getpid())).unlink()
        os.mkfifo(layout.temp_roots / "fifo")
        reader = os.open(layout.temp_roots / "fifo", os.O_RDONLY | os.O_NONBLOCK)
        writer = os.open(layout.temp_roots / "fifo", os.O_WRONLY)
        os.dup2(writer, roots._fd)
        os.close(writer)
        thread = threading.Thread(target=roots.add, args=[[store_path("x" * 100)] * 2000])
        thread.start()
        os.set_blocking(reader, True)
        seen = len(os.read(reader, 1))  # the pipe is full: the writer waits in the middle
        assert locked(layout.gc_lock)
        while seen < 2000 * len(f"{store_path('x' * 100)}\0"):
            seen += len(os.read(reader, 65536))
        thread.join()
        assert not locked(layout.gc_lock)
        os.close(reader)


def test_after_close_it_says_so(layout: Layout) -> None:
    roots = TempRoots(layout)
    roots.close()
    with pytest.raises(StoreClosedError):
        roots.add([A])


def test_a_missing_directory_is_a_disk_error(tmp_path: Path) -> None:
    before = descriptors()
    layout = Layout(tmp_path)
    with pytest.raises(DiskError):
        TempRoots(layout)
    layout.state.mkdir(parents=True)
    with pytest.raises(DiskError):
        TempRoots(layout)
    assert descriptors() == before


def dead() -> int:
    """The number of a process that is no more."""
    with subprocess.Popen(["true"]) as process:
        pass
    return process.pid


@contextmanager
def holding(file: Path) -> Iterator[None]:
    """Have the lock of a file, as a process of another PID namespace would."""
    with file.open("wb") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield


def test_files_of_the_dead_are_swept(layout: Layout) -> None:
    number = dead()
    for name in (f"{number}", f"{number}-1"):
        (layout.temp_roots / name).write_text(f"{A}\0")
    sweep(layout)
    assert entries(layout.temp_roots) == []


def test_whoever_waits_for_a_file_that_is_swept_learns_of_it(layout: Layout) -> None:
    """Nix opens, waits for the lock, and begins anew where the file is not empty then."""
    file = layout.temp_roots / str(dead())
    with file.open("w+b") as opened:
        sweep(layout)
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert os.fstat(opened.fileno()).st_size > 0
    assert entries(layout.temp_roots) == []


def test_what_may_be_of_a_live_process_is_not_swept(layout: Layout) -> None:
    locked_one = layout.temp_roots / str(dead())
    for name in (str(os.getppid()), f"{os.getpid()}-7", ".nfs0001", "0", "-1", "notes"):
        (layout.temp_roots / name).touch()
    (layout.temp_roots / str(2**40)).mkdir()
    (layout.temp_roots / str(2**41)).symlink_to("notes")
    before = [*entries(layout.temp_roots), locked_one.name]
    with holding(locked_one), closing(TempRoots(layout)) as roots:
        roots.add([A])
        sweep(layout)
        assert sorted(entries(layout.temp_roots)) == sorted([*before, str(os.getpid())])


def test_without_a_directory_nothing_is_swept(tmp_path: Path) -> None:
    before = descriptors()
    sweep(Layout(tmp_path))
    assert descriptors() == before


def test_sweepers_leave_those_who_begin_their_lists(layout: Layout) -> None:
    """Numbers that were dead ones' a moment ago; the sweeper is told that they still are."""
    stop = threading.Event()

    def forever() -> None:
        file = layout.temp_roots / str(os.getpid())
        while not stop.is_set():
            with suppress(OSError):
                fd = os.open(file, os.O_RDWR)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _remove_dead(file, fd)
                finally:
                    os.close(fd)

    thread = threading.Thread(target=forever)
    thread.start()
    try:
        for _ in range(500):
            with closing(TempRoots(layout)) as roots:
                roots.add([A])
                assert roots._file.read_text() == f"{A}\0"
                assert os.path.samestat(os.fstat(roots._fd), roots._file.stat())
    finally:
        stop.set()
        thread.join()
