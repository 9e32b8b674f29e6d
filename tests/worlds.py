"""Machines on which a program is run: as root with util-linux, in a mount namespace that goes.

Each is a command that runs another one. Not made with what is tested.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

_TOOLS = ("unshare", "setpriv", "pivot_root", "mount")
_SITE = "/mnt"
_PRIVATE = ["unshare", "--mount", "--propagation", "private", "sh", "-euc"]
# The root directory anew, with all entries but /nix; $0 is done in it before it is the root.
_NEW_ROOT = f"""
here=$PWD
mount -t tmpfs -o mode=0755 new {_SITE}
for entry in /*; do
  case $entry in /nix|{_SITE}) continue ;; esac
  if [ -L "$entry" ]; then cp -P "$entry" "{_SITE}$entry"
  elif [ -d "$entry" ]; then mkdir "{_SITE}$entry"; mount --rbind "$entry" "{_SITE}$entry"
  fi
done
cd {_SITE}
mkdir old
eval "$0"
pivot_root . old
umount -l /old
rmdir /old
"""
_GO = """
cd "$here"
exec "$@"
"""
_SEAL = "mount -o remount,bind,ro /"

MACHINES: dict[str, list[str]] = {
    "as it is": [],
    "without /nix": [*_PRIVATE, _NEW_ROOT + _GO, ":"],
    "without /nix, read-only": [*_PRIVATE, _NEW_ROOT + _SEAL + _GO, ":"],
    "with a /nix": [*_PRIVATE, _NEW_ROOT + _GO, "mkdir -p nix/var/nix; touch nix/file"],
    "with a /nix/store": [*_PRIVATE, _NEW_ROOT + _GO, "mkdir -p nix/var/nix nix/store/somebody"],
}
"""What stands before a command."""


def lacking() -> list[str]:
    """Programs that this needs and that are not there."""
    return [tool for tool in _TOOLS if shutil.which(tool) is None]


def ordinary_user() -> list[str] | None:
    """What stands before arguments of `nixfetch`, for somebody whom nobody knows; as root only.

    None where no Python with the packages can be run by everybody.
    """
    project = Path(__file__).parents[1]
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    become = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"]
    become += ["env", "-u", "HOME", f"PYTHONPATH={project}/src:{packages}"]
    test = ["-c", "import zstandard, httpx, cryptography.exceptions, nixfetch"]
    for python in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        command = [*become, python, *test]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return [*become, python, "-m", "nixfetch.cli"]
    return None
