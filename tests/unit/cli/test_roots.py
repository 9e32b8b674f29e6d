from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

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


def test_added_listed_removed(
    run: Run, closure: dict[str, Any], fetched: Path, tmp_path: Path
) -> None:
    root, say = closure["root"], closure["roles"]["static"]
    assert run("roots", "list", "--store", fetched).out == ""
    ran = run("roots", "add", "web", root, "--store", fetched)
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    assert run("roots", "add", f"{tmp_path}/result", say[11:43], "--store", fetched).code == 0
    ran = run("roots", "list", "--store", fetched)
    assert ran.out == f"web -> {root}\n{tmp_path}/result -> {say}\n"
    assert Path(f"{tmp_path}/result").readlink() == Path(say)
    assert run("roots", "remove", "web", "--store", fetched).code == 0
    (tmp_path / "result").unlink()
    ran = run("roots", "list", "--store", fetched)
    assert ran.out == f"{tmp_path}/result -> nothing: the link is gone\n"
    assert run("roots", "remove", f"{tmp_path}/result", "--store", fetched).code == 0
    assert run("roots", "list", "--store", fetched).out == ""


def test_json(run: Run, closure: dict[str, Any], fetched: Path) -> None:
    root = closure["root"]
    run("roots", "add", "web", root, "--store", fetched)
    gcroots = fetched / "nix/var/nix/gcroots"
    (gcroots / "other").symlink_to(f"{root[:43]}-other")
    report = json.loads(run("roots", "list", "--json", "--store", fetched).out)
    assert report == {
        "store": str(fetched),
        "roots": [
            {
                "kind": "named",
                "name": "web",
                "link": f"{gcroots}/nixfetch/web",
                "path": root,
                "valid": True,
                "stale": False,
            },
            {
                "kind": "direct",
                "name": f"{gcroots}/other",
                "link": f"{gcroots}/other",
                "path": f"{root[:43]}-other",
                "valid": False,
                "stale": False,
            },
        ],
    }
    ran = run("roots", "list", "--store", fetched)
    assert f"{root[:43]}-other (not valid, so nothing is kept)\n" in ran.out


def test_what_is_not_there(run: Run, closure: dict[str, Any], fetched: Path) -> None:
    ran = run("roots", "remove", "web", "--store", fetched)
    assert ran.code == 1
    assert ran.err.startswith("error: there is no such root\n")
    missing = f"{closure['root'][:43]}-other"
    ran = run("roots", "add", "web", missing, "--store", fetched)
    assert ran.code == 6
    assert ran.err.startswith("error: path is not valid in this store: ")
    assert "hint: `nixfetch fetch` gets it" in ran.err


@pytest.mark.parametrize("name", ["..", "a/..", "", "a\nb", "x" * 256])
def test_bad_names_are_usage(
    run: Run, closure: dict[str, Any], source: list[str], store: Path, name: str
) -> None:
    path = closure["root"]
    for words in (
        ["roots", "add", name, path],
        ["roots", "remove", name],
        ["fetch", path, "--root", name, *source],
    ):
        assert run(*words, "--store", store).code == 2
    assert not store.exists()


@pytest.mark.parametrize("words", [["list"], ["remove", "web"], ["add", "web"]])
def test_no_store_is_made(run: Run, closure: dict[str, Any], store: Path, words: list[str]) -> None:
    path = [closure["root"]] if words[0] == "add" else []
    ran = run("roots", *words, *path, "--store", store)
    assert ran.code == 6
    assert ran.err.startswith("error: there is no store here: ")
    assert not store.exists()


# fetch --root


def test_fetch_makes_roots(
    run: Run, closure: dict[str, Any], source: list[str], store: Path, tmp_path: Path
) -> None:
    root, say = closure["root"], closure["roles"]["static"]
    words = ["fetch", root, say, *source, "--store", store]
    assert run(*words, "--root", "web", "--root", f"{tmp_path}/result").code == 0
    listed = run("roots", "list", "--store", store).out
    assert listed == (
        f"web -> {root}\nweb-2 -> {say}\n"
        f"{tmp_path}/result -> {root}\n{tmp_path}/result-2 -> {say}\n"
    )
    assert run("fetch", say, *source, "--store", store, "--root", "web").code == 0  # there already
    assert f"web -> {say}\n" in run("roots", "list", "--store", store).out


def test_a_dry_run_makes_none(
    run: Run, closure: dict[str, Any], source: list[str], fetched: Path
) -> None:
    words = ["fetch", closure["root"], *source, "--store", fetched, "--root", "web", "--dry-run"]
    assert run(*words).code == 0
    assert run("roots", "list", "--store", fetched).out == ""


def test_what_failed_gets_no_root(
    run: Run, closure: dict[str, Any], source: list[str], store: Path
) -> None:
    missing, say = f"{'0' * 32}-missing", closure["roles"]["static"]
    ran = run("fetch", missing, say, *source, "--store", store, "--root", "web")
    assert ran.code == 3
    assert run("roots", "list", "--store", store).out == f"web-2 -> {say}\n"


def test_a_root_that_cannot_be_made(
    run: Run, closure: dict[str, Any], source: list[str], store: Path, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("mine")
    words = ["fetch", closure["root"], *source, "--store", store]
    ran = run(*words, "--root", f"{tmp_path}/taken")
    assert ran.code == 6
    assert "error: there is something else in the place of the link\n" in ran.err


def test_too_long_for_its_number(
    run: Run, closure: dict[str, Any], source: list[str], store: Path
) -> None:
    name = "x" * 255
    words = ["fetch", closure["root"], *source, "--store", store, "--root", name]
    assert run(*words).code == 0
    assert run(*words, closure["roles"]["static"]).code == 2


def test_a_root_in_no_directory(
    run: Run, closure: dict[str, Any], fetched: Path, tmp_path: Path
) -> None:
    link = tmp_path / "none/link"
    ran = run("roots", "add", link, closure["root"], "--store", fetched)
    assert ran.code == 6
    assert ran.err.startswith(f"error: no such file or directory: {link}\n")
    assert "hint: a LINK needs a directory that is there" in ran.err
    assert "--store" not in ran.err


def test_reports_name_the_store_wherever_they_are_read(
    run: Run, fetched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(fetched.parent)
    for words in ("roots", "list"), ("gc", "--dry-run"), ("doctor", "--from", "file:///nowhere"):
        report = json.loads(run(*words, "--json", "--store", fetched.name).out)
        assert report["store"] == str(fetched)
