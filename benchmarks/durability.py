"""What does it cost to be durable: unpack from memory with and without waiting for the disk.

    python -m benchmarks.durability DIRECTORY [--profile manysmall|big|small] [--rounds N]

DIRECTORY should lie on a fresh file system with a journal: `mkfs.ext4 -N 2000000` on a loop device.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import nixfetch
from benchmarks import corpus


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--profile", choices=corpus.PROFILES, default="small")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    modes = [(durable, dedup) for dedup in (True, False) for durable in (True, False)]
    seconds: dict[tuple[bool, bool], list[float]] = {mode: [] for mode in modes}
    with tempfile.TemporaryDirectory() as scratch:
        cache = Path(scratch) / "cache"
        root = corpus.make(cache, corpus.PROFILES[args.profile], "none")[-1]
        for number in range(args.rounds + 1):
            for mode in modes[number % 4 :] + modes[: number % 4]:
                taken = _run(cache, root, args.directory / "store", mode)
                if number:  # the first round warms up
                    seconds[mode].append(taken)
    for (durable, dedup), each in seconds.items():
        ratio = statistics.median(each) / statistics.median(seconds[False, dedup])
        print(
            f"durable={durable!s:5} dedup={dedup!s:5} {statistics.median(each):6.2f} s"
            f"  ({min(each):.2f} to {max(each):.2f})  {ratio:.2f} of not durable"
        )


def _run(cache: Path, path: nixfetch.StorePath, place: Path, mode: tuple[bool, bool]) -> float:
    durable, dedup = mode
    policy = nixfetch.TrustPolicy((corpus.KEY.public(),))
    os.sync()
    begin = time.perf_counter()
    with (
        nixfetch.open_caches([f"file://{cache}"]) as caches,
        nixfetch.LocalStore(place, durable=durable, dedup=dedup) as store,
    ):
        nixfetch.fetch_closure([path], caches=caches, policy=policy, store=store)
    taken = time.perf_counter() - begin
    subprocess.run(["chmod", "-R", "u+w", place], check=True)
    shutil.rmtree(place)
    return taken


if __name__ == "__main__":
    main()
