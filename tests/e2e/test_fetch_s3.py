"""`nixfetch fetch s3://…` from S3 servers over real HTTP: moto's, and rclone's."""

from __future__ import annotations

import os
import shutil
from contextlib import closing
from typing import TYPE_CHECKING

import boto3
import pytest
from moto.server import ThreadedMotoServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from e2e.conftest import Command, Demo, Start

pytestmark = pytest.mark.e2e

RCLONE = "NIXFETCH_TEST_RCLONE"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "AKIATESTS", "AWS_SECRET_ACCESS_KEY": "hush-hush-hush"}
# Nobody asks the metadata service of a cloud, where these tests may run.
ALONE = {"AWS_EC2_METADATA_DISABLED": "true"}


def s3_url(endpoint: str, prefix: str = "") -> str:
    return f"s3://bucket{prefix}?endpoint={endpoint}&region=us-east-1"


def assert_fetched(source: str, nixfetch: Command, demo: Demo, **environ: str) -> None:
    ran = nixfetch.fetch(demo.root, source=source, key=demo.key, **ALONE, **environ)
    assert ran.code == 0, ran.err
    nixfetch.is_whole(demo.closure, demo.key)
    nixfetch.runs(demo)


def assert_refused(source: str, nixfetch: Command, demo: Demo, **environ: str) -> None:
    ran = nixfetch.fetch(demo.root, source=source, key=demo.key, **ALONE, **environ)
    assert (ran.code, ran.out, len(ran.errors)) == (5, "", 1), ran.err
    assert not [value for value in environ.values() if value in ran.err]
    nixfetch.is_empty()


# moto: takes any credentials, and none for what is public.


@pytest.fixture(scope="module")
def moto(demo: Demo) -> Iterator[str]:
    """An endpoint with the fixture cache in ``bucket`` below ``some/prefix``, for all to read."""
    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    session = boto3.Session(aws_access_key_id="key", aws_secret_access_key="secret")
    with closing(session.client("s3", "us-east-1", endpoint_url=endpoint)) as client:
        client.create_bucket(Bucket="bucket")
        cache = demo.cache("cache-xz")
        for file in cache.rglob("*"):
            if file.is_file():
                key = f"some/prefix/{file.relative_to(cache)}"
                data = file.read_bytes()
                client.put_object(Bucket="bucket", Key=key, Body=data, ACL="public-read")
    yield endpoint
    server.stop()


@pytest.mark.parametrize("environ", [CREDENTIALS, {}], ids=["signed", "anonymous"])
def test_moto(moto: str, nixfetch: Command, demo: Demo, environ: dict[str, str]) -> None:
    assert_fetched(s3_url(moto, "/some/prefix"), nixfetch, demo, **environ)


def test_a_profile(moto: str, nixfetch: Command, demo: Demo) -> None:
    folder = nixfetch.home / ".aws"
    folder.mkdir()
    (folder / "credentials").write_text(
        "[other]\naws_access_key_id = key\naws_secret_access_key = secret\n"
    )
    assert_fetched(f"{s3_url(moto, '/some/prefix')}&profile=other", nixfetch, demo)


def test_what_is_not_in_the_bucket_is_missing(moto: str, nixfetch: Command, demo: Demo) -> None:
    source = s3_url(moto, "/other/prefix")
    ran = nixfetch.fetch(demo.root, source=source, key=demo.key, **ALONE, **CREDENTIALS)
    assert (ran.code, ran.out, len(ran.errors)) == (3, "", 1), ran.err
    nixfetch.is_empty()


def test_no_such_bucket(moto: str, nixfetch: Command, demo: Demo) -> None:
    source = s3_url(moto).replace("bucket", "nowhere")
    ran = nixfetch.fetch(demo.root, source=source, key=demo.key, **ALONE, **CREDENTIALS)
    assert ran.code in {3, 5}
    assert len(ran.errors) == 1
    nixfetch.is_empty()


# rclone: takes the credentials that it was told, and checks the signatures made with them.


@pytest.fixture
def rclone(demo: Demo, tmp_path: Path) -> list[str]:
    """The command that serves the fixture cache as ``bucket``."""
    program = os.environ.get(RCLONE)
    if not program:
        pytest.skip(f"{RCLONE} is not set: no rclone with `serve s3`")
    shutil.copytree(demo.cache("cache-zstd"), tmp_path / "buckets/bucket")
    serve = [program, "serve", "s3", str(tmp_path / "buckets"), "--addr", "127.0.0.1:0"]
    return [*serve, "--config", str(tmp_path / "rclone.conf"), "--read-only"]


READY = r"Starting s3 server on \[(http://[^]]+?)/?\]"


def test_rclone_with_credentials(
    rclone: list[str], start: Start, nixfetch: Command, demo: Demo
) -> None:
    with start([*rclone, "--auth-key", "AKIATESTS,hush-hush-hush"], READY) as server:
        assert_fetched(s3_url(server.found[1]), nixfetch, demo, **CREDENTIALS)


def test_rclone_without_credentials(
    rclone: list[str], start: Start, nixfetch: Command, demo: Demo
) -> None:
    with start(rclone, READY) as server:
        assert_fetched(s3_url(server.found[1]), nixfetch, demo)


@pytest.mark.parametrize(
    "environ",
    [{}, {**CREDENTIALS, "AWS_SECRET_ACCESS_KEY": "hunter2hunter2"}],
    ids=["none", "wrong"],
)
def test_rclone_refuses_other_credentials(
    rclone: list[str], start: Start, nixfetch: Command, demo: Demo, environ: dict[str, str]
) -> None:
    with start([*rclone, "--auth-key", "AKIATESTS,hush-hush-hush"], READY) as server:
        assert_refused(s3_url(server.found[1]), nixfetch, demo, **environ)
