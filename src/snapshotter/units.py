"""The systemd units of the daemon. Settings in, text of files out; does no I/O.

The daemon mounts nothing itself, containerd does; but it deletes directories that may be mounted,
and answers with paths that must be the same to both. So the service keeps the mount namespace of
the machine: nothing of what gives it another one (ProtectSystem=, PrivateTmp=, PrivateMounts=,
ReadOnlyPaths=, …) is here. What it may not do is taken away by capabilities and system calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from snapshotter.errors import InvalidArgumentError
from snapshotter.fragments import MARK, File

if TYPE_CHECKING:
    from collections.abc import Iterator

    from snapshotter.fragments import Settings

FOLDER: Final = "/etc/systemd/system"
SERVICE: Final = "nixfetch-snapshotter.service"
SOCKET: Final = "nixfetch-snapshotter.socket"

_BEFORE: Final = "containerd.service k3s.service k3s-agent.service"
_SERVICE: Final = """\
# {mark}
[Unit]
Description=Nix store paths as snapshots of containerd
Requires={socket}
After={socket} local-fs.target
# Ended after containerd, too: it asks while it ends.
Before={before}
# However often it fails: containers that run need nothing of it, new ones wait for it.
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
Restart=always
RestartSec=1
TimeoutStartSec=60
TimeoutStopSec=15
KillMode=mixed
LimitNOFILE=65536
OOMScoreAdjust=-500
UMask=0022

# It works on the files of many users, and is root for nothing else.
CapabilityBoundingSet=CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID
NoNewPrivileges=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
KeyringMode=private
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""
_SOCKET: Final = """\
# {mark}
[Unit]
Description=Socket of the Nix snapshotter of containerd
Before={before}

[Socket]
ListenStream={address}
SocketMode=0600
DirectoryMode=0700
RemoveOnStop=yes

[Install]
WantedBy=sockets.target
"""


def units(settings: Settings) -> tuple[File, ...]:
    """The service, and the socket that starts it.

    Raises:
        InvalidArgumentError: a path that would not be read by systemd as it stands.
    """
    facts = {
        "mark": MARK,
        "before": _BEFORE,
        "socket": SOCKET,
        "address": _argument(settings.address),
        "command": " ".join(_command(settings)),
    }
    return (
        File(f"{FOLDER}/{SERVICE}", _SERVICE.format_map(facts)),
        File(f"{FOLDER}/{SOCKET}", _SOCKET.format_map(facts)),
    )


def _command(settings: Settings) -> Iterator[str]:
    """What starts the daemon; what is as usual is left to its file of settings."""
    usual = type(settings)()
    yield _argument(settings.command)
    yield "serve"
    for flag, value, otherwise in (
        ("--address", settings.address, usual.address),
        ("--root", settings.root, usual.root),
        ("--store", settings.store, usual.store),
        ("--containerd-address", settings.containerd, usual.containerd),
    ):
        if value != otherwise:
            yield from (flag, _argument(value))


def _argument(path: str) -> str:
    """A path, as it stands in a unit. Blanks, quotes and backslashes would need escapes there."""
    if not path.isprintable() or any(char in " \t\"'\\;$" for char in path):
        raise InvalidArgumentError("a unit cannot name that path", path=path)
    return path.replace("%", "%%")
