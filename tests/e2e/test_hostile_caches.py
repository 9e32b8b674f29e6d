"""Caches that answer late, wrongly, endlessly or not at all, one sin each (`sins`).

Alone, such a cache costs bounded time and memory, and leaves one error and nothing in the store;
in front of a good one it costs bounded time and nothing else. The time limits are small here:
`SETTINGS` waits one second where a user's command waits sixty, and tries twice instead of five
times. NIXFETCH_HOSTILE=full asks for the figures at the real settings as well: some minutes.

A case's bound is what its tries may wait, and `SLACK` for a busy machine.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, TypeAlias

import pytest
import zstandard

import sins
from hostile_server import HostileServer
from measured import MEBIBYTE, Place
from servers import certified
from simulated_cache import KEY, Executable, SimulatedCache, tree_nar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hostile_server import Behaviour, Exchange, Greeting
    from measured import Ended
    from nixfetch.formats.storepath import StorePath
    from simulated_cache import Tree

pytestmark = pytest.mark.e2e

FULL = os.environ.get("NIXFETCH_HOSTILE") == "full"
TRIES = 2
WAIT = 1.0  # seconds that a try may wait
SLACK = 8.0  # seconds for the rest: a command takes 0.4 of them on a quiet machine
QUICK = TRIES * WAIT + SLACK
MOST_MEMORY = 200 * MEBIBYTE
MOST_KEPT = 4 * MEBIBYTE  # of partial downloads, where no NAR is larger than one
MOST_REQUESTS = 60  # to one dead cache in a run
PUBLIC = str(KEY.public())
SETTINGS = {
    "NIXFETCH_CONNECT_TIMEOUT": f"{WAIT:.0f}",
    "NIXFETCH_STALL_TIMEOUT": f"{WAIT:.0f}",
    "NIXFETCH_DOWNLOAD_ATTEMPTS": f"{TRIES}",
}
PATIENT = {"NIXFETCH_CONNECT_TIMEOUT": "20", "NIXFETCH_STALL_TIMEOUT": "20"}
"""Where success is expected of the case itself: no busy machine must spoil it."""
HUGE = 1024 * MEBIBYTE  # what an honest cache never sends


bomb = functools.cache(sins.bomb)

# What the caches have.


@dataclass(frozen=True, slots=True)
class Stock:
    """A cache in memory, and on disk."""

    cache: SimulatedCache
    root: StorePath
    folder: Path

    @property
    def objects(self) -> dict[str, bytes]:
        return self.cache.objects

    @property
    def nar(self) -> bytes:
        """The file of the root."""
        return self.cache.objects[self.cache.nar_name(self.root)]


@pytest.fixture(scope="session")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    """One path of 300 kB."""
    cache = SimulatedCache()
    tree: Tree = {
        b"bin": {b"run": Executable(b"#!/bin/sh\n")},
        b"share": Random(1).randbytes(300_000),
    }
    path = cache.add("victim", tree, compression="xz")
    cache.add("another", b"another", compression="xz")
    return _stock(cache, path, tmp_path_factory.mktemp("stock"))


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Stock:
    """Forty paths, each of which refers to the two before it."""
    cache = SimulatedCache()
    paths: list[StorePath] = []
    for number in range(40):
        data = Random(number).randbytes(2000)
        paths.append(cache.add(f"path-{number}", data, references=paths[-2:], compression="xz"))
    return _stock(cache, paths[-1], tmp_path_factory.mktemp("wide"))


def _stock(cache: SimulatedCache, root: StorePath, folder: Path) -> Stock:
    cache.dump(folder)
    cache.objects["nix-cache-info"] = (folder / "nix-cache-info").read_bytes()
    return Stock(cache, root, folder)


# Cases.


@dataclass(frozen=True, slots=True)
class Bad:
    """A bad cache that runs."""

    url: str
    server: HostileServer | None = None
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def requests(self) -> int:
        """What it was asked in vain; how often it was connected to where nothing got through."""
        server = self.server
        if server is None:
            return 0
        return server.sinned if server.sins else server.connections


Opening: TypeAlias = Callable[[Stock, Path], AbstractContextManager[Bad]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A bad cache, and what comes of it when there is no other."""

    open: Opening
    """With a folder that is its own."""
    code: int
    settings: Mapping[str, str] = field(default_factory=lambda: SETTINGS)
    within: float = QUICK
    """Seconds."""


