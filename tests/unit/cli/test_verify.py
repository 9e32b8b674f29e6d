from __future__ import annotations

import json
import os
import shutil
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from command import Raw, nixfetch
from filled_store import Filled, damage, fill
from simulated_cache import KEY, SimulatedCache, store_path

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def filled(tmp_path: Path) -> Filled:
    return fill(tmp_path / "store")


def verify(filled: Filled, *arguments: str) -> Raw:
    return nixfetch(
        "verify", "--store", filled.root, "--trusted-key", str(KEY.public()), *arguments
    )


def test_all_good(filled: Filled) -> None:
    assert verify(filled, "--all") == Raw(0, b"", "")
    assert verify(filled, *map(str, filled.all)) == Raw(0, b"", "")
    assert verify(filled, filled.top.hash_part, filled.text.base) == Raw(0, b"", "")


def test_a_line_a_bad_path(filled: Filled) -> None:
    damage(filled.on_disk(filled.library) / "lib/a", b"c0de")
    damage(filled.on_disk(filled.text), b"longer than before")
    ran = verify(filled, "--all")
    assert ran.code == 4
    assert ran.err.startswith("warning: 2 bad files in .links, the first: shared file is not what")
    lines = sorted(ran.out.decode().splitlines())
    assert len(lines) == 2
    for path, line in zip(sorted([filled.library, filled.text]), lines, strict=True):
        assert line.startswith(f"{path}: content is not what was registered (expected sha256:")
    assert verify(filled, "--all", "--no-contents").code == 0
    assert verify(filled, str(filled.top)).code == 0


def test_one_bad_shared_file(filled: Filled) -> None:
    damage(filled.on_disk(filled.text), b"sword")
    ran = verify(filled, "--all")
    assert ran.err.startswith("warning: 1 bad file in .links: shared file is not what its name")


def test_a_line_stays_one(filled: Filled) -> None:
    library = filled.on_disk(filled.library) / "lib"
    library.chmod(0o755)
    os.mkfifo(library / "new\nline\x1b")
    out = verify(filled, "--all").out
    assert out.count(b"\n") == 1
    assert b"file new\\nline\\x1b)" in out


def test_signatures(filled: Filled) -> None:
    ran = nixfetch("verify", "--store", filled.root, "--all")
    assert ran.code == 4
    assert {line.partition(":")[0] for line in ran.out.decode().splitlines()} == {
        str(filled.top),
        str(filled.library),
    }
    assert verify(filled, "--all", "--sigs-needed", "2").code == 4
    assert nixfetch("verify", "--store", filled.root, "--all", "--no-check-sigs").code == 0


def test_a_path_that_is_not_valid(filled: Filled) -> None:
    gone = store_path("gone")
    ran = verify(filled, str(gone), str(filled.top))
    assert ran.code == 4
    assert ran.out.decode() == f"{gone}: path is not valid in this store\n"


def test_json(filled: Filled) -> None:
    damage(filled.on_disk(filled.text), b"other")
    ran = verify(filled, "--json", str(filled.library), str(filled.text))
    assert (ran.code, ran.err) == (4, "")
    report = json.loads(ran.out)
    (problem,) = report["paths"][1].pop("problems")
    assert problem["error"] == "content is not what was registered"
    assert problem["exit_code"] == 4
    assert report == {
        "store": str(filled.root),
        "contents": True,
        "verified": 2,
        "bad": 1,
        "paths": [
            {
                "path": str(filled.library),
                "good": True,
                "signed_by": ["simulated-1"],
                "content_addressed": False,
                "problems": [],
                "warnings": [],
                "repaired": [],
                "repaired_from": None,
            },
            {
                "path": str(filled.text),
                "good": False,
                "signed_by": [],
                "content_addressed": True,
                "warnings": [],
                "repaired": [],
                "repaired_from": None,
            },
        ],
        "links": [],
        "leftovers": [],
    }


def test_a_store_that_cannot_be_read(filled: Filled, tmp_path: Path) -> None:
    assert nixfetch("verify", "--store", tmp_path / "none", "--all").code == 6
    with closing(sqlite3.connect(filled.root / "nix/var/nix/db/db.sqlite")) as connection:
        connection.execute("update ValidPaths set hash = 'x'")
        connection.commit()
    ran = verify(filled, "--all")
    assert ran.code == 6
    assert ran.out.count(b"\n") == 4


def test_a_store_stays_untouched(filled: Filled, tmp_path: Path) -> None:
    verify(filled, "--all")
    before = sorted(filled.root.rglob("*"))
    verify(filled, "--all")
    assert sorted(filled.root.rglob("*")) == before


@pytest.mark.parametrize("arguments", [[], ["--all", "x"], ["--repair"], ["--rebuild-db", "--all"]])
def test_usage(arguments: list[str], filled: Filled) -> None:
    assert verify(filled, *arguments).code == 2


