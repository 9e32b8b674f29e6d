"""What a durable store and a deduplicated one cost, beside real Nix: on a fresh ext4, as root.

    python -m benchmarks.store_against_nix durable|dedup [--profile P] [--rounds N]
                                           [--nix 'chroot DIR']

`durable`: a closure from loopback into an empty store; Nix with `fsync-store-paths`.
`dedup`: a second, slightly changed version of a closure of 5 000 files into a store that has the
first: seconds, and bytes that the disk holds more; Nix with and without `auto-optimise-store`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import corpus
from benchmarks.fetch_closure import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Command = Callable[[Path, str], list[str]]  # of a store root and a store path

_IMAGE = 12 * 1024**3  # bytes, sparse


@dataclass(frozen=True, slots=True)
class Run:
    """The last path of a sequence, fetched once."""

    wall: float  # seconds
    grown: int  # bytes on disk


def main() -> None:
    args = _arguments()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cache = scratch / "cache"
        if args.question == "dedup":
            paths = corpus.make_versions(cache, "zstd")
        else:
            paths = corpus.make(cache, corpus.PROFILES[args.profile], "zstd")[-1:]
        url = stack.enter_context(serving(cache))
        disk = stack.enter_context(_disk(scratch, args.nix))
        contenders = _contenders(args.question, url, args.nix.split())
        runs = _race(contenders, disk, [str(path) for path in paths], args.rounds)
    first = statistics.median(run.wall for run in next(iter(runs.values())))
    for name, each in runs.items():
        walls = [run.wall for run in each]
        grown = statistics.median(run.grown for run in each) / 1e6
        median = statistics.median(walls)
        print(
            f"{name:32} {median:7.2f} s ({min(walls):.2f} to {max(walls):.2f})"
            f"  {median / first:5.2f}  {grown:8.1f} MB more"
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("question", choices=("durable", "dedup"))
    parser.add_argument("--profile", choices=corpus.PROFILES, default="manysmall")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--nix", default="", help="what to put before nix: 'chroot DIR'")
    return parser.parse_args()


def _contenders(question: str, url: str, prefix: Sequence[str]) -> dict[str, Command]:
    key = str(corpus.KEY.public())

    def ours(*flags: str) -> Command:
        command = [sys.executable, "-m", "nixfetch.cli", "fetch", "--from", url, "-q", *flags]
        return lambda root, path: [*command, "--trusted-key", key, "--store", str(root), path]

    def nix(*options: str) -> Command:
        common = [
            *("--option", "trusted-public-keys", key),
            *("--option", "build-users-group", ""),
            *("--option", "substituters", url),
            *("--extra-experimental-features", "nix-command"),
            *options,
        ]
        return lambda root, path: [
            *prefix, "nix", "copy", "--from", url, "--to", str(root), path, *common,
        ]  # fmt: skip

    if question == "durable":
        return {
            "nixfetch": ours(),
            "nixfetch --no-fsync": ours("--no-fsync"),
            "nix, fsync-store-paths": nix("--option", "fsync-store-paths", "true"),
            "nix": nix(),
        }
    return {
        "nixfetch": ours(),
        "nixfetch --no-dedup": ours("--no-dedup"),
        "nix, auto-optimise-store": nix("--option", "auto-optimise-store", "true"),
        "nix": nix(),
    }


def _race(
    contenders: dict[str, Command], disk: Path, paths: Sequence[str], rounds: int
) -> dict[str, list[Run]]:
    runs: dict[str, list[Run]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            root = disk / "store"
            taken = [_time(contenders[name](root, path), disk) for path in paths]
            if number:  # the first round warms up
                runs[name].append(taken[-1])
            subprocess.run(["chmod", "-R", "u+w", root], check=True)
            shutil.rmtree(root)
    return runs


def _time(command: list[str], disk: Path) -> Run:
    os.sync()
    before = _used(disk)
    begin = time.perf_counter()
    subprocess.run(
        command, check=True, env={**os.environ, "HOME": str(disk / "home")}, capture_output=True
    )
    wall = time.perf_counter() - begin
    os.sync()
    return Run(wall, _used(disk) - before)


def _used(disk: Path) -> int:
    status = os.statvfs(disk)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


@contextmanager
def _disk(scratch: Path, nix: str) -> Iterator[Path]:
    """A fresh ext4, at the same place for us and for a Nix in a chroot."""
    image, disk = scratch / "image", scratch / "disk"
    disk.mkdir()
    with image.open("wb") as file:
        file.truncate(_IMAGE)
    subprocess.run(["mkfs.ext4", "-q", "-b", "4096", "-N", "2000000", image], check=True)
    with ExitStack() as stack:
        places = [disk]
        if nix:
            places.append(Path(nix.rsplit(maxsplit=1)[-1]) / disk.relative_to("/"))
        for place in places:
            place.mkdir(parents=True, exist_ok=True)
            what = ["-o", "loop", str(image)] if place is disk else ["--bind", str(disk)]
            subprocess.run(["mount", *what, str(place)], check=True)
            stack.callback(_unmount, place)
        (disk / "home").mkdir()
        yield disk


def _unmount(place: Path) -> None:
    subprocess.run(["umount", place], check=True)


if __name__ == "__main__":
    main()
