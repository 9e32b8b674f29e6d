"""Sets up containerd, k3s and systemd for the snapshotter.

Prints (--dry-run) or writes the configuration files that are asked for. Files are replaced
atomically, and only if an earlier `install` made them, or with --force. What is left to be done
by hand is printed at the end; with such a rest the exit code is 1.

--containerd: a fragment that containerd's configuration imports (and a main configuration, where
there is none). Which one depends on the version, which is asked of `containerd --version` unless
--containerd-version says it.
--k3s: templates for the containerd in k3s, and k3s' own setting of the snapshotter.
--systemd: the units of the daemon.
--shim DIR: programs for nix-snapshotter, in place of Nix: nix-store, external-builder.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from snapshotter import fragments, units
from snapshotter.errors import InvalidArgumentError, PreconditionError, UnavailableError
from snapshotter.fragments import MARK, PLATFORMS, File, Settings, Version

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping, Sequence

SUMMARY = "set up containerd, k3s and systemd for it"

CONTAINERD_MAIN: Final = "/etc/containerd/config.toml"
CONTAINERD_FRAGMENT: Final = "/etc/containerd/conf.d/nixfetch.toml"
K3S_TEMPLATES: Final = "/var/lib/rancher/k3s/agent/etc/containerd"
K3S_SETTINGS: Final = "/etc/rancher/k3s/config.yaml.d/nixfetch.yaml"
K3S_CONTAINERD: Final = "/run/k3s/containerd/containerd.sock"
K3S_NAME: Final = "nixfetch"  # newer k3s has a snapshotter of its own that is called nix
MAX_CONFIGURATION = 1024 * 1024  # bytes; real ones have some KiB
_HEAD = 4  # lines of a script in which the mark may be
_PATIENCE = 10.0  # seconds for a program to say its version
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
_VERSION = re.compile(r"\bv?(\d{1,5})\.(\d{1,5})(?:\.(\d{1,5}))?")
_ONE, _TWO = (1, 7, 0), (2, 0, 0)  # of k3s; its older releases have 1.7, the others 2.x


@dataclass(slots=True)
class Plan:
    """What an installation comes to."""

    files: list[File] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    """To be done by hand, whoever wrote the files."""
    missing: list[str] = field(default_factory=list)
    """To be done by hand, since a file is not ours to change."""


def for_systemd(settings: Settings, plan: Plan) -> None:
    """Add the units of the daemon."""
    plan.files += units.units(settings)
    plan.steps.append("systemctl daemon-reload")
    plan.steps.append(f"systemctl enable --now {units.SOCKET} {units.SERVICE}")


def for_containerd(settings: Settings, version: Version, main: bytes | None, plan: Plan) -> None:
    """Add what containerd reads.

    Args:
        settings: of this machine.
        version: of containerd.
        main: its main configuration; None: it has none.
        plan: to add to.

    Raises:
        PreconditionError: the main configuration cannot be read.
    """
    parsed = _parsed(main)
    ours = main is not None and is_ours(main)
    text = fragments.containerd_fragment(settings, version, parsed)
    plan.files.append(File(CONTAINERD_FRAGMENT, text))
    if parsed is None or ours:
        plan.files.append(File(CONTAINERD_MAIN, fragments.containerd_main(CONTAINERD_FRAGMENT)))
    else:
        if not _imports(parsed):
            plan.missing.append(
                f"{CONTAINERD_MAIN}: add {fragments.quoted(CONTAINERD_FRAGMENT)} to `imports`,"
                f" a list at the top of the file"
            )
        if lines := fragments.main_lines(settings, version, parsed):
            plan.missing.append(f"{CONTAINERD_MAIN}: say in its table\n{lines}")
    plan.steps.append("systemctl restart containerd")


def for_k3s(settings: Settings, plan: Plan) -> None:
    """Add what k3s reads: each of its releases takes the template that it knows."""
    for name, version in (("config-v3.toml.tmpl", _TWO), ("config.toml.tmpl", _ONE)):
        text = fragments.k3s_template(settings, version)
        plan.files.append(File(f"{K3S_TEMPLATES}/{name}", text))
    plan.files.append(File(K3S_SETTINGS, fragments.k3s_settings(settings)))
    plan.steps.append("systemctl restart k3s    # on agents: k3s-agent")


def for_shim(directory: Path, plan: Plan) -> None:
    """Add what nix-snapshotter runs in place of Nix's own programs.

    Raises:
        InvalidArgumentError: no script can name that directory, or it is not absolute.
    """
    from snapshotter.shim.programs import programs

    if not directory.is_absolute():
        raise InvalidArgumentError("the path has to be absolute", flag="--shim", path=directory)
    library = str(Path(fragments.__file__).parents[1])
    found = programs(str(directory), python=sys.executable, library=library)
    plan.files += [replace(file, mode=0o755) for file in found]
    plan.steps.append(
        f"put {directory} first in the PATH of the service that has nix-snapshotter in it,"
        f" e.g. PATH={directory}:/usr/sbin:/usr/bin:/sbin:/bin in /etc/default/k3s;"
        f' or say external_builder = "{directory}/external-builder" in its config.toml'
    )


def is_ours(content: bytes) -> bool:
    """Whether an earlier installation made this file."""
    lines = content.split(b"\n", _HEAD)[: _HEAD if content.startswith(b"#!") else 1]
    return any(MARK.encode() in line for line in lines)


def write(files: Sequence[File], *, top: Path, force: bool) -> Iterator[tuple[File, str]]:
    """Write files; gives what became of each: "written" or "unchanged".

    Args:
        files: what to write. Nothing is written if one of them cannot be.
        top: the root of the machine.
        force: replace files that are not ours, too.

    Raises:
        PreconditionError: a file is there that is not ours, or cannot be written.
    """
    found = [(file, _place(file.path, top), _read(_place(file.path, top))) for file in files]
    for file, place, content in found:
        if content is None or content == file.text.encode() or is_ours(content) or force:
            continue
        raise PreconditionError(
            "that file is not ours to replace",
            file=place,
            hint="merge by hand what --dry-run prints, or replace it with --force",
        )
    for file, place, content in found:
        if content == file.text.encode() and stat.S_IMODE(place.stat().st_mode) == file.mode:
            yield file, "unchanged"
        else:
            _replace(place, file)
            yield file, "written"


def _place(path: str, top: Path) -> Path:
    return top / PurePosixPath(path).relative_to("/")


def _read(place: Path) -> bytes | None:
    """What is in a file; None: it is not there."""
    try:
        with place.open("rb") as file:
            content = file.read(MAX_CONFIGURATION + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PreconditionError(
            "cannot read a configuration file", file=place, reason=error.strerror
        ) from error
    if len(content) > MAX_CONFIGURATION:
        raise PreconditionError("a configuration file is too large", file=place)
    return content


def _replace(place: Path, file: File) -> None:
    """Write `place` whole or not at all; whoever reads it may not be root."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{place.name}.", dir=place.parent)
        try:
            with open(descriptor, "wb") as opened:  # noqa: PTH123 - a descriptor
                opened.write(file.text.encode())
                opened.flush()
                os.fchmod(descriptor, file.mode)
                os.fsync(descriptor)
            Path(name).replace(place)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        directory = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise PreconditionError(
            "cannot write a configuration file",
            file=place,
            reason=error.strerror,
            hint="it takes root; --dry-run prints what would be written",
        ) from error


