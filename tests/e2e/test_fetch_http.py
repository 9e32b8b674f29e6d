"""`nixfetch fetch` from real servers over HTTP, from directories, and from what is broken.

What a cache was asked is read from the log of a server of our own.
"""

from __future__ import annotations

import json
import shutil
import socket
import sys
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from data_dir import data_dir
from nixfetch.formats.contentaddress import ContentAddress, Method
from nixfetch.formats.hashes import sha256
from nixfetch.formats.narinfo import NarInfo
from nixfetch.formats.signing import SecretKey
from servers import Answer, LoopbackServer
from simulated_cache import KEY, OTHER_KEY, Executable, SimulatedCache, Tree, compress, store_path
from trees import string, strings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import TypeAlias

    from command import Ran
    from e2e.conftest import Command, Demo, Serve, Start
    from nixfetch.formats.storepath import StorePath

pytestmark = pytest.mark.e2e

REAL = ("c-br", "c-bzip2", "c-gzip", "c-lz4", "c-lzip", "c-lzma", "c-none", "c-xz", "c-zstd")
COMPLETE = ("1h8dfzby9lsfkb09q7kga2pa2hzg3sv2", "2dgxifvg5qxfqzw539hcr0pfb5nhfl0q")
"""Hash parts of the paths of ``real-mini-cache`` that are signed, with all that they refer to."""
NGINX = """\
daemon off;
user root;
worker_processes 1;
pid {folder}/pid;
error_log stderr notice;
events {{ }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{ listen 127.0.0.1:{port}; root {root}; }}
}}
"""


# Servers.


@contextmanager
def nginx(cache: Path, start: Start, folder: Path) -> Iterator[str]:
    program = shutil.which("nginx", path="/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin")
    if program is None:
        pytest.skip("no nginx")
    port = free_port()
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, port=port, root=cache))
    command = [program, "-c", str(config), "-p", str(folder), "-e", "stderr"]
    with start(command, "start worker process"):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def python(cache: Path, start: Start) -> Iterator[str]:
    command = [sys.executable, "-um", "http.server", "--bind", "127.0.0.1", "-d", str(cache), "0"]
    with start(command, r"\((http://[^)]*?)/?\)") as server:
        yield server.found[1]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


@pytest.fixture(params=["nginx", "python", "file", "directory"])
def source(
    request: pytest.FixtureRequest, demo: Demo, start: Start, tmp_path: Path
) -> Iterator[str]:
    """The fixture closure, on offer by others than us."""
    cache = demo.cache("cache-zstd")
    match request.param:
        case "nginx":
            with nginx(cache, start, tmp_path) as url:
                yield url
        case "python":
            with python(cache, start) as url:
                yield url
        case "file":
            yield cache.as_uri()
        case _:
            yield str(cache)


def test_the_closure_from_each_server(source: str, nixfetch: Command, demo: Demo) -> None:
    assert_fetched(source, nixfetch, demo)


def test_the_closure_from_a_store_of_ours(
    serve: Serve, filled: Command, nixfetch: Command, demo: Demo
) -> None:
    with serve("--store", filled.store) as url:
        assert_fetched(url, nixfetch, demo)


def test_the_closure_from_a_cache_that_we_serve(
    serve: Serve, nixfetch: Command, demo: Demo
) -> None:
    with serve("--cache", demo.cache("cache-xz")) as url:
        assert_fetched(url, nixfetch, demo)


def assert_fetched(source: str, nixfetch: Command, demo: Demo) -> None:
    ran = nixfetch.fetch(demo.root, source=source, key=demo.key)
    assert ran.code == 0, ran.err
    assert ran.out == f"{nixfetch.store}{demo.root}\n"
    nixfetch.is_whole(demo.closure, demo.key)
    nixfetch.runs(demo)


def test_a_second_time_downloads_nothing(nixfetch: Command, demo: Demo) -> None:
    with LoopbackServer(demo.cache("cache-xz")) as server:
        for _ in range(2):
            ran = nixfetch.fetch(demo.root, source=server.url, key=demo.key)
            assert ran.code == 0, ran.err
    assert_trusted_first(server, demo.closure)


# Every cache that real Nix made for us.


