"""Which of several caches a path comes from: ours and that of real Nix 2.34, on a table of set-ups.

Every cache signs with a key of its own, and all keys are trusted, so that the signature that a
store has registered says which cache the path came from. Two paths are fetched: `low`, and `top`
that refers to it. An outcome is a word of two letters, "ab" where `low` came from cache a and
`top` from cache b; "" where the fetch failed.

Where Nix does otherwise and we think that it is wrong, the row says so, and why; that Nix still
does so is tested too. Nothing of what Nix says is taken for granted but what this table shows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING, TypeAlias

import pytest

import sins
from hostile_server import HostileServer
from measured import Place
from nixfetch.formats.contentaddress import ContentAddress, Method
from nixfetch.formats.hashes import sha256
from nixfetch.formats.signing import SecretKey
from real_nix import real_nix
from simulated_cache import SimulatedCache, store_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from hostile_server import Behaviour
    from real_nix import RealNix
    from simulated_cache import Compression

pytestmark = pytest.mark.differential

LOW, TOP = store_path("low"), store_path("top")
STRANGER = SecretKey.from_seed("stranger-1", b"s" * 32)
LIMIT = 60.0  # seconds for one command of ours
SETTINGS = {
    "NIXFETCH_CONNECT_TIMEOUT": "30",
    "NIXFETCH_STALL_TIMEOUT": "30",
    "NIXFETCH_DOWNLOAD_ATTEMPTS": "2",
}
NIX_SETTINGS = {
    "connect-timeout": "30",
    "download-attempts": "2",
    "stalled-download-timeout": "30",
    "substitute": "true",
}


def key(letter: str) -> SecretKey:
    """What cache `letter` signs with."""
    return SecretKey.from_seed(f"{letter}-1", letter.encode() * 32)


KEYS = " ".join(str(key(letter).public()) for letter in "abc")

Change: TypeAlias = Callable[[SimulatedCache], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """One of the caches of a set-up."""

    priority: int | None = 40
    """In its nix-cache-info."""
    parameters: str = ""
    """Of its URL."""
    compression: Compression = "xz"
    changes: tuple[Change, ...] = ()
    """To what it has."""
    sins: Mapping[str, Behaviour] = field(default_factory=dict)
    """How it answers, by pattern of the names asked for."""
    how: str = "http"
    """Or "file", or "nobody"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A set-up and its outcome."""

    caches: tuple[Cache, ...]
    outcome: str
    nix: str | None = None
    """Of Nix; None: the same."""
    why: str = ""
    """What is wrong with that."""


def cache(**what: object) -> Cache:
    return Cache(**what)  # type: ignore[arg-type]


# Changes to a cache.


def without(*names: str) -> Change:
    """It lacks paths."""

    def change(simulated: SimulatedCache) -> None:
        for name in names:
            del simulated.objects[simulated.narinfo_name(store_path(name))]

    return change


def without_nar(name: str) -> Change:
    def change(simulated: SimulatedCache) -> None:
        del simulated.objects[simulated.nar_name(store_path(name))]

    return change


def with_nar(name: str, change_data: Callable[[bytes], bytes]) -> Change:
    """A NAR is other bytes than announced."""

    def change(simulated: SimulatedCache) -> None:
        nar = simulated.nar_name(store_path(name))
        simulated.objects[nar] = change_data(simulated.objects[nar])

    return change


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def with_info(name: str, *, signed: bool = False, **changes: object) -> Change:
    """A narinfo says something else, under the signature of before or a new one."""

    def change(simulated: SimulatedCache) -> None:
        info = replace(simulated.infos[store_path(name)], **changes)  # type: ignore[arg-type]
        if signed:
            info = replace(info, signatures=())
        simulated.publish(info, key=simulated.key if signed else None)

    return change


def with_text(name: str, change_text: Callable[[bytes], bytes]) -> Change:
    """A narinfo is another text."""

    def change(simulated: SimulatedCache) -> None:
        narinfo = simulated.narinfo_name(store_path(name))
        simulated.objects[narinfo] = change_text(simulated.objects[narinfo])

    return change


def signed_by(name: str, secret: SecretKey | None) -> Change:
    """A narinfo is signed by another key, or by none."""

    def change(simulated: SimulatedCache) -> None:
        info = replace(simulated.infos[store_path(name)], signatures=())
        simulated.publish(info, key=secret)

    return change


def field_of(name: str, value: bytes) -> Callable[[bytes], bytes]:
    """Sets a field of a narinfo."""

    def change(text: bytes) -> bytes:
        lines = [line for line in text.splitlines() if not line.startswith(name.encode() + b": ")]
        return b"\n".join([*lines, name.encode() + b": " + value, b""])

    return change


def forged(simulated: SimulatedCache) -> None:
    """`top` is signed by another key of the right name."""
    assert simulated.key is not None
    signed_by("top", SecretKey.from_seed(simulated.key.name, b"?" * 32))(simulated)


def short_signature(simulated: SimulatedCache) -> None:
    """`top` has a signature of three bytes, under a trusted name."""
    assert simulated.key is not None
    with_text("top", field_of("Sig", simulated.key.name.encode() + b":QUJD"))(simulated)


def of_another_path(simulated: SimulatedCache) -> None:
    """The narinfo of `top` is that of `low`."""
    low, top = (simulated.narinfo_name(path) for path in (LOW, TOP))
    simulated.objects[top] = simulated.objects[low]


def false_address(simulated: SimulatedCache) -> None:
    address = ContentAddress(Method.RECURSIVE, sha256(b"something else"))
    with_info("top", signed=True, ca=address)(simulated)


def info_text(text: bytes) -> Mapping[str, Behaviour]:
    """What it says about itself."""
    return {"nix-cache-info": sins.saying(200, text)}


GOOD = cache()
TOP_NARINFO = f"{TOP.hash_part}.narinfo"

ROWS: dict[str, Row] = {
    # whom to ask first
    "equal priorities": Row(caches=(GOOD, GOOD), outcome="aa"),
    "by their own word": Row(caches=(cache(priority=50), cache(priority=30)), outcome="bb"),
    "by their own word, three": Row(
        caches=(cache(priority=50), cache(priority=40), cache(priority=30)), outcome="cc"),
    "by our word": Row(
        caches=(cache(parameters="?priority=50"), cache(parameters="?priority=30")), outcome="bb"),
    "our word against theirs": Row(
        caches=(cache(priority=10, parameters="?priority=60"), GOOD), outcome="bb"),
    "our word as good as theirs": Row(
        caches=(cache(priority=30), cache(parameters="?priority=30")), outcome="aa"),
    "a negative one": Row(caches=(GOOD, cache(parameters="?priority=-1")), outcome="bb"),
    "one does not say": Row(caches=(GOOD, cache(priority=None)), outcome="bb"),
    "none says": Row(caches=(cache(priority=None), cache(priority=None)), outcome="aa"),
    "a directory, earlier": Row(
        caches=(cache(priority=50), cache(how="file", priority=30)), outcome="bb"),
    "a directory, later": Row(
        caches=(cache(how="file", priority=50), cache(priority=30)), outcome="bb"),
    "directories alone": Row(
        caches=(cache(how="file"), cache(how="file", priority=30)), outcome="bb"),
    # missing
    "first lacks both": Row(caches=(cache(changes=(without("low", "top"),)), GOOD), outcome="bb"),
    "first lacks one": Row(caches=(cache(changes=(without("low"),)), GOOD), outcome="ba"),
    "each lacks one": Row(
        caches=(cache(changes=(without("low"),)), cache(changes=(without("top"),))), outcome="ba"),
    "a directory lacks one": Row(
        caches=(cache(how="file", changes=(without("top"),)), GOOD), outcome="ab"),
    "all lack one": Row(
        caches=(cache(changes=(without("low"),)), cache(changes=(without("low"),))), outcome=""),
    "third has it": Row(
        caches=(cache(changes=(without("low", "top"),)), cache(sins={"*": sins.saying(404)}), GOOD),
        outcome="cc"),
    "410": Row(caches=(cache(sins={TOP_NARINFO: sins.saying(410)}), GOOD), outcome="ab"),
    "403": Row(caches=(cache(sins={TOP_NARINFO: sins.saying(403)}), GOOD), outcome="ab"),
    "401": Row(
        caches=(cache(sins={TOP_NARINFO: sins.saying(401)}), GOOD),
        outcome="bb",
        nix="ab",
        why="it takes refused credentials for a missing path, and asks on"),
    "NAR gone": Row(caches=(cache(changes=(without_nar("top"),)), GOOD), outcome="ab"),
    "NAR forbidden": Row(caches=(cache(sins={"nar/*": sins.saying(403)}), GOOD), outcome="bb"),
    # not to be believed
    "unsigned": Row(caches=(cache(changes=(signed_by("top", None),)), GOOD), outcome="ab"),
    "signed by a stranger": Row(
        caches=(cache(changes=(signed_by("top", STRANGER),)), GOOD), outcome="ab"),
    "signature forged": Row(caches=(cache(changes=(forged,)), GOOD), outcome="ab"),
    "signature of another text": Row(
        caches=(cache(changes=(with_info("top", nar_size=1),)), GOOD), outcome="ab"),
    "signature too short": Row(
        caches=(cache(changes=(short_signature,)), GOOD),
        outcome="ab",
        nix="",
        why="it gives up, and the next cache would do"),
    "no signature needed": Row(
        caches=(cache(changes=(signed_by("top", None),), parameters="?trusted=1"), GOOD),
        outcome="aa"),
    "no signature needed in the second": Row(
        caches=(
            cache(changes=(signed_by("top", None),)),
            cache(changes=(signed_by("top", None),), parameters="?trusted=1"),
        ),
        outcome="ab"),
    "false content address": Row(caches=(cache(changes=(false_address,)), GOOD), outcome="ab"),
    "narinfo of another path": Row(caches=(cache(changes=(of_another_path,)), GOOD), outcome="ab"),
    # not intact
    "a flipped bit": Row(caches=(cache(changes=(with_nar("top", flipped),)), GOOD), outcome="ab"),
    "a flipped bit, not compressed": Row(
        caches=(cache(compression="none", changes=(with_nar("top", flipped),)), GOOD),
        outcome="ab"),
    "a truncated NAR": Row(
        caches=(cache(changes=(with_nar("top", lambda data: data[:-100]),)), GOOD), outcome="ab"),
    "an empty NAR": Row(
        caches=(cache(changes=(with_nar("top", lambda _: b""),)), GOOD), outcome="ab"),
    "HTML for a NAR": Row(
        caches=(cache(changes=(with_nar("top", lambda _: sins.PORTAL),)), GOOD), outcome="ab"),
    "wrong hash, signed": Row(
        caches=(cache(changes=(with_info("top", signed=True, nar_hash=sha256(b"x")),)), GOOD),
        outcome="ab"),
    "wrong size, signed": Row(
        caches=(cache(changes=(with_info("top", signed=True, nar_size=1000),)), GOOD),
        outcome="ab"),
    "a flipped bit in both": Row(
        caches=(cache(changes=(with_nar("top", flipped),)),) * 2, outcome=""),
    "nonsense for a narinfo": Row(
        caches=(cache(changes=(with_text("top", lambda _: b"nonsense"),)), GOOD), outcome="ab"),
    "HTML for a narinfo": Row(
        caches=(cache(changes=(with_text("top", lambda _: sins.PORTAL),)), GOOD), outcome="ab"),
    "an empty narinfo": Row(
        caches=(cache(changes=(with_text("top", lambda _: b""),)), GOOD), outcome="ab"),
    "narinfo without NarHash": Row(
        caches=(
            cache(changes=(with_text("top", lambda text: text.replace(b"NarHash", b"Hash")),)),
            GOOD,
        ),
        outcome="ab"),
    # compressions
    "not compressed": Row(caches=(cache(compression="none"), GOOD), outcome="aa"),
    "zstd": Row(caches=(cache(compression="zstd"), GOOD), outcome="aa"),
    "gzip": Row(caches=(cache(compression="gzip"), GOOD), outcome="aa"),
    "xz that says it is gzip": Row(
        caches=(cache(changes=(with_info("top", compression="gzip"),)), GOOD), outcome="ab"),
    "a compression that nobody knows": Row(
        caches=(cache(changes=(with_text("top", field_of("Compression", b"rar")),)), GOOD),
        outcome="ab",
        nix="",
        why="it aborts, and the next cache would do"),
    # servers
    "nobody listens": Row(caches=(cache(how="nobody"), GOOD), outcome="bb"),
    "500 for a narinfo": Row(
        caches=(cache(sins={TOP_NARINFO: sins.saying(500)}), GOOD), outcome="ab"),
    "500 for a narinfo, once": Row(
        caches=(cache(sins={TOP_NARINFO: sins.first(1, sins.saying(500))}), GOOD), outcome="aa"),
    "500 for NARs": Row(caches=(cache(sins={"nar/*": sins.saying(500)}), GOOD), outcome="bb"),
    "NARs break off": Row(caches=(cache(sins={"nar/*": sins.cut(100)}), GOOD), outcome="bb"),
    "NARs break off, once": Row(
        caches=(cache(sins={"nar/*": sins.first(1, sins.cut(100))}), GOOD), outcome="aa"),
    "NARs break off, once, and no ranges": Row(
        caches=(cache(sins={"nar/*": sins.first(1, sins.cut_length(100), sins.without_ranges)}),
                GOOD),
        outcome="aa",
        nix="bb",
        why="it does not start over where it cannot resume, and holds that against the cache"),
    "redirects": Row(caches=(cache(sins={"*": sins.hops(2)}), GOOD), outcome="aa"),
    "NAR under gzip": Row(
        caches=(cache(sins={"nar/*": sins.encoded("gzip", sins.gzipped)}), GOOD), outcome="aa"),
    # what they say about themselves
    "another store directory": Row(
        caches=(cache(sins=info_text(b"StoreDir: /gnu/store\nPriority: 1\n")), GOOD),
        outcome="bb"),
    "no nix-cache-info": Row(
        caches=(cache(sins={"nix-cache-info": sins.saying(404)}), GOOD), outcome="bb"),
    "500 for nix-cache-info": Row(
        caches=(cache(sins={"nix-cache-info": sins.saying(500)}), GOOD), outcome="bb"),
    "a priority that is no number": Row(
        caches=(cache(sins=info_text(b"StoreDir: /nix/store\nPriority: high\n")), GOOD),
        outcome="bb",
        nix="",
        why="it gives up, and the next cache would do"),
    "HTML for nix-cache-info": Row(
        caches=(cache(sins={"nix-cache-info": sins.captive_portal}), GOOD),
        outcome="bb",
        nix="aa",
        why="it takes a log-in page for the word of a cache that has no priority"),
}  # fmt: skip


# Asking both.


def stocked(letter: str, what: Cache) -> SimulatedCache:
    """The objects of one cache of a set-up."""
    simulated = SimulatedCache(key=key(letter))
    low = simulated.add("low", Random(1).randbytes(1000), compression=what.compression)
    tree = {b"file": Random(2).randbytes(1000)}
    simulated.add("top", tree, references=[low], compression=what.compression)
    text = b"StoreDir: /nix/store\nWantMassQuery: 1\n"
    if what.priority is not None:
        text += b"Priority: %d\n" % what.priority
    simulated.objects["nix-cache-info"] = text
    for change in what.changes:
        change(simulated)
    return simulated


@dataclass(frozen=True, slots=True)
class Running:
    """The servers of a set-up."""

    servers: Mapping[str, HostileServer]

    def outcome(self, root: Path) -> str:
        """Where the paths of a store came from."""
        file = root / "nix/var/nix/db/db.sqlite"
        if not file.exists():
            return ""
        with closing(sqlite3.connect(file)) as database:
            rows = database.execute("SELECT path, sigs FROM ValidPaths")
            signatures = {path: sigs or "" for path, sigs in rows}
        if str(TOP) not in signatures:
            return ""
        found = "".join(self._source(signatures[str(path)]) for path in (LOW, TOP))
        assert all(self.servers[each].asked("nar/*") for each in found if each in self.servers)
        return found

    def _source(self, signatures: str) -> str:
        """By the signature; what has none came from the one that was asked for it last."""
        if signatures:
            return signatures[0]
        last = [letter for letter, server in self.servers.items() if server.asked("nar/*")]
        return last[-1] if last else "?"


@pytest.fixture
def nix() -> Iterator[RealNix]:
    """With a home of its own for each row: Nix remembers what a URL said, and ports come again."""
    with real_nix("chroot") as nix:
        yield nix


def run(
    row: Row, folder: Path, ask: Callable[[list[str]], Path], seen: Callable[[Path], str]
) -> str:
    """Set the caches up below `folder`, let somebody fetch, and say where from."""
    with ExitStack() as stack:
        urls, servers = [], {}
        for letter, what in zip("abc", row.caches, strict=False):
            simulated = stocked(letter, what)
            if what.how == "http":
                server = HostileServer(simulated.objects, what.sins)
                servers[letter] = stack.enter_context(server)
                url = server.url
            elif what.how == "file":
                for name, data in simulated.objects.items():
                    file = folder / letter / name
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(data)
                url = f"file://{seen(folder / letter)}"
            else:
                url = stack.enter_context(sins.closed_port())
            urls.append(url + what.parameters)
        return Running(servers).outcome(ask(urls))


@pytest.mark.parametrize("name", ROWS)
def test_ours(name: str, tmp_path: Path) -> None:
    row, place = ROWS[name], Place.below(tmp_path / "place")
    said: list[str] = []

    def ask(urls: list[str]) -> Path:
        settings = {**SETTINGS, "NIXFETCH_EXTRA_TRUSTED_KEYS": KEYS}
        ended = place.fetch(
            [str(TOP)], urls, str(key("a").public()), limit=LIMIT, settings=settings
        )
        assert bool(row.outcome) == (ended.code == 0), ended.err
        said.append(ended.err)
        return place.store

    assert run(row, tmp_path, ask, str) == row.outcome, said


@pytest.mark.parametrize("name", ROWS)
def test_nix(name: str, nix: RealNix) -> None:
    row = ROWS[name]
    expected = row.outcome if row.nix is None else row.nix
    folder = nix.place
    said: list[str] = []

    def ask(urls: list[str]) -> Path:
        settings = {
            **NIX_SETTINGS, "substituters": " ".join(urls), "trusted-public-keys": KEYS
        }  # fmt: skip
        command: list[str | Path] = ["nix-store", "--store", folder / "store", "-r", str(TOP)]
        done = nix.run(*command, check=False, settings=settings)
        said.append(done.stderr.decode())
        return folder / "store"

    assert run(row, folder, ask, nix.inside) == expected, said


def test_where_nix_does_otherwise_the_table_says_why() -> None:
    assert all((row.nix is None) == (not row.why) for row in ROWS.values())
    assert sum(row.nix is None for row in ROWS.values()) >= 20
