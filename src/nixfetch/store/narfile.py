"""NAR files: what this machine holds as one, and trees on their way into and out of one.

Knows nothing of store paths and of trust: whoever unpacks here has decided to.

    opening(file)  ->  decoded bytes of the NAR  ->  events  ->  unpack
                                                 ->  checked bytes  ->  hash_of

Every byte goes through `NarReader`. Nothing is held but the piece at hand.
"""

from __future__ import annotations

import logging
import os
import secrets
import stat
from contextlib import contextmanager, suppress
from itertools import chain
from typing import TYPE_CHECKING

from nixfetch import kernel
from nixfetch.errors import FormatError, StoreError
from nixfetch.formats.hashes import Hash, hasher
from nixfetch.formats.nar import NarReader, wire
from nixfetch.formats.nar.writer import write
from nixfetch.store.descent import Descent
from nixfetch.store.disk import disk_errors
from nixfetch.store.dump import dump
from nixfetch.store.restore import Restorer
from nixfetch.store.trees import remove_tree
from nixfetch.streams import codecs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from nixfetch.formats.nar import Event

CHUNK = 256 * 1024  # bytes read at a time
STDIN = 0

_log = logging.getLogger(__name__)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_PLACEHOLDER = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PRIVATE = 0o700
_OPEN = 0o777  # of which the umask leaves what it leaves
_PLAIN, _RUNNABLE = 0o644, 0o755
_TREE = b"tree"  # the name of what is being unpacked, in a directory of its own


class UnknownCompressionError(FormatError):
    """The bytes are neither a NAR nor of a compression that begins with a magic."""


class DestinationExistsError(StoreError):
    """Something has the name that was to be unpacked to."""


@contextmanager
def opening(file: Path | None, *, compression: str | None = None) -> Iterator[Iterator[bytes]]:
    """Open a NAR file, compressed or not, and give the bytes of the NAR as they are asked for.

    Args:
        file: None for standard input.
        compression: a word for `codecs.decoder`; None to tell it by the first bytes.

    Raises:
        DiskError: it cannot be opened or, later, read.
        UnknownCompressionError, CodecError, UnsupportedCompressionError: while it is read.
    """
    if file is None:
        yield decoded(_chunks(STDIN, "standard input"), compression)
        return
    with disk_errors(file):
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield decoded(_chunks(fd, str(file)), compression)
    finally:
        os.close(fd)


def decoded(chunks: Iterable[bytes], compression: str | None = None) -> Iterator[bytes]:
    """The bytes of a NAR from those of a file that may be compressed.

    Raises:
        UnknownCompressionError: `compression` is None, and nothing tells.
        CodecError, UnsupportedCompressionError: it cannot be undone.
    """
    if compression is None:
        chunks = iter(chunks)
        head = b""
        for chunk in chunks:
            head += chunk
            if len(head) >= codecs.HEAD:
                break
        compression = _recognise(head)
        chunks = chain([head], chunks)
    yield from codecs.decode(compression, chunks)


def events(nar: Iterable[bytes], *, max_depth: int = wire.MAX_DEPTH) -> Iterator[Event]:
    """The events of a whole NAR.

    Raises:
        NarError: it is not a canonical NAR, or bytes follow it.
    """
    reader = NarReader(max_depth=max_depth)
    for chunk in nar:
        yield from reader.feed(chunk)
    reader.finish()


def checked(nar: Iterable[bytes], *, max_depth: int = wire.MAX_DEPTH) -> Iterator[bytes]:
    """The bytes of a NAR as they came.

    Raises:
        NarError: instead of the piece that shows that they are none, or at the end.
    """
    reader = NarReader(max_depth=max_depth)
    for chunk in nar:
        reader.feed(chunk)
        yield chunk
    reader.finish()


def dumped(path: Path) -> Iterator[bytes | memoryview]:
    """The NAR of the file, directory or symbolic link `path`, piece by piece.

    Raises:
        DiskError, UnsupportedFileError, ChangedFileError: it cannot be read.

    Source: nix, src/libutil/archive.cc, `dumpPath`.
    """
    parent, name = _located(path)
    with disk_errors(path):
        parent_fd = os.open(parent, _DIRECTORY)
    try:
        yield from write(dump(parent_fd, name))
    finally:
        os.close(parent_fd)


def hash_of(nar: Iterable[bytes | memoryview], algorithm: str = "sha256") -> Hash:
    """The hash of a NAR.

    Args:
        nar: its bytes, in pieces.
        algorithm: one of `hashes.SIZES`.

    Raises:
        UnsupportedHashError: its extra is not installed.
    """
    state = hasher(algorithm)
    for piece in nar:
        state.update(piece)
    return Hash(algorithm, state.digest())


def unpack(tree: Iterable[Event], destination: Path) -> None:
    """Make files of the events of a NAR: `destination` is complete, or there is nothing.

    Unpacks in a private directory beside `destination`, and renames. As `nix-store --restore`,
    files get mode 0644 or 0755, directories 0755, less what the umask takes away (Nix sets
    its own, 022), and the time of now. Does not wait for the disk: a power cut may undo it.

    Args:
        tree: of one whole NAR; what it raises passes through.
        destination: must not exist, its parent must.

    Raises:
        DestinationExistsError: it does, or came to be meanwhile; it is left alone.
        DiskError: the disk refused.
    """
    parent, name = _located(destination)
    with disk_errors(destination):
        parent_fd = os.open(parent, _DIRECTORY)
    try:
        if name == b"." or _exists(parent_fd, name):
            raise _taken(destination)
        with _private_directory(parent_fd, destination) as private_fd:
            _restore(tree, private_fd)
            with disk_errors(destination):
                _make_ordinary(private_fd, _TREE)
            _place(private_fd, parent_fd, name, destination)
    finally:
        os.close(parent_fd)


