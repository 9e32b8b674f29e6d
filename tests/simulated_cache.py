"""A whole signed binary cache in memory that is a `Transport`. Knows no network and no store.

    cache = SimulatedCache()
    hello = cache.add("hello", {b"bin": {b"hello": Executable(b"#!")}})
    cache.faults[cache.nar_name(hello)] = CutAfter(100)
    fetch_closure([hello], caches=CacheGroup([BinaryCache(cache)]), policy=POLICY, store=store)
    assert cache.opened == [...]

A tree is a value: bytes are a file, a dictionary is a directory. Equal calls give equal bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import lzma
import threading
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

import zstandard

from nixfetch.errors import TransportError
from nixfetch.formats import base32
from nixfetch.formats.cacheinfo import CacheInfo
from nixfetch.formats.contentaddress import ContentAddress, Method
from nixfetch.formats.hashes import Hash, sha256
from nixfetch.formats.nar import Contents, Directory, End, Event, Regular, Symlink
from nixfetch.formats.nar.writer import write
from nixfetch.formats.narinfo import NarInfo
from nixfetch.formats.signing import SecretKey
from nixfetch.formats.storepath import StorePath
from nixfetch.plan.trust import Trusted, TrustPolicy
from nixfetch.transport.base import (
    AuthenticationError,
    Body,
    ForbiddenError,
    NotFoundError,
    Pace,
    Range,
    UnsatisfiableRangeError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

KEY = SecretKey.from_seed("simulated-1", bytes(32))
OTHER_KEY = SecretKey.from_seed("other-1", bytes(31) + b"\1")
POLICY = TrustPolicy((KEY.public(),))

_HASH_PART = 20  # bytes
_PATIENCE = 60.0  # seconds until a gate that nobody opens is an error of the test


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link of a tree."""

    target: bytes


@dataclass(frozen=True, slots=True)
class Executable:
    """A file of a tree that may be run."""

    data: bytes


Tree: TypeAlias = bytes | Executable | Link | Mapping[bytes, "Tree"]
Compression: TypeAlias = Literal["none", "xz", "zstd", "gzip"]


def tree_events(tree: Tree, name: bytes = b"") -> Iterator[Event]:
    """The events of the NAR of `tree`."""
    match tree:
        case bytes() | Executable():
            data = tree if isinstance(tree, bytes) else tree.data
            yield Regular(name, len(data), isinstance(tree, Executable), 0)
            if data:
                yield Contents(memoryview(data))
            yield End()
        case Link(target):
            yield Symlink(name, target)
        case _:
            yield Directory(name)
            for entry, below in sorted(tree.items()):
                yield from tree_events(below, entry)
            yield End()


def tree_nar(tree: Tree) -> bytes:
    """The NAR of `tree`."""
    return b"".join(write(tree_events(tree)))


def store_path(name: str) -> StorePath:
    """The path that `SimulatedCache.add` gives to what is called `name` and has no `ca`."""
    digest = hashlib.sha256(name.encode()).digest()[:_HASH_PART]
    return StorePath.parse(f"{base32.encode(digest)}-{name}")


def compress(compression: str, data: bytes) -> bytes:
    """`data` under `compression`."""
    match compression:
        case "none":
            return data
        case "xz":
            return lzma.compress(data, preset=0)
        case "zstd":
            return zstandard.compress(data, 1)
        case "gzip":
            return gzip.compress(data, 1, mtime=0)
        case _:
            raise ValueError(compression)


# What can go wrong with one object. `times` counts requests for it, from the first one.


@dataclass(frozen=True, slots=True)
class Missing:
    """There is no such object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The first `times` requests fail."""

    times: int = 1
    retryable: bool = True
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class Forbidden:
    """403: the object is there or not, and not for us."""


@dataclass(frozen=True, slots=True)
class Unauthorized:
    """401: other credentials are wanted."""


@dataclass(frozen=True, slots=True)
class CutAfter:
    """The connection breaks after `size` bytes of the answer, in the first `times` answers."""

    size: int
    times: int = 1


@dataclass(frozen=True, slots=True)
class FlippedByte:
    """One byte is another one."""

    at: int = -1


@dataclass(frozen=True, slots=True)
class Truncated:
    """The object is shorter, and says so: nothing looks broken on the way."""

    size: int


@dataclass(frozen=True, slots=True)
class Replaced:
    """The object is another one, perhaps under a Content-Encoding."""

    data: bytes
    encoding: str | None = None


