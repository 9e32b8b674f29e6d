from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from snapshotter import owned
from snapshotter.owned import NotOursError

if TYPE_CHECKING:
    from pathlib import Path


def test_what_is_missing_is_made_for_oneself(tmp_path: Path) -> None:
    owned.claim(tmp_path / "a/b")
    assert (tmp_path / "a/b").stat().st_mode & 0o777 == 0o700
    owned.claim(tmp_path / "a/b")


@pytest.mark.parametrize("there", [True, False])
def test_a_link(tmp_path: Path, there: bool) -> None:
    if there:
        (tmp_path / "other").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("other")
    with pytest.raises(NotOursError, match="symbolic link"):
        owned.claim(tmp_path / "link")


def test_the_root_may_be_one_to_another_disk(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("other")
    owned.claim(tmp_path / "link", link=True)
    (tmp_path / "other").chmod(0o777)
    with pytest.raises(NotOursError, match="others may write"):
        owned.claim(tmp_path / "link", link=True)


def test_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotOursError, match="something else"):
        owned.claim(tmp_path / "file")


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777, 0o1777])
def test_others_may_write(tmp_path: Path, mode: int) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(mode)
    with pytest.raises(NotOursError, match="others may write") as caught:
        owned.claim(tmp_path / "open")
    assert "chmod go-w" in str(caught.value.hint)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_of_another_user(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 65534, 65534)
    with pytest.raises(NotOursError, match="another user"):
        owned.claim(tmp_path / "theirs")
