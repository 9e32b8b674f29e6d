from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from nixfetch.cli import mounts
from simulated_cache import KEY, Link, SimulatedCache
from snapshotter.mounts import FORMATS

if TYPE_CHECKING:
    from unit.cli.conftest import Run


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def fetched(run: Run, closure: dict[str, Any], source: list[str], store: Path) -> Path:
    """A store that has all of the fixtures."""
    ran = run("fetch", closure["root"], *closure["closure"], *source, "--store", store)
    assert ran.code == 0
    return store


def test_the_closure_and_nothing_else(run: Run, closure: dict[str, Any], fetched: Path) -> None:
    root = closure["roles"]["dynamic"]
    ran = run("mounts", root, "--store", fetched)
    assert (ran.code, ran.err) == (0, "")
    document = json.loads(ran.out)
    local = run("closure", "--local", root, "--store", fetched).out.split()
    assert document["version"] == 1
    assert document["closure"] == sorted(local)
    assert len(local) < len(closure["closure"])
    assert document["mounts"] == [
        {
            "type": "bind",
            "source": f"{fetched}{path}",
            "target": path,
            "options": ["ro", "rbind"],
        }
        for path in sorted(local)
    ]


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_closure_gives_the_same_bytes(
    run: Run, closure: dict[str, Any], fetched: Path, name: str
) -> None:
    root = closure["root"]
    paths = [root, *closure["closure"]]
    flags = ["--format", name, "--store", fetched]
    ran = run("mounts", root, *flags)
    assert ran.code == 0
    assert ran.out
    assert run("mounts", *reversed(paths), *flags) == ran
    assert run("mounts", root[11:], root[11:43], *flags) == ran


def test_files_have_a_note_in_fstab(run: Run, closure: dict[str, Any], fetched: Path) -> None:
    file = closure["roles"]["file"]
    ran = run("mounts", file, "--format", "fstab", "--store", fetched)
    assert ran.out.startswith(f"# a file; before: install -D -m 0444 /dev/null {file}\n{fetched}")


def test_formats_are_those_of_the_library() -> None:
    assert mounts._FORMATS == FORMATS


def test_what_is_not_valid_is_refused(
    run: Run, closure: dict[str, Any], source: list[str], store: Path
) -> None:
    root, static = closure["root"], closure["roles"]["static"]
    ran = run("mounts", root, "--store", store)
    assert (ran.code, ran.out) == (6, "")
    assert "hint: `nixfetch fetch` makes one" in ran.err
    assert not store.exists()
    assert run("fetch", static, *source, "--store", store).code == 0
    ran = run("mounts", static, root, "--store", store)
    assert (ran.code, ran.out) == (6, "")
    assert ran.err.startswith(f"error: path is not valid in the store: {root}\n")
    assert f"hint: `nixfetch fetch {root}`" in ran.err
    ran = run("mounts", root[11:43], "--store", store)
    assert (ran.code, ran.out) == (6, "")
    assert "hint: `nixfetch fetch`" in ran.err


def test_what_is_not_on_the_disk_is_refused(
    run: Run, closure: dict[str, Any], fetched: Path
) -> None:
    file = closure["roles"]["file"]
    Path(f"{fetched}{file}").unlink()
    ran = run("mounts", closure["root"], "--store", fetched)
    assert (ran.code, ran.out) == (6, "")
    assert file in ran.err
    assert f"hint: `nixfetch verify --repair {file}`" in ran.err


def test_a_link_is_refused(run: Run, tmp_path: Path) -> None:
    cache = SimulatedCache()
    link = cache.add("link", Link(b"/etc"))
    user = cache.add("user", {b"x": b"x"}, references=[link])
    cache.dump(tmp_path / "cache")
    store = ["--store", tmp_path / "store"]
    trust = ["--trusted-key", str(KEY.public())]
    assert run("fetch", user, "--from", f"file://{tmp_path}/cache", *trust, *store).code == 0
    ran = run("mounts", user, *store)
    assert (ran.code, ran.out) == (6, "")
    assert ran.err.startswith("error: store path is a symbolic link, and no mount can show one")
    assert str(link) in ran.err


def test_what_a_format_cannot_say_is_refused(
    run: Run, closure: dict[str, Any], source: list[str], tmp_path: Path
) -> None:
    store = tmp_path / "two\nlines"
    static = closure["roles"]["static"]
    assert run("fetch", static, *source, "--store", store).code == 0
    ran = run("mounts", static, "--store", store, "--format", "systemd")
    assert (ran.code, ran.out) == (6, "")
    assert "no unit can name a path with a control character" in ran.err
    assert run("mounts", static, "--store", store, "--format", "bwrap").code == 0


def test_sub_paths_and_formats_that_are_none(run: Run, closure: dict[str, Any]) -> None:
    program = closure["programs"]["static"]
    ran = run("mounts", program)
    assert (ran.code, ran.out) == (2, "")
    ran = run("mounts", closure["root"], "--format", "yaml")
    assert ran.code == 2
