"""What keeps this machine from running containers out of the Nix store, and the fix.

Looks at overlayfs, user namespaces, containerd (whether it answers, which version it is, whether
it has our snapshotter and hands on what it must), and at the daemon's own socket. Changes nothing.

Prints a line for each check, with ok, warn or fail, and the fix below it; with --json one
document. Exits with 0 when nothing failed, else with 6.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import nixfetch
from snapshotter.errors import UnavailableError
from snapshotter.fragments import NAMES_OF_2, TARGETS_SINCE, TRANSFER_SINCE, Settings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping, Sequence

    from snapshotter.fragments import Version

SUMMARY = "what is wrong with this machine or its containerd, and the fix"

OLDEST: Final = (1, 6, 0)  # the first containerd that this was ever tried with
SNAPSHOTTER_PLUGIN: Final = "io.containerd.snapshotter.v1"
CONTAINERD: Final = "/run/containerd/containerd.sock"
_FAILED: Final = 6  # exit code: this machine
_PATIENCE: Final = 10.0  # seconds for a program to answer
_FILE_SYSTEMS = Path("/proc/filesystems")
_USER_NAMESPACES = Path("/proc/sys/user/max_user_namespaces")
_FORBIDDING: Final = {
    "kernel/unprivileged_userns_clone": "0",  # Debian's and Arch's
    "kernel/apparmor_restrict_unprivileged_userns": "1",  # Ubuntu's
}


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at, what was found, and the fix."""

    name: str
    state: Literal["ok", "warn", "fail"]
    found: str
    fix: str | None = None


def examine(
    settings: Settings, *, containerd: str, configuration: Path | None = None
) -> Iterator[Check]:
    """All checks, in the order in which a mount depends on them.

    Args:
        settings: where the daemon's things are.
        containerd: containerd's socket.
        configuration: containerd's file; None: the one that it reads by default.
    """
    yield overlay(Path(settings.root))
    yield user_namespaces()
    yield daemon_socket(Path(settings.address))
    yield from _containerd(settings, containerd, configuration)


def overlay(directory: Path, *, file_systems: Path = _FILE_SYSTEMS) -> Check:
    """Whether layers below `directory` can be mounted, by mounting some."""
    name = "overlayfs"
    there = next(place for place in (directory, *directory.parents) if place.is_dir())
    unshare = shutil.which("unshare")
    if unshare is None or not os.access(there, os.W_OK):
        known = "overlay" in file_systems.read_text().split()
        found = "the kernel has it" if known else "the kernel does not have it"
        return Check(name, "warn", f"{found}; not tried on {there}", "ask again as root")
    try:
        with tempfile.TemporaryDirectory(prefix=".nixfetch-doctor-", dir=there) as place:
            problem = _try_overlay(unshare, Path(place))
    except OSError as error:
        problem = f"nothing can be written there: {error.strerror}"
    if problem is None:
        return Check(name, "ok", f"layers below {there} can be mounted")
    fix = f"load the module `overlay`, or put {directory} on another file system (ext4, XFS)"
    return Check(name, "fail", f"cannot mount layers below {there}: {problem}", fix)


def _try_overlay(unshare: str, place: Path) -> str | None:
    """Mount two layers in a mount namespace of their own; gives what went wrong."""
    for part in ("lower", "upper", "work", "merged"):
        (place / part).mkdir()
    (place / "lower/file").write_bytes(b"below")
    script = (
        'cd "$1" && mount -t overlay overlay'
        ' -o "lowerdir=lower,upperdir=upper,workdir=work$2" merged'
        " && test -f merged/file && mkdir merged/new && rmdir merged/new && rm merged/file"
    )
    rootless = os.geteuid() != 0
    spaces = ["--user", "--map-root-user", "--mount"] if rootless else ["--mount"]
    extra = ",userxattr" if rootless else ""
    command = [unshare, *spaces, "sh", "-c", script, "sh", str(place), extra]
    try:
        done = subprocess.run(  # noqa: S603 - our own script
            command, capture_output=True, check=False, timeout=_PATIENCE
        )
    except subprocess.TimeoutExpired:
        return "it takes too long"
    text = done.stderr.decode(errors="replace").strip().splitlines()
    return None if done.returncode == 0 else (text or ["no reason was given"])[0]