def _recognise(head: bytes) -> str:
    if wire.MAGIC.startswith(head):  # a truncated one, the reader will say
        return "none"
    compression = codecs.recognise(head)
    if compression is None:
        raise UnknownCompressionError(
            "neither a NAR nor recognisably a compressed one",
            hint="brotli and lzma have no magic: name them with --compression",
            head=head[: codecs.HEAD].hex(),
        )
    return compression


def _chunks(fd: int, file: str) -> Iterator[bytes]:
    while True:
        with disk_errors(file):
            chunk = os.read(fd, CHUNK)
        if not chunk:
            return
        yield chunk


def _located(path: Path) -> tuple[Path, bytes]:
    """A directory to open, and the name of `path` in it; ``.`` where it has none of its own."""
    if path.name in {"", ".."}:
        return path, b"."
    return path.parent, os.fsencode(path.name)


def _exists(parent_fd: int, name: bytes) -> bool:
    with disk_errors(os.fsdecode(name)):
        try:
            os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
    return True


def _taken(destination: Path) -> DestinationExistsError:
    return DestinationExistsError(
        "destination exists already",
        file=str(destination),
        hint="remove it, or unpack to another name",
    )


@contextmanager
def _private_directory(parent_fd: int, destination: Path) -> Iterator[int]:
    """A directory that nobody else can enter, and that is gone afterwards, with all in it."""
    name = f".nixfetch-{secrets.token_hex(8)}".encode()
    fd = -1
    try:
        with disk_errors(destination):
            os.mkdir(name, _PRIVATE, dir_fd=parent_fd)
            fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent_fd)
        yield fd
    finally:
        if fd >= 0:
            os.close(fd)
        try:
            remove_tree(parent_fd, name)
        except OSError as error:  # what led here matters more
            _log.warning(
                "cannot remove %s: %s", destination.parent / os.fsdecode(name), error.strerror
            )


def _restore(tree: Iterable[Event], private_fd: int) -> None:
    restorer = Restorer(private_fd, _TREE)
    try:
        for event in tree:
            restorer.apply(event)
    finally:
        restorer.close()


def _make_ordinary(private_fd: int, name: bytes) -> None:
    """From the modes and times of a store path to those of files that somebody works with."""
    allowed = _left_by_umask(private_fd) | _PRIVATE
    with Descent(private_fd) as descent:
        pending = [[name]]
        while pending:
            if not pending[-1]:
                pending.pop()
                if pending:
                    descent.leave()
                continue
            entry = pending[-1].pop()
            mode = os.stat(entry, dir_fd=descent.fd, follow_symlinks=False).st_mode
            os.utime(entry, dir_fd=descent.fd, follow_symlinks=False)
            if stat.S_ISLNK(mode):
                continue
            runnable = bool(mode & stat.S_IXUSR)
            os.chmod(entry, (_RUNNABLE if runnable else _PLAIN) & allowed, dir_fd=descent.fd)
            if stat.S_ISDIR(mode):
                descent.enter(entry)
                pending.append(list(map(os.fsencode, os.listdir(descent.fd))))  # noqa: PTH208 - a descriptor


def _left_by_umask(private_fd: int) -> int:
    """Seen on a directory: reading a umask means to change it, for all threads."""
    probe = b"umask"
    os.mkdir(probe, _OPEN, dir_fd=private_fd)
    mode = os.stat(probe, dir_fd=private_fd).st_mode
    os.rmdir(probe, dir_fd=private_fd)
    return stat.S_IMODE(mode)


def _place(private_fd: int, parent_fd: int, name: bytes, destination: Path) -> None:
    """Rename to a name that is free, and never to one that somebody takes meanwhile."""
    with disk_errors(destination):
        try:
            try:
                kernel.rename_noreplace(_TREE, name, src_dir_fd=private_fd, dst_dir_fd=parent_fd)
            except kernel.UnsupportedError:
                _place_on_placeholder(private_fd, parent_fd, name)
        except FileExistsError as error:
            raise _taken(destination) from error


def _place_on_placeholder(private_fd: int, parent_fd: int, name: bytes) -> None:
    """The same where the file system cannot: an empty thing of ours takes the name first."""
    is_directory = stat.S_ISDIR(os.stat(_TREE, dir_fd=private_fd, follow_symlinks=False).st_mode)
    if is_directory:
        os.mkdir(name, _PRIVATE, dir_fd=parent_fd)
    else:
        os.close(os.open(name, _PLACEHOLDER, 0, dir_fd=parent_fd))
    try:
        os.rename(_TREE, name, src_dir_fd=private_fd, dst_dir_fd=parent_fd)
    except BaseException:
        with suppress(OSError):
            (os.rmdir if is_directory else os.unlink)(name, dir_fd=parent_fd)
        raise
