"""How long does a mirror take, beside who moves the same bytes and checks nothing?

    python -m benchmarks.mirror [--rounds N] [--rclone PROGRAM]

    directory     nixfetch mirror from a server on loopback | curl of the same objects, then sync
    bucket        nixfetch mirror from a directory          | boto3's own transfer, 8 at a time
    looked into   nixfetch mirror --verify-nar              | decoding and hashing them, and no more

A closure of 1 GB; xz for the last question, of a fifth of that. The bucket is
`rclone serve s3`; without --rclone that question is left out. Needs nginx and curl.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import corpus
from benchmarks.corpus import KEY
from benchmarks.fetch_closure import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATHS = 40
FILES = 150  # a path
SIZE = 160_000  # bytes a file; below what the text of a corpus repeats after
PEAKS: list[int] = []  # KiB, of our processes
ACCESS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rclone", help="a program that can `serve s3`")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        place = Path(scratch)
        plain, packed = place / "plain", place / "packed"
        # Elsewhere: the size of who starts a process counts as that process's own.
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            paths = pool.submit(make, plain, "none", PATHS).result()
            some = pool.submit(make, packed, "xz", PATHS // 5).result()
        url = stack.enter_context(serving(plain))
        questions = {
            "directory": (
                lambda: mirror(paths, url, (place / "ours").as_uri()),
                lambda: curl(plain, url, place / "theirs"),
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
    print(f"most memory of ours: {max(PEAKS) / 1024:.0f} MiB")


def compare(
    name: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    rounds: int,
    place: Path,
) -> None:
    """Take turns, and print medians and the median of the ratios."""
    times: dict[Callable[[], object], list[float]] = {ours: [], theirs: []}
    cpu: dict[Callable[[], object], list[float]] = {ours: [], theirs: []}
    for number in range(rounds + 1):
        for act in (ours, theirs) if number % 2 else (theirs, ours):
            for leftover in ("ours", "theirs"):
                shutil.rmtree(place / leftover, ignore_errors=True)
            os.sync()
            begin, begun = time.perf_counter(), spent()
            act()
            if number:  # the first round warms up
                times[act].append(time.perf_counter() - begin)
                cpu[act].append(spent() - begun)
    for kind, each in (("wall", times), ("CPU", cpu)):
        ratios = [one / other for one, other in zip(each[ours], each[theirs], strict=True)]
        print(
            f"{name:12} {kind:4} ours {statistics.median(each[ours]):6.2f} s,"
            f" theirs {statistics.median(each[theirs]):6.2f} s,"
            f" ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


def spent() -> float:
    """CPU seconds of processes that have ended: those of servers are not among them."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def make(directory: Path, compression: str, count: int) -> list[str]:
    """A cache of `count` paths."""
    profile = corpus.Profile(paths=count, files=FILES, size=SIZE)
    return list(map(str, corpus.make(directory, profile, compression)))


def mirror(paths: list[str], source: str, target: str, *how: str) -> None:
    """Run our command."""
    command = [sys.executable, "-m", "nixfetch.cli", "mirror", *paths, *how, "-q"]
    command += ["--from", source, "--to", target, "--trusted-key", str(KEY.public())]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, **ACCESS})
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    PEAKS.append(usage.ru_maxrss)


def curl(source: Path, url: str, target: Path) -> None:
    """Download every object, and wait for the disk."""
    names = [str(file.relative_to(source)) for file in source.rglob("*") if file.is_file()]
    config = "".join(f'url="{url}/{name}"\noutput="{target}/{name}"\n' for name in names)
    command = ["curl", "-s", "-Z", "--parallel-max", "8", "--create-dirs", "-K", "-"]
    subprocess.run(command, check=True, input=config.encode(), stderr=subprocess.DEVNULL)
    subprocess.run(["sync", "-f", str(target)], check=True)


def decode(source: Path) -> None:
    """Decode and hash every file, as many at a time as there are cores, in a process of its own."""
    code = (
        "import hashlib, os, sys; from pathlib import Path;"
        "from concurrent.futures import ThreadPoolExecutor as Pool;"
        "from nixfetch.streams import codecs;"
        "read = lambda file: iter(lambda: file.read(262144), b'');"
        "hashed = lambda name: [h := hashlib.sha256(),"
        " [h.update(piece) for piece in codecs.decode('xz', read(open(name, 'rb')))]];"
        "list(Pool(os.cpu_count()).map(hashed, Path(sys.argv[1]).glob('nar/*')))"
    )
    subprocess.run([sys.executable, "-c", code, str(source)], check=True)


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
