"""A server that fails one request in ten, at random: every fetch succeeds, and nothing is corrupt.

The draws hang on the seed, the name and the number of the request for that name, so that the same
run fails in the same places whatever the order of threads. A cut of the fetches is made;
NIXFETCH_SOAK=full makes all of them.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import pytest

import sins
from hostile_server import HostileServer, honest
from nixfetch.cache import BinaryCache, CacheGroup
from nixfetch.fetch import fetch_closure
from nixfetch.formats.signing import PublicKey
from nixfetch.formats.storepath import StorePath
from nixfetch.plan.trust import TrustPolicy
from nixfetch.store import LocalStore
from nixfetch.transport import TransportOptions
from nixfetch.transport.locate import locate

if TYPE_CHECKING:
    from e2e.conftest import Demo
    from hostile_server import Behaviour, Exchange

pytestmark = pytest.mark.e2e

FETCHES = 500 if os.environ.get("NIXFETCH_SOAK") == "full" else 60
RATE = 0.1  # of all requests fail
SEED = 20


def flaky(seed: int) -> Behaviour:
    """Honest, but for a part of the requests."""

    def behave(exchange: Exchange) -> None:
        request = exchange.request
        draw = Random(f"{seed} {request.name} {request.number}")
        if draw.random() >= RATE:
            honest(exchange)
            return
        size = draw.randrange(max(1, len(exchange.truth)))
        choice = draw.choice(
            [
                sins.reset,
                sins.reset_at(size),
                sins.cut(size),
                sins.hang_up,
                sins.saying(500),
                sins.saying(503, headers={"Retry-After": "0"}),
            ]
        )
        choice(exchange)

    return behave


def test_every_fetch_succeeds(demo: Demo, tmp_path: Path) -> None:
    folder = demo.cache("cache-xz")
    fetch(folder.as_uri(), demo, tmp_path / "reference")
    expected = contents(tmp_path / "reference")
    assert len(expected[0]) == len(demo.closure)
    files = {file for file in folder.rglob("*") if file.is_file()}
    objects = {str(file.relative_to(folder)): file.read_bytes() for file in files}
    with HostileServer(objects, {"*": flaky(SEED)}) as server:
        for number in range(FETCHES):
            store = tmp_path / f"store-{number}"
            fetch(server.url, demo, store)
            assert contents(store) == expected
            shutil.rmtree(store)
    failed = len(server.requests) - FETCHES * 2 * len(demo.closure)
    assert 0.05 < failed / len(server.requests) < 0.15


def fetch(source: str, demo: Demo, root: Path) -> None:
    """Fetch the closure; raises when something of it cannot be had. Waits take no time."""
    cache = BinaryCache(locate(source, options=TransportOptions()), sleep=lambda _: None)
    policy = TrustPolicy((PublicKey.parse(demo.key),))
    with CacheGroup([cache]) as caches, LocalStore(root, durable=False) as store:
        paths = [StorePath.parse(Path(demo.root).name)]
        fetch_closure(paths, caches=caches, policy=policy, store=store, jobs=2)


def contents(root: Path) -> tuple[list[tuple[str, str, int]], dict[str, str]]:
    """What the database says of the paths, and what lies on disk."""
    with closing(sqlite3.connect(root / "nix/var/nix/db/db.sqlite")) as database:
        rows = database.execute("SELECT path, hash, narSize FROM ValidPaths ORDER BY path")
        registered = rows.fetchall()
    directory = root / "nix/store"
    found = {}
    for file in directory.rglob("*"):
        name = str(file.relative_to(directory))
        if name.startswith(".links"):
            continue
        mode = file.lstat().st_mode
        if file.is_symlink():
            found[name] = f"{mode:o} {file.readlink()}"
        elif file.is_dir():
            found[name] = f"{mode:o}"
        else:
            found[name] = f"{mode:o} {sha256(file.read_bytes()).hexdigest()}"
    return registered, found
