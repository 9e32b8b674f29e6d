"""Real containerds to drive: 1.6 of this machine, and 2.1 of another system.

    with scratch() as folder, node("2.1", folder, fragments=[text]) as host:
        host.ctr("image", "import", "--snapshotter", "nix", archive)
        host.ctr("run", "--rm", "--snapshotter", "nix", reference, "one").out

A node is a corner of this machine: a mount and a process namespace, a folder below /tmp that has
the same name inside, cgroups under a name of its own. Nothing of it reaches the rest; when the
block is left all its processes are gone, and with them all its mounts. The other system is the
root that NIXFETCH_TEST_CHROOT names, and in its corner it is the root of the namespace: a mere
chroot is not enough, for what runc executes in a container later enters the namespace at its root.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
import tomllib
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from snapshotter import containerd
from snapshotter.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

CHROOT = "NIXFETCH_TEST_CHROOT"
VERSIONS = ("1.6", "2.1")
Version = Literal["1.6", "2.1"]
PATIENCE = 120.0  # seconds for any one command; all take less than two on a quiet machine
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SOCKET = "containerd.sock"
CGROUPS = Path("/sys/fs/cgroup")

_PREPARE = """\
set -e
mount -t tmpfs -o mode=755 tmpfs /run
"""
_PREPARE_CHROOT = """\
mount --rbind "$SYSTEM" "$FOLDER/root"
mount --make-rprivate "$FOLDER/root"
mount -t tmpfs -o mode=1777 tmpfs "$FOLDER/root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$FOLDER/root/run"
mkdir "$FOLDER/root$FOLDER"
mount --bind "$FOLDER" "$FOLDER/root$FOLDER"
mount -t proc proc "$FOLDER/root/proc"
mount --rbind /sys "$FOLDER/root/sys"
mount --rbind /dev "$FOLDER/root/dev"
cd "$FOLDER/root"
pivot_root . mnt
umount -l /mnt
cd /
"""
# The first process of the namespace: children that nobody waits for leave no zombies behind.
_HOLD = """\
trap '' CHLD
echo ready
exec sleep infinity
"""


@dataclass(frozen=True, slots=True)
class Ran:
    """What came of one command."""

    code: int
    out: str
    err: str


@dataclass(slots=True)
class Node:
    """A containerd in its corner."""

    version: Version
    folder: Path
    name: str
    """Of its cgroups."""
    holder: int
    """The process that its namespaces live by."""
    enter: tuple[str, ...]
    """What a command begins with."""
    _server: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        return self.folder / SOCKET

    @property
    def log(self) -> str:
        """What containerd wrote so far."""
        return (self.folder / "containerd.log").read_text(errors="replace")

    # Commands.

    def run(self, *command: str | Path, check: bool = True, timeout: float = PATIENCE) -> Ran:
        """Run a command in the corner; the test fails when it does, or takes too long."""
        try:
            done = subprocess.run(
                [*self.enter, *command],
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            pytest.fail(f"{command} took too long: {error.stderr!r}\n{self.log[-4000:]}")
        ran = Ran(done.returncode, done.stdout.decode(), done.stderr.decode(errors="replace"))
        if check and ran.code:
            pytest.fail(f"{command}: {ran.code}\n{ran.out}{ran.err}\n{self.log[-4000:]}")
        return ran

    def ctr(self, *arguments: str | Path, check: bool = True, timeout: float = PATIENCE) -> Ran:
        """`ctr` of this containerd."""
        return self.run("ctr", "-a", self.socket, *arguments, check=check, timeout=timeout)

    def load(self, archive: Path, *, snapshotter: str, check: bool = True) -> Ran:
        """`ctr image import`."""
        return self.ctr("image", "import", "--snapshotter", snapshotter, archive, check=check)

    def once(
        self,
        image: str,
        *command: str,
        snapshotter: str,
        namespace: str = "default",
        check: bool = True,
    ) -> Ran:
        """Run a container of `image` to its end; `out` is all that it says."""
        words = ["run", "--rm", *self._run(image, snapshotter, f"one-{secrets.token_hex(4)}")]
        return self._logged(("-n", namespace), words, command, check=check)

    def start(self, image: str, name: str, *command: str, snapshotter: str) -> None:
        """Run a container that stays; `stop` or the end of the node ends it."""
        self.ctr("run", "--detach", *self._run(image, snapshotter, name), *command)

    def _run(self, image: str, snapshotter: str, name: str) -> list[str]:
        cgroup = f"/{self.name}/{name}"
        return ["--snapshotter", snapshotter, "--cgroup", cgroup, image, name]

    def inside(self, name: str, *command: str, check: bool = True) -> Ran:
        """Run a command in a container that runs; `out` is all that it says."""
        number = f"exec-{secrets.token_hex(4)}"
        return self._logged((), ["task", "exec", "--exec-id", number, name], command, check=check)

    def _logged(
        self, before: Sequence[str], verb: Sequence[str], command: Sequence[str], *, check: bool
    ) -> Ran:
        """Run something, and read what it says from a file.

        `ctr` itself now and then loses what comes from a process that ends at once: it closes its
        pipes before it has read them to their end.
        """
        log = self.folder / f"said-{secrets.token_hex(4)}"
        at = 2 if verb[0] == "task" else 1
        words = [*verb[:at], "--log-uri", f"file://{log}", *verb[at:]]
        ran = self.ctr(*before, *words, *command, check=False)
        said = log.read_text(errors="replace") if log.exists() else ""
        log.unlink(missing_ok=True)
        if check and ran.code:
            pytest.fail(f"{command}: {ran.code}\n{said}{ran.err}\n{self.log[-4000:]}")
        return Ran(ran.code, said, ran.err)

    def stop(self, name: str) -> None:
        """End a container that runs, and forget it."""
        self.ctr("task", "kill", "--signal", "SIGKILL", name, check=False)
        self.ctr("task", "delete", "--force", name, check=False)
        self.ctr("container", "delete", name)

    def snapshots(self, snapshotter: str, namespace: str = "default") -> list[str]:
        """What `ctr snapshots ls` says, a line each, without its head."""
        command = ("snapshots", "--snapshotter", snapshotter, "ls")
        lines = self.ctr("--namespace", namespace, *command).out.splitlines()
        return sorted(" ".join(line.split()) for line in lines[1:])

    def tidy(self, namespace: str = "default") -> None:
        """Delete all containers and images, and wait until nothing of them is left."""
        for name in self.ctr("-n", namespace, "container", "ls", "-q").out.split():
            self.stop(name)
        if images := self.ctr("-n", namespace, "image", "ls", "-q").out.split():
            self.ctr("-n", namespace, "image", "rm", *images)
        self.collect(namespace)

    def collect(self, namespace: str = "default") -> None:
        """Have containerd delete what nothing refers to."""
        # It does while one waits for the end of a lease.
        self.ctr("-n", namespace, "leases", "create", "--id", "tidy", "none=none")
        self.ctr("-n", namespace, "leases", "rm", "--sync", "tidy")

    def mounts(self) -> list[str]:
        """The mount table, as containerd sees it."""
        return Path(f"/proc/{self.holder}/mounts").read_text().splitlines()

    @contextmanager
    def going_on(self, *arguments: str | Path) -> Iterator[subprocess.Popen[bytes]]:
        """`ctr`, while the block runs; `kill` ends it."""
        with subprocess.Popen(
            [*self.enter, "ctr", "-a", self.socket, *arguments],
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                yield process
            finally:
                kill(process, signal.SIGKILL)

    # The server.

    def up(self) -> None:
        """Start containerd, and wait until it answers."""
        assert self._server is None
        with (self.folder / "containerd.log").open("ab") as log:
            self._server = subprocess.Popen(
                [*self.enter, "containerd", "--config", self.folder / "config.toml"],
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until(self._answers, "containerd does not answer", of=self)

    def down(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End containerd (with SIGKILL: as a crash would); its containers stay."""
        assert self._server is not None
        kill(self._server, number)
        self._server.wait(PATIENCE)
        self._server = None

    def end(self) -> None:
        """End all that runs in the corner."""
        # The end of its first process is the end of all in a process namespace.
        os.kill(self.holder, signal.SIGKILL)
        if self._server is not None:
            self._server.wait(PATIENCE)
            self._server = None

    def _answers(self) -> bool:
        assert self._server is not None
        assert self._server.poll() is None, self.log[-4000:]
        with suppress(UnavailableError):
            return containerd.version(self.socket, timeout=1.0) > (0, 0, 0)
        return False

    def environment(self) -> dict[str, str]:
        """For all that runs here; containerd's temporary mounts are below the folder, too."""
        return {"PATH": PATH, "HOME": str(self.folder), "TMPDIR": str(self.folder / "tmp")}


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder with a name so short that sockets can be in it."""
    with tempfile.TemporaryDirectory(prefix="nf-", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@contextmanager
def node(
    version: Version,
    folder: Path,
    *,
    fragments: Sequence[str] = (),
    settings: str = "",
    disabled: Sequence[str] = (),
) -> Iterator[Node]:
    """A containerd that runs, with nothing in it.

    Args:
        version: which one; the test is skipped where it is not to be had.
        folder: of its own, from `scratch`.
        fragments: configuration files that its own one imports, by their text.
        settings: TOML tables for its own one.
        disabled: plugins that it does without.
    """
    system = _system(version)
    for part in ("tmp", "root"):
        (folder / part).mkdir()
    imported = [folder / f"fragment-{number}.toml" for number in range(len(fragments))]
    for file, text in zip(imported, fragments, strict=True):
        file.write_text(text)
    (folder / "config.toml").write_text(_config(version, folder, imported, settings, disabled))
    with _cgroups() as cgroups, _corner(folder, system) as holder:
        enter = ("nsenter", "-t", str(holder), "-m", "-p", "--")
        found = Node(version, folder, cgroups, holder, enter)
        try:
            found.up()
            yield found
        finally:
            found.end()
    assert folder.name not in Path("/proc/self/mounts").read_text()


def _system(version: Version) -> Path | None:
    """The root of the system that has this version; None: this one."""
    if os.geteuid() != 0:
        pytest.skip("containerd runs as root")
    system, place = None, PATH
    if version != "1.6":
        named = os.environ.get(CHROOT)
        if not named:
            pytest.skip(f"{CHROOT} does not name a system with containerd {version}")
        system = Path(named)
        place = ":".join(f"{named}{part}" for part in PATH.split(":"))
    for program in ("containerd", "ctr", "runc"):
        if shutil.which(program, path=place) is None:
            pytest.skip(f"there is no {program} for containerd {version}")
    command = ["chroot", str(system)] if system else []
    said = subprocess.run([*command, "containerd", "--version"], capture_output=True, check=True)
    if not said.stdout.decode().split()[2].startswith(version):
        pytest.skip(f"containerd is not {version}: {said.stdout.decode().strip()}")
    return system


@contextmanager
def _corner(folder: Path, system: Path | None) -> Iterator[int]:
    """Namespaces to run in; gives the process that holds them."""
    script = _PREPARE + (_PREPARE_CHROOT if system else "") + _HOLD
    command = ["unshare", "--mount", "--pid", "--fork", "--propagation", "private", "--mount-proc"]
    log = folder / "corner.log"
    with (
        log.open("wb") as complaints,
        subprocess.Popen(
            [*command, "sh", "-c", script],
            env={"PATH": PATH, "FOLDER": str(folder), "SYSTEM": str(system)},
            stdout=subprocess.PIPE,
            stderr=complaints,
        ) as outer,
    ):
        assert outer.stdout is not None
        assert outer.stdout.readline() == b"ready\n", log.read_text()
        (holder,) = _children(outer.pid)
        try:
            yield holder
        finally:
            with suppress(ProcessLookupError):
                os.kill(holder, signal.SIGKILL)


@contextmanager
def _cgroups() -> Iterator[str]:
    """A name for cgroups; they are removed at the end."""
    name = f"nixfetch-{secrets.token_hex(4)}"
    try:
        yield name
    finally:
        for top in [CGROUPS / name, *(part / name for part in CGROUPS.glob("*/"))]:
            for place, _folders, _files in os.walk(top, topdown=False):
                deadline = time.monotonic() + PATIENCE
                while os.path.exists(place) and time.monotonic() < deadline:  # noqa: PTH110
                    with suppress(OSError):  # until the last process is gone
                        Path(place).rmdir()
                        break
                    time.sleep(0.02)


def _config(
    version: Version,
    folder: Path,
    fragments: Sequence[Path],
    settings: str,
    disabled: Sequence[str],
) -> str:
    """A configuration that touches nothing outside of `folder`."""
    off = [f"io.containerd.snapshotter.v1.{name}" for name in ("btrfs", "devmapper", "zfs")]
    off += [*disabled, "io.containerd.nri.v1.nri"] if version != "1.6" else disabled
    text = f"""\
version = {2 if version == "1.6" else 3}
root = "{folder}/lib"
state = "{folder}/state"
imports = {[str(fragment) for fragment in fragments]}
disabled_plugins = {off}

[grpc]
  address = "{folder}/{SOCKET}"

[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"

{settings}"""
    tomllib.loads(text)
    return text


def _children(process: int) -> list[int]:
    """The processes that `process` started and that still run."""
    return [
        int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()
    ]


def kill(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal to what runs in a corner for `process`, which only waits for it."""
    if process.poll() is None:
        for child in _children(process.pid):
            with suppress(ProcessLookupError):
                os.kill(child, number)


def wait_until(
    condition: Callable[[], bool],
    problem: str | Callable[[], str],
    *,
    of: Node,
    seconds: float = PATIENCE,
) -> None:
    """Wait for something that another process brings about; the test fails when it does not."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            told = problem if isinstance(problem, str) else problem()
            pytest.fail(f"{told}\n{of.log[-4000:]}")
        time.sleep(0.02)
