"""How long does it take to get a closure from loopback into an empty store: we, and real Nix.

python -m benchmarks.fetch_closure [--profile P] [--compression none|zstd] [--rounds N]
                                   [--nix COMMAND_PREFIX] [--csv FILE]
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import corpus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(frozen=True, slots=True)
class Run:
    """One command, once."""

    wall: float  # seconds
    cpu: float  # seconds, user and system


def main() -> None:
    args = _arguments()
    profile = corpus.PROFILES[args.profile]
    with tempfile.TemporaryDirectory() as scratch, _disk(Path(scratch) / "disk") as disk:
        cache = Path(scratch) / "cache"
        paths = corpus.make(cache, profile, args.compression)
        with serving(cache) as url:
            contenders = _contenders(url, str(paths[-1]), shlex_nix(args.nix))
            runs = _race(contenders, disk, args.rounds)
        size = sum(file.stat().st_size for file in cache.glob("nar/*"))
    _report(args, runs, paths=len(paths), size=size)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--profile", choices=corpus.PROFILES, default="small")
    parser.add_argument("--compression", choices=("none", "zstd"), default="zstd")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--nix", default="", help="what to put before nix and nix-store")
    parser.add_argument("--csv", type=Path, help="append the runs to this file")
    return parser.parse_args()


def shlex_nix(prefix: str) -> list[str] | None:
    """The words before ``nix``; None where there is none to call."""
    words = prefix.split()
    found = shutil.which(words[0] if words else "nix")
    return words if found else None


def _contenders(
    url: str, path: str, nix: list[str] | None
) -> dict[str, Callable[[Path], list[str]]]:
    key = str(corpus.KEY.public())
    ours = [sys.executable, "-m", "nixfetch.cli", "fetch", path, "--from", url, "-q"]
    contenders: dict[str, Callable[[Path], list[str]]] = {
        "nixfetch": lambda root: [*ours, "--trusted-key", key, "--store", str(root)]
    }
    if nix is not None:
        options = [
            *("--option", "trusted-public-keys", key),
            *("--option", "build-users-group", ""),
            *("--option", "substituters", url),
            *("--extra-experimental-features", "nix-command"),
        ]
        contenders["nix copy"] = lambda root: [
            *nix, "nix", "copy", "--from", url, "--to", str(root), path, *options,
        ]  # fmt: skip
        contenders["nix-store --realise"] = lambda root: [
            *nix, "nix-store", "--store", str(root), "--realise", path, *options,
        ]  # fmt: skip
    return contenders


def _race(
    contenders: dict[str, Callable[[Path], list[str]]], disk: Path, rounds: int
) -> dict[str, list[Run]]:
    runs: dict[str, list[Run]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            root = disk / f"{name.split()[-1].strip('-')}-{number}"
            run = _time(contenders[name](root), home=disk / f"home-{name[-4:]}-{number}")
            if number:  # the first round warms up
                runs[name].append(run)
            subprocess.run(["chmod", "-R", "u+w", root], check=True)
            shutil.rmtree(root)
    return runs


def _time(command: list[str], *, home: Path) -> Run:
    home.mkdir()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.perf_counter()
    subprocess.run(command, check=True, env={**os.environ, "HOME": str(home)}, capture_output=True)
    wall = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Run(wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)


def _report(args: argparse.Namespace, runs: dict[str, list[Run]], *, paths: int, size: int) -> None:
    print(f"{args.profile}, {args.compression}: {paths} paths, {size / 1e6:.1f} MB to download")
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {args.rounds} rounds")
    others = [
        statistics.median(run.wall for run in runs[name]) for name in runs if name != "nixfetch"
    ]
    for name, each in runs.items():
        walls = [run.wall for run in each]
        median = statistics.median(walls)
        cpu = statistics.median(run.cpu for run in each)
        ratio = f"  {median / min(others):.2f} of the faster Nix" if others else ""
        spread = f"{min(walls):.2f} to {max(walls):.2f}"
        print(f"{name:22} {median:7.2f} s  ({spread})  cpu {cpu:6.2f} s{ratio}")
    if args.csv:
        with args.csv.open("a", newline="") as file:
            writer = csv.writer(file)
            for name, each in runs.items():
                for run in each:
                    writer.writerow([args.profile, args.compression, name, run.wall, run.cpu])


@contextmanager
def serving(cache: Path) -> Iterator[str]:
    """The cache over HTTP: by nginx where it is there, lest Python's server be what is measured."""
    nginx = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if nginx is None:
        handler = partial(_Quiet, directory=str(cache))
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{server.server_port}"
            server.shutdown()
        return
    cache.parent.chmod(0o755)
    port = 8763
    configuration = cache.parent / "nginx.conf"
    configuration.write_text(
        f"daemon off; pid {cache.parent}/nginx.pid; error_log /dev/null; worker_processes 1;\n"
        f"events {{}} http {{ access_log off; sendfile on; server {{ listen 127.0.0.1:{port};\n"
        f"root {cache}; }} }}\n"
    )
    process = subprocess.Popen([nginx, "-c", configuration, "-p", cache.parent])
    try:
        time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


class _Quiet(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
        """Say nothing."""


@contextmanager
def _disk(place: Path) -> Iterator[Path]:
    """A fresh file system for the stores, where we may mount one."""
    place.mkdir()
    if os.geteuid() != 0:
        print("not root: the stores lie on the disk of the temporary directory")
        yield place
        return
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


if __name__ == "__main__":
    main()