@dataclass(frozen=True, slots=True)
class WrongPath:
    """A narinfo: that of another path of this cache, rightly signed."""

    path: StorePath


@dataclass(frozen=True, slots=True)
class Unsigned:
    """A narinfo: without its signatures."""


@dataclass(frozen=True, slots=True)
class SignedBy:
    """A narinfo: signed by this key instead."""

    key: SecretKey


@dataclass(frozen=True, slots=True)
class Html:
    """A log-in page answers in place of the cache."""


@dataclass(frozen=True, slots=True)
class Endless:
    """The object never ends. With `data`: after it."""

    filler: bytes = bytes(65536)
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Slow:
    """The answer stalls after `size` bytes until `gate` is set."""

    gate: threading.Event
    size: int = 0


Fault: TypeAlias = (
    Missing
    | Refused
    | Forbidden
    | Unauthorized
    | CutAfter
    | FlippedByte
    | Truncated
    | Replaced
    | WrongPath
    | Unsigned
    | SignedBy
    | Html
    | Endless
    | Slow
)


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody asked for."""

    name: str
    wanted: Range | None


@dataclass(slots=True)
class SimulatedCache:
    """Objects by name, and faults on demand. Threads may share it."""

    key: SecretKey | None = KEY
    """Signs what is added; None: nothing is signed."""
    url: str = "simulated://one"
    priority: int | None = None
    """None: there is no nix-cache-info."""
    ranges: bool = True
    """Whether ranges are honoured."""
    chunk_size: int = 64 * 1024
    """Bytes of the pieces of a body."""
    objects: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, Fault] = field(default_factory=dict)
    fault: Fault | None = None
    """Of all objects that have none of their own."""
    infos: dict[StorePath, NarInfo] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    open_bodies: int = 0
    """Answers that somebody reads right now."""
    closed: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        if self.priority is not None:
            self.objects["nix-cache-info"] = CacheInfo(priority=self.priority).render()

    # What is in it.

    def add(
        self,
        name: str,
        tree: Tree = b"",
        *,
        references: Iterable[StorePath] = (),
        ca: Method | None = None,
        compression: Compression = "none",
        deriver: StorePath | None = None,
    ) -> StorePath:
        """Put a path in, signed by `key` unless it has a content address; gives the path.

        Args:
            name: what stands behind the hash part.
            tree: its content.
            references: what it refers to; `store_path(name)` among them is itself.
            ca: how it is content-addressed; not together with a reference to itself.
            compression: of the NAR.
            deriver: as the narinfo names it.
        """
        nar = tree_nar(tree)
        address = None if ca is None else _address(ca, tree, nar)
        references = tuple(sorted(set(references)))
        path = store_path(name) if address is None else address.path(name, references)
        file = compress(compression, nar)
        url = f"nar/{sha256(path.base.encode() + file).base32}.nar"
        self.objects[url] = file
        self.publish(
            NarInfo(
                path=path,
                nar_hash=sha256(nar),
                nar_size=len(nar),
                references=references,
                url=url,
                compression=compression,
                file_hash=sha256(file),
                file_size=len(file),
                deriver=deriver,
                ca=address,
            ),
            key=self.key if address is None else None,
        )
        return path

    def publish(self, info: NarInfo, *, key: SecretKey | None) -> None:
        """Put a narinfo in, true or not; with `key`, under that one signature."""
        if key is not None:
            info = replace(info, signatures=(key.sign(info.fingerprint()),))
        self.infos[info.path] = info
        self.objects[self.narinfo_name(info.path)] = info.render()

    def narinfo_name(self, path: StorePath) -> str:
        return f"{path.hash_part}.narinfo"

    def nar_name(self, path: StorePath) -> str:
        return self.infos[path].url

    def trusted(self, path: StorePath, policy: TrustPolicy = POLICY) -> Trusted:
        """What a client makes of the narinfo of `path`."""
        return policy.admit(self.infos[path])

    def dump(self, directory: Path) -> None:
        """Write all objects below `directory`: a ``file://`` cache. Faults stay behind."""
        for name, data in {"nix-cache-info": CacheInfo().render(), **self.objects}.items():
            file = directory / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)

    # What was asked.

    @property
    def opened(self) -> list[str]:
        """Names of what was asked for, in order."""
        return [request.name for request in self.requests]

    @property
    def opened_narinfos(self) -> list[str]:
        return [name for name in self.opened if name.endswith(".narinfo")]

    @property
    def opened_nars(self) -> list[str]:
        return [name for name in self.opened if name.startswith("nar/")]

    # The transport.

    def close(self) -> None:
        self.closed = True

    @contextmanager
    def open(
        self, name: str, wanted: Range | None = None, *, pace: Pace | None = None
    ) -> Iterator[Body]:
        with self._lock:
            faulty = self.fault is not None or name in self.faults
            number = 1 + (self.opened.count(name) if faulty else 0)
            self.requests.append(Request(name, wanted))
        body = self._answer(name, wanted, number)
        with self._lock:
            self.open_bodies += 1
        try:
            yield body
        finally:
            with self._lock:
                self.open_bodies -= 1

    def _answer(self, name: str, wanted: Range | None, number: int) -> Body:
        fault = self.faults.get(name, self.fault)
        if isinstance(fault, Refused) and number <= fault.times:
            raise TransportError(
                "remote is busy or broken",
                retryable=fault.retryable,
                retry_after=fault.retry_after,
                url=name,
            )
        if isinstance(fault, Endless):
            filler = itertools.repeat(fault.filler)
            return Body(chunks=itertools.chain([fault.data] if fault.data else [], filler))
        data, encoding = self._object(name, fault)
        validator = hashlib.sha256(data).hexdigest()
        start, stop = 0, len(data)
        if self.ranges and wanted is not None and wanted.validator in {None, validator}:
            if wanted.start >= stop:
                raise UnsatisfiableRangeError("object is shorter than the range asked for")
            start, stop = wanted.start, min(wanted.stop or stop, stop)
        chunks = self._chunks(data[start:stop])
        match fault:
            case CutAfter(size, times) if number <= times:
                chunks = _cut(chunks, size, name)
            case Slow(gate, size):
                chunks = _stalled(chunks, size, gate)
            case _:
                pass
        return Body(
            chunks=chunks, size=stop - start, encoding=encoding, start=start, validator=validator
        )

    def _object(  # noqa: PLR0911 - one answer a fault
        self, name: str, fault: Fault | None
    ) -> tuple[bytes, str | None]:
        """The bytes that the answer is made of, and the encoding that it claims."""
        match fault:
            case Missing():
                raise NotFoundError("no such object", url=name)
            case Forbidden():
                raise ForbiddenError("no such object, or not for us", status=403)
            case Unauthorized():
                raise AuthenticationError("not authorised", status=401)
            case Replaced(data, encoding):
                return data, encoding
            case Html():
                return b"<!DOCTYPE html><html><body>Please log in.</body></html>", None
            case WrongPath(path):
                return self.objects[self.narinfo_name(path)], None
            case _:
                pass
        data = self.objects.get(name, b"")
        if name not in self.objects:
            raise NotFoundError("no such object", url=name)
        match fault:
            case FlippedByte(at):
                changed = bytearray(data)
                changed[at] ^= 1
                return bytes(changed), None
            case Truncated(size):
                return data[:size], None
            case Unsigned():
                return replace(NarInfo.parse(data), signatures=()).render(), None
            case SignedBy(key):
                info = NarInfo.parse(data)
                return replace(info, signatures=(key.sign(info.fingerprint()),)).render(), None
            case _:
                return data, None

    def _chunks(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), self.chunk_size):
            yield data[start : start + self.chunk_size]


def _address(method: Method, tree: Tree, nar: bytes) -> ContentAddress:
    if method is Method.RECURSIVE:
        return ContentAddress(method, sha256(nar))
    if not isinstance(tree, bytes):
        raise TypeError("only a plain file has the hash of its contents")
    if method is Method.GIT:
        blob = b"blob %d\0" % len(tree) + tree
        return ContentAddress(method, Hash("sha1", hashlib.sha1(blob).digest()))
    return ContentAddress(method, sha256(tree))


def _cut(chunks: Iterator[bytes], size: int, name: str) -> Iterator[bytes]:
    for chunk in chunks:
        if len(chunk) > size:
            if size:
                yield chunk[:size]
            raise TransportError("body ended early", retryable=True, url=name)
        size -= len(chunk)
        yield chunk


def _stalled(chunks: Iterator[bytes], size: int, gate: threading.Event) -> Iterator[bytes]:
    for chunk in chunks:
        if len(chunk) > size and not gate.is_set():
            if size:
                yield chunk[:size]
                chunk, size = chunk[size:], 0  # noqa: PLW2901 - the rest of the same chunk
            if not gate.wait(_PATIENCE):
                raise TimeoutError("nobody opened the gate")
        size = max(0, size - len(chunk))
        yield chunk
