"""Runs a command, and watches its system calls below one directory: all threads, one count.

    watched = watch(command, root=store, calls=WRITES)                # watched.calls: all of them
    watch(command, root=store, calls=WRITES, fault=Fault(7))          # killed before the 7th
    watch(command, root=store, calls=WRITES, fault=Fault(7, EIO))     # told EIO at the 7th
    watch(command, root=store, calls=SYNCS, pretended=True)           # told "done", and nothing is

Fault injection by strace counts each thread by itself, so that "the 7th" strikes the first
thread that comes so far, and never reaches what other threads do. Here a seccomp filter hands
each call to this process, which lets it go on, or answers in the place of the kernel.

Source: linux, Documentation/userspace-api/seccomp_filter.rst, "Userspace Notification".
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import select
import signal
import socket
import struct
import subprocess
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

# What tells where a call works: which arguments are a directory and a name below it, or a
# descriptor alone. Of two names, the second: it is the one that is made.
_AT = {
    "openat": (0, 1),
    "mkdirat": (0, 1),
    "unlinkat": (0, 1),
    "utimensat": (0, 1),
    "linkat": (2, 3),
    "renameat": (2, 3),
    "renameat2": (2, 3),
    "symlinkat": (1, 2),
}
_PATH = {"open": 0, "mkdir": 0, "unlink": 0, "link": 1, "rename": 1, "symlink": 1, "rmdir": 0}
_FD = {"write", "pwrite64", "fsync", "fdatasync", "syncfs", "fchmod", "flock", "ftruncate", "close"}
_NUMBERS = {
    "x86_64": {
        "write": 1,
        "open": 2,
        "close": 3,
        "pwrite64": 18,
        "flock": 73,
        "fsync": 74,
        "fdatasync": 75,
        "ftruncate": 77,
        "rename": 82,
        "mkdir": 83,
        "rmdir": 84,
        "link": 86,
        "unlink": 87,
        "symlink": 88,
        "fchmod": 91,
        "openat": 257,
        "mkdirat": 258,
        "unlinkat": 263,
        "renameat": 264,
        "linkat": 265,
        "symlinkat": 266,
        "utimensat": 280,
        "syncfs": 306,
        "renameat2": 316,
    },
    "aarch64": {
        "flock": 32,
        "mkdirat": 34,
        "unlinkat": 35,
        "symlinkat": 36,
        "linkat": 37,
        "renameat": 38,
        "ftruncate": 46,
        "fchmod": 52,
        "openat": 56,
        "close": 57,
        "write": 64,
        "pwrite64": 68,
        "fsync": 82,
        "fdatasync": 83,
        "utimensat": 88,
        "syncfs": 267,
        "renameat2": 276,
    },
}
SUPPORTED = platform.machine() in _NUMBERS

OPENS = frozenset({"open", "openat"})
SYNCS = frozenset({"fsync", "fdatasync", "syncfs"})
RENAMES = frozenset({"rename", "renameat", "renameat2"})
LINKS = frozenset({"link", "linkat", "symlink", "symlinkat"})
WRITES = frozenset({"write", "pwrite64"})
UNLINKS = frozenset({"unlink", "unlinkat", "rmdir"})
DIRECTORIES = frozenset({"mkdir", "mkdirat"})
OTHERS = frozenset({"utimensat", "fchmod", "flock", "ftruncate"})
ALL = OPENS | SYNCS | RENAMES | LINKS | WRITES | UNLINKS | DIRECTORIES | OTHERS

# linux/seccomp.h, linux/filter.h, linux/prctl.h, asm-generic/ioctl.h
_SET_MODE_FILTER, _NEW_LISTENER = 1, 1 << 3
_USER_NOTIFICATION, _ALLOW = 0x7FC00000, 0x7FFF0000
_LOAD, _JUMP_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NO_NEW_PRIVILEGES = 38
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_CONTINUE = 1
_NOTIFICATION = struct.Struct("=QIIiIQ6Q")
_ANSWER = struct.Struct("=QqiI")
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_HERE = -100  # AT_FDCWD
_PAGE = 4096  # bytes
_PATIENCE = 60.0  # seconds for one command


class Call(NamedTuple):
    """One system call below the root."""

    name: str
    path: str
    """Of what it works on, from the root on."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong, once."""

    at: int
    """Which of the calls, from 1."""
    error: int | None = None
    """What it fails with; None: the process is killed instead."""


@dataclass(slots=True)
class Watched:
    """What came of a command."""

    code: int = 0
    """Negative: a signal."""
    out: str = ""
    err: str = ""
    calls: list[Call] = field(default_factory=list)
    """In the order of their beginnings."""
    struck: Call | None = None
    """The one that failed, or was not let begin."""

    @property
    def errors(self) -> list[str]:
        """The lines on stderr that begin an error."""
        return [line for line in self.err.splitlines() if line.startswith("error:")]