def user_namespaces(*, sysctl: Path = _USER_NAMESPACES.parents[1]) -> Check:
    """Whether users other than root may run containers."""
    name = "user namespaces"
    fix = "only needed by rootless containers"
    most = _content(sysctl / "user/max_user_namespaces")
    if most in {None, "0"}:
        return Check(name, "warn", "there can be none", f"{fix}: user.max_user_namespaces=15000")
    for setting, value in _FORBIDDING.items():
        if _content(sysctl / setting) == value:
            word = f"{setting.replace('/', '.')}={value}"
            return Check(name, "warn", f"forbidden to users by {word}", fix)
    return Check(name, "ok", f"up to {most}")


def daemon_socket(address: Path) -> Check:
    """Whether the daemon's socket is there, and only its owner may use it."""
    name = "daemon"
    try:
        socket, folder = address.lstat(), address.parent.lstat()
    except OSError as error:
        fix = "systemctl start nixfetch-snapshotter"
        return Check(name, "fail", f"no socket {address}: {error.strerror}", fix)
    if not stat.S_ISSOCK(socket.st_mode):
        return Check(name, "fail", f"{address} is no socket", "delete it, and restart the daemon")
    for place, found, others in ((address, socket, 0o177), (address.parent, folder, 0o077)):
        mode = stat.S_IMODE(found.st_mode)
        if mode & others:
            mount = "whoever may connect can have any directory mounted"
            return Check(
                name, "fail", f"{place} has mode {mode:04o}: {mount}", f"chmod {mode & ~others:o}"
            )
        if found.st_uid not in {0, os.geteuid()}:
            return Check(
                name, "fail", f"{place} belongs to user {found.st_uid}", f"chown root {place}"
            )
    return _answers(name, address)


def _answers(name: str, address: Path) -> Check:
    from snapshotter.containerd import Containerd

    try:
        with Containerd(address) as daemon:
            serving = daemon.is_serving()
    except UnavailableError as error:
        why = f"{error.facts['status']}: {error.facts['reason']}"
        fix = "journalctl -u nixfetch-snapshotter"
        return Check(name, "fail", f"{address} does not answer ({why})", fix)
    if not serving:
        return Check(name, "fail", "it says that it does not serve", "see its log")
    return Check(name, "ok", f"{address} answers")


def _containerd(settings: Settings, socket: str, configuration: Path | None) -> Iterator[Check]:
    from snapshotter.containerd import Containerd

    with Containerd(socket) as containerd:
        try:
            version = containerd.version()
            plugins = {plugin.name: plugin for plugin in containerd.plugins(SNAPSHOTTER_PLUGIN)}
        except nixfetch.NixfetchError as error:
            why = error.facts.get("reason") or error.facts.get("version")
            yield Check("containerd", "fail", f"{socket}: {error.problem} ({why})", error.hint)
            return
    yield _version(version)
    plugin = plugins.get(settings.name)
    fix = "nixfetch-snapshotter install --containerd, then restart containerd"
    if plugin is None:
        yield Check("plugin", "fail", f"containerd has no snapshotter {settings.name}", fix)
    elif plugin.problem:
        yield Check("plugin", "fail", f"{settings.name} does not work: {plugin.problem}", fix)
    else:
        yield Check("plugin", "ok", f"containerd has the snapshotter {settings.name}")
    found = read_configuration(configuration)
    if found is None:
        fix = "name its file with --containerd-config"
        yield Check("configuration", "warn", "containerd's configuration was not found", fix)
    else:
        yield from configured(settings.name, version, found)