def assert_trusted_first(server: LoopbackServer, paths: Iterable[str]) -> None:
    """Each narinfo was asked for once, each NAR once a path and after its narinfo; no more."""
    assert server.directory is not None
    asked: defaultdict[str, list[int]] = defaultdict(list)
    for position, name in enumerate(server.names()):
        asked[name].append(position)
    asked.pop("nix-cache-info", None)
    trusted: defaultdict[str, list[int]] = defaultdict(list)  # equal contents are one NAR
    for path in paths:
        narinfo = f"{Path(path).name[:32]}.narinfo"
        (position,) = asked.pop(narinfo)
        trusted[NarInfo.parse((server.directory / narinfo).read_bytes()).url].append(position)
    assert asked.keys() == trusted.keys()
    for name, positions in trusted.items():
        pairs = zip(sorted(positions), asked[name], strict=True)
        assert all(narinfo < nar for narinfo, nar in pairs)


def paths_of(cache: Path) -> list[str]:
    return [str(NarInfo.parse(file.read_bytes()).path) for file in cache.glob("*.narinfo")]


def test_every_compression_of_real_nix(tmp_path: Path, nixfetch: Command) -> None:
    caches = data_dir("nix-caches")
    key = (caches / "test-1.pub").read_text().strip()
    names = sorted(folder.name for folder in caches.iterdir() if folder.is_dir())
    assert set(REAL) < set(names)
    for name in names:
        if name == "c-compress":
            continue
        command = replace(nixfetch, store=tmp_path / name)
        paths = paths_of(caches / name)
        with LoopbackServer(caches / name) as server:
            ran = command.fetch(*paths, source=server.url, key=key)
        assert ran.code == 0, (name, ran.err)
        assert_trusted_first(server, paths)
        command.is_whole(paths, key)


def test_a_compression_that_nobody_can_do_is_refused_by_name(nixfetch: Command) -> None:
    caches = data_dir("nix-caches")
    key = (caches / "test-1.pub").read_text().strip()
    path = paths_of(caches / "c-compress")[0]
    with LoopbackServer(caches / "c-compress") as server:
        ran = nixfetch.fetch(path, source=server.url, key=key)
    assert ran.code == 4
    assert len(ran.errors) == 1
    assert "compress" in ran.err.replace("decompress", "").replace("c-compress", "")
    nixfetch.is_empty()


def test_the_real_cache_with_the_built_in_key(nixfetch: Command) -> None:
    cache = data_dir("real-mini-cache")
    with LoopbackServer(cache) as server:
        ran = nixfetch("fetch", *COMPLETE, "--from", server.url, "--json")
    assert ran.code == 0, ran.err
    report = json.loads(ran.out)
    paths = [entry["path"] for entry in report["paths"]]
    assert {Path(path).name[:32] for path in paths} >= set(COMPLETE)
    assert all(entry["signed_by"] == ["cache.nixos.org-1"] for entry in report["paths"])
    assert nixfetch("verify", "--all").code == 0
    assert nixfetch.valid() == sorted(paths)


# What is hostile or broken.

Break: TypeAlias = "Callable[[SimulatedCache, LoopbackServer, StorePath], None]"
TREE: Tree = {b"bin": {b"run": Executable(b"#!/bin/sh\n" * 1000)}, b"share": b"words" * 20_000}


@contextmanager
def broken(damage: Break) -> Iterator[tuple[LoopbackServer, StorePath]]:
    """A cache with one path that has something wrong with it."""
    cache = SimulatedCache()
    path = cache.add("victim", TREE, compression="xz")
    with LoopbackServer(cache.objects) as server:
        damage(cache, server, path)
        yield server, path


def fetch_broken(nixfetch: Command, damage: Break) -> tuple[Ran, LoopbackServer]:
    """Fetch it; whatever happens, one error is shown and nothing is left."""
    with broken(damage) as (server, path):
        ran = nixfetch.fetch(
            str(path),
            source=server.url,
            key=str(KEY.public()),
            NIXFETCH_DOWNLOAD_ATTEMPTS="2",
        )
    assert ran.out == ""
    assert len(ran.errors) == 1, ran.err
    nixfetch.is_empty()
    return ran, server


