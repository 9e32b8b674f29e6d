"""A closure at /nix/store, read-only, and nothing else there. Knows no database and no program.

    /nix/store    a small file system in memory: a directory for each directory of the closure, an
                  empty file for each file, and what they are bound on them; links are copied

It covers the host's /nix/store where there is one. Where there is only a /nix, that is rebuilt: a
file system in memory that has all entries of the host's, bound, and a ``store``. Where there is
no /nix, the root directory is rebuilt so, for nothing may be changed outside: the host's could be
read-only, or not ours to write to, and a directory made for us would stay behind.

What is bound is not the store's directory but a read-only bind of that, out of sight: a bind takes
its flags along, so that each path costs one mount and not two.

All is done in a mount namespace of this process's own (`own`), step by step and without a way
back: when it fails, the process is to end, and all mounts with it.
"""

from __future__ import annotations

import errno
import logging
import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nixfetch import kernel
from nixfetch.errors import StoreError
from nixfetch.formats.storepath import STORE_DIR
from nixfetch.kernel import MountFlag
from nixfetch.namespace import own
from nixfetch.store.disk import disk_error, disk_errors
from nixfetch.store.present import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nixfetch.store.present import Present

_log = logging.getLogger(__name__)
_STAGE = ".nixfetch"  # no store path is called so
_ROOT, _STORE = Path("/"), Path(STORE_DIR)
_TOP = _STORE.parent
_PATH = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_HARMLESS = MountFlag.NOSUID | MountFlag.NODEV
_KEPT = MountFlag.NOSUID | MountFlag.NODEV | MountFlag.NOEXEC  # ST_* are the same numbers
# Where the new root directory is put together: any directory will do, and is seen as ever later.
_SITES = ("tmp", "mnt", "run", "var", "usr", "etc", "dev")
_HINTS = {
    errno.ENOSPC: "there are too many mounts: raise it with `sysctl fs.mount-max=200000`",
    errno.EINVAL: "it may be that something is mounted inside the store",
    errno.ENODEV: "the kernel has no tmpfs",
}


class ViewError(StoreError):
    """The kernel refused a mount."""


class NotExecutableError(StoreError):
    """Programs cannot be run from where the store lies."""


def show_closure(closure: Sequence[Present], *, store: Path) -> None:
    """Let this process, and what it starts, see `closure` at /nix/store, and nothing else there.

    The working directory stays, unless there is none of that name any more: then it is ``/``.
    For a process of one thread.

    Args:
        closure: which paths, each once.
        store: the directory they lie in.

    Raises:
        NamespaceError: this process can have no mounts of its own.
        NotExecutableError: the store lies on a file system that was mounted with ``noexec``.
        ViewError: a mount was refused.
        DiskError: a directory cannot be opened.
    """
    _check_executable(store)
    here = _Here.of_process()
    own.enter()
    here.enter()
    mask = os.umask(0o022)  # of the directories that are made here
    source = _open(store)
    try:
        covered = _show(closure, source)
    finally:
        os.close(source)
        os.umask(mask)
    here.go_back(covered)


def _show(closure: Sequence[Present], store: int) -> Path:
    """Show `closure`, which lies in `store`; what is another directory now than outside."""
    if _STORE.is_dir():
        _memory(_STORE)
        _fill(_STORE, closure, store)
        _seal(_STORE)
        return _STORE.resolve()
    if _TOP.is_dir():
        _renew(_TOP, _TOP, without=_STORE.name)
        _STORE.mkdir()
        _fill(_STORE, closure, store)
        _seal(_TOP)
        return _TOP.resolve()
    site = _site()
    _renew(_ROOT, site, without=_TOP.name)
    inside = site / _STORE.relative_to(_ROOT)
    inside.mkdir(parents=True)
    _fill(inside, closure, store)
    _seal(site)
    _enter_root(site)
    return _ROOT


@dataclass(slots=True)
class _Here:
    """The working directory of before."""

    name: Path | None
    """None where it was removed."""
    fd: int = -1
    """A descriptor of it, in the namespace."""

    @classmethod
    def of_process(cls) -> _Here:
        try:
            return cls(Path.cwd())
        except OSError:
            return cls(None)

    def enter(self) -> None:
        """Hold on to it; the kernel took it along into the namespace."""
        self.fd = _open(Path())

    def go_back(self, covered: Path) -> None:
        """Be there again; by name where what is below `covered` is another one now."""
        try:
            if covered != _ROOT and (self.name is None or not self.name.is_relative_to(covered)):
                os.fchdir(self.fd)
            else:
                os.chdir(self.name or _ROOT)
        except OSError as error:
            _log.warning("working in /, for there is no %s any more: %s", self.name, error.strerror)
            os.chdir(_ROOT)
        finally:
            os.close(self.fd)


def _check_executable(store: Path) -> None:
    try:
        flags = os.statvfs(store).f_flag
    except OSError as error:
        raise disk_error(error, store) from error
    if flags & os.ST_NOEXEC:
        raise NotExecutableError(
            "the file system of the store is mounted with noexec: no program runs from it",
            store=str(store),
            hint="mount it with exec, or take a store on another disk (--store)",
        )