def watch(
    command: Sequence[str | Path],
    *,
    root: Path,
    calls: Collection[str] = ALL,
    fault: Fault | None = None,
    pretended: bool = False,
    environ: Mapping[str, str],
) -> Watched:
    """Run `command`, and count its `calls` on what lies below `root`.

    Args:
        command: the command.
        root: a directory, which need not be there.
        calls: names of system calls.
        fault: what goes wrong.
        pretended: do none of these calls, and say that they went well.
        environ: of the command.
    """
    numbers = _NUMBERS[platform.machine()]
    wanted = {numbers[name]: name for name in calls if name in numbers}
    watched = Watched()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        program = _program(wanted)

        def prepare() -> None:
            listener = _install(program)
            socket.send_fds(theirs, [b"\0"], [listener])
            os.close(listener)

        supervisor = _Supervisor(wanted, os.fsencode(root), fault, watched, pretended=pretended)
        thread = threading.Thread(target=supervisor.run, args=(ours,))
        thread.start()
        try:
            done = subprocess.run(
                command,
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_PATIENCE,
                check=False,
                preexec_fn=prepare,
            )
        finally:
            theirs.close()
            thread.join()
    watched.code, watched.out, watched.err = done.returncode, done.stdout, done.stderr
    return watched


class _Supervisor:
    """Answers for the kernel, in a thread of its own, until the command is gone."""

    def __init__(
        self,
        wanted: Mapping[int, str],
        root: bytes,
        fault: Fault | None,
        watched: Watched,
        *,
        pretended: bool,
    ) -> None:
        self._wanted = wanted
        self._root = root
        self._fault = fault
        self._watched = watched
        self._pretended = pretended

    def run(self, source: socket.socket) -> None:
        _, listeners, _, _ = socket.recv_fds(source, 1, 1)
        if not listeners:
            return
        [listener] = listeners
        try:
            poll = select.poll()
            poll.register(listener, select.POLLIN)
            while True:
                [(_, event)] = poll.poll()
                if not event & select.POLLIN:
                    return
                self._answer(listener)
        finally:
            os.close(listener)

    def _answer(self, listener: int) -> None:
        buffer = bytearray(_NOTIFICATION.size)
        try:
            fcntl.ioctl(listener, _RECEIVE, buffer)
        except FileNotFoundError:  # it was killed meanwhile
            return
        id_, thread, _, number, _, _, *arguments = _NOTIFICATION.unpack(buffer)
        error = self._judge(thread, self._wanted[number], arguments)
        answer = _ANSWER.pack(id_, 0, -(error or 0), _CONTINUE if error is None else 0)
        try:
            fcntl.ioctl(listener, _SEND, answer)
        except FileNotFoundError:
            return

    def _judge(self, thread: int, name: str, arguments: list[int]) -> int | None:
        """The error to answer with, 0 for success; None lets the call go on."""
        try:
            place = _place(thread, name, arguments)
        except (FileNotFoundError, ProcessLookupError):  # it fails by itself
            return None
        if place != self._root and not place.startswith(self._root + b"/"):
            return None
        call = Call(name, os.fsdecode(place[len(self._root) + 1 :]))
        self._watched.calls.append(call)
        if self._fault is None or len(self._watched.calls) != self._fault.at:
            return 0 if self._pretended else None
        self._watched.struck = call
        if self._fault.error is None:
            os.kill(thread, signal.SIGKILL)  # any thread of it will do
            return None
        return self._fault.error


def _place(thread: int, name: str, arguments: list[int]) -> bytes:
    """The path that a call works on."""
    if name in _FD:
        return _file(thread, arguments[0])
    if name in _PATH:
        return _absolute(thread, _HERE, _text(thread, arguments[_PATH[name]]))
    directory, path = (arguments[index] for index in _AT[name])
    number = ctypes.c_int(directory).value
    if not path:  # utimensat of a descriptor
        return _file(thread, number)
    return _absolute(thread, number, _text(thread, path))


def _absolute(thread: int, directory: int, path: bytes) -> bytes:
    if path.startswith(b"/"):
        return path
    if directory == _HERE:
        return os.readlink(b"/proc/%d/cwd" % thread) + b"/" + path  # noqa: PTH115 - bytes
    return _file(thread, directory) + b"/" + path


def _file(thread: int, fd: int) -> bytes:
    return os.readlink(b"/proc/%d/fd/%d" % (thread, ctypes.c_int(fd).value))  # noqa: PTH115 - bytes


def _text(thread: int, address: int) -> bytes:
    """The string that ends with a NUL at `address`."""
    text = b""
    memory = os.open(f"/proc/{thread}/mem", os.O_RDONLY)
    try:
        while b"\0" not in text:
            start = address + len(text)
            text += os.pread(memory, _PAGE - start % _PAGE, start)  # the next page may not be there
    finally:
        os.close(memory)
    return text[: text.index(b"\0")]


def _program(wanted: Mapping[int, str]) -> ctypes.Array[ctypes.c_char]:
    """A filter that asks about the `wanted` calls, and lets all others pass."""
    steps = [(_LOAD, 0, 0, 0)]  # the number of the call
    count = len(wanted)
    steps += [(_JUMP_EQUAL, count - index, 0, number) for index, number in enumerate(wanted)]
    steps += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _USER_NOTIFICATION)]
    return ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))


def _install(program: ctypes.Array[ctypes.c_char]) -> int:
    """Put the filter on this process; the descriptor that its questions come to."""
    libc = ctypes.CDLL(None, use_errno=True)
    length = (len(program) - 1) // 8
    head = struct.pack("@HxxxxxxQ", length, ctypes.addressof(program))
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    listener: int = libc.syscall(
        _SECCOMP[platform.machine()], _SET_MODE_FILTER, _NEW_LISTENER, head
    )
    if listener < 0:
        raise OSError(ctypes.get_errno(), "no seccomp filter")
    return listener
