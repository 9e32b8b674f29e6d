"""A mount namespace of this process's own, where a user namespace is needed in one of those too.

Knows nothing of what is mounted in it.

Whoever may, makes a mount namespace and nothing else. Everybody else makes a user namespace first,
in which the caller's user and group are mapped to themselves and nobody else is anybody: files of
others show as nobody's, other groups cannot be given up, setuid programs run as the caller. When
the program is executed, the rights that came with the namespace are gone: that is why an
ordinary user is mapped to its own number and not to 0.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from nixfetch import kernel
from nixfetch.errors import StoreError
from nixfetch.kernel import MountFlag, Namespace

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 10.0  # seconds for threads that were told to end; they need milliseconds
_POLL = 0.001  # seconds between looks at them
_FORBIDDEN = frozenset({errno.EPERM, errno.EACCES})
_SWITCHES = (
    ("user.max_user_namespaces", "0", "15000"),
    ("kernel.unprivileged_userns_clone", "0", "1"),
    ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
)
"""Settings that turn user namespaces off, with the value that does, and one that does not."""
_OTHERWISE = (
    "run it as root; in a container, the container needs CAP_SYS_ADMIN, or a seccomp profile that"
    " lets it make namespaces; in a chroot only root can"
)


class NamespaceError(StoreError):
    """The kernel gives this process no namespace of its own."""


def enter() -> None:
    """Give this process a mount namespace, from which no mount gets out.

    Mounts that are made or taken off outside still come in. For a process of one thread; it waits
    a while for others to end, since a thread that was joined may still be there for the kernel.

    Raises:
        NamespaceError: it cannot have one.
    """
    user, group = os.geteuid(), os.getegid()
    try:
        kernel.unshare(Namespace.MOUNT)
    except OSError as error:
        if error.errno not in _FORBIDDEN:
            raise _refused("cannot make a mount namespace", error) from error
        _enter_with_user(user, group)
    _shut()


def _enter_with_user(user: int, group: int) -> None:
    if not is_alone(patience=PATIENCE):
        raise NamespaceError("threads of this process are still at work", hint="run it again")
    try:
        kernel.unshare(Namespace.USER | Namespace.MOUNT)
        with suppress(FileNotFoundError):  # Linux before 3.19
            _write("setgroups", "deny")
        _write("uid_map", f"{user} {user} 1")
        _write("gid_map", f"{group} {group} 1")
    except OSError as error:
        raise _refused("user namespaces are not allowed here", error) from error


def is_alone(*, patience: float) -> bool:
    """Whether this thread is the only one of its process, after `patience` seconds at most."""
    deadline = time.monotonic() + patience
    tasks = Path("/proc/self/task")
    while len(list(tasks.iterdir())) > 1:
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL)
    return True


def _write(file: str, text: str) -> None:
    # At once, as the kernel wants it.
    fd = os.open(f"/proc/self/{file}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _shut() -> None:
    """Let no mount out. In a chroot that cannot be said, but seen."""
    try:
        kernel.mount(None, b"/", MountFlag.REC | MountFlag.SLAVE)
    except OSError as error:
        if error.errno == errno.EINVAL and not is_shared(_mounts()):
            return
        raise NamespaceError(
            "mounts would get out of the namespace",
            reason=os.strerror(error.errno or 0).lower(),
            hint="the root directory of this process is no mount: bind it to itself first"
            " (mount --bind DIR DIR, before chroot DIR)",
        ) from error


def _mounts() -> str:
    try:
        return Path("/proc/thread-self/mountinfo").read_text(errors="surrogateescape")
    except OSError:
        return "shared:"  # who knows


def is_shared(mounts: str) -> bool:
    """Whether one of the mounts, as in mountinfo, tells others what is mounted on it."""
    return any(
        field.startswith("shared:")
        for line in mounts.splitlines()
        for field in line.partition(" - ")[0].split()
    )


def _refused(problem: str, error: OSError) -> NamespaceError:
    return NamespaceError(
        problem,
        reason=os.strerror(error.errno or 0).lower(),
        errno=errno.errorcode.get(error.errno or 0),
        hint=advice(),
    )


def advice(read: Callable[[str], str | None] | None = None) -> str:
    """What to do where user namespaces, or mounts in them, are refused.

    Args:
        read: gives the contents of a file, None where there is none; from the disk by default.
    """
    read = _read if read is None else read
    for name, off, on in _SWITCHES:
        if read(f"/proc/sys/{name.replace('.', '/')}") == off:
            return f"allow them with `sysctl {name}={on}`, or run it as root"
    return _OTHERWISE


def _read(file: str) -> str | None:
    try:
        return Path(file).read_text().strip()
    except (OSError, ValueError):
        return None