def publish_nar(cache: SimulatedCache, path: StorePath, nar: bytes, file: bytes) -> None:
    """Let `path` be `nar`, rightly signed, and come as `file`."""
    info = replace(
        cache.infos[path],
        nar_hash=sha256(nar),
        nar_size=len(nar),
        compression="none",
        file_hash=None,
        file_size=None,
    )
    cache.objects[info.url] = file
    cache.publish(info, key=KEY)


def with_nar(nar: bytes, file: bytes | None = None) -> Break:
    def damage(cache: SimulatedCache, _server: LoopbackServer, path: StorePath) -> None:
        publish_nar(cache, path, nar, nar if file is None else file)

    return damage


def with_info(**changes: object) -> Break:
    """Another narinfo under the signature of the true one."""

    def damage(cache: SimulatedCache, _server: LoopbackServer, path: StorePath) -> None:
        cache.publish(replace(cache.infos[path], **changes), key=None)  # type: ignore[arg-type]

    return damage


def signed_by(key: SecretKey | None) -> Break:
    def damage(cache: SimulatedCache, _server: LoopbackServer, path: StorePath) -> None:
        cache.publish(replace(cache.infos[path], signatures=()), key=key)

    return damage


def tampered(cache: SimulatedCache, _server: LoopbackServer, path: StorePath) -> None:
    name = cache.narinfo_name(path)
    size = cache.infos[path].nar_size
    cache.publish(cache.infos[path], key=KEY)
    cache.objects[name] = cache.objects[name].replace(
        f"NarSize: {size}\n".encode(), f"NarSize: {size + 8}\n".encode()
    )


def false_address(cache: SimulatedCache, _server: LoopbackServer, path: StorePath) -> None:
    address = ContentAddress(Method.RECURSIVE, cache.infos[path].nar_hash)
    cache.publish(replace(cache.infos[path], ca=address), key=KEY)


def another_path(cache: SimulatedCache, _server: LoopbackServer, path: StorePath) -> None:
    other = cache.add("another", b"another")
    cache.objects[cache.narinfo_name(path)] = cache.objects[cache.narinfo_name(other)]


def same_hash_part(cache: SimulatedCache, _server: LoopbackServer, path: StorePath) -> None:
    name = type(path).parse(f"{path.hash_part}-other")
    cache.publish(replace(cache.infos[path], path=name), key=KEY)


def answering(answer: Answer) -> Break:
    def damage(_cache: SimulatedCache, server: LoopbackServer, _path: StorePath) -> None:
        server.faults["*"] = answer

    return damage


def nar_answer(change: Callable[[bytes], Answer]) -> Break:
    def damage(cache: SimulatedCache, server: LoopbackServer, path: StorePath) -> None:
        name = cache.nar_name(path)
        server.faults[name] = change(cache.objects[name])

    return damage


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def file_entry(name: str, contents: str) -> bytes:
    node = strings("(", "type", "regular", "contents", contents, ")")
    return strings("entry", "(", "name", name, "node") + node + string(b")")


def directory_nar(*entries: bytes) -> bytes:
    head = strings("nix-archive-1", "(", "type", "directory")
    return head + b"".join(entries) + string(b")")


GOOD = directory_nar(file_entry("a", "1"), file_entry("b", "2"))
CLIMBING = directory_nar(file_entry("../climbed", "1"))
UNSORTED = directory_nar(file_entry("b", "2"), file_entry("a", "1"))
TWICE = directory_nar(file_entry("a", "1"), file_entry("a", "2"))

BAD_NARS: dict[str, tuple[Break, int]] = {
    "truncated": (nar_answer(lambda data: Answer(data[:-200])), 4),
    "cut off by the server": (nar_answer(lambda data: Answer(data, cut=len(data) - 200)), 5),
    "flipped byte": (nar_answer(lambda data: Answer(flipped(data))), 4),
    "garbage behind the file": (nar_answer(lambda data: Answer(data + b"garbage!")), 4),
    "empty": (nar_answer(lambda _: Answer(b"")), 4),
    "of another compression": (nar_answer(lambda data: Answer(compress("gzip", data))), 4),
    "garbage behind the archive": (with_nar(GOOD, GOOD + bytes(8)), 4),
    "signed garbage behind the archive": (with_nar(GOOD + bytes(8)), 4),
    "unsorted": (with_nar(UNSORTED), 4),
    "an entry twice": (with_nar(TWICE), 4),
    "climbing": (with_nar(CLIMBING), 4),
    "a bomb": (nar_answer(lambda _: Answer(compress("xz", bytes(50_000_000)))), 4),
    "gone": (nar_answer(lambda _: Answer(b"", 404)), 3),
    "forbidden": (nar_answer(lambda _: Answer(b"", 401)), 5),
}
"""What is wrong with the NAR, behind a narinfo that is right; the exit code."""