def _parsed(main: bytes | None) -> dict[str, Any] | None:
    if main is None:
        return None
    try:
        return tomllib.loads(main.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PreconditionError(
            "containerd's configuration is not TOML", file=CONTAINERD_MAIN, reason=str(error)
        ) from error


def _imports(main: Mapping[str, Any]) -> bool:
    """Whether a main configuration reads our fragment."""
    folder = PurePosixPath(CONTAINERD_MAIN).parent
    patterns = main.get("imports", [])
    return isinstance(patterns, list) and any(
        PurePosixPath(CONTAINERD_FRAGMENT).match(str(folder / str(pattern))) for pattern in patterns
    )


def containerd_version(said: str | None, *, command: Sequence[str]) -> Version:
    """The version that is installed.

    Args:
        said: by the user; None: the program is asked.
        command: that says it.

    Raises:
        InvalidArgumentError: what the user said is no version.
        UnavailableError: the program says none.
    """
    if said is not None:
        found = _VERSION.fullmatch(said)
        if found is None:
            raise InvalidArgumentError(
                "that is no version", version=said, hint="like 2.1 or 1.7.24"
            )
        return _numbers(found)
    program = shutil.which(command[0])
    text = "" if program is None else _output([program, *command[1:]])
    # Debian says: containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3
    for word in text.split():
        if found := _VERSION.match(word):
            return _numbers(found)
    raise UnavailableError(
        "cannot tell which containerd this is",
        command=shlex.join(command),
        hint="say it: --containerd-version 2.1",
    )


def _numbers(found: re.Match[str]) -> Version:
    return int(found[1]), int(found[2]), int(found[3] or 0)


def _output(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - a program from PATH and our own arguments
            command, capture_output=True, check=False, timeout=_PATIENCE
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace")


# The verb.

_EXPLAINED: Final = {
    "--address": f"where the daemon listens (default: {Settings().address})",
    "--root": f"where it keeps snapshots (default: {Settings().root})",
    "--store": f"its store (default: {Settings().store})",
    "--containerd-address": "containerd's own socket (default: that of containerd, or of k3s)",
    "--command": "the daemon's program (default: the one in PATH)",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    usual = Settings()
    parser.add_argument("--containerd", action="store_true", help="containerd's configuration")
    parser.add_argument("--k3s", action="store_true", help="the templates of k3s")
    parser.add_argument("--systemd", action="store_true", help="units of the daemon")
    parser.add_argument(
        "--shim", type=Path, metavar="DIR", help="programs for nix-snapshotter, into DIR"
    )
    parser.add_argument("--dry-run", action="store_true", help="print, write nothing")
    parser.add_argument("--force", action="store_true", help="replace what others wrote, too")
    parser.add_argument(
        "--destination", type=Path, default=Path("/"), metavar="DIR", help="write below DIR"
    )
    parser.add_argument("--containerd-version", metavar="VERSION", help="instead of asking it")
    parser.add_argument(
        "--name",
        metavar="NAME",
        help=f"the snapshotter's (default: {usual.name}, for --k3s {K3S_NAME})",
    )
    parser.add_argument(
        "--no-default",
        action="store_true",
        help="do not make it the snapshotter that Kubernetes uses",
    )
    for flag, default, metavar in (
        ("--address", usual.address, "SOCKET"),
        ("--root", usual.root, "DIR"),
        ("--store", usual.store, "ROOT"),
        ("--containerd-address", None, "SOCKET"),
        ("--command", None, "PROGRAM"),
    ):
        parser.add_argument(flag, default=default, metavar=metavar, help=_EXPLAINED[flag])


def run(args: argparse.Namespace) -> int:
    plan = planned(args)
    top: Path = args.destination
    if args.dry_run:
        sys.stdout.write("\n".join(f"# {file.path}\n{file.text}" for file in plan.files))
    else:
        for file, outcome in write(plan.files, top=top, force=args.force):
            sys.stdout.write(f"{outcome} {file.path}\n")
    for word, steps in (("then", plan.steps), ("to do", plan.missing)):
        for step in steps:
            sys.stderr.write(f"{word}: {step}\n")
    return 1 if plan.missing else 0


def planned(args: argparse.Namespace) -> Plan:
    """What the arguments of the verb come to.

    Raises:
        SnapshotterError: of one of its leaves, where they do not go together with this machine.
    """
    if not (args.containerd or args.k3s or args.systemd or args.shim):
        raise InvalidArgumentError(
            "nothing to set up was named", hint="--containerd, --k3s, --systemd, --shim, or several"
        )
    settings = _settings(args)
    plan = Plan()
    if args.systemd:
        for_systemd(settings, plan)
    if args.containerd:
        version = containerd_version(args.containerd_version, command=("containerd", "--version"))
        main = _read(_place(CONTAINERD_MAIN, args.destination))
        for_containerd(settings, version, main, plan)
    if args.k3s:
        for_k3s(settings if args.name else replace(settings, name=K3S_NAME), plan)
    if args.shim:
        for_shim(args.shim, plan)
    return plan


def _settings(args: argparse.Namespace) -> Settings:
    name = args.name or Settings().name
    if not _NAME.fullmatch(name):
        raise InvalidArgumentError("that cannot be the name of a snapshotter", name=name)
    containerd = args.containerd_address or (
        K3S_CONTAINERD if args.k3s and not args.containerd else Settings().containerd
    )
    paths = {"address": args.address, "root": args.root, "store": args.store}
    for flag, path in {**paths, "containerd-address": containerd}.items():
        if not path.startswith("/") or not path.isprintable():
            raise InvalidArgumentError("the path has to be absolute", flag=f"--{flag}", path=path)
    return Settings(
        name=name,
        **paths,
        containerd=containerd,
        command=args.command or shutil.which("nixfetch-snapshotter") or Settings().command,
        platform=PLATFORMS.get(platform.machine(), Settings().platform),
        cri=not args.no_default,
    )