def at(pattern: str, behaviour: Behaviour, code: int, **more: float) -> Case:
    """A server that sins at some names."""

    @contextmanager
    def opening(stock: Stock, _folder: Path) -> Iterator[Bad]:
        with HostileServer(stock.objects, {pattern: behaviour}) as server:
            yield Bad(server.url, server)

    settings = SETTINGS if code else {**PATIENT, "NIXFETCH_DOWNLOAD_ATTEMPTS": "3"}
    return Case(open=opening, code=code, settings=settings, **more)


def narinfo(behaviour: Behaviour, code: int) -> Case:
    return at("*.narinfo", behaviour, code)


def nar(behaviour: Behaviour, code: int) -> Case:
    return at("nar/*", behaviour, code)


def greeted(greeting: Greeting, code: int, scheme: str = "http") -> Case:
    """A server that sins before the first request."""

    @contextmanager
    def opening(stock: Stock, _folder: Path) -> Iterator[Bad]:
        with HostileServer(stock.objects, greeting=greeting, scheme=scheme) as server:
            yield Bad(server.url, server)

    return Case(open=opening, code=code)


def nobody(where: Callable[[], AbstractContextManager[str]]) -> Case:
    """No server."""

    @contextmanager
    def opening(_stock: Stock, _folder: Path) -> Iterator[Bad]:
        with where() as url:
            yield Bad(url)

    return Case(open=opening, code=5)


def over_tls(
    code: int,
    *,
    scheme: str = "https",
    believed: bool = True,
    patterns: Mapping[str, Behaviour] | None = None,
) -> Case:
    """A server that talks TLS."""

    @contextmanager
    def opening(stock: Stock, folder: Path) -> Iterator[Bad]:
        context, ca_file = certified(folder)
        greeting = sins.tls(context)
        with HostileServer(
            stock.objects, patterns or {}, greeting=greeting, scheme=scheme
        ) as server:
            settings = {"NIXFETCH_CA_FILE": str(ca_file)} if believed else {}
            yield Bad(server.url, server, settings)

    return Case(open=opening, code=code)


def downgrade(exchange: Exchange) -> None:
    """To the same place without TLS."""
    url = exchange.server.url.replace("https:", "http:")
    sins.redirect(f"{url}/{{name}}")(exchange)


def bombed_nar(compression: str, size: int) -> Case:
    """The NAR, rightly signed, and after it zeros that the narinfo knows nothing of."""

    @contextmanager
    def opening(stock: Stock, _folder: Path) -> Iterator[Bad]:
        info = replace(
            stock.cache.infos[stock.root], compression=compression, file_hash=None, file_size=None
        )
        archive = tree_nar({b"share": b"small"})
        data = bomb(compression, size=size, lead=archive)
        objects = {**stock.objects, stock.cache.narinfo_name(stock.root): info.render()}
        with HostileServer(objects, {"nar/*": sins.bombed(None, data)}) as server:
            yield Bad(server.url, server)

    return Case(open=opening, code=4)


def misplaced_nar(url: str) -> Case:
    """A narinfo, rightly signed, that names a NAR outside of the cache."""

    @contextmanager
    def opening(stock: Stock, _folder: Path) -> Iterator[Bad]:
        info = replace(stock.cache.infos[stock.root], url=url)
        objects = {**stock.objects, stock.cache.narinfo_name(stock.root): info.render()}
        with HostileServer(objects) as server:
            yield Bad(server.url, server)

    return Case(open=opening, code=4)


