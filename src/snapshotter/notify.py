"""What systemd is told, and the socket that it may have opened. Knows nothing of gRPC.

Source: systemd, sd_notify(3) and sd_listen_fds(3).
"""

from __future__ import annotations

import logging
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from snapshotter.errors import PreconditionError

if TYPE_CHECKING:
    from collections.abc import Mapping

FIRST = 3  # SD_LISTEN_FDS_START

_log = logging.getLogger(__name__)


def notify(environ: Mapping[str, str], state: str) -> None:
    """Tell systemd how we are, where it wants to know. Never fails.

    Args:
        environ: the environment, with NOTIFY_SOCKET.
        state: such as ``READY=1``.
    """
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
            to.connect(address.replace("@", "\0", 1) if address.startswith("@") else address)
            to.sendall(state.encode())
    except OSError as error:
        _log.warning("systemd cannot be told %s: %s", state, error)


def inherited(environ: Mapping[str, str]) -> socket.socket | None:
    """The listening socket that systemd has opened for us, if it has.

    Args:
        environ: the environment, with LISTEN_PID and LISTEN_FDS.

    Raises:
        PreconditionError: there are several, or it is not what we can listen on.
    """
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    count = environ.get("LISTEN_FDS", "")
    if count != "1":
        raise PreconditionError(
            "one socket is what we can be started with", LISTEN_FDS=ascii(count[:20])
        )
    opened = socket.socket(fileno=FIRST)
    opened.set_inheritable(False)
    with suppress(OSError):
        listens = opened.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
        if listens and opened.family == socket.AF_UNIX and opened.type == socket.SOCK_STREAM:
            opened.settimeout(None)
            return opened
    opened.close()
    raise PreconditionError(
        "what we were started with is not a unix socket that listens",
        hint="ListenStream=/a/path in the socket unit",
    )
