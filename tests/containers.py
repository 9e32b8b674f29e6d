"""A machine that runs containers out of a Nix store: containerd, our daemon, and a cache.

    with machine("2.1", cache=World()) as here:
        here.load(image); here.once(image, "ls", "/nix/store").out

Puts together what `containerd_host`, `snapshotter_daemon`, `images` and `simulated_cache` have.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.wrappers_pb2 import StringValue

from containerd_host import SOCKET, Node, Ran, Version, node, scratch, wait_until
from images import BUSYBOX, Image, Layer, busybox_layer, nix_layer
from servers import LoopbackServer
from simulated_cache import KEY, Executable, Link, SimulatedCache, Tree
from snapshotter.containerd import Containerd
from snapshotter.errors import UnavailableError
from snapshotter.fragments import Settings, containerd_fragment
from snapshotter_daemon import Daemon, address, daemon, root

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from nixfetch.formats.storepath import StorePath

FIXTURES = Path(__file__).parents[1] / "fixtures"
NUMBERS = {"1.6": (1, 6, 20), "2.1": (2, 1, 9)}
NAME = "nix"
"""Of our snapshotter."""


@dataclass(frozen=True, slots=True)
class Demo:
    """The closure of fixtures/: made by real Nix, and it runs."""

    closure: tuple[str, ...]
    files: tuple[str, ...]
    program: str
    output: str
    key: str

    def layer(self, **more: object) -> Layer:
        options: dict[str, object] = {"files": self.files, **more}
        return nix_layer(self.closure, **options)  # type: ignore[arg-type]


def demo() -> Demo:
    """What fixtures/paths.json says."""
    paths = json.loads((FIXTURES / "paths.json").read_text())
    return Demo(
        tuple(paths["closure"]),
        tuple(path for path in paths["closure"] if path.endswith(".txt")),
        paths["programs"]["dynamic"],
        paths["output"]["dynamic"],
        paths["keys"]["fixture-1"]["public"],
    )


class World:
    """A closure of our own with a shell in it, and its cache.

    `app` says `words` and its arguments. The store paths are simulated, the programs are a
    static busybox.
    """

    def __init__(self) -> None:
        if not BUSYBOX.exists():
            pytest.skip("there is no static busybox here (package busybox-static)")
        self.cache = SimulatedCache(priority=40)
        add = self.cache.add
        applets: dict[bytes, Tree] = {
            name.encode(): Link(b"busybox") for name in ("cat", "ls", "sh", "sleep")
        }
        programs: dict[bytes, Tree] = {b"busybox": Executable(BUSYBOX.read_bytes()), **applets}
        self.tools = add("tools-1", {b"bin": programs}, compression="zstd")
        self.words = add("words.txt", b"words of the store\n")
        script = f"#!{self.tools}/bin/sh\n{self.tools}/bin/cat {self.words}\necho app: $@\n"
        tree: Tree = {b"bin": {b"app": Executable(script.encode())}, b"share": {b"empty": b""}}
        self.app = add("app-1", tree, references=[self.tools, self.words])
        listed = "".join(f"{path}\n" for path in sorted([self.app, self.tools, self.words]))
        self.info = add("closure-info", {b"store-paths": listed.encode()}, references=[self.app])
        self.stranger = add("stranger-1", {b"secret": b"of somebody else\n"})

    @property
    def closure(self) -> tuple[str, ...]:
        return tuple(sorted(map(str, (self.app, self.tools, self.words))))

    @property
    def program(self) -> str:
        return f"{self.app}/bin/app"

    def layer(self, **more: object) -> Layer:
        options: dict[str, object] = {"files": [str(self.words)], **more}
        return nix_layer(self.closure, **options)  # type: ignore[arg-type]

    def image(self, name: str = "nix", **more: object) -> Image:
        """An image of nothing but the closure."""
        return Image(f"example.test/{name}:v1", (self.layer(**more),), (self.program, "you"))

    def hybrid(self, name: str = "hybrid", **more: object) -> Image:
        """The closure, above an ordinary layer."""
        return Image(f"example.test/{name}:v1", (busybox_layer(), self.layer(**more)))

    def big(self, paths: int) -> tuple[StorePath, ...]:
        """More paths, small files; the last one refers to all others."""
        names = [f"small-{number}-of-{paths}" for number in range(paths - 1)]
        small = [self.cache.add(name, name.encode()) for name in names]
        return (*small, self.cache.add(f"top-of-{paths}", b"top", references=small))


@dataclass(slots=True)
class Machine:
    """All of one machine."""

    version: Version
    host: Node
    nix: Daemon
    cache: LoopbackServer
    """What the daemon fetches from; its log, and its faults."""
    binds: bool
    """Whether store paths are bound, each at its place; else they come as a layer."""
    _archives: int = field(default=0)

    def load(self, image: Image, *, snapshotter: str = NAME, check: bool = True) -> Ran:
        """`ctr image import`."""
        self._archives += 1
        archive = image.archive(self.host.folder / f"image-{self._archives}.tar")
        try:
            return self.host.load(archive, snapshotter=snapshotter, check=check)
        finally:
            archive.unlink()

    def load_at_last(self, image: Image) -> None:
        """The same until it works: containerd waits some seconds before it dials again."""
        wait_until(lambda: self.load(image, check=False).code == 0, "it stays lost", of=self.host)

    def once(self, image: Image, *command: str, check: bool = True) -> Ran:
        """Run a container of `image` to its end."""
        return self.host.once(image.name, *command, snapshotter=NAME, check=check)

    def start(self, image: Image, name: str, *command: str) -> None:
        """Run a container that stays."""
        self.host.start(image.name, name, *command, snapshotter=NAME)

    def cri(self, method: str, reference: str, *, seconds: float = 60.0) -> None:
        """A call of CRI's ImageService about an image, as kubelet makes it.

        Raises:
            UnavailableError: it failed; the facts say how.
        """
        # PullImageRequest and RemoveImageRequest hold an ImageSpec in field 1, and that holds the
        # reference in field 1: a StringValue within a StringValue has the same bytes.
        spec = StringValue(value=reference).SerializeToString()
        request = StringValue(value=spec.decode())
        with Containerd(self.host.socket, timeout=seconds) as containerd:
            containerd.call(f"/runtime.v1.ImageService/{method}", request, Empty)

    def nixfetch(self, *arguments: str) -> Ran:
        """`nixfetch` with the daemon's store."""
        done = subprocess.run(
            [sys.executable, "-m", "nixfetch.cli", *arguments, "--store", self.nix.store],
            env={"PATH": os.environ["PATH"], "HOME": str(self.nix.folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    # What there is.

    def stored(self) -> list[str]:
        """Names in the store directory."""
        directory = self.nix.store / "nix/store"
        names = [entry.name for entry in directory.iterdir()] if directory.exists() else []
        return sorted(name for name in names if name != ".links")

    def directories(self) -> list[str]:
        """Directories of snapshots."""
        directory = self.nix.root / "snapshots"
        return sorted(entry.name for entry in directory.iterdir()) if directory.exists() else []

    def rows(self) -> list[str]:
        """Snapshots in the daemon's own books, by the names of their directories."""
        with closing(sqlite3.connect(f"file:{self.nix.root}/metadata.db?mode=ro", uri=True)) as db:
            return sorted(str(row[0]) for row in db.execute("SELECT id FROM snapshots"))

    def roots(self) -> list[str]:
        """Garbage-collector roots of snapshots."""
        directory = self.nix.store / "nix/var/nix/gcroots/nixfetch"
        return sorted(entry.name for entry in directory.iterdir()) if directory.exists() else []

    def farms(self) -> list[Path]:
        """Trees of hard links that containers have below them."""
        return sorted(self.nix.store.glob("nix/var/nixfetch/farms/*/*"))

    def is_tidy(self) -> None:
        """Hold the machine to having no trace of any container or image, now or soon."""
        wait_until(
            lambda: not any(self.traces().values()), lambda: f"{self.traces()}", of=self.host
        )

    def traces(self) -> dict[str, list[str]]:
        """All that there is of containers and images."""
        return {
            "snapshots": self.host.snapshots(NAME),
            "rows": self.rows(),
            "directories": self.directories(),
            "roots": self.roots(),
            "farms": list(map(str, self.farms())),
            "mounts": [line for line in self.host.mounts() if str(self.nix.root) in line],
        }

    def store_is_whole(self, key: str) -> None:
        """Hold the store to being what was signed, byte by byte."""
        ran = self.nixfetch("verify", "--all", "--trusted-key", key)
        assert (ran.code, ran.out) == (0, ""), ran


@contextmanager
def machine(
    version: Version,
    cache: SimulatedCache | None = None,
    *,
    keys: Sequence[str] | None = None,
    settings: str = "",
    directory: Path | None = None,
    caches: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    activated: bool = False,
) -> Iterator[Machine]:
    """A machine with an empty store.

    Args:
        version: of its containerd.
        cache: to fetch from.
        keys: to trust; by default those that are right.
        settings: lines of the daemon's file of settings.
        directory: a cache on disk, instead of `cache`.
        caches: their URLs, instead of both.
        environ: more of the daemon's environment.
        activated: whether the daemon's socket is held by somebody else, as systemd does.
    """
    objects = directory if directory is not None else (cache or SimulatedCache()).objects
    trusted = [str(KEY.public()), demo().key] if keys is None else keys
    with ExitStack() as stack:
        folder = stack.enter_context(scratch())
        server = stack.enter_context(LoopbackServer(objects))
        ours = Settings(name=NAME, address=str(address(folder)), root=str(root(folder)))
        fragment = containerd_fragment(ours, NUMBERS[version])
        # In the order of the units: containerd dials at once, and then not again for a while.
        nix = stack.enter_context(
            daemon(
                folder,
                containerd=folder / SOCKET,
                caches=caches or [server.url],
                keys=trusted,
                settings=settings,
                environ=environ,
                activated=activated,
            )
        )
        host = stack.enter_context(node(version, folder, fragments=[fragment]))
        yield Machine(version, host, nix, server, version != "1.6" and "lower" not in settings)


__all__ = ("Demo", "Machine", "UnavailableError", "World", "demo", "machine")