def _version(version: Version) -> Check:
    shown = ".".join(map(str, version))
    if version < OLDEST:
        return Check("containerd", "fail", f"{shown} is too old", "1.6 at least; better 2.x")
    if version < TARGETS_SINCE:
        how = "it knows no targets of mounts, so that closures are laid below as a layer"
        return Check("containerd", "ok", f"{shown}; {how} (mode lower)")
    return Check("containerd", "ok", f"{shown}; closures are bound read-only (mode target)")


def configured(name: str, version: Version, configuration: Mapping[str, Any]) -> Iterator[Check]:
    """What containerd's configuration says about us.

    Args:
        name: of the snapshotter.
        version: of containerd.
        configuration: as ``containerd config dump`` says it.
    """
    plugins = configuration.get("plugins", {})
    if version >= NAMES_OF_2:
        cri = plugins.get("io.containerd.cri.v1.images", {})
    else:
        cri = plugins.get("io.containerd.grpc.v1.cri", {}).get("containerd", {})
    used = cri.get("snapshotter", "overlayfs")
    fix = "nixfetch-snapshotter install --containerd, then restart containerd"
    if used == name:
        yield Check("Kubernetes", "ok", f"CRI pulls images for {name}")
    else:
        yield Check("Kubernetes", "warn", f"CRI pulls images for {used}, not for {name}", fix)
    if cri.get("disable_snapshot_annotations", True):
        found = "CRI hands no annotations on: the daemon learns less about what is pulled"
        yield Check("annotations", "warn", found, fix)
    else:
        yield Check("annotations", "ok", "CRI hands annotations on")
    if version < TRANSFER_SINCE:
        return
    entries = plugins.get("io.containerd.transfer.v1.local", {}).get("unpack_config", [])
    if any(entry.get("snapshotter") == name for entry in entries):
        yield Check("unpack_config", "ok", f"the transfer service unpacks for {name}")
    else:
        found = f"the transfer service unpacks nothing for {name}"
        yield Check("unpack_config", "fail" if version >= NAMES_OF_2 else "warn", found, fix)


def read_configuration(file: Path | None) -> Mapping[str, Any] | None:
    """Containerd's configuration with all that it imports; None: it could not be had."""
    program = shutil.which("containerd")
    named = () if file is None else ("--config", str(file))
    text = None
    if program is not None:
        text = _dumped([program, *named, "config", "dump"])
    elif file is not None:
        text = _content(file)
    try:
        return None if text is None else tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _dumped(command: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 - a program from PATH and our own arguments
            command, capture_output=True, check=False, timeout=_PATIENCE
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None


def _content(file: Path) -> str | None:
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return None


# The verb.


def add_arguments(parser: argparse.ArgumentParser) -> None:
    usual = Settings()
    parser.add_argument(
        "--name", default=usual.name, metavar="NAME", help=f"the snapshotter's ({usual.name})"
    )
    parser.add_argument(
        "--address", default=usual.address, metavar="SOCKET", help="the daemon's socket"
    )
    parser.add_argument(
        "--root", default=usual.root, metavar="DIR", help="where the daemon keeps snapshots"
    )
    parser.add_argument(
        "--containerd", default=CONTAINERD, metavar="SOCKET", help="containerd's socket"
    )
    parser.add_argument(
        "--containerd-config", type=Path, metavar="FILE", help="containerd's configuration"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document")


def run(args: argparse.Namespace) -> int:
    settings = Settings(name=args.name, address=args.address, root=args.root)
    checks = []
    for check in examine(
        settings, containerd=args.containerd, configuration=args.containerd_config
    ):
        checks.append(check)
        if not args.json:
            sys.stdout.write(_shown(f"{check.state:4}  {check.name}: {check.found}"))
            if check.fix and check.state != "ok":
                sys.stdout.write(_shown(f"      fix: {check.fix}"))
    code = _FAILED if any(check.state == "fail" for check in checks) else 0
    if args.json:
        report = {"checks": [asdict(check) for check in checks], "exit_code": code}
        sys.stdout.write(json.dumps(report) + "\n")
    return code


def _shown(line: str) -> str:
    """One line, whatever configurations and answers hold."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line) + "\n"
