from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from nixfetch.store.derivation import outputs_of
from simulated_cache import Link, Tree, store_path
from unit.store.disk_trees import directory, restore

if TYPE_CHECKING:
    from pathlib import Path

    from nixfetch.formats.storepath import StorePath

DRV = store_path("a.drv")
OUT, DEV = store_path("a"), store_path("a-dev")


def outputs(place: Path, tree: Tree) -> tuple[tuple[str, StorePath], ...]:
    restore(place, tree, DRV.base.encode())
    with directory(place) as fd:
        return outputs_of(fd, DRV)


def test_all_outputs_by_name(tmp_path: Path) -> None:
    text = f'Derive([("dev","{DEV}","",""),("out","{OUT}","r:sha256","ab")],[("/x","/y")],["out"]'
    assert outputs(tmp_path, text.encode()) == (("dev", DEV), ("out", OUT))


def test_outputs_without_a_path_are_left_out(tmp_path: Path) -> None:
    text = f'Derive([("dev","","r:sha256",""),("out","{OUT}","","")],[],[],"x"'
    assert outputs(tmp_path, text.encode()) == (("out", OUT),)


@pytest.mark.parametrize(
    "tree",
    [
        b"",
        b"Derive([])",
        b"Derive([(",
        b'Derive([("out","/etc/passwd","","")],[]',
        b'Derive([("out","\xff","","")],[]',
        b"text that mentions Derive([",
        b'DrvWithVersion("xp-dyn-drv",[("out","","","")]',
        {},
    ],
)
def test_what_is_none_has_no_outputs(tmp_path: Path, tree: Tree) -> None:
    assert outputs(tmp_path, tree) == ()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_text(f'Derive([("out","{OUT}","","")],[]')
    assert outputs(tmp_path, Link(b"other")) == ()
