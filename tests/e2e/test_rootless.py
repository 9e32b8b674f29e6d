"""Containers of an ordinary user: containerd 2.1 and the daemon in one user namespace.

The namespaces are those that rootlesskit makes: users and mounts of their own. Root in there is a
user without rights outside, with 65536 users below it. No CRI: cgroups cannot be handed over here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from command import Ran
from containerd_host import scratch
from containers import World
from servers import LoopbackServer
from simulated_cache import KEY
from snapshotter.fragments import Settings, containerd_fragment
from worlds import ordinary_user

if TYPE_CHECKING:
    from collections.abc import Iterator

    from images import Image

CHROOT = os.environ.get("NIXFETCH_TEST_CHROOT", "")
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make users for a namespace"),
    pytest.mark.skipif(not CHROOT, reason="NIXFETCH_TEST_CHROOT names no system with containerd 2"),
    pytest.mark.skipif(shutil.which("nsenter") is None, reason="needs nsenter"),
]
FIRST, COUNT = 100_000, 65_536
"""Users outside that are root and others inside."""
PATIENCE = 60.0  # seconds; all is over in much less
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_MOUNTS = """
mount --rbind "$SYSTEM" "$FOLDER/root"
mount --rbind "$FOLDER" "$FOLDER/root$FOLDER"
mount -t tmpfs run "$FOLDER/root/run"
mount --rbind /sys "$FOLDER/root/sys"
mount -t proc proc "$FOLDER/root/proc"
mount -t proc proc /proc
"""
_OFF = tuple(
    f"io.containerd.{name}"
    for name in (
        *(f"snapshotter.v1.{each}" for each in ("btrfs", "devmapper", "zfs")),
        *("cri.v1.images", "cri.v1.runtime", "grpc.v1.cri", "nri.v1.nri"),
    )
)
_CONFIG = """\
version = 3
root = "{data}/lib"
state = "{data}/state"
imports = ["{folder}/fragment.toml"]
disabled_plugins = {off}

[grpc]
  address = "{data}/containerd.sock"

[plugins."io.containerd.internal.v1.opt"]
  path = "{data}/opt"
