"""How long does a mirror take, beside who moves the same bytes and checks nothing?

    python -m benchmarks.mirror [--rounds N] [--rclone PROGRAM]

    directory     nixfetch mirror from a server on loopback | curl of the same objects, then sync
    bucket        nixfetch mirror from a directory          | boto3's own transfer, 8 at a time
    looked into   nixfetch mirror --verify-nar              | decoding and hashing them, and no more

A closure of 1 GB, half of it random; xz for the last question, of a tenth of that. The bucket is
`rclone serve s3`; without --rclone that question is left out. Needs nginx and curl.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from benchmarks.corpus import KEY
from nixfetch.streams import codecs
from tests.simulated_cache import SimulatedCache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATHS = 40
SIZE = 25_000_000  # bytes a path
ACCESS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
_NGINX = """
worker_processes 1; daemon off; pid {place}/pid; error_log {place}/log;
events {{ worker_connections 256; }}
http {{ access_log off; sendfile on; server {{ listen 127.0.0.1:{port}; root {place}/caches; }} }}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rclone", help="a program that can `serve s3`")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        place = Path(scratch)
        plain, packed = place / "caches/plain", place / "caches/packed"
        paths = make(plain, "none", PATHS)
        some = make(packed, "xz", PATHS // 10)
        url = stack.enter_context(nginx(place))
        questions = {
            "directory": (
                lambda: mirror(paths, f"{url}/plain", (place / "ours").as_uri()),
                lambda: curl(plain, f"{url}/plain", place / "theirs"),
            ),
            "looked into": (
                lambda: mirror(some, packed.as_uri(), (place / "ours").as_uri(), "--verify-nar"),
                lambda: decode(packed),
            ),
        }
        if args.rclone:
            bucket = stack.enter_context(rclone(args.rclone, place))
            count = iter(range(10**6))
            questions["bucket"] = (
                lambda: mirror(paths, plain.as_uri(), to_bucket(bucket, next(count))),
                lambda: boto3_transfer(plain, bucket, f"b{next(count)}"),
            )
        for name, (ours, theirs) in questions.items():
            compare(name, ours, theirs, args.rounds, place)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(f"largest process: {peak / 1024:.0f} MiB")


def compare(
    name: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    rounds: int,
    place: Path,
) -> None:
    """Take turns, and print medians and the median of the ratios."""
    times: dict[Callable[[], object], list[float]] = {ours: [], theirs: []}
    for number in range(rounds + 1):
        for act in (ours, theirs) if number % 2 else (theirs, ours):
            for leftover in ("ours", "theirs"):
                shutil.rmtree(place / leftover, ignore_errors=True)
            os.sync()
            begin = time.perf_counter()
            act()
            if number:  # the first round warms up
                times[act].append(time.perf_counter() - begin)
    ratios = [one / other for one, other in zip(times[ours], times[theirs], strict=True)]
    print(
        f"{name:12} ours {statistics.median(times[ours]):6.2f} s,"
        f" theirs {statistics.median(times[theirs]):6.2f} s,"
        f" ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    )


def make(directory: Path, compression: Any, count: int) -> list[str]:
    """A cache of `count` paths."""
    random = Random(1)
    paths = []
    for number in range(count):
        cache = SimulatedCache(key=KEY)
        half = random.randbytes(SIZE // 2)
        repeated = random.randbytes(4096) * (SIZE // 2 // 4096)
        tree = {b"f": half + repeated}
        paths.append(str(cache.add(f"path-{number}", tree, compression=compression)))
        cache.dump(directory)
    return paths


def mirror(paths: list[str], source: str, target: str, *how: str) -> None:
    """Run our command."""
    command = [sys.executable, "-m", "nixfetch.cli", "mirror", *paths, *how, "-q"]
    command += ["--from", source, "--to", target, "--trusted-key", str(KEY.public())]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, **ACCESS})


def curl(source: Path, url: str, target: Path) -> None:
    """Download every object, and wait for the disk."""
    names = [str(file.relative_to(source)) for file in source.rglob("*") if file.is_file()]
    config = "".join(f'url="{url}/{name}"\noutput="{target}/{name}"\n' for name in names)
    command = ["curl", "-s", "-Z", "--parallel-max", "8", "--create-dirs", "-K", "-"]
    subprocess.run(command, check=True, input=config.encode(), stderr=subprocess.DEVNULL)
    subprocess.run(["sync", "-f", str(target)], check=True)


def decode(source: Path) -> None:
    """Decode and hash every file, as many at a time as there are cores."""

    def one(file: Path) -> None:
        digest = hashlib.sha256()
        with file.open("rb") as opened:
            chunks = iter(lambda: opened.read(256 * 1024), b"")
            for piece in codecs.decode("xz", chunks):
                digest.update(piece)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(one, source.glob("nar/*")))


def to_bucket(endpoint: str, number: int) -> str:
    return f"s3://bucket/m{number}?endpoint={endpoint}&region=us-east-1"


def boto3_transfer(source: Path, endpoint: str, prefix: str) -> None:
    """Upload every object as boto3 does it, in a process of its own as ours is."""
    code = (
        "import boto3, sys; from pathlib import Path;"
        "from concurrent.futures import ThreadPoolExecutor as Pool;"
        "source, endpoint, prefix = Path(sys.argv[1]), *sys.argv[2:];"
        "client = boto3.client('s3', 'us-east-1', endpoint_url=endpoint);"
        "files = [file for file in source.rglob('*') if file.is_file()];"
        "send = lambda file: client.upload_file("
        "str(file), 'bucket', f'{prefix}/{file.relative_to(source)}');"
        "list(Pool(8).map(send, files))"
    )
    command = [sys.executable, "-c", code, str(source), endpoint, prefix]
    subprocess.run(command, check=True, env={**os.environ, **ACCESS})


@contextmanager
def nginx(place: Path) -> Iterator[str]:
    """Serves the caches; gives its URL."""
    port = 20_000 + os.getpid() % 10_000
    config = place / "nginx.conf"
    config.write_text(_NGINX.format(place=place, port=port))
    with subprocess.Popen(["nginx", "-c", config]) as process:
        time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
        process.terminate()


@contextmanager
def rclone(program: str, place: Path) -> Iterator[str]:
    """Serves an empty bucket; gives its endpoint."""
    (place / "buckets/bucket").mkdir(parents=True)
    key = ",".join(ACCESS.values())
    command = [program, "serve", "s3", str(place / "buckets"), "--addr", "127.0.0.1:0"]
    command += ["--auth-key", key, "--config", str(place / "rclone.conf")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r"Starting s3 server on \[(http://[^]]+?)/?\]", line):
                yield found[1]
                break
        process.terminate()
        process.stderr.read()


if __name__ == "__main__":
    main()
