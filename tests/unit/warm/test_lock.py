from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from nixfetch.warm.lock import AlreadyRunningError, LockFileError, only_one

if TYPE_CHECKING:
    from pathlib import Path


def test_one_at_a_time(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    with only_one(file), pytest.raises(AlreadyRunningError) as caught, only_one(file):
        pass
    assert caught.value.exit_code == 75
    assert caught.value.facts == {"lock": str(file), "holder": str(os.getpid())}
    with only_one(file):
        pass


def test_waiting(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    first = only_one(file)
    first.__enter__()
    naps: list[float] = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 2:
            first.__exit__(None, None, None)

    with only_one(file, wait=True, sleep=sleep):
        assert len(naps) == 2


def test_no_place_for_it(tmp_path: Path) -> None:
    with pytest.raises(LockFileError), only_one(tmp_path / "nowhere/lock"):
        pass
    (tmp_path / "link").symlink_to("elsewhere")
    with pytest.raises(LockFileError), only_one(tmp_path / "link"):
        pass