def _memory(directory: Path) -> None:
    """Cover `directory` with an empty file system in memory."""
    with _refusals(directory):
        kernel.mount(b"tmpfs", bytes(directory), _HARMLESS, filesystem=b"tmpfs", data=b"mode=0755")


def _seal(directory: Path) -> None:
    """Let nobody write to the file system in memory at `directory`."""
    flags = MountFlag.REMOUNT | MountFlag.BIND | MountFlag.RDONLY | _HARMLESS
    with _refusals(directory):
        kernel.mount(None, bytes(directory), flags)


def _fill(directory: Path, closure: Sequence[Present], store: int) -> None:
    """Put `closure`, which lies in `store`, into the empty `directory`."""
    stage = directory / _STAGE
    stage.mkdir()
    with _refusals(stage):
        os.fchdir(store)
        kernel.mount(b".", bytes(stage), MountFlag.BIND)
        # What the store is mounted with cannot be taken back in a user namespace.
        kept = MountFlag(os.statvfs(stage).f_flag) & _KEPT
        flags = MountFlag.REMOUNT | MountFlag.BIND | MountFlag.RDONLY | _HARMLESS | kept
        kernel.mount(None, bytes(stage), flags)
    os.chdir(directory)
    fd = _open(directory)
    try:
        for present in closure:
            _put(present, fd)
    finally:
        os.close(fd)
    with _refusals(stage):
        kernel.unmount(bytes(stage))
        stage.rmdir()


def _put(present: Present, fd: int) -> None:
    """Show one path in the working directory, of which `fd` is a descriptor."""
    base = present.path.base
    staged = f"{_STAGE}/{base}"
    with _refusals(_STORE / base):
        match present.kind:
            case Kind.SYMLINK:
                os.symlink(os.readlink(staged, dir_fd=fd), base, dir_fd=fd)
                return
            case Kind.DIRECTORY:
                os.mkdir(base, dir_fd=fd)
            case Kind.FILE:
                os.mknod(base, dir_fd=fd)
        kernel.mount(staged.encode(), base.encode(), MountFlag.BIND)


def _site() -> Path:
    """A directory in ``/``, and no link."""
    with disk_errors(_ROOT):
        others = sorted(_ROOT.iterdir())
    for site in (*(_ROOT / name for name in _SITES), *others):
        if site.is_dir() and not site.is_symlink() and os.access(site, os.X_OK):
            return site
    raise ViewError("there is no directory to put the new root directory together in")


def _renew(directory: Path, site: Path, *, without: str) -> None:
    """At `site`, a file system in memory with all that `directory` has, but `without`."""
    home, covered = _open(directory), _open(site)
    try:
        with disk_errors(directory), os.scandir(directory) as entries:
            kept = [entry for entry in entries if entry.name != without]
        _memory(site)
        with _refusals(site):  # else a bind of what it covers would hold it too
            kernel.mount(None, bytes(site), MountFlag.UNBINDABLE)
        for entry in kept:
            # By its descriptor the covered one is found, by its name what covers it.
            is_site = site == directory / entry.name
            os.fchdir(covered if is_site else home)
            _bind(entry, "." if is_site else entry.name, site / entry.name)
    finally:
        os.close(home)
        os.close(covered)


def _bind(entry: os.DirEntry[str], source: str, target: Path) -> None:
    """Show `entry` at `target`, which is not there yet. What cannot be reached is left out."""
    try:
        if entry.is_symlink():
            target.symlink_to(Path(source).readlink())
            return
        if entry.is_dir(follow_symlinks=False):
            target.mkdir()
        else:
            target.touch()
        kernel.mount(os.fsencode(source), bytes(target), MountFlag.BIND | MountFlag.REC)
    except OSError as error:
        _log.warning("%s is empty for the program: %s", entry.path, error.strerror)


def _enter_root(site: Path) -> None:
    """Make `site` the root directory, and let go of the old one."""
    os.chdir(site)
    with _refusals(_ROOT):
        try:
            kernel.pivot_root(b".", b".")
            kernel.unmount(b".")  # the old one, which lies upon the new one
        except kernel.UnsupportedError:
            kernel.mount(b".", b"/", MountFlag.MOVE)
            os.chroot(".")
    os.chdir(_ROOT)


def _open(directory: Path) -> int:
    try:
        return os.open(directory, _PATH)
    except OSError as error:
        raise disk_error(error, directory) from error


@contextmanager
def _refusals(target: Path) -> Iterator[None]:
    """Turn any `OSError` of the few calls inside into a `ViewError` about `target`."""
    try:
        yield
    except OSError as error:
        number = error.errno or 0
        hint = _HINTS.get(number)
        if number in (errno.EPERM, errno.EACCES):
            hint = own.advice()
        raise ViewError(
            "cannot mount the closure at /nix/store",
            file=str(target),
            reason=os.strerror(number).lower(),
            errno=errno.errorcode.get(number),
            hint=hint,
        ) from error
