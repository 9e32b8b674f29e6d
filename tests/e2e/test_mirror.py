"""`nixfetch mirror` and `nixfetch warm` to S3 servers over real HTTP: moto's, and rclone's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

import boto3
import pytest
from moto.server import ThreadedMotoServer

from mirror_walk import walk, walk_objects
from servers import LoopbackServer
from simulated_cache import KEY, SimulatedCache

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.conftest import Command, Demo, Start

pytestmark = pytest.mark.e2e

RCLONE = "NIXFETCH_TEST_RCLONE"
ACCESS = {
    "AWS_ACCESS_KEY_ID": "AKIATESTS",
    "AWS_SECRET_ACCESS_KEY": "hush-hush-hush",
    "AWS_EC2_METADATA_DISABLED": "true",
}
LARGE = 12 * 1024 * 1024  # bytes: three parts


def s3_url(endpoint: str, prefix: str = "/some/prefix") -> str:
    return f"s3://bucket{prefix}?endpoint={endpoint}&region=us-east-1"


class Bucket:
    """What lies in it, asked by boto3."""

    def __init__(self, endpoint: str) -> None:
        session = boto3.Session(
            aws_access_key_id=ACCESS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=ACCESS["AWS_SECRET_ACCESS_KEY"],
        )
        self.client: Any = session.client("s3", "us-east-1", endpoint_url=endpoint)

    def names(self, prefix: str = "some/prefix/") -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket="bucket")
        found = (entry["Key"] for page in pages for entry in page.get("Contents", ()))
        return [key.removeprefix(prefix) for key in found]

    def read(self, name: str, prefix: str = "some/prefix/") -> bytes | None:
        try:
            answer = self.client.get_object(Bucket="bucket", Key=prefix + name)
        except self.client.exceptions.NoSuchKey:
            return None
        with closing(answer["Body"]) as body:
            return bytes(body.read())

    def unfinished(self) -> list[object]:
        return list(self.client.list_multipart_uploads(Bucket="bucket").get("Uploads", ()))

    def is_whole(self) -> frozenset[str]:
        narinfos = [key for key in self.names() if key.endswith(".narinfo")]
        walked = walk_objects(narinfos, self.read)
        assert walked.sins == ()
        return walked.paths


@contextmanager
def moto() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    # What it holds is the process's, whichever server was asked to.
    urlopen(Request(f"{endpoint}/moto-api/reset", method="POST")).close()
    try:
        yield endpoint
    finally:
        server.stop()


@contextmanager
def rclone(start: Start, directory: Path, *flags: str) -> Iterator[str]:
    program = os.environ.get(RCLONE)
    if not program:
        pytest.skip(f"{RCLONE} is not set: no rclone with `serve s3`")
    (directory / "buckets/bucket").mkdir(parents=True, exist_ok=True)
    serve = [program, "serve", "s3", str(directory / "buckets"), "--addr", "127.0.0.1:0"]
    key = f"{ACCESS['AWS_ACCESS_KEY_ID']},{ACCESS['AWS_SECRET_ACCESS_KEY']}"
    flags = ("--config", str(directory / "rclone.conf"), "--auth-key", key, *flags)
    ready = r"Starting s3 server on \[(http://[^]]+?)/?\]"
    with start([*serve, *flags], ready) as server:
        yield server.found[1]


@pytest.fixture(params=["moto", "rclone"])
def endpoint(request: pytest.FixtureRequest, start: Start, tmp_path: Path) -> Iterator[str]:
    if request.param == "rclone":
        with rclone(start, tmp_path) as url:
            yield url
        return
    with moto() as url:
        bucket = Bucket(url)
        bucket.client.create_bucket(Bucket="bucket")
        bucket.client.close()
        yield url


@pytest.fixture
def bucket(endpoint: str) -> Iterator[Bucket]:
    bucket = Bucket(endpoint)
    yield bucket
    bucket.client.close()


def mirror(nixfetch: Command, demo: Demo, endpoint: str, *more: str) -> Any:
    return nixfetch(
        *("mirror", demo.root, "--from", demo.cache("cache-xz").as_uri()),
        *("--to", s3_url(endpoint), "--trusted-key", demo.key, *more),
        **ACCESS,
    )


def test_a_bucket_byte_for_byte(
    nixfetch: Command, demo: Demo, endpoint: str, bucket: Bucket
) -> None:
    ran = mirror(nixfetch, demo, endpoint)
    assert ran.code == 0, ran.err
    assert sorted(ran.out.splitlines()) == sorted(demo.closure)
    assert bucket.is_whole() == {Path(path).name for path in demo.closure}
    cache = demo.cache("cache-xz")
    for key in bucket.names():
        if key != "nix-cache-info":
            assert bucket.read(key) == (cache / key).read_bytes()
    again = mirror(nixfetch, demo, endpoint, "--json")
    report = json.loads(again.out)
    assert (report["bytes_sent"], report["bytes_downloaded"]) == (0, 0)
    fetched = nixfetch.fetch(demo.root, source=s3_url(endpoint), key=demo.key, **ACCESS)
    assert fetched.code == 0, fetched.err
    nixfetch.is_whole(demo.closure, demo.key)


def test_verified_repaired_and_pruned(
    nixfetch: Command, demo: Demo, endpoint: str, bucket: Bucket
) -> None:
    assert mirror(nixfetch, demo, endpoint, "--recompress", "zstd", "--listing").code == 0
    trusting = ("--trusted-key", demo.key)
    verify = ("mirror", "verify", s3_url(endpoint), *trusting)
    assert nixfetch(*verify, **ACCESS).code == 0
    victim = next(key for key in bucket.names() if key.startswith("nar/"))
    good = bucket.read(victim)
    assert good is not None
    bucket.client.put_object(Bucket="bucket", Key=f"some/prefix/{victim}", Body=b"x" + good[1:])
    ran = nixfetch(*verify, **ACCESS)
    assert (ran.code, len(ran.out.splitlines())) == (4, 1), ran.err
    repair = ("--repair-from", demo.cache("cache-none").as_uri())
    ran = nixfetch(*verify, *repair, **ACCESS)
    assert (ran.code, ran.out.splitlines()[-1].endswith(": repaired")) == (0, True), ran.err
    kept = demo.closure[0]
    prune = ("mirror", "prune", s3_url(endpoint), "--keep-roots", kept)
    assert nixfetch(*prune, "--dry-run", **ACCESS).code == 0
    assert len(bucket.is_whole()) == len(demo.closure)
    ran = nixfetch(*prune, **ACCESS)
    assert ran.code == 0, ran.err
    assert bucket.is_whole() == {Path(kept).name}
    assert len([key for key in bucket.names() if key.endswith(".ls")]) == 1
    assert nixfetch(*verify, **ACCESS).code == 0


def large_cache(folder: Path, count: int = 1) -> list[str]:
    cache = SimulatedCache()
    paths = [cache.add(f"large-{number}", {b"f": os.urandom(LARGE)}) for number in range(count)]
    cache.dump(folder)
    return list(map(str, paths))


def test_large_files_go_in_parts(
    nixfetch: Command, endpoint: str, bucket: Bucket, tmp_path: Path
) -> None:
    paths = large_cache(tmp_path / "cache")
    ran = nixfetch(
        *("mirror", *paths, "--from", (tmp_path / "cache").as_uri(), "--to", s3_url(endpoint)),
        *("--trusted-key", str(KEY.public())),
        **ACCESS,
    )
    assert ran.code == 0, ran.err
    assert len(bucket.is_whole()) == 1


def test_a_stop_leaves_no_parts(nixfetch: Command, tmp_path: Path) -> None:
    paths = large_cache(tmp_path / "cache", 4)
    with moto() as endpoint, closing(Bucket(endpoint).client) as client:
        client.create_bucket(Bucket="bucket")
        command = [
            *(sys.executable, "-m", "nixfetch.cli", "mirror", *paths),
            *("--from", (tmp_path / "cache").as_uri(), "--to", s3_url(endpoint)),
            *("--trusted-key", str(KEY.public()), "--bandwidth", "4M"),
        ]
        # A directory is not held back, so that it takes a server to be in the middle of it.
        with LoopbackServer(tmp_path / "cache") as server:
            command[command.index("--from") + 1] = server.url
            environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **ACCESS}
            with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE) as process:
                until = time.monotonic() + 30
                while time.monotonic() < until:
                    if client.list_multipart_uploads(Bucket="bucket").get("Uploads"):
                        break
                    time.sleep(0.05)
                process.send_signal(signal.SIGTERM)
                _, errors = process.communicate(timeout=30)
        assert process.returncode == 143, errors
        assert not client.list_multipart_uploads(Bucket="bucket").get("Uploads")


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_leaves_no_files(nixfetch: Command, tmp_path: Path, stop: signal.Signals) -> None:
    paths = large_cache(tmp_path / "cache", 2)
    mirror = tmp_path / "mirror"
    with LoopbackServer(tmp_path / "cache") as server:
        command = [
            *(sys.executable, "-m", "nixfetch.cli", "mirror", *paths, "--from", server.url),
            *("--to", mirror.as_uri(), "--trusted-key", str(KEY.public()), "--bandwidth", "4M"),
        ]
        environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE) as process:
            until = time.monotonic() + 30
            while not list(mirror.glob(".nixfetch/*")) and time.monotonic() < until:
                time.sleep(0.05)
            process.send_signal(stop)
            _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + stop, errors
    # It may have been the very first file that was being written.
    assert {file.name for file in mirror.iterdir()} <= {"nix-cache-info"}


def test_credentials_that_only_read(
    nixfetch: Command, demo: Demo, start: Start, tmp_path: Path
) -> None:
    with rclone(start, tmp_path, "--read-only") as endpoint:
        ran = mirror(nixfetch, demo, endpoint)
    assert ran.code in {5, 6}, ran.err
    assert len(ran.errors) == 1
    assert ACCESS["AWS_SECRET_ACCESS_KEY"] not in ran.err


def test_wrong_credentials(nixfetch: Command, demo: Demo, start: Start, tmp_path: Path) -> None:
    with rclone(start, tmp_path) as endpoint:
        wrong = {**ACCESS, "AWS_SECRET_ACCESS_KEY": "hunter2hunter2"}
        ran = nixfetch(
            *("mirror", demo.root, "--from", demo.cache("cache-xz").as_uri()),
            *("--to", s3_url(endpoint), "--trusted-key", demo.key),
            **wrong,
        )
    assert ran.code == 5, ran.err
    assert len(ran.errors) == 1


def test_no_such_bucket(nixfetch: Command, demo: Demo) -> None:
    with moto() as endpoint:
        ran = mirror(nixfetch, demo, endpoint)
    assert (ran.code, len(ran.errors)) == (5, 1), ran.err


def test_two_at_once_do_no_harm(
    nixfetch: Command, demo: Demo, endpoint: str, bucket: Bucket, tmp_path: Path
) -> None:
    command = [
        *(sys.executable, "-m", "nixfetch.cli", "mirror", demo.root),
        *("--from", demo.cache("cache-xz").as_uri(), "--to", s3_url(endpoint)),
        *("--trusted-key", demo.key, "-q"),
    ]
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), **ACCESS}
    several = [subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL) for _ in range(3)]
    assert [process.wait(60) for process in several] == [0, 0, 0]
    assert bucket.is_whole() == {Path(path).name for path in demo.closure}


def test_from_a_bucket_to_a_directory(
    nixfetch: Command, demo: Demo, endpoint: str, bucket: Bucket, tmp_path: Path
) -> None:
    assert mirror(nixfetch, demo, endpoint).code == 0
    ran = nixfetch(
        *("mirror", demo.root, "--from", s3_url(endpoint), "--to", (tmp_path / "down").as_uri()),
        *("--trusted-key", demo.key, "--verify-nar"),
        **ACCESS,
    )
    assert ran.code == 0, ran.err
    assert walk(tmp_path / "down").paths == {Path(path).name for path in demo.closure}


def test_warm_a_bucket(
    nixfetch: Command, demo: Demo, endpoint: str, bucket: Bucket, tmp_path: Path
) -> None:
    manifest = tmp_path / "nodes.list"
    manifest.write_text(f"{demo.root}\n")
    warm = (
        *("warm", manifest, "--to", s3_url(endpoint), "--trusted-key", demo.key),
        *("--from", demo.cache("cache-xz").as_uri(), "--json"),
        *("--lock", tmp_path / "lock"),
    )
    first = nixfetch(*warm, **ACCESS)
    assert first.code == 0, first.err
    assert bucket.is_whole() == {Path(path).name for path in demo.closure}
    again = json.loads(nixfetch(*warm, **ACCESS).out)
    assert again["bytes_downloaded"] == 0
    listing = tmp_path / "copy.toml"
    listing.write_text(f'[[roots]]\ncache = "{s3_url(endpoint)}"\nmatch = ["*-say-*"]\n')
    ran = nixfetch(
        *("warm", listing, "--from", s3_url(endpoint), "--trusted-key", demo.key), **ACCESS
    )
    assert ran.code == 0, ran.err
    assert nixfetch.valid() == [path for path in demo.closure if path.endswith("-say-1.0")]