def encoding_bomb(pattern: str, encoding: str, size: int, code: int) -> Case:
    """A small body that unfolds under a Content-Encoding."""

    @contextmanager
    def opening(stock: Stock, _folder: Path) -> Iterator[Bad]:
        behaviour = sins.bombed(encoding, bomb(encoding, size=size, lead=b"StorePath: x\n"))
        with HostileServer(stock.objects, {pattern: behaviour}) as server:
            yield Bad(server.url, server)

    return Case(open=opening, code=code)


FAR = {"Retry-After": str(sins.DAY)}
SOON = {"Retry-After": "1"}

CASES: dict[str, Case] = {
    # nobody, or nothing that talks HTTP
    "closed port": nobody(sins.closed_port),
    "unroutable": nobody(sins.unroutable),
    "accepts and is mute": greeted(sins.mute, 5),
    "accepts and is mute, https": greeted(sins.mute, 5, "https"),
    "accepts and closes": greeted(sins.closing, 5),
    "slow TLS handshake": greeted(sins.slow_handshake, 5, "https"),
    "plain HTTP on a TLS port": replace(at("x", sins.silent, 5), open=greeted(
        lambda _, connection: connection, 5, "https").open),
    "TLS on a plain port": over_tls(5, scheme="http"),
    "TLS that nobody vouches for": over_tls(5, believed=False),
    "garbage": at("*", sins.garbage, 5),
    # silence
    "never answers": at("*", sins.silent, 5),
    "hangs up": at("*", sins.hang_up, 5),
    "resets": at("*", sins.reset, 5),
    "drips the head": at("*", sins.drip_head, 5),
    "drips a narinfo": narinfo(sins.drip_body, 5),
    "drips a NAR": nar(sins.drip_body, 5),
    "drips 1xx answers": at("*", sins.slow_hints, 5),
    "stalls in a narinfo": narinfo(sins.stall_at(20), 5),
    "stalls in a NAR": nar(sins.stall_at(-1000), 5),
    # bad days
    "503 for ever": at("*", sins.saying(503), 5),
    "500 for ever, narinfos": narinfo(sins.saying(500), 5),
    "500 for ever, NARs": nar(sins.saying(500), 5),
    "503 twice": at("*", sins.first(2, sins.saying(503)), 0),
    "429 for a day": at("*", sins.saying(429, headers=FAR), 5),
    "429 until tomorrow": at("*", sins.retry_after_date(sins.DAY), 5),
    "429 for a second": narinfo(sins.first(1, sins.saying(429, headers=SOON)), 0),
    "429 for a second, NAR": nar(sins.first(1, sins.saying(429, headers=SOON)), 0),
    "429 until in a second": narinfo(sins.first(1, sins.retry_after_date(1)), 0),
    "429 until yesterday": narinfo(sins.first(1, sins.retry_after_date(-sins.DAY)), 0),
    "503 with a Retry-After that is none": narinfo(
        sins.first(1, sins.saying(503, headers={"Retry-After": "soon"})), 0),
    # doors
    "401": at("*", sins.saying(401), 5),
    "407": at("*", sins.saying(407), 5),
    "403 on everything": at("*", sins.saying(403), 5),
    "404 on everything": at("*", sins.saying(404), 3),
    "404 on NARs": nar(sins.saying(404), 3),
    "403 on NARs": nar(sins.saying(403), 3),
    "401 on NARs": nar(sins.saying(401), 5),
    # places that no cache may name
    "NAR above the cache": misplaced_nar("../../etc/passwd"),
    "NAR in a file": misplaced_nar("file:///etc/passwd"),
    "NAR in the URL": misplaced_nar("data:text/plain,x"),
    # redirects
    "redirects in a loop": at("*", sins.redirect("/{name}"), 5),
    "redirects, five of them": at("*", sins.hops(5), 0),
    "redirects, six of them": at("*", sins.hops(6), 5),
    "redirects to file:": at("*", sins.redirect("file:///etc/passwd"), 5),
    "redirects to data:": at("*", sins.redirect("data:text/plain,StorePath"), 5),
    "redirects to a link-local address": at(
        "*", sins.redirect("http://169.254.169.254/latest/meta-data"), 5),
    "redirects nowhere": at("*", sins.saying(302), 5),
    "redirects to nonsense": at("*", sins.redirect("http://[::1"), 5),
    "redirects to plain http": over_tls(5, patterns={"*": downgrade}),
    # not what was asked for
    "captive portal": at("*", sins.captive_portal, 4),
    "captive portal for NARs": nar(sins.captive_portal, 4),
    "narinfo of another path": narinfo(sins.another("*.narinfo"), 4),
    "NAR of another path": nar(sins.another("nar/*"), 4),
    "empty narinfo": narinfo(sins.saying(200), 4),
    "empty NAR": nar(sins.saying(200), 4),
    # endless and huge
    "narinfo of 1 GB": narinfo(sins.huge(HUGE), 4),
    "narinfo without end": narinfo(sins.endless, 4),
    "NAR without end": nar(sins.endless, 4),
    "a field of 10 MB": at("*", sins.huge_header(10 * MEBIBYTE), 5),
    "fields without end": at("*", sins.endless_headers, 5),
    "1xx answers without end": at("*", sins.endless_hints, 5),
    "a chunk header without end": at("*", sins.endless_chunk_extension, 5),
    "trailers without end": narinfo(sins.many_trailers, 5),
    "chunks that are none": at("*", sins.bad_chunks, 5),
    # grammar
    "two lengths that differ": at(
        "*", sins.raw("HTTP/1.1 200 OK\nContent-Length: 5\nContent-Length: 6\n"), 5),
    "a negative length": at("*", sins.raw("HTTP/1.1 200 OK\nContent-Length: -1\n"), 5),
    "a chunk of 2^64 bytes": at(
        "*", sins.raw("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n10000000000000000\n"), 5),
    "an unknown transfer encoding": at(
        "*", sins.raw("HTTP/1.1 200 OK\nTransfer-Encoding: rot13\n"), 5),
    "HTTP/1.0": at("*", sins.raw("HTTP/1.0 200 OK\n"), 0),
    "HTTP/0.9": at("*", sins.raw("StorePath: x\n", b""), 5),
    "another protocol from here on": at("*", sins.raw("HTTP/1.1 101 Switching\nUpgrade: x\n"), 5),
    "not modified": at("*", sins.raw("HTTP/1.1 304 Not Modified\n", b""), 5),
    "a part that nobody asked for": at("*", sins.saying(
        206, b"StorePath", {"Content-Range": "bytes 0-8/300"}), 5),
    "status 999": at("*", sins.saying(999), 5),
    # lengths
    "narinfo shorter than announced": narinfo(sins.claiming_length(1000), 5),
    "narinfo shorter than announced, and then silence": narinfo(
        sins.claiming_length(1000, hang=True), 5),
    "NAR shorter than announced": nar(sins.claiming_length(1000), 5),
    "NAR shorter than announced, and then silence": nar(sins.claiming_length(1000, hang=True), 5),
    "NAR longer than announced": nar(sins.claiming_length(-1000), 4),
    "NAR that ends early in silence": nar(sins.cut_in_silence(-200), 4),
    # broken off
    "NAR breaks off, always": nar(sins.cut(-1000), 5),
    "NAR breaks off, always at once": nar(sins.cut(0), 5),
    "NAR breaks off, once": nar(sins.first(1, sins.cut(100_000)), 0),
    "NAR breaks off before its last byte, once": nar(sins.first(1, sins.cut(-1)), 0),
    "NAR reset, always": nar(sins.reset_at(-1000), 5),
    "NAR reset behind the head, once": nar(sins.first(1, sins.reset_at(0)), 0),
    "NAR reset at its first byte, once": nar(sins.first(1, sins.reset_at(1)), 0),
    "NAR reset in the middle, once": nar(sins.first(1, sins.reset_at(150_000)), 0),
    "NAR reset at its last byte, once": nar(sins.first(1, sins.reset_at(-1)), 0),
    "narinfo reset, once": narinfo(sins.first(1, sins.reset_at(50)), 0),
    "range ignored": nar(sins.interrupted(100_000, sins.without_ranges), 0),
    "range refused": nar(sins.interrupted(100_000, sins.range_refused), 0),
    "range mislabelled": nar(sins.interrupted(100_000, sins.range_mislabelled), 0),
    "range unlabelled": nar(sins.interrupted(100_000, sins.range_unlabelled), 0),
    "range of other bytes": nar(sins.interrupted(100_000, sins.range_shifted), 0),
    # encodings
    "NAR under gzip": nar(sins.encoded("gzip", sins.gzipped), 0),
    "narinfo under zstd": narinfo(sins.encoded("zstd", zstandard.compress), 0),
    "narinfo under gzip that is none": narinfo(sins.encoded("gzip", bytes), 4),
    "narinfo under an unknown encoding": narinfo(sins.encoded("rot13", bytes), 5),
    "gzip bomb for a narinfo": encoding_bomb("*.narinfo", "gzip", HUGE, 4),
    "br bomb for a narinfo": encoding_bomb("*.narinfo", "br", HUGE // 4, 4),
    "zstd bomb for a narinfo": encoding_bomb("*.narinfo", "zstd", HUGE, 4),
    "gzip bomb around a NAR": encoding_bomb("nar/*", "gzip", HUGE, 4),
    "br bomb around a NAR": encoding_bomb("nar/*", "br", HUGE // 4, 4),
    "zstd bomb around a NAR": encoding_bomb("nar/*", "zstd", HUGE, 4),
    "gzip bomb in a NAR": bombed_nar("gzip", HUGE),
    "xz bomb in a NAR": bombed_nar("xz", HUGE // 4),
    "zstd bomb in a NAR": bombed_nar("zstd", HUGE),
}  # fmt: skip
"""By name. The exit codes: 0 it is fetched all the same; 3 the path is not there; 4 not to be
believed or not intact; 5 network or authentication."""


def fetch(
    place: Place,
    stock: Stock,
    sources: list[str],
    *,
    settings: Mapping[str, str],
    within: float,
) -> Ended:
    ended = place.fetch([str(stock.root)], sources, PUBLIC, limit=within, settings=settings)
    assert ended.peak < MOST_MEMORY
    assert place.kept() < MOST_KEPT
    return ended


@pytest.mark.parametrize("name", CASES)
def test_alone(name: str, stock: Stock, tmp_path: Path) -> None:
    case, place = CASES[name], Place.below(tmp_path / "place")
    with case.open(stock, tmp_path) as bad:
        settings = {**case.settings, **bad.settings}
        ended = fetch(place, stock, [bad.url], settings=settings, within=case.within)
    assert ended.code == case.code, ended.err
    if bad.server is not None:
        assert bad.server.sinned or not bad.server.sins
        assert bad.server.connections
    if case.code:
        assert (ended.out, len(ended.errors)) == ("", 1), ended.err
        assert "victim" in ended.errors[0]
        place.is_empty()
    else:
        assert ended.errors == []
        place.is_whole([str(stock.root)], PUBLIC)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.code])
def test_in_front_of_a_good_one(name: str, stock: Stock, tmp_path: Path) -> None:
    case, place = CASES[name], Place.below(tmp_path / "place")
    with case.open(stock, tmp_path) as bad:
        sources = [f"{bad.url}?priority=1", stock.folder.as_uri()]
        settings = {**case.settings, **bad.settings}
        ended = fetch(place, stock, sources, settings=settings, within=case.within)
        assert (ended.code, ended.errors) == (0, []), ended.err
        assert bad.server is None or bad.server.connections
    place.is_whole([str(stock.root)], PUBLIC)


SINS_OF_CACHE_INFO: dict[str, Behaviour] = {
    "never answers": sins.silent,
    "drips": sins.drip_body,
    "1 GB": sins.huge(HUGE),
    "endless": sins.endless,
    "portal": sins.captive_portal,
    "500": sins.saying(500),
    "404": sins.saying(404),
    "403": sins.saying(403),
    "redirects in a loop": sins.redirect("/{name}"),
    "another store directory": sins.saying(200, b"StoreDir: /gnu/store\nPriority: 1\n"),
    "nonsense": sins.saying(200, b"Priority: high\n"),
    "binary": sins.saying(200, bytes(1000)),
}


@pytest.mark.parametrize("name", SINS_OF_CACHE_INFO)
def test_the_word_of_a_cache_about_itself(name: str, stock: Stock, tmp_path: Path) -> None:
    place = Place.below(tmp_path / "place")
    with HostileServer(stock.objects, {"nix-cache-info": SINS_OF_CACHE_INFO[name]}) as server:
        sources = [server.url, stock.folder.as_uri()]
        ended = fetch(place, stock, sources, settings=SETTINGS, within=QUICK)
    assert (ended.code, ended.errors) == (0, []), ended.err
    assert server.asked("nix-cache-info")
    place.is_whole([str(stock.root)], PUBLIC)


# Where a cache may send us, and with what.


def test_credentials_stay_with_the_cache_that_they_are_for(stock: Stock, tmp_path: Path) -> None:
    place = Place.below(tmp_path / "place")
    with HostileServer(stock.objects) as canary:
        sin = sins.redirect(f"{canary.url}/{{name}}")
        with HostileServer(stock.objects, {"*": sin}) as server:
            source = server.url.replace("//", "//user:s3cr3t@")
            ended = fetch(place, stock, [source], settings=PATIENT, within=20 + SLACK)
    assert ended.code == 0, ended.err
    assert all("authorization" in request.headers for request in server.requests)
    assert len(canary.requests) >= 2
    for request in canary.requests:
        assert not {"authorization", "cookie", "referer"} & request.headers.keys()
        assert "s3cr3t" not in str(request)
    assert "s3cr3t" not in ended.err


TOO_NEAR = (
    "http://127.0.0.1:{port}/",
    "http://0x7f000001:{port}/",
    "http://[::1]:{port}/",
    "http://[::ffff:127.0.0.1]:{port}/",
    "http://10.0.0.1/",
    "http://169.254.169.254/",
)


@pytest.mark.parametrize("target", TOO_NEAR)
def test_a_public_cache_points_to_no_neighbour_of_ours(
    target: str, stock: Stock, tmp_path: Path
) -> None:
    """The cache's address is public; it is reached by a proxy on this machine."""
    place = Place.below(tmp_path / "place")
    with HostileServer(stock.objects) as canary:
        sin = sins.redirect(target.format(port=canary.port) + "{name}")
        with HostileServer(stock.objects, {"*": sin}) as proxy:
            settings = {**SETTINGS, "http_proxy": proxy.url}
            source = "http://198.51.100.1"
            ended = fetch(place, stock, [source], settings=settings, within=QUICK)
    assert ended.code == 5, ended.err
    assert len(ended.errors) == 1
    assert proxy.requests
    assert all(request.target.startswith(source) for request in proxy.requests)
    assert (canary.connections, canary.requests) == (0, [])
    place.is_empty()


# What is done with the bytes that came already.


def test_what_came_already_is_not_asked_for_again(stock: Stock, tmp_path: Path) -> None:
    place = Place.below(tmp_path / "place")
    with HostileServer(stock.objects, {"nar/*": sins.first(1, sins.cut(200_000))}) as server:
        ended = fetch(place, stock, [server.url], settings=PATIENT, within=20 + SLACK)
    assert ended.code == 0, ended.err
    _, again = [request for request in server.requests if request.name.startswith("nar/")]
    assert again.headers["range"] == "bytes=200000-"
    assert again.headers["if-range"].startswith('"')
    assert sum(server.sent[name] for name in server.sent if name.startswith("nar/")) == len(
        stock.nar
    )


# Several dead ones in front of a good one.

MIXES: dict[str, tuple[str, ...]] = {
    "dead": (
        "closed port", "unroutable", "accepts and is mute", "never answers", "503 for ever"),
    "slow": (
        "drips the head", "drips a narinfo", "slow TLS handshake", "drips 1xx answers",
        "stalls in a narinfo"),
    "lying": (
        "captive portal", "narinfo of 1 GB", "narinfo of another path", "redirects in a loop",
        "gzip bomb for a narinfo"),
    "half": (
        "500 for ever, NARs", "stalls in a NAR", "NAR breaks off, always", "404 on NARs",
        "NAR without end"),
    "busy": (
        "429 for a day", "429 until tomorrow", "503 for ever", "hangs up", "resets"),
    "mixed": (
        "drips a NAR", "unroutable", "captive portal", "503 for ever", "401"),
}  # fmt: skip
MOST_LOST = 30.0  # seconds on each dead cache, at the real settings
SCALE = 5.0  # so much shorter is everything here, at least: a stall ends after 1 s, not after 10


@pytest.mark.parametrize("name", MIXES)
def test_five_in_front_of_a_good_one(name: str, wide: Stock, tmp_path: Path) -> None:
    within = len(MIXES[name]) * MOST_LOST / SCALE + SLACK
    _five(name, wide, tmp_path, settings=SETTINGS, within=within)


@pytest.mark.skipif(not FULL, reason="minutes long: NIXFETCH_HOSTILE=full asks for it")
@pytest.mark.parametrize("name", MIXES)
def test_five_in_front_of_a_good_one_at_real_settings(
    name: str, wide: Stock, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    within = len(MIXES[name]) * MOST_LOST + SLACK
    record_property("seconds", _five(name, wide, tmp_path, settings={}, within=within).seconds)


@pytest.mark.skipif(not FULL, reason="minutes long: NIXFETCH_HOSTILE=full asks for it")
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.code])
def test_one_in_front_of_a_good_one_at_real_settings(
    name: str, wide: Stock, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    place = Place.below(tmp_path / "place")
    with CASES[name].open(wide, tmp_path) as bad:
        sources = [f"{bad.url}?priority=1", wide.folder.as_uri()]
        ended = fetch(place, wide, sources, settings=bad.settings, within=MOST_LOST + SLACK)
        assert (ended.code, ended.errors) == (0, []), ended.err
        assert bad.requests <= MOST_REQUESTS
        place.is_whole(map(str, wide.cache.infos), PUBLIC)
    record_property("seconds", ended.seconds)


def _five(
    name: str, wide: Stock, folder: Path, *, settings: Mapping[str, str], within: float
) -> Ended:
    place = Place.below(folder / "place")
    with ExitStack() as stack:
        bad = {}
        for case in MIXES[name]:
            (folder / case).mkdir()
            bad[case] = stack.enter_context(CASES[case].open(wide, folder / case))
        sources = [f"{each.url}?priority={rank}" for rank, each in enumerate(bad.values())]
        sources.append(wide.folder.as_uri())
        extra = {key: value for each in bad.values() for key, value in each.settings.items()}
        ended = fetch(place, wide, sources, settings={**settings, **extra}, within=within)
        assert (ended.code, ended.errors) == (0, []), ended.err
        requests = {case: each.requests for case, each in bad.items()}
    assert all(count <= MOST_REQUESTS for count in requests.values()), requests
    place.is_whole(map(str, wide.cache.infos), PUBLIC)
    return ended
