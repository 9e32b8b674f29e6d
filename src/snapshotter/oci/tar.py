"""Tar archives: written in one way only, and read as a stream of members. Knows no files.

    header(512) data padding(to 512) … zeros(1024)

Written in GNU's format, which all readers of layers know: names beyond 100 bytes stand in a member
of their own (``L``, ``K``) before theirs. Equal entries give equal bytes: no owners, no groups.

Read as Go's archive/tar reads it, for that is what containerd and registries go by; where readers
disagree about what a member is, an archive can be two things:

    0 NUL 7   files; NUL with a slash at the end of its name is a directory
    1 2 3 4 5 6   links, devices, directories: no data follows, whatever their size says
    L K x     the name, link target and size of the next member
    g         of no member at all
    S         sparse: blocks of the map may follow the header

Source: archive/tar of Go, reader.go; POSIX.1-2001, pax, "ustar Interchange Format".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from snapshotter.oci.digests import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

BLOCK = 512  # bytes
MAX_MEMBERS = 1_000_000  # of an archive; the largest images have 300,000 files
MAX_SPECIAL = 1024 * 1024  # bytes of a long name or of a pax header; Go's limit
MAX_SPECIALS = 8  # of these, one behind the other, before a member
MAX_SIZE = 2**53  # bytes; no offset of anything real comes near
_PIECE = 1024 * 1024  # bytes read at a time of what is skipped
_NAME = 100  # bytes in the header
_OCTAL_MAX = 8**11 - 1  # bytes, 8 GiB; larger sizes are written in base 256
_GNU = b"ustar  \0"
_POSIX = b"ustar\0"
_END = bytes(2 * BLOCK)

FILE, HARD_LINK, LINK, DIRECTORY = b"0", b"1", b"2", b"5"
_NO_DATA = frozenset(b"123456")
_LONG_NAME, _LONG_LINK, _PAX, _GLOBAL, _SPARSE = b"L", b"K", b"x", b"g", b"S"


class TarError(ImageError):
    """The bytes are no tar archive, or one that cannot be believed."""


# Writing.


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file, a directory or a symbolic link to be written."""

    name: bytes
    """Relative, without slashes at either end."""
    kind: bytes = FILE
    mode: int
    """Permissions: twelve bits."""
    size: int = 0
    """Bytes of `data`."""
    link: bytes = b""
    """Where a symbolic link leads."""
    mtime: int = 0
    """Seconds since 1970."""
    data: Iterable[bytes] = field(default=(), repr=False)


def directory(name: bytes, mode: int = 0o755, *, mtime: int = 0) -> Entry:
    """An entry for a directory."""
    return Entry(name=name, kind=DIRECTORY, mode=mode, mtime=mtime)


def file(name: bytes, data: bytes = b"", mode: int = 0o644) -> Entry:
    """An entry for a small file."""
    return Entry(name=name, mode=mode, size=len(data), data=(data,))


def link(name: bytes, target: bytes, *, mtime: int = 0) -> Entry:
    """An entry for a symbolic link."""
    return Entry(name=name, kind=LINK, mode=0o777, link=target, mtime=mtime)


def archive(entries: Iterable[Entry]) -> Iterator[bytes]:
    """The bytes of an archive of `entries`, in their order.

    Raises, while it is iterated:
        TarError: an entry has another size than it said.
    """
    for entry in entries:
        yield _headers(entry)
        written = 0
        for chunk in entry.data:
            written += len(chunk)
            yield chunk
        if written != entry.size:
            raise TarError(
                "file changed while it was read",
                name=_shown(entry.name),
                expected=entry.size,
                received=written,
            )
        yield bytes(-written % BLOCK)
    yield _END


def in_order(entries: Iterable[Entry]) -> list[Entry]:
    """Entries by name, which puts a directory before all that is in it."""
    return sorted(entries, key=lambda entry: entry.name)


