"""A node whose store is empty: closures come from signed caches over HTTP, whole or not at all.

All of a daemon but its server works here; its errors are read as gRPC would tell them.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import grpc
import pytest
from moto.server import ThreadedMotoServer

import nixfetch
from nixfetch import CacheGroup, PublicKey, RetrySchedule, StorePath, TrustPolicy
from node import Node, unpack
from servers import Answer, LoopbackServer
from simulated_cache import POLICY, SimulatedCache
from snapshotter.errors import AlreadyExistsError
from snapshotter.grpc_errors import status_of, text_of
from snapshotter.labels import (
    NIX_CLOSURE,
    NIX_LAYER,
    NIX_LAYER_COMPLETE,
    NIX_STORE_PATH,
    SNAPSHOT_REF,
)
from snapshotter.oci import nixlayer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mypy_boto3_s3 import S3Client

    from snapshotter.core import Mode, Snapshotter
    from snapshotter.mounts import Mount

pytestmark = pytest.mark.e2e

FIXTURES = Path(__file__).parents[2] / "fixtures"
FACTS = json.loads((FIXTURES / "paths.json").read_text())
ROOT = StorePath.parse_full(FACTS["root"])
CLOSURE = sorted(map(StorePath.parse_full, FACTS["closure"]))
SAY = next(path for path in CLOSURE if path.name == "say-1.0")
KEY = PublicKey.parse(FACTS["keys"]["fixture-1"]["public"])
TWICE = RetrySchedule(tries=2)
LAYER = {NIX_LAYER: "true", f"{NIX_STORE_PATH}0": str(ROOT)}


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer(FIXTURES / "cache-zstd") as server:
        yield server


def opened(*servers: LoopbackServer) -> Callable[[], CacheGroup]:
    return lambda: nixfetch.open_caches([server.url for server in servers], retry=TWICE)


@pytest.fixture
def node(tmp_path: Path, server: LoopbackServer) -> Node:
    return Node(tmp_path, open_caches=opened(server), policy=TrustPolicy((KEY,)))


def narinfo(path: StorePath) -> bytes:
    return (FIXTURES / "cache-zstd" / f"{path.hash_part}.narinfo").read_bytes()


def nar(path: StorePath) -> str:
    found = re.search(r"^URL: (.*)$", narinfo(path).decode(), re.MULTILINE)
    assert found is not None
    return found[1]


def is_empty(node: Node, snapshotter: Snapshotter) -> bool:
    """Whether there is neither row, nor directory, nor root, nor anything half done."""
    snapshotter.cleanup()
    return (
        snapshotter.walk() == []
        and node.snapshots() == []
        and node.rooted() == {}
        and node.leftovers() == []
    )


def is_verified(node: Node) -> bool:
    with nixfetch.LocalStore(node.root, read_only=True) as store:
        verdicts = nixfetch.verify_paths(store, store.all_valid(), policy=node.policy)
    return bool(verdicts) and all(verdict.is_good for verdict in verdicts)


def test_the_closure_comes_with_the_layer(node: Node, server: LoopbackServer) -> None:
    """From one path that the image names; containers above see all of it, from this store."""
    with node.snapshotter() as snapshotter:
        [unpacking] = snapshotter.prepare("layer", "", LAYER)
        assert unpacking.type == "bind"
        unpack(snapshotter, "layer", ROOT)
        snapshotter.commit("base", "layer", LAYER)
        tree, *binds = snapshotter.prepare("container", "base", {})
        assert tree.type == "overlay"
        assert [mount.target for mount in binds] == [str(path) for path in CLOSURE]
        assert [mount.source for mount in binds] == [str(node.on_disk(path)) for path in CLOSURE]
        assert len(node.rooted()) == 1
        assert node.collect() == set()
        asked = Counter(name for name in server.names() if name.startswith("nar/"))
        assert set(asked.values()) == {1}
        assert is_verified(node)
        for name in ("container", "base"):
            snapshotter.remove(name)
        assert is_empty(node, snapshotter)
    assert len(node.collect()) == len(CLOSURE)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
@pytest.mark.skipif(shutil.which("unshare") is None, reason="there is no unshare here")
@pytest.mark.parametrize("mode", ["target", "lower"])
def test_pull_then_run(node: Node, mode: Mode) -> None:
    """What is answered is mounted, in a mount namespace of the child's own."""
    rootfs = node.place / "rootfs"
    rootfs.mkdir()
    with node.snapshotter(mode) as snapshotter:
        snapshotter.prepare("layer", "", LAYER)
        unpack(snapshotter, "layer", ROOT)
        snapshotter.commit("base", "layer", LAYER)
        mounts = snapshotter.prepare("container", "base", {})
        assert len(mounts) == (1 + len(CLOSURE) if mode == "target" else 1)
        for role, program in FACTS["programs"].items():
            command = "\n".join([*(mounted(mount, rootfs) for mount in mounts), 'exec "$@"'])
            done = subprocess.run(
                ["unshare", "-m", "sh", "-euc", command, "sh", "chroot", rootfs, program, "you"],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert (done.stdout, done.stderr) == (FACTS["output"][role], "")
    assert is_verified(node)


def mounted(mount: Mount, rootfs: Path) -> str:
    """A line of a shell script that mounts it."""
    place = shlex.quote(f"{rootfs}{mount.target}")
    if mount.type == "overlay":
        return f"mount -t overlay overlay -o {shlex.quote(','.join(mount.options))} {place}"
    assert mount.options == ("ro", "rbind")
    return f"mount --rbind {shlex.quote(mount.source)} {place}; mount -o remount,bind,ro {place}"


CHAIN = nixlayer.diff_id({ROOT: False})


def test_a_layer_that_needs_no_blob(node: Node) -> None:
    with node.snapshotter() as snapshotter:
        words = {**LAYER, NIX_LAYER_COMPLETE: "true", SNAPSHOT_REF: CHAIN}
        with pytest.raises(AlreadyExistsError):
            snapshotter.prepare("layer", "", words)
        [layer] = snapshotter.walk()
        assert layer.labels[SNAPSHOT_REF] == CHAIN
        mounts = snapshotter.prepare("container", layer.name, {})
        assert len(mounts) == 1 + len(CLOSURE)


def wrong_signature() -> dict[str, Answer]:
    data = narinfo(SAY)
    found = re.search(rb"Sig: fixture-1:(\S+)", data)
    assert found is not None
    other = (b"B" if found[1].startswith(b"A") else b"A") + found[1][1:]
    return {f"{SAY.hash_part}.narinfo": Answer(data.replace(found[1], other))}


def unknown_key() -> dict[str, Answer]:
    data = narinfo(SAY).replace(b"Sig: fixture-1:", b"Sig: somebody-1:")
    return {f"{SAY.hash_part}.narinfo": Answer(data)}


def truncated() -> dict[str, Answer]:
    data = (FIXTURES / "cache-zstd" / nar(SAY)).read_bytes()
    return {nar(SAY): Answer(data[: len(data) // 2])}


def cut_off() -> dict[str, Answer]:
    data = (FIXTURES / "cache-zstd" / nar(SAY)).read_bytes()
    return {nar(SAY): Answer(data, cut=len(data) // 2)}


def of_another() -> dict[str, Answer]:
    return {nar(SAY): Answer((FIXTURES / "cache-zstd" / nar(ROOT)).read_bytes())}


def busy() -> dict[str, Answer]:
    return {"*": Answer(status=503)}


GAVE_UP, REFUSED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.FAILED_PRECONDITION


@dataclass(frozen=True, slots=True)
class Case:
    """Something wrong with the cache, and what is to be said of it."""

    faults: Callable[[], dict[str, Answer]]
    status: grpc.StatusCode
    said: tuple[str, ...] = ()
    path: StorePath = SAY


CASES = [
    Case(wrong_signature, REFUSED, ("signature is wrong", "fixture-1")),
    Case(unknown_key, REFUSED, ("no trusted key", "somebody-1", "fixture-1")),
    Case(truncated, REFUSED, ("ends too early",)),
    Case(of_another, REFUSED),
    Case(cut_off, GAVE_UP, ("ended early",)),
    Case(busy, GAVE_UP, ("503",), path=ROOT),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.faults.__name__)
@pytest.mark.parametrize("label", [f"{NIX_STORE_PATH}0", NIX_CLOSURE])
def test_what_is_wrong_is_said_nothing_is_left_and_put_right_it_goes_on(
    node: Node, server: LoopbackServer, case: Case, label: str
) -> None:
    server.faults.update(case.faults())
    with node.snapshotter() as snapshotter:
        with pytest.raises(nixfetch.FetchFailedError) as caught:
            snapshotter.prepare("layer", "", {NIX_LAYER: "true", label: str(ROOT)})
        text = text_of(caught.value)
        for word in (str(case.path), server.url, *case.said):
            assert word in text
        assert status_of(caught.value) is case.status
        assert is_empty(node, snapshotter)
        with nixfetch.LocalStore(node.root, read_only=True) as store:
            assert ROOT not in store.valid([ROOT])
        server.faults.clear()
        snapshotter.prepare("layer", "", LAYER)
        unpack(snapshotter, "layer", ROOT)
        snapshotter.commit("base", "layer", {})
        assert len(snapshotter.prepare("container", "base", {})) == 1 + len(CLOSURE)
    assert is_verified(node)


def test_a_path_that_no_cache_has(node: Node, server: LoopbackServer) -> None:
    server.faults[f"{SAY.hash_part}.narinfo"] = Answer(status=404)
    with node.snapshotter() as snapshotter:
        with pytest.raises(nixfetch.FetchFailedError) as caught:
            snapshotter.prepare("layer", "", LAYER)
        for word in (str(SAY), server.url, "in no cache"):
            assert word in text_of(caught.value)
        assert is_empty(node, snapshotter)


def test_a_cache_that_is_down_and_comes_back(node: Node, server: LoopbackServer) -> None:
    server.stop()
    with node.snapshotter() as snapshotter:
        with pytest.raises(nixfetch.FetchFailedError) as caught:
            snapshotter.prepare("layer", "", LAYER)
        text = text_of(caught.value)
        assert str(ROOT) in text
        assert server.url in text
        assert status_of(caught.value) is GAVE_UP
        assert is_empty(node, snapshotter)
        with LoopbackServer(FIXTURES / "cache-zstd") as again:
            node.open_caches = opened(again)
            snapshotter.prepare("layer", "", LAYER)
    assert is_verified(node)


def test_who_gives_up_while_a_cache_stalls(node: Node, server: LoopbackServer) -> None:
    data = (FIXTURES / "cache-zstd" / nar(SAY)).read_bytes()
    server.faults[nar(SAY)] = Answer(data, piece=10, pause=5.0)
    gone = threading.Event()
    threading.Timer(0.5, gone.set).start()
    begin = time.monotonic()
    with node.snapshotter() as snapshotter:
        with pytest.raises(nixfetch.CancelledError) as caught:
            snapshotter.prepare("layer", "", LAYER, cancelled=gone.is_set)
        assert time.monotonic() - begin < 30
        assert status_of(caught.value) is grpc.StatusCode.CANCELLED
        assert is_empty(node, snapshotter)
        server.faults.clear()
        snapshotter.prepare("layer", "", LAYER)
    assert is_verified(node)


def test_many_pull_at_once_and_each_path_comes_once(tmp_path: Path) -> None:
    """Sixteen images that share two hundred paths."""
    cache = SimulatedCache()
    shared = [cache.add(f"shared{number}", b"%d" % number) for number in range(200)]
    tops = [cache.add(f"top{number}", b"top", references=shared) for number in range(16)]
    cache.dump(tmp_path / "cache")
    with LoopbackServer(tmp_path / "cache") as server:
        node = Node(tmp_path, open_caches=opened(server), policy=POLICY)
        with node.snapshotter() as snapshotter, ThreadPoolExecutor(16) as pool:

            def pull(top: StorePath) -> int:
                paths = {f"{NIX_STORE_PATH}{n}": str(path) for n, path in enumerate(shared)}
                labels = {NIX_LAYER: "true", NIX_STORE_PATH + "9999": str(top), **paths}
                snapshotter.prepare(f"layer-{top.name}", "", labels)
                unpack(snapshotter, f"layer-{top.name}", top, *shared)
                snapshotter.commit(top.name, f"layer-{top.name}", {})
                return len(snapshotter.prepare(f"container-{top.name}", top.name, {}))

            assert set(pool.map(pull, tops)) == {1 + 201}
        asked = Counter(name for name in server.names() if name.startswith("nar/"))
        assert len(asked) == 216
        assert set(asked.values()) == {1}
        assert len(node.rooted()) == 16
    assert is_verified(node)


FROM_A_BUCKET = """
import sys
from pathlib import Path
import nixfetch
from node import Node, unpack
from snapshotter.grpc_errors import text_of
from snapshotter.labels import NIX_LAYER, NIX_STORE_PATH
place, url, key, path = sys.argv[1:]
node = Node(
    Path(place),
    open_caches=lambda: nixfetch.open_caches([url], retry=nixfetch.RetrySchedule(tries=1)),
    policy=nixfetch.TrustPolicy((nixfetch.PublicKey.parse(key),)),
)
labels = {NIX_LAYER: "true", NIX_STORE_PATH + "0": path}
with node.snapshotter() as snapshotter:
    try:
        snapshotter.prepare("layer", "", labels)
    except nixfetch.NixfetchError as error:
        print(text_of(error))
    else:
        unpack(snapshotter, "layer", nixfetch.StorePath.parse_full(path))
        snapshotter.commit("base", "layer", labels)
        print(len(snapshotter.prepare("container", "base", {})))
"""


@pytest.fixture
def bucket() -> Iterator[tuple[str, S3Client]]:
    """An endpoint, and who may write there; the fixture cache is in ``bucket``."""
    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    session = boto3.Session(aws_access_key_id="key", aws_secret_access_key="secret")
    with closing(session.client("s3", "us-east-1", endpoint_url=endpoint)) as client:
        client.create_bucket(Bucket="bucket")
        cache = FIXTURES / "cache-xz"
        for file in cache.rglob("*"):
            if file.is_file():
                key = str(file.relative_to(cache))
                client.put_object(Bucket="bucket", Key=key, Body=file.read_bytes())
        yield endpoint, client
    server.stop()


def test_from_a_bucket(tmp_path: Path, bucket: tuple[str, S3Client]) -> None:
    """With credentials of the environment, as a daemon on a cloud's machine has them."""
    endpoint, client = bucket
    url = f"s3://bucket?endpoint={endpoint}&region=us-east-1"

    def pull() -> str:
        done = subprocess.run(
            [sys.executable, "-c", FROM_A_BUCKET, tmp_path, url, str(KEY), str(ROOT)],
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(FIXTURES.parent / "tests"),
                "AWS_ACCESS_KEY_ID": "AKIATESTS",
                "AWS_SECRET_ACCESS_KEY": "hush-hush-hush",
                "AWS_EC2_METADATA_DISABLED": "true",
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "hush" not in done.stdout + done.stderr
        return done.stdout.strip()

    name = f"{SAY.hash_part}.narinfo"
    data = client.get_object(Bucket="bucket", Key=name)["Body"].read()
    client.delete_object(Bucket="bucket", Key=name)
    said = pull()
    assert str(SAY) in said
    assert "s3://bucket" in said
    client.put_object(Bucket="bucket", Key=name, Body=data)
    assert pull() == str(1 + len(CLOSURE))