"""


@dataclass(frozen=True, slots=True)
class Namespace:
    """A user namespace, with a containerd and our daemon in it."""

    folder: Path
    holder: int
    python: tuple[str, ...]
    """A Python that everybody may run, and what stands before it."""

    @property
    def data(self) -> Path:
        """What is theirs."""
        return self.folder / "data"

    def enter(self, *command: str | Path) -> list[str | Path]:
        """A command line that is done in there, by its root."""
        words = ["nsenter", f"--target={self.holder}", "--user", "--mount", "--pid"]
        return [*words, "--setuid=0", "--setgid=0", "--", *command]

    def ctr(self, *arguments: str | Path) -> Ran:
        """What `ctr` says; the test fails when it does."""
        ctr: list[str | Path] = ["chroot", self.folder / "root", "ctr", "-a"]
        done = subprocess.run(
            self.enter(*ctr, self.data / "containerd.sock", *arguments),
            env={"PATH": PATH},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        if done.returncode:
            pytest.fail(f"{arguments}: {done.stderr}\n{self.logs()}")
        return Ran(done.returncode, done.stdout, done.stderr)

    def load(self, image: Image) -> None:
        """Import it."""
        self.ctr("images", "import", "--snapshotter=nix", image.archive(self.folder / "image.tar"))

    def run(self, image: Image, *command: str) -> Ran:
        """Run a container to its end."""
        flags = ("--rm", "--snapshotter=nix", "--cgroup=", "--cpu-shares=0")
        return self.ctr("run", *flags, image.name, "one", *command)

    def logs(self) -> str:
        """The end of what both wrote."""
        names = ("daemon.log", "containerd.log")
        return "".join((self.folder / name).read_text(errors="replace")[-3000:] for name in names)

    def until(self, socket: Path) -> None:
        """Wait until somebody listens."""
        deadline = time.monotonic() + PATIENCE
        while not socket.exists():
            if time.monotonic() > deadline:
                pytest.fail(f"no {socket.name}\n{self.logs()}")
            time.sleep(0.02)


@contextmanager
def _namespace(folder: Path) -> Iterator[int]:
    """A user namespace with mounts and processes of its own; they end with it."""
    command = ["unshare", "--user", "--mount", "--pid", "--fork", "--kill-child"]
    with subprocess.Popen(
        [*command, "sh", "-c", "echo up; exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as outer:
        assert outer.stdin is not None
        assert outer.stdout is not None
        try:
            assert outer.stdout.readline() == b"up\n"
            children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text()
            holder = int(children.split()[0])
            for users in ("uid_map", "gid_map"):
                Path(f"/proc/{holder}/{users}").write_text(f"0 {FIRST} {COUNT}\n")
            for place in (folder, folder / "data", folder / "root"):
                os.chown(place, FIRST, FIRST)
            yield holder
        finally:
            outer.stdin.close()


@contextmanager
def _seen_from_inside(folder: Path) -> Iterator[None]:
    """A mount point for `folder` in the other system."""
    place = Path(CHROOT) / folder.relative_to("/")
    place.mkdir()
    try:
        yield
    finally:
        place.rmdir()


@contextmanager
def rootless(cache: str, mode: str) -> Iterator[Namespace]:
    """Such a namespace, with an empty store.

    Args:
        cache: its URL.
        mode: how containers get store paths.
    """
    before = ordinary_user()
    if before is None:
        pytest.skip("no Python with the packages that every user may run")
    python = before[before.index("env") : before.index("-m")]
    with ExitStack() as stack:
        folder = stack.enter_context(scratch())
        for name in ("data", "root"):
            (folder / name).mkdir()
        stack.enter_context(_seen_from_inside(folder))
        found = Namespace(folder, stack.enter_context(_namespace(folder)), tuple(python))
        mounts = found.enter("sh", "-euc", _MOUNTS)
        places = {"PATH": PATH, "FOLDER": str(folder), "SYSTEM": CHROOT}
        subprocess.run(mounts, env=places, check=True, timeout=PATIENCE)
        settings = Settings(address=f"{found.data}/nix.sock", root=f"{found.data}/snapshots")
        (folder / "fragment.toml").write_text(containerd_fragment(settings, (2, 1, 9)))
        config = _CONFIG.format(data=found.data, folder=folder, off=list(_OFF))
        (folder / "config.toml").write_text(config)
        serve = ["-m", "snapshotter.cli", "serve", "--from", cache, "--mount-mode", mode]
        serve += ["--trusted-key", str(KEY.public()), "--store", f"{found.data}/store"]
        serve += ["--root", settings.root, "--address", settings.address]
        serve += ["--containerd-address", f"{found.data}/containerd.sock"]
        _start(stack, found, "daemon", *python, *serve)
        found.until(Path(settings.address))
        containerd = ["chroot", str(folder / "root"), "containerd", "-c", f"{folder}/config.toml"]
        _start(stack, found, "containerd", *containerd)
        found.until(found.data / "containerd.sock")
        yield found


def _start(stack: ExitStack, found: Namespace, name: str, *command: str) -> None:
    log = stack.enter_context((found.folder / f"{name}.log").open("wb"))
    process = subprocess.Popen(
        found.enter(*command), env={"PATH": PATH}, stdin=subprocess.DEVNULL, stdout=log, stderr=log
    )
    # What runs in there ends with the namespace, this only waits for it.
    stack.callback(process.wait)
    stack.callback(_kill_children, process.pid)


def _kill_children(process: int) -> None:
    for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
        os.kill(int(child), 9)


@pytest.mark.parametrize("mode", ["auto", "lower"])
def test_images_of_store_paths(mode: str) -> None:
    world = World()
    with LoopbackServer(world.cache.objects) as server, rootless(server.url, mode) as here:
        plain, hybrid = world.image(), world.hybrid()
        here.load(hybrid)
        here.load(plain)
        assert here.run(plain).out == "words of the store\napp: you\n"
        look = f"cat {world.words}; touch /x && echo writable; id -u; cat /proc/self/uid_map"
        ran = here.run(hybrid, "/bin/sh", "-c", look)
        words, writable, user, users = ran.out.splitlines()
        assert (words, writable, user) == ("words of the store", "writable", "0")
        assert users.split() == ["0", str(FIRST), str(COUNT)]
        store = here.data / "store/nix/store"
        assert {entry.name for entry in store.iterdir()} >= {
            path.base for path in (world.app, world.tools, world.words)
        }
        assert {entry.lstat().st_uid for entry in store.iterdir()} == {FIRST}


def test_a_store_path_is_not_to_be_written_to() -> None:
    world = World()
    with LoopbackServer(world.cache.objects) as server, rootless(server.url, "auto") as here:
        hybrid = world.hybrid()
        here.load(hybrid)
        ran = here.run(hybrid, "/bin/sh", "-c", f"touch {world.words} || echo refused")
        assert ran.out == "refused\n"
        assert "Read-only file system" in ran.err