def _headers(entry: Entry) -> bytes:
    name = entry.name + (b"/" if entry.kind == DIRECTORY else b"")
    parts = []
    for kind, text in ((_LONG_LINK, entry.link), (_LONG_NAME, name)):
        if len(text) > _NAME:
            long = Entry(name=b"././@LongLink", kind=kind, mode=0, size=len(text) + 1)
            parts.append(_header(long, long.name))
            parts.append(text + bytes(1 + -(len(text) + 1) % BLOCK))
    return b"".join([*parts, _header(entry, name)])


def _header(entry: Entry, name: bytes) -> bytes:
    fields = (
        name[:_NAME].ljust(_NAME, b"\0"),
        b"%07o\0" % entry.mode,
        b"0000000\0" * 2,
        _written_size(entry.size),
        b"%011o\0" % entry.mtime,
        b" " * 8,  # the checksum counts as blanks
        entry.kind,
        entry.link[:_NAME].ljust(_NAME, b"\0"),
        _GNU,
    )
    block = b"".join(fields).ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _written_size(size: int) -> bytes:
    if size <= _OCTAL_MAX:
        return b"%011o\0" % size
    return (size | 1 << 95).to_bytes(12, "big")


# Reading.


class Source(Protocol):
    """Bytes that are read from start to end."""

    def read(self, size: int) -> bytes:
        """The next `size` bytes; fewer only at the end."""
        ...

    def skip(self, size: int) -> int:
        """Pass over the next `size` bytes; gives how many there were."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One member as the archive has it; nothing of it is believed."""

    name: bytes
    kind: bytes
    """The type, one byte; files are `FILE` whichever way the archive says so."""
    offset: int
    """Of its data in the archive."""
    size: int
    """Bytes of data; 0 for what has none."""
    link: bytes

    @property
    def path(self) -> bytes:
        """The name without ``./`` before it and without slashes behind it."""
        return self.name.removeprefix(b"./").rstrip(b"/")


def members(source: Source, *, limit: int = MAX_MEMBERS) -> Iterator[Member]:
    """Read the headers of an archive, one after the other.

    Args:
        source: stands at the start; stands behind the end mark, or at its end, when this is done.
        limit: members that may come.

    Raises, while it is iterated:
        TarError: the archive is damaged, ends early, or has more members than `limit`.
    """
    reader = _Reader(source)
    for _ in range(limit):
        member = reader.next()
        if member is None:
            return
        yield member
        reader.skip(member.size)
    if reader.next() is not None:
        raise TarError("archive has too many members", limit=limit)


