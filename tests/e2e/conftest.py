"""What the end-to-end tests work with: the fixture closure, our command, servers, real Nix.

Everything runs in a process of its own, as users run it, and listens on loopback only.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import pytest

from command import Ran
from nixfetch.store import LocalStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FIXTURES = Path(__file__).parents[2] / "fixtures"
CHROOT = "NIXFETCH_TEST_CHROOT"
PATIENCE = 60.0  # seconds for any one command; all take less than one
NIXFETCH = (sys.executable, "-m", "nixfetch.cli")
PATH = f"{os.environ['PATH']}:/usr/sbin:/usr/bin:/sbin:/bin"  # the last ones for chroots
NIX_CONFIG = """\
build-users-group =
experimental-features = nix-command
substituters =
"""


@dataclass(frozen=True, slots=True)
class Demo:
    """The closure of `fixtures/`."""

    root: str
    closure: tuple[str, ...]
    key: str
    programs: dict[str, str]
    output: dict[str, str]
    """What each program prints for the argument ``you``."""

    def cache(self, name: str) -> Path:
        """One of the caches that hold it. Real Nix gets a copy: it writes into what it reads."""
        return FIXTURES / name


@pytest.fixture(scope="session")
def demo() -> Demo:
    paths = json.loads((FIXTURES / "paths.json").read_text())
    return Demo(
        paths["root"],
        tuple(paths["closure"]),
        paths["keys"]["fixture-1"]["public"],
        paths["programs"],
        paths["output"],
    )


@dataclass(frozen=True, slots=True)
class Command:
    """`nixfetch` as a user types it, with a store and a home of its own."""

    store: Path
    home: Path

    def __call__(self, *arguments: str | Path, **environ: str) -> Ran:
        done = subprocess.run(
            [*NIXFETCH, *arguments, "--store", self.store],
            env={"PATH": PATH, "HOME": str(self.home), **environ},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert "-vv" in arguments or "Traceback" not in done.stderr
        return Ran(done.returncode, done.stdout, done.stderr)

    def fetch(self, *paths: str, source: str, key: str, **environ: str) -> Ran:
        return self("fetch", *paths, "--from", source, "--trusted-key", key, **environ)

    def is_whole(self, paths: Sequence[str], key: str) -> None:
        """Hold the store to having `paths`, verified, and nothing else."""
        ran = self("verify", "--all", "--trusted-key", key)
        assert ran == Ran(0, "", "")
        assert self.valid() == sorted(paths)
        assert self.names() == sorted(Path(path).name for path in paths)

    def is_empty(self) -> None:
        """Hold the store to having nothing, not even leftovers."""
        assert self.names() == []
        assert self.valid() == []

    def valid(self) -> list[str]:
        """Paths that are registered."""
        if not self.store.exists():
            return []
        with LocalStore(self.store, read_only=True) as store:
            return list(map(str, store.all_valid()))

    def names(self) -> list[str]:
        """All that lies in the store directory."""
        directory = self.store / "nix/store"
        if not directory.exists():
            return []
        return sorted(entry.name for entry in directory.iterdir() if entry.name != ".links")

    def runs(self, demo: Demo) -> None:
        """Hold the programs to what they print, where we may change the root directory."""
        if os.geteuid() != 0:
            return
        for role, program in demo.programs.items():
            command: list[str | Path] = ["chroot", self.store, program, "you"]
            printed = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=True)
            assert printed.stdout.decode() == demo.output[role]


@pytest.fixture
def nixfetch(tmp_path: Path) -> Command:
    home = tmp_path / "home"
    home.mkdir()
    return Command(tmp_path / "store", home)


@dataclass(frozen=True, slots=True)
class Started:
    """A server in a process of its own."""

    found: re.Match[str]
    """In the line that said it is ready."""
    log: list[str] = field(default_factory=list)
    """What it wrote since."""


Start: TypeAlias = Callable[..., AbstractContextManager[Started]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Starts a server: a command, and a pattern of the line that says it is ready."""

    @contextmanager
    def start(command: Sequence[str | Path], ready: str, **environ: str) -> Iterator[Started]:
        with subprocess.Popen(
            command,
            env={"PATH": PATH, "HOME": str(tmp_path), **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            assert process.stdout is not None
            lines = iter(process.stdout.readline, "")
            before: list[str] = []
            watchdog = threading.Timer(PATIENCE, process.kill)
            watchdog.start()
            try:
                found = _ready(lines, ready, before)
                assert found, f"{command[0]} did not start: {''.join(before)}"
                started = Started(found)
                reader = threading.Thread(target=started.log.extend, args=(lines,))
                reader.start()
                try:
                    yield started
                finally:
                    process.terminate()
                    reader.join()
            finally:
                watchdog.cancel()
                process.terminate()

    return start


def _ready(lines: Iterator[str], ready: str, before: list[str]) -> re.Match[str] | None:
    for line in lines:
        if found := re.search(ready, line):
            return found
        before.append(line)
    return None


Serve: TypeAlias = Callable[..., AbstractContextManager[str]]


@pytest.fixture
def serve(start: Start) -> Serve:
    """`nixfetch serve` with some more arguments; gives its URL."""

    @contextmanager
    def serve(*arguments: str | Path) -> Iterator[str]:
        command = [*NIXFETCH, "serve", "--listen", "127.0.0.1:0", *arguments]
        with start(command, r"serving .* on (http://\S+)") as server:
            yield server.found[1]

    return serve


@dataclass(frozen=True, slots=True)
class RealNix:
    """One version of Nix, with a folder of its own."""

    enter: tuple[str, ...]
    """What stands before its commands."""
    folder: Path
    inside: Path
    """The folder, as it sees it."""

    def __call__(self, *command: str | Path, check: bool = True) -> Ran:
        done = subprocess.run(
            [*self.enter, *command],
            env={"PATH": PATH, "HOME": str(self.inside), "NIX_CONFIG": NIX_CONFIG},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr
        return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture(params=["host", "chroot"])
def nix(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RealNix]:
    """Each real Nix that is there."""
    if request.param == "host":
        if shutil.which("nix") is None:
            pytest.skip("no nix in PATH")
        folder = tmp_path / "nix"
        folder.mkdir()
        yield RealNix((), folder, folder)
        return
    root = os.environ.get(CHROOT)
    if not root or os.geteuid() != 0:
        pytest.skip(f"{CHROOT} is not set, or this is not root")
    with tempfile.TemporaryDirectory(dir=Path(root, "tmp")) as name:
        folder = Path(name)
        yield RealNix(("chroot", root), folder, Path("/", folder.relative_to(root)))


@pytest.fixture
def filled(tmp_path: Path, demo: Demo) -> Command:
    """A store with the fixture closure, made by our command."""
    command = Command(tmp_path / "filled", tmp_path)
    source = demo.cache("cache-zstd").as_uri()
    ran = command.fetch(demo.root, source=source, key=demo.key)
    assert ran.code == 0, ran.err
    return command