# Repairing.


@pytest.fixture
def source(tmp_path: Path) -> SimulatedCache:
    """What the store was filled from, in `cache`."""
    cache = SimulatedCache()
    fill(tmp_path / "again", cache=cache)
    cache.dump(tmp_path / "cache")
    return cache


def repair(filled: Filled, tmp_path: Path, *arguments: str) -> Raw:
    return verify(filled, "--from", (tmp_path / "cache").as_uri(), *arguments)


@pytest.mark.usefixtures("source")
def test_repair(filled: Filled, tmp_path: Path) -> None:
    damage(filled.on_disk(filled.text), b"sword")
    url = (tmp_path / "cache").as_uri()
    ran = repair(filled, tmp_path, "--all", "--repair")
    bad, repaired = ran.out.decode().splitlines()
    assert (ran.code, ran.err) == (0, "")
    assert bad.startswith(f"{filled.text}: content is not what was registered (")
    assert repaired == f"{filled.text}: repaired from {url}"
    assert verify(filled, "--all") == Raw(0, b"", "")


@pytest.mark.usefixtures("source")
def test_repair_of_metadata(filled: Filled, tmp_path: Path) -> None:
    filled.on_disk(filled.text).chmod(0o644)
    found = verify(filled, "--all")
    assert (found.code, found.out) == (0, b"")
    assert found.err == (
        f"warning: {filled.text}: metadata is not canonical (files 1, file ., found mode 0644)\n"
    )
    ran = repair(filled, tmp_path, str(filled.text), "--repair")
    assert ran == Raw(0, f"{filled.text}: repaired\n".encode(), "")
    assert verify(filled, "--all") == Raw(0, b"", "")


@pytest.mark.usefixtures("source")
def test_repair_of_what_is_gone_and_nobody_trusted_signed(filled: Filled, tmp_path: Path) -> None:
    shutil.rmtree(filled.on_disk(filled.library))
    url = (tmp_path / "cache").as_uri()
    ran = nixfetch("verify", "--all", "--repair", "--store", filled.root, "--from", url)
    last = ran.out.decode().splitlines()[-2:]
    assert ran.code == 4  # not to be believed: this machine could do what was asked of it
    assert any("not repaired: path is signed by no trusted key" in line for line in last)


@pytest.mark.usefixtures("source")
def test_repair_of_a_directory_among_shared_files(filled: Filled, tmp_path: Path) -> None:
    entry = filled.root / "nix/store/.links" / ("0" * 52)
    (entry / "below").mkdir(parents=True)
    found = verify(filled, "--all")
    assert found.code == 4
    assert found.err.startswith("warning: 1 bad file in .links: ")
    assert repair(filled, tmp_path, "--all", "--repair") == Raw(0, b"", "")
    assert not entry.exists()


@pytest.mark.usefixtures("source")
def test_repair_as_json(filled: Filled, tmp_path: Path) -> None:
    damage(filled.on_disk(filled.text), b"sword")
    ran = repair(filled, tmp_path, "--all", "--repair", "--json")
    report = json.loads(ran.out)
    (text,) = [path for path in report["paths"] if path["repaired"]]
    assert (ran.code, report["bad"], report["links"]) == (0, 0, [])
    assert (text["path"], text["good"], text["problems"]) == (str(filled.text), True, [])
    assert text["repaired"][0]["error"] == "content is not what was registered"
    assert text["repaired_from"] == (tmp_path / "cache").as_uri()