class Chunks:
    """A `Source` of chunks as they come."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._left = memoryview(b"")

    def read(self, size: int) -> bytes:
        parts = []
        while size and self._fill():
            part = self._left[:size]
            self._left = self._left[len(part) :]
            size -= len(part)
            parts.append(part)
        return b"".join(parts)

    def skip(self, size: int) -> int:
        wanted = size
        while size and self._fill():
            step = min(size, len(self._left))
            self._left = self._left[step:]
            size -= step
        return wanted - size

    def drain(self) -> None:
        """Read to the end, so that whoever checks the chunks has seen them all."""
        while self._fill():
            self._left = memoryview(b"")

    def _fill(self) -> bool:
        while not self._left:
            chunk = next(self._chunks, None)
            if chunk is None:
                return False
            self._left = memoryview(chunk)
        return True


@dataclass(slots=True)
class _Special:
    """What the members before a member say of it."""

    name: bytes | None = None
    link: bytes | None = None
    size: int | None = None


class _Reader:
    def __init__(self, source: Source) -> None:
        self._source = source
        self._offset = 0

    def next(self) -> Member | None:
        special = _Special()
        for _ in range(MAX_SPECIALS):
            header = self._header()
            if header is None:
                return None
            kind, size = header[156:157], _number(header[124:136])
            if kind in {_LONG_NAME, _LONG_LINK, _PAX}:
                self._learn(special, kind, size)
            elif kind == _GLOBAL:
                self.skip(size)
            else:
                return self._member(header, kind, size, special)
        raise TarError("too many headers before one member", offset=self._offset)

    def skip(self, size: int) -> None:
        padded = size + -size % BLOCK
        # The padding of the last member may be missing: Go does not look at it either.
        if self._source.skip(padded) < size:
            raise TarError("archive ends early", offset=self._offset)
        self._offset += padded

    def _member(self, header: bytes, kind: bytes, size: int, special: _Special) -> Member:
        if kind == _SPARSE:
            self._skip_map(header)
        name = _name(header) if special.name is None else special.name
        if kind == b"\0" and name.endswith(b"/"):
            kind = DIRECTORY
        elif kind in {b"\0", b"7"}:
            kind = FILE
        size = size if special.size is None else special.size
        return Member(
            name=name,
            kind=kind,
            offset=self._offset,
            size=0 if kind[0] in _NO_DATA else size,
            link=_text(header[157:257]) if special.link is None else special.link,
        )

    def _header(self) -> bytes | None:
        """The next header; None at the end."""
        block = self._source.read(BLOCK)
        if not block:
            return None
        self._offset += len(block)
        if len(block) < BLOCK:
            raise TarError("archive ends early", offset=self._offset)
        if not any(block):
            return None
        blank = block[:148] + b" " * 8 + block[156:]
        if _number(block[148:156]) != sum(blank):
            raise TarError("not a tar archive, or damaged", offset=self._offset - BLOCK)
        return block

    def _learn(self, special: _Special, kind: bytes, size: int) -> None:
        if size > MAX_SPECIAL:
            raise TarError("name of a member is too long", size=size, limit=MAX_SPECIAL)
        data = self._source.read(size + -size % BLOCK)
        if len(data) < size:
            raise TarError("archive ends early", offset=self._offset)
        self._offset += size + -size % BLOCK
        if kind == _LONG_NAME:
            special.name = _text(data[:size])
        elif kind == _LONG_LINK:
            special.link = _text(data[:size])
        else:
            _learn_pax(special, data[:size])

    def _skip_map(self, header: bytes) -> None:
        more = header[482]
        while more:
            block = self._source.read(BLOCK)
            if len(block) < BLOCK:
                raise TarError("archive ends early", offset=self._offset)
            self._offset += BLOCK
            more = block[504]


def _learn_pax(special: _Special, data: bytes) -> None:
    """Records are ``LENGTH KEYWORD=VALUE`` and a newline; the length counts itself."""
    while data:
        digits, blank, _ = data[:20].partition(b" ")
        length = int(digits) if blank and digits.isdigit() else 0
        record = data[:length]
        keyword, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if len(record) != length or not equals or record[-1:] != b"\n" or b"\0" in keyword:
            raise TarError("malformed pax header")
        data = data[length:]
        match keyword:
            case b"path" | b"GNU.sparse.name":
                special.name = value
            case b"linkpath":
                special.link = value
            case b"size":
                if not value.isdigit() or len(value) > len(str(MAX_SIZE)):
                    raise TarError("malformed number")
                special.size = _bounded(int(value))
            case _:
                pass


def _name(header: bytes) -> bytes:
    name = _text(header[:_NAME])
    if header[257:263] != _POSIX:
        return name
    is_star = header[508:512] == b"tar\0"
    prefix = _text(header[345 : 476 if is_star else 500])
    return b"/".join(filter(None, (prefix, name)))


def _text(data: bytes) -> bytes:
    return data.partition(b"\0")[0]


def _number(data: bytes) -> int:
    """Octal digits, or base 256 where the first bit says so."""
    if data[0] & 0x80:
        if data[0] & 0x40:
            raise TarError("negative number")
        return _bounded(int.from_bytes(bytes([data[0] & 0x7F]) + data[1:], "big"))
    digits = data.strip(b" \0")
    if not digits:
        return 0
    if digits.strip(b"01234567"):
        raise TarError("malformed number")
    return _bounded(int(digits, 8))


def _bounded(number: int) -> int:
    if number > MAX_SIZE:
        raise TarError("number is too large", limit=MAX_SIZE)
    return number


def _shown(name: bytes) -> str:
    return ascii(name[:200].decode(errors="backslashreplace"))
