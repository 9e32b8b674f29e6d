"""A machine without Nix and without /nix, in a mount namespace of its own; takes root.

with Nixless.started() as machine:
    machine.settings("http://127.0.0.1:40000", "key-1:…")     # its /etc/nixfetch/config.toml
    machine.run("nix-store", "--realise", path)

What is written outside of /tmp, and /tmp itself, goes with it; the network is this machine's. The
real Nix of this machine is there under another name, for questions: `real_nix_store`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from command import Ran

if TYPE_CHECKING:
    from collections.abc import Iterator

SHIM = "/opt/nixfetch/shim"
"""Where the stand-ins are, first in PATH."""
PATIENCE = 60.0  # seconds for one command; all take less than one
_TOOLS = ("unshare", "nsenter", "setpriv", "pivot_root", "mount")
_SITE = "/mnt"
_ANEW = "/nix|/etc|/opt|/srv|/run"  # not of this machine: written to
_BOOT = f"""
mount -t tmpfs -o mode=0755 new {_SITE}
for entry in /*; do
  case $entry in {_ANEW}|{_SITE}) continue ;; esac
  if [ -L "$entry" ]; then cp -P "$entry" "{_SITE}$entry"
  elif [ -d "$entry" ]; then mkdir "{_SITE}$entry"; mount --rbind "$entry" "{_SITE}$entry"
  fi
done
cd {_SITE}
mkdir old opt srv run mnt
cp -a /etc etc 2>/dev/null || true
rm -rf etc/nix etc/nixfetch
pivot_root . old
umount -l /old
rmdir /old
[ $$ != 1 ] || mount -t proc proc /proc
for program in nix nix-store; do
  place=$(command -v $program) || continue
  place=$(readlink -f "$place")
  [ -e /srv/nix ] || {{ touch /srv/nix; mount --bind "$place" /srv/nix; }}
  mount --bind /dev/null "$place"
done
echo ready
exec cat
"""
_NIX_STORE = 'exec -a nix-store /srv/nix "$@"'


def lacking() -> list[str]:
    """Programs that this needs and that are not there."""
    return [tool for tool in _TOOLS if shutil.which(tool) is None]


@dataclass(slots=True)
class Nixless:
    """The machine."""

    pid: int
    """A process that holds it."""
    namespaces: tuple[str, ...]
    """That are its own, as nsenter has them."""
    environ: dict[str, str] = field(default_factory=dict)
    """What a service of it is started with; few have a HOME."""

    @classmethod
    @contextmanager
    def started(cls, *, processes: bool = False) -> Iterator[Self]:
        """Boot it; it goes with the block.

        Args:
            processes: whether its processes are its own, and end with it. A signal for one that
                `enter` begins then gets no further than to nsenter.
        """
        command = ["unshare", "--mount", "--propagation", "private"]
        command += ["--pid", "--fork", "--kill-child"] if processes else []
        holder = subprocess.Popen(
            [*command, "sh", "-euc", _BOOT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with holder:
            assert holder.stdin is not None
            assert holder.stdout is not None
            try:
                assert holder.stdout.readline() == "ready\n"
                pid, namespaces = holder.pid, ["--mount"]
                if processes:
                    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
                    pid, namespaces = int(children[0]), [*namespaces, "--pid"]
                path = f"{SHIM}:/usr/sbin:/usr/bin:/sbin:/bin"
                yield cls(pid, tuple(namespaces), {"PATH": path})
            finally:
                holder.stdin.close()

    @property
    def top(self) -> Path:
        """Its root directory, as it is seen from outside."""
        return Path(f"/proc/{self.pid}/root")

    def enter(self, *command: object, cwd: str = "/", user: int | None = None) -> list[str]:
        """The command line that does a command there."""
        words = ["nsenter", f"--target={self.pid}", *self.namespaces, "--"]
        if user is not None:
            words += ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        # By a shell, so that it is looked for there: nsenter looks in the PATH of its own start.
        return [*words, "sh", "-c", 'cd "$0"; exec "$@"', cwd, *map(str, command)]

    def run(self, *command: object, cwd: str = "/", user: int | None = None, **environ: str) -> Ran:
        """Do a command there, as a service of the machine does."""
        done = subprocess.run(
            self.enter(*command, cwd=cwd, user=user),
            env={**self.environ, **environ},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert "Traceback" not in done.stderr
        return Ran(done.returncode, done.stdout, done.stderr)

    def real_nix_store(self, *arguments: object) -> Ran:
        """What the real `nix-store` says there, if this machine has one."""
        config = "build-users-group =\nsubstitute = false\nsandbox = false\n"
        ran = self.run("bash", "-c", _NIX_STORE, "bash", *arguments, NIX_CONFIG=config, HOME="/srv")
        assert ran.code == 0, ran.err
        return ran

    def settings(self, cache: str, *keys: str) -> None:
        """Write its settings: one cache, and whom to believe."""
        listed = ", ".join(f'"{key}"' for key in keys)
        file = self.top / "etc/nixfetch/config.toml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(
            f'from = ["{cache}"]\ntrusted-keys = [{listed}]\ncache-dir = "/srv/cache"\n'
        )

    def install_shim(self) -> None:
        """Put the stand-ins where its PATH begins."""
        command = (sys.executable, "-m", "snapshotter.cli", "install", "--shim", SHIM)
        ran = self.run(*command)
        assert ran.code == 0, ran.err

    def links(self, directory: str) -> dict[str, str]:
        """Where the links below a directory of it point to, by name."""
        place = self.top / directory.lstrip("/")
        return {
            str(entry.relative_to(place)): str(entry.readlink())
            for entry in sorted(place.rglob("*"))
            if entry.is_symlink()
        }
