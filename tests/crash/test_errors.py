"""Every system call on the store fails once: one clear line, or all that was asked for.

Whatever came of it, the store is sound, the next fetch finishes, and nothing is left.
"""

from __future__ import annotations

import errno
import os
from itertools import count
from typing import TYPE_CHECKING

import pytest

from crash.subject import FULL, environ, remove
from crash.supervisor import (
    DIRECTORIES,
    LINKS,
    OPENS,
    OTHERS,
    RENAMES,
    SUPPORTED,
    SYNCS,
    UNLINKS,
    WRITES,
    Fault,
    watch,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from crash.subject import Closure
    from crash.supervisor import Watched
    from real_nix import RealNix

pytestmark = [
    pytest.mark.crash,
    pytest.mark.skipif(not SUPPORTED, reason="system calls of this processor are not known here"),
]

CHANGES = OPENS | WRITES | SYNCS | RENAMES | LINKS
# SQLite keeps the number of an error to itself, but says what it was about.
SQLITE = ("disk i/o error", "database or disk is full", "unable to open database file", "locking")
CUT = 12  # points of each error in a cut


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EMFILE, errno.EDQUOT])
def test_a_call_fails(
    number: int, small: Closure, store: Path, nix: RealNix, show: Callable[[str], None]
) -> None:
    _each_call_fails(number, CHANGES, small, store, nix, show=show)


def test_a_call_is_interrupted(
    small: Closure, store: Path, nix: RealNix, show: Callable[[str], None]
) -> None:
    _each_call_fails(errno.EINTR, CHANGES | frozenset({"flock"}), small, store, nix, show=show)


def test_a_file_cannot_be_closed(
    small: Closure, store: Path, nix: RealNix, show: Callable[[str], None]
) -> None:
    """Some file systems tell only then that data is lost."""
    _each_call_fails(errno.EIO, frozenset({"close"}), small, store, nix, show=show)


def test_removing_making_and_adorning_fails(
    small: Closure, store: Path, nix: RealNix, show: Callable[[str], None]
) -> None:
    _each_call_fails(errno.EIO, UNLINKS | DIRECTORIES | OTHERS, small, store, nix, show=show)


def _each_call_fails(
    number: int,
    calls: frozenset[str],
    small: Closure,
    store: Path,
    nix: RealNix,
    *,
    show: Callable[[str], None],
) -> None:
    watched = watch(small.command(store), root=store, calls=calls, environ=environ())
    assert watched.code == 0, watched.err
    step = 1 if FULL else max(1, len(watched.calls) // CUT)
    problems: list[str] = []
    points, told = 0, 0
    for at in count(1 + number % step, step):
        remove(store)
        fault = Fault(at, number)
        watched = watch(
            small.command(store), root=store, calls=calls, fault=fault, environ=environ()
        )
        if watched.struck is None:
            break
        points += 1
        told += watched.code != 0
        try:
            _is_one_line_or_success(watched, number, small, store)
            small.recovers(store, nix)
        except AssertionError as error:
            problems.append(f"call {at}, {watched.struck}: {error}\n{watched.err}")
    assert not problems, "\n\n".join(problems)
    show(f"{points} points: {told} with an error, {points - told} without")


def _is_one_line_or_success(watched: Watched, number: int, small: Closure, store: Path) -> None:
    assert "Traceback" not in watched.err
    if watched.code == 0:
        assert watched.errors == []
        small.is_valid(store)
        return
    assert watched.struck is not None
    assert watched.code > 0
    assert len(watched.errors) == 1
    text = watched.err.lower()
    words = [os.strerror(number).lower(), *SQLITE]
    assert any(word in text for word in words)
    assert str(store) in text or "/nix/store/" in text or watched.struck.name == "close"
