"""File systems made for a test: on image files, in memory, one upon another. Takes root."""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
_PATIENCE = 60.0  # seconds
_BUSY = 5.0  # seconds in which whoever looks at a mounted directory should be gone


def takes_root() -> None:
    """Skip the test of an ordinary user."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount")


@contextmanager
def mounted(folder: Path, source: str | Path, kind: str, options: str = "") -> Iterator[Path]:
    """`source` as a file system of some kind at `folder`, which is made."""
    folder.mkdir(exist_ok=True)
    call("mount", "-t", kind, *(["-o", options] if options else []), source, folder)
    try:
        yield folder
    finally:
        _unmount(folder)


@contextmanager
def loop_device(image: Path) -> Iterator[str]:
    """A device of an image; what is written to it is in the image when the device says so."""
    device = call("losetup", "--find", "--show", "--direct-io=on", image).strip()
    try:
        yield device
    finally:
        call("losetup", "--detach", device)


@contextmanager
def on_image(image: Path, folder: Path, kind: str) -> Iterator[Path]:
    """What is in an image, at `folder`."""
    with loop_device(image) as device, mounted(folder, device, kind):
        yield folder


@contextmanager
def reflinking(folder: Path, *, size: int) -> Iterator[Path]:
    """A directory where a copy of a file is made in one step: images may be copied while in use.

    A copy that takes its time has some blocks from before a write and some from after it: no cut
    leaves that, and ext4 refuses it for wrong checksums ("Bad message"). So there is no other way:
    where there is no XFS, the test is skipped.

    Args:
        folder: where; its parent gets the image.
        size: bytes.
    """
    image = folder.with_suffix(".xfs")
    blank(image, size)
    with ExitStack() as stack:
        try:
            call("mkfs.xfs", "-q", "-m", "reflink=1", image)
            stack.enter_context(on_image(image, folder, "xfs"))
        except (FileNotFoundError, pytest.fail.Exception) as error:
            pytest.skip(f"no XFS here, so no disk can be copied as it is at one moment: {error}")
        yield folder


def _unmount(folder: Path) -> None:
    """Take a file system away from `folder`, even while somebody looks into it.

    One that stays stands in the way of pytest, which removes old directories of tests.
    """
    give_up = time.monotonic() + _BUSY
    command: list[str | Path] = ["umount", folder]
    environ = {"PATH": _PATH}
    while subprocess.run(command, env=environ, capture_output=True, check=False).returncode:
        if time.monotonic() > give_up:
            call("umount", "--lazy", folder)
            return
        time.sleep(0.1)


def blank(image: Path, size: int) -> None:
    """Make an empty image of `size` bytes."""
    with image.open("wb") as file:
        file.truncate(size)


def clone(image: Path, copy: Path) -> None:
    """Copy an image as it is at one moment; a device of an earlier copy keeps that."""
    copy.unlink(missing_ok=True)
    call("cp", "--reflink=always", image, copy)


def call(program: str, *arguments: str | Path) -> str:
    """Run a program of the system; what it prints."""
    command: Sequence[str | Path] = [program, *arguments]
    done = subprocess.run(
        command,
        env={"PATH": _PATH},
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
        check=False,
    )
    if done.returncode:
        pytest.fail(f"{' '.join(map(str, command))}: {done.stderr}")
    return done.stdout
