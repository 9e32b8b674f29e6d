from __future__ import annotations

import fcntl
import os
import socket
import threading
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from nixfetch.store.disk import DiskError
from nixfetch.store.layout import Layout
from nixfetch.store.newroots import CollectorRunningError, collecting
from nixfetch.store.temproots import TempRoots, find_temp_roots
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


@contextmanager
def client(layout: Layout) -> Iterator[socket.socket]:
    """Somebody who adds roots, and waits five seconds for an answer."""
    directory = os.open(layout.gc_socket.parent, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as end:
        end.settimeout(5)
        try:
            end.connect(f"/proc/self/fd/{directory}/socket")
        finally:
            os.close(directory)
        yield end


def add(end: socket.socket, *texts: object) -> bytes:
    end.sendall("".join(f"{text}\n" for text in texts).encode())
    answers = b""
    while len(answers) < len(texts):
        answers += end.recv(10)
    return answers


def is_silent(end: socket.socket) -> bool:
    end.settimeout(0.1)
    try:
        return not end.recv(1)
    except TimeoutError:
        return True
    finally:
        end.settimeout(5)


def test_who_comes_before_a_claim_is_told_of_and_nothing_claimed(layout: Layout) -> None:
    with collecting(layout) as new_roots, client(layout) as end:
        assert add(end, A) == b"1"
        assert new_roots.is_rooted(A.hash_part)
        assert not new_roots.is_rooted(B.hash_part)
        assert new_roots.claim([B.hash_part]) == {A.hash_part}
        assert add(end, B) == b"1"  # not claimed
        assert new_roots.claim([C.hash_part]) == {B.hash_part}
        assert new_roots.claim([C.hash_part]) == set()


def test_who_comes_for_what_is_claimed_waits(layout: Layout) -> None:
    with collecting(layout) as new_roots, client(layout) as one, client(layout) as other:
        assert new_roots.claim([A.hash_part, B.hash_part]) == set()
        one.sendall(f"{A}\n".encode())
        assert is_silent(one)
        assert add(other, C) == b"1"
        other.sendall(f"{B}\n".encode())
        assert is_silent(other)
        new_roots.release()
        assert one.recv(1) == other.recv(1) == b"1"
        assert new_roots.claim([]) == {A.hash_part, B.hash_part, C.hash_part}


def test_a_release_answers_nobody_who_waits_for_the_next_claim(layout: Layout) -> None:
    with collecting(layout) as new_roots, ExitStack() as stack:
        for _ in range(20):
            new_roots.claim([A.hash_part])
            one, other = stack.enter_context(client(layout)), stack.enter_context(client(layout))
            one.sendall(f"{A}\n".encode())
            assert is_silent(one) if _ == 0 else True
            new_roots.release()
            while new_roots.claim([B.hash_part]):
                pass
            other.sendall(f"{B}\n".encode())
            assert one.recv(1) == b"1"
            other.settimeout(0.02)
            with pytest.raises(TimeoutError):
                other.recv(1)
            new_roots.release()
            other.settimeout(5)
            assert other.recv(1) == b"1"


def test_lines_come_in_pieces_and_several_at_a_time(layout: Layout) -> None:
    with collecting(layout) as new_roots, client(layout) as end:
        end.sendall(str(A).encode()[:20])
        assert is_silent(end)
        assert add(end, str(A)[20:], B, C) == b"111"
        assert new_roots.claim([]) == {A.hash_part, B.hash_part, C.hash_part}


def test_garbage_is_answered_and_means_nothing(
    layout: Layout, caplog: pytest.LogCaptureFixture
) -> None:
    with collecting(layout) as new_roots, client(layout) as end:
        assert add(end, "garbage", "", "/nix/store/x") == b"111"
        assert new_roots.claim([""]) == set()
        assert add(end, "") == b"1"  # the empty hash part of garbage is never claimed
    assert "no store path" in caplog.text


def test_a_line_without_end_is_cut_off(layout: Layout) -> None:
    with collecting(layout), client(layout) as end, client(layout) as other:
        with pytest.raises(OSError, match=r"reset|pipe"):  # noqa: PT012 - whichever comes first
            while True:
                end.sendall(b"x" * 1000)
        assert add(other, A) == b"1"


def test_a_client_that_leaves_while_it_waits(layout: Layout) -> None:
    with collecting(layout) as new_roots:
        new_roots.claim([A.hash_part])
        with client(layout) as end:
            end.sendall(f"{A}\n".encode())
            assert is_silent(end)
        new_roots.release()
        with client(layout) as end:
            assert add(end, B) == b"1"


def test_the_end_answers_who_waits_and_hangs_up(layout: Layout) -> None:
    with ExitStack() as stack:
        with collecting(layout) as new_roots:
            new_roots.claim([A.hash_part])
            end = stack.enter_context(client(layout))
            end.sendall(f"{A}\n".encode())
            assert is_silent(end)
        assert end.recv(10) == b"1"
        assert end.recv(10) == b""
        with pytest.raises(ConnectionRefusedError), client(layout):
            pass


def test_it_leaves_no_descriptor_and_no_lock(layout: Layout) -> None:
    before = descriptors()
    for _ in range(3):
        with collecting(layout), client(layout) as end:
            add(end, A)
    with pytest.raises(ZeroDivisionError), collecting(layout):
        raise ZeroDivisionError
    assert descriptors() == before
    assert entries(layout.gc_socket.parent) == ["socket"]
    assert layout.gc_socket.stat().st_mode & 0o777 == 0o666


def test_one_collector_at_a_time(layout: Layout) -> None:
    with collecting(layout):
        with pytest.raises(CollectorRunningError) as caught, collecting(layout):
            pass
        with client(layout) as end:  # the first one still listens
            assert add(end, A) == b"1"
    assert caught.value.exit_code == 75
    with collecting(layout):
        pass


def test_who_adds_a_root_right_now_is_waited_for(layout: Layout) -> None:
    adder = os.open(layout.gc_lock, os.O_RDWR | os.O_CREAT)
    fcntl.flock(adder, fcntl.LOCK_SH)
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            os.close(adder)

    with collecting(layout, sleep=sleep):
        assert len(pauses) == 3


def test_a_place_where_nothing_can_be_made(tmp_path: Path) -> None:
    with pytest.raises(DiskError), collecting(Layout(tmp_path)):
        pass
    layout = Layout(tmp_path)
    layout.gc_lock.mkdir(parents=True)
    with pytest.raises(DiskError), collecting(layout):
        pass
    layout.gc_lock.rmdir()
    layout.gc_socket.unlink()
    layout.gc_socket.mkdir()
    with pytest.raises(DiskError), collecting(layout):
        pass


def test_our_own_client(layout: Layout) -> None:
    """`temproots` is the other side: a root of a claimed path comes when that is released."""
    with collecting(layout) as new_roots, closing(TempRoots(layout)) as roots:
        new_roots.claim([A.hash_part])
        thread = threading.Thread(target=roots.add, args=[[A]])
        thread.start()
        thread.join(0.1)
        assert thread.is_alive()
        new_roots.release()
        thread.join()
        assert new_roots.claim([]) == {A.hash_part}
        assert find_temp_roots(layout) == {A.hash_part}


# Temporary roots, read by a collector.


def test_temporary_roots_of_the_living(layout: Layout) -> None:
    dead = layout.temp_roots / "99999999"
    dead.write_text(f"{C}\0")
    (layout.temp_roots / ".keep").touch()
    with closing(TempRoots(layout)) as one, closing(TempRoots(layout)) as two:
        one.add([A])
        two.add([B])
        with (layout.temp_roots / str(os.getpid())).open("a") as file:
            file.write(str(C))  # no end yet: still being written
        assert find_temp_roots(layout) == {A.hash_part, B.hash_part}
        assert dead.exists()
        waiting = os.open(dead, os.O_RDWR)
        assert find_temp_roots(layout, remove_dead=True) == {A.hash_part, B.hash_part}
        assert not dead.exists()
        assert os.fstat(waiting).st_size > len(f"{C}\0") - 1  # who waits for its lock sees that
        os.close(waiting)
        assert (layout.temp_roots / ".keep").exists()
    assert find_temp_roots(layout) == set()


def test_a_writer_that_ends_while_its_file_is_looked_at(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    roots = TempRoots(layout)
    flock = fcntl.flock

    def after_the_writer(fd: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        roots.close()
        flock(fd, operation)

    monkeypatch.setattr(fcntl, "flock", after_the_writer)
    assert find_temp_roots(layout, remove_dead=True) == set()
    assert entries(layout.temp_roots) == []


def test_temporary_roots_that_cannot_be_read_are_no_roots_we_may_pass_over(layout: Layout) -> None:
    (layout.temp_roots / "12").mkdir()
    with pytest.raises(DiskError):
        find_temp_roots(layout, remove_dead=True)