BAD_NARINFOS: dict[str, tuple[Break, int]] = {
    "tampered": (tampered, 4),
    "not signed": (signed_by(None), 4),
    "signed by another": (signed_by(OTHER_KEY), 4),
    "signed by another of that name": (signed_by(SecretKey.from_seed(KEY.name, b"x" * 32)), 4),
    "other references": (with_info(references=(store_path("x"),)), 4),
    "false content address": (false_address, 4),
    "of another path": (another_path, 4),
    "of another name": (same_hash_part, 4),
    "HTML": (answering(Answer(b"<!DOCTYPE html><p>Please log in.")), 4),
    "nonsense": (answering(Answer(b"nonsense")), 4),
    "empty": (answering(Answer()), 4),
    "missing": (answering(Answer(status=404)), 3),
    "unauthorized": (answering(Answer(status=401)), 5),
    "broken server": (answering(Answer(status=500)), 5),
    "endless redirects": (answering(Answer(status=302, headers={"Location": "/again"})), 5),
}
"""What is wrong with the narinfo; the exit code."""


@pytest.mark.parametrize("case", BAD_NARS)
def test_a_nar_that_is_no_good(nixfetch: Command, case: str) -> None:
    damage, code = BAD_NARS[case]
    ran, server = fetch_broken(nixfetch, damage)
    assert ran.code == code, ran.err
    assert "victim" in ran.errors[0]
    assert any(name.startswith("nar/") for name in server.names())


@pytest.mark.parametrize("case", BAD_NARINFOS)
def test_no_nar_is_asked_for_without_a_narinfo_to_believe(nixfetch: Command, case: str) -> None:
    damage, code = BAD_NARINFOS[case]
    ran, server = fetch_broken(nixfetch, damage)
    assert ran.code == code, ran.err
    assert "victim" in ran.errors[0]
    assert not [name for name in server.names() if name.startswith("nar/")]


def test_nobody_listens(nixfetch: Command, demo: Demo) -> None:
    source = f"http://127.0.0.1:{free_port()}"
    ran = nixfetch.fetch(demo.root, source=source, key=demo.key, NIXFETCH_DOWNLOAD_ATTEMPTS="2")
    assert (ran.code, ran.out, len(ran.errors)) == (5, "", 1)
    nixfetch.is_empty()


def test_the_same_cache_undamaged_is_fine(nixfetch: Command) -> None:
    with broken(lambda *_: None) as (server, path):
        ran = nixfetch.fetch(str(path), source=server.url, key=str(KEY.public()))
    assert ran.code == 0, ran.err
    nixfetch.is_whole([str(path)], str(KEY.public()))


def test_a_cache_whose_word_is_taken_needs_no_signature(nixfetch: Command) -> None:
    with broken(signed_by(None)) as (server, path):
        ran = nixfetch("fetch", str(path), "--from", f"{server.url}?trusted=1")
    assert ran.code == 0, ran.err


def test_a_cache_that_fails_is_made_up_for_by_the_next(nixfetch: Command) -> None:
    key = str(KEY.public())
    with broken(BAD_NARS["flipped byte"][0]) as (bad, path), broken(lambda *_: None) as (good, _):
        ran = nixfetch.fetch(str(path), source=f"{bad.url}?priority=1", key=key)
        assert ran.code == 4
        ran = nixfetch(
            "fetch", str(path), "--from", f"{bad.url}?priority=1", "--from", good.url,
            "--trusted-key", key,
        )  # fmt: skip
    assert ran.code == 0, ran.err
    nixfetch.is_whole([str(path)], key)