def test_what_no_cache_has_stays_bad(filled: Filled, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    damage(filled.on_disk(filled.text), b"sword")
    ran = repair(filled, tmp_path, "--all", "--repair")
    last = ran.out.decode().splitlines()[-1]
    assert ran.code == 4
    assert last.startswith(f"{filled.text}: not repaired: path is in no cache (caches file://")
    assert filled.on_disk(filled.text).read_bytes() == b"sword"
    assert repair(filled, tmp_path, "--all", "--json").code == 4


def test_what_a_cache_should_not_say_is_told(
    filled: Filled, source: SimulatedCache, tmp_path: Path
) -> None:
    other = SimulatedCache()
    assert other.add("library", b"other") == filled.library
    other.dump(tmp_path / "other")
    damage(filled.on_disk(filled.library) / "lib/a", b"c0de")
    missing = source.narinfo_name(filled.library)
    (tmp_path / "cache" / missing).unlink()
    url = (tmp_path / "other").as_uri()
    ran = repair(filled, tmp_path, "--from", url, "--all", "--repair")
    last = ran.out.decode().splitlines()[-1]
    assert ran.code == 4
    assert f"{url}: cache vouches for other content than is registered" in last


def test_leftovers_are_named(filled: Filled) -> None:
    store = filled.root / "nix/store"
    for number in range(12):
        (store / f"left-{number:02}").mkdir()
    ran = verify(filled, "--all")
    assert (ran.code, ran.out) == (0, b"")
    assert "garbage: left-00 left-01" in ran.err
    assert ran.err.endswith("left-09 and 2 more\n")
    assert len(json.loads(verify(filled, "--all", "--json").out)["leftovers"]) == 12
    (store / "left-11").rmdir()
    (store / "left-10").rmdir()
    assert verify(filled, "--all").err.endswith("left-09\n")


# The database.


def ruin(filled: Filled) -> Path:
    database = filled.root / "nix/var/nix/db/db.sqlite"
    database.write_bytes(b"garbage")
    return database


@pytest.mark.usefixtures("source")
def test_rebuild(filled: Filled, tmp_path: Path) -> None:
    ruin(filled)
    refused = verify(filled, "--all")
    assert refused.code == 6
    assert "the store's database is damaged" in refused.err
    assert "nixfetch verify --rebuild-db" in refused.err
    ran = repair(filled, tmp_path, "--rebuild-db")
    assert (ran.code, ran.out) == (0, b"")
    assert "the old database is" in ran.err
    assert ran.err.endswith("made a new database: 4 paths registered\n")
    quiet = repair(filled, tmp_path, "--rebuild-db")
    assert quiet.err == "the database is sound: 4 registered before, 0 added\n"
    assert repair(filled, tmp_path, "--rebuild-db", "-q").err == ""
    assert verify(filled, "--all") == Raw(0, b"", "")
    again = json.loads(repair(filled, tmp_path, "--rebuild-db", "--json").out)
    assert again == {
        "store": str(filled.root),
        "recovered": [],
        "kept": list(map(str, filled.all)),
        "left": [],
        "replaced": False,
        "old_database": None,
    }


def test_rebuild_of_a_part(filled: Filled, source: SimulatedCache, tmp_path: Path) -> None:
    (tmp_path / "cache" / source.narinfo_name(filled.text)).unlink()
    ruin(filled)
    ran = repair(filled, tmp_path, "--rebuild-db")
    assert ran.code == 4
    assert ran.out.startswith(f"{filled.text}: not registered: path is in no cache (".encode())
    assert "what is listed is not registered" in ran.err
    assert ran.err.endswith("made a new database: 3 paths registered, 1 not\n")
    assert filled.on_disk(filled.text).exists()


def test_nothing_is_collected_while_a_part_is_missing(
    filled: Filled, source: SimulatedCache, tmp_path: Path
) -> None:
    narinfo = tmp_path / "cache" / source.narinfo_name(filled.text)
    narinfo.rename(tmp_path / "aside")
    ruin(filled)
    repair(filled, tmp_path, "--rebuild-db")
    for more in [], ["--dry-run"]:
        ran = nixfetch("gc", *more, "--store", filled.root)
        assert (ran.code, ran.out) == (6, b"")
        assert "paths that the rebuilt database does not have would be deleted" in ran.err
        assert f"unregistered: {filled.text}\n" in ran.err
        assert "hint: `nixfetch verify --rebuild-db`" in ran.err
    assert filled.on_disk(filled.text).exists()
    # A cache is there again.
    (tmp_path / "aside").rename(narinfo)
    assert repair(filled, tmp_path, "--rebuild-db").code == 0
    assert nixfetch("gc", "--store", filled.root).code == 0


def test_unless_it_may_go(filled: Filled, source: SimulatedCache, tmp_path: Path) -> None:
    (tmp_path / "cache" / source.narinfo_name(filled.text)).unlink()
    ruin(filled)
    repair(filled, tmp_path, "--rebuild-db")
    foreseen = nixfetch("gc", "--unregistered", "--dry-run", "--json", "--store", filled.root)
    assert filled.text.base in json.loads(foreseen.out)["leftovers"]
    assert nixfetch("gc", "--unregistered", "--store", filled.root).code == 0
    assert not filled.on_disk(filled.text).exists()
    assert nixfetch("gc", "--store", filled.root).code == 0


def test_rebuild_of_nothing(filled: Filled, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    with filled.open(read_only=False):
        busy = repair(filled, tmp_path, "--rebuild-db")
        assert busy.code == 75
        assert "another process has the store open" in busy.err
    for path in (filled.top, filled.library, filled.text):
        shutil.rmtree(filled.on_disk(filled.source), ignore_errors=True)
        assert filled.on_disk(path).exists()
    database = ruin(filled)
    ran = repair(filled, tmp_path, "--rebuild-db")
    assert ran.code == 4
    assert "nothing could be recovered" in ran.err
    assert database.read_bytes() == b"garbage"


def test_a_path_that_is_none(filled: Filled) -> None:
    assert verify(filled, "hello").code in {2, 4}
