from __future__ import annotations

import os
import subprocess
import sys

import pytest

from nixfetch.namespace import own
from nixfetch.namespace.own import advice, is_shared

PRIVATE = "29 1 8:1 / / rw,relatime - ext4 /dev/vda rw\n"
SHARED = "29 1 8:1 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw\n"
NAMED = "29 1 8:1 / / rw,relatime - ext4 shared:1 rw\n"


@pytest.mark.parametrize(
    ("mounts", "shared"),
    [("", False), (PRIVATE, False), (NAMED, False), (SHARED, True), (PRIVATE + SHARED, True)],
)
def test_whether_mounts_get_out(mounts: str, shared: bool) -> None:
    assert is_shared(mounts) is shared


@pytest.mark.parametrize(
    ("setting", "value", "hint"),
    [
        ("user/max_user_namespaces", "0", "user.max_user_namespaces=15000"),
        ("kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        ("user/max_user_namespaces", "100", "CAP_SYS_ADMIN"),
        ("elsewhere", "0", "in a chroot only root can"),
    ],
)
def test_what_to_do_depends_on_what_forbids_it(setting: str, value: str, hint: str) -> None:
    assert hint in advice({f"/proc/sys/{setting}": value}.get)


def test_the_settings_of_this_machine_are_read() -> None:
    assert advice()


SEEN = """
import os
from nixfetch.namespace import own
before = os.readlink("/proc/self/ns/mnt"), os.getuid(), os.getgid(), os.getcwd()
own.enter()
after = os.readlink("/proc/self/ns/mnt"), os.getuid(), os.getgid(), os.getcwd()
assert before[0] != after[0]
assert before[1:] == after[1:], (before, after)
print(open("/proc/self/uid_map").read().split(), "shared:" in open("/proc/self/mountinfo").read())
"""


BECOME = """
import ctypes
os.setgroups([])
os.setresgid(4711, 4711, 4711)
os.setresuid(4711, 4711, 4711)
ctypes.CDLL(None).prctl(4, 1)  # what was root before may not look at itself in /proc otherwise
"""


def test_an_ordinary_user_keeps_its_number() -> None:
    user = os.geteuid() or 4711
    # Imported before: it may not be able to read what root has installed.
    begin = f"import os\nfrom nixfetch.namespace import own\n{BECOME if user == 4711 else ''}"
    done = subprocess.run(
        [sys.executable, "-c", begin + SEEN],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "NamespaceError" in done.stderr:
        pytest.skip(f"this kernel gives an ordinary user no namespace: {done.stderr}")
    assert (done.stdout, done.stderr) == (f"['{user}', '{user}', '1'] False\n", "")


def test_root_needs_no_user_namespace() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    done = subprocess.run([sys.executable, "-c", SEEN], capture_output=True, timeout=60, check=True)
    assert b"4294967295" in done.stdout


THREADS = """
import threading
from nixfetch.namespace.own import is_alone
assert is_alone(patience=0)
go = threading.Event()
thread = threading.Thread(target=go.wait)
thread.start()
assert not is_alone(patience=0)
threading.Timer(0.02, go.set).start()
assert is_alone(patience=60)
thread.join()
"""


def test_a_thread_that_ends_is_waited_for() -> None:
    """In a process of its own: this one may have more threads, as xdist's workers do."""
    subprocess.run([sys.executable, "-c", THREADS], timeout=60, check=True)


def test_a_refusal_says_what_to_do() -> None:
    error = own._refused("no", OSError(1, "x"))
    assert error.facts == {"reason": "operation not permitted", "errno": "EPERM"}
    assert error.hint
