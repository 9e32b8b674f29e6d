from __future__ import annotations

import errno
import io
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from nixfetch.cli import app
from nixfetch.cli.output import Output

if TYPE_CHECKING:
    from unit.cli.conftest import Run

FIXTURES = Path(__file__).parents[3] / "fixtures"


class Closed(io.BytesIO):
    def write(self, _data: Any) -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def broken(tmp_path: Path, closure: dict[str, Any]) -> list[str]:
    """Flags for a copy of the cache that lacks the library of the program."""
    cache = tmp_path / "broken"
    shutil.copytree(FIXTURES / "cache-zstd", cache)
    library = next(path for path in closure["closure"] if path.endswith("libgreet-1.0"))
    (cache / f"{Path(library).name[:32]}.narinfo").unlink()
    return ["--from", cache.as_uri(), "--trusted-key", closure["keys"]["fixture-1"]["public"]]


def test_prints_where_the_paths_lie(
    run: Run, closure: dict[str, Any], source: list[str], store: Path
) -> None:
    root, other = closure["root"], closure["closure"][0]
    ran = run("fetch", root, other, root, *source, "--store", store)
    assert ran.code == 0
    assert ran.out == f"{store}{root}\n{store}{other}\n"
    assert ran.err.startswith("fetched 11 paths: ")
    again = run("fetch", root, other, *source, "--store", store)
    assert (again.code, again.out) == (0, ran.out)
    assert again.err == "all 2 paths are there already\n"


def test_v_says_where_each_path_came_from_and_who_vouches(
    run: Run, closure: dict[str, Any], source: list[str], store: Path
) -> None:
    ran = run("fetch", "-v", closure["root"], *source, "--store", store)
    lines = [line for line in ran.err.splitlines() if line.startswith("fetched /nix/store/")]
    assert len(lines) == 11
    assert f"fetched {closure['root']} from {source[1]}, signed by fixture-1" in lines
    flat = closure["roles"]["content-addressed-flat"]
    assert f"fetched {flat} from {source[1]}, content-addressed" in lines
    both = closure["roles"]["source"]
    assert f"fetched {both} from {source[1]}, content-addressed and signed by fixture-1" in lines


def test_q_says_only_what_failed(
    run: Run, closure: dict[str, Any], source: list[str], broken: list[str], store: Path
) -> None:
    ran = run("-q", "fetch", closure["root"], *broken, "--store", store)
    assert ran.code == 3
    assert ran.err.startswith("error: path is in no cache: ")
    assert run("-q", "fetch", closure["root"], *source, "--store", store).err == ""


def test_a_dry_run_prints_what_would_come(
    run: Run, closure: dict[str, Any], source: list[str], store: Path
) -> None:
    words = ["fetch", "--dry-run", "-v", closure["root"], *source, "--store", store]
    ran = run(*words)
    assert ran.code == 0
    assert sorted(ran.out.split()) == sorted(closure["closure"])
    assert f"would fetch {closure['root']} from {source[1]}, signed by fixture-1: " in ran.err
    assert ran.err.endswith("to download, 41.2 KB unpacked\n")
    assert not store.exists()
    run("fetch", closure["root"], *source, "--store", store)
    assert run(*words).out == ""


def test_a_dry_run_says_what_is_missing(
    run: Run, closure: dict[str, Any], broken: list[str], store: Path
) -> None:
    ran = run("fetch", "--dry-run", closure["root"], *broken, "--store", store)
    assert ran.code == 3
    assert "error: path is in no cache: " in ran.err


def test_json_is_one_report(
    run: Run, closure: dict[str, Any], source: list[str], store: Path
) -> None:
    ran = run("fetch", closure["root"], *source, "--store", store, "--json")
    report = json.loads(ran.out)
    assert report["requested"] == [closure["root"]]
    assert {path["status"] for path in report["paths"]} == {"fetched"}
    assert len(report["paths"]) == 11


def test_what_failed_has_its_chain_and_the_rest_is_there(
    run: Run, closure: dict[str, Any], broken: list[str], store: Path
) -> None:
    greet, root = closure["roles"]["dynamic"], closure["root"]
    said = closure["roles"]["static"]
    ran = run("fetch", said, root, *broken, "--store", store)
    assert ran.code == 3
    assert ran.out == f"{store}{said}\n"
    lines = ran.err.splitlines()
    assert lines[0].startswith("fetched 8 paths, 3 failed: ")
    assert lines[1].startswith("error: path is in no cache: ")
    assert lines[2:4] == [f"  needed by: {root}", f"         -> {greet}"]
    assert lines[4] == f"  {broken[1]}: no such object"
    assert lines[5].startswith("error: not registered, since what they refer to failed: ")
    assert (store / f".{said}").exists()
    assert not (store / f".{greet}").exists()


def test_no_closure_names_what_is_missing(
    run: Run, closure: dict[str, Any], source: list[str], store: Path
) -> None:
    ran = run("fetch", "--no-closure", closure["root"], *source, "--store", store)
    assert ran.code == 6
    assert "error: references are not valid in the store" in ran.err
    assert "hint: fetch the whole closure" in ran.err


def test_a_failure_outranks_a_reader_that_went_away(
    closure: dict[str, Any], broken: list[str], store: Path
) -> None:
    words = ["fetch", closure["roles"]["static"], closure["root"], *broken, "--store", str(store)]
    err = io.BytesIO()
    assert app.run(words, output=Output(Closed(), err), environ={"HOME": "/nowhere"}) == 3


def test_internal_json(run: Run, closure: dict[str, Any], source: list[str], store: Path) -> None:
    ran = run("fetch", closure["root"], *source, "--store", store, "--log-format", "internal-json")
    assert ran.code == 0
    lines = [json.loads(line.removeprefix("@nix ")) for line in ran.err.splitlines()]
    copies = [line for line in lines if line.get("type") == 100]
    assert sorted(line["fields"][0] for line in copies) == sorted(closure["closure"])
    starts = {line["id"] for line in lines if line["action"] == "start"}
    assert starts == {line["id"] for line in lines if line["action"] == "stop"}


def test_hostile_text_from_a_cache_is_escaped(
    run: Run, closure: dict[str, Any], tmp_path: Path, store: Path
) -> None:
    cache = tmp_path / "hostile"
    cache.mkdir()
    name = Path(closure["root"]).name[:32]
    (cache / f"{name}.narinfo").write_bytes(b"StorePath: \x1b[2J\x07\nURL: x\n")
    ran = run("fetch", closure["root"], "--from", cache.as_uri(), "--store", store)
    assert ran.code == 4
    assert "\x1b" not in ran.err
    assert "\x07" not in ran.err


def test_a_hash_part_that_no_cache_knows_does_not_stop_the_rest(
    run: Run, closure: dict[str, Any], source: list[str], store: Path
) -> None:
    ran = run("fetch", "0" * 32, closure["root"], *source, "--store", store)
    assert ran.code == 3
    assert "error: path is in no cache" in ran.err
    assert ran.out.strip().endswith(Path(closure["root"]).name)
    assert (store / closure["root"].removeprefix("/")).is_dir()


def test_a_dry_run_names_the_store_that_was_asked_for(
    run: Run, closure: dict[str, Any], source: list[str], store: Path
) -> None:
    words = ["fetch", "--json", "--dry-run", closure["root"], *source, "--store", store]
    assert json.loads(run(*words).out)["store"] == str(store)
    assert not store.exists()


def test_json_is_there_when_the_disk_ends_the_run(
    run: Run, closure: dict[str, Any], source: list[str], store: Path
) -> None:
    words = [
        "fetch",
        "--json",
        closure["root"],
        *source,
        "--store",
        store,
        "--min-free",
        "8000000T",
    ]
    ran = run(*words)
    assert ran.code == 6
    report = json.loads(ran.out)
    assert (report["store"], report["requested"]) == (str(store), [closure["root"]])
    assert {path["status"] for path in report["paths"]} == {"failed"}
    assert all("room" in path["error"] or "space" in path["error"] for path in report["paths"])
    assert {path["path"] for path in report["paths"]} <= set(closure["closure"])


def test_json_is_there_when_the_store_does_not_open(
    run: Run, closure: dict[str, Any], source: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.touch()
    ran = run("fetch", "--json", closure["root"], *source, "--store", file)
    assert ran.code == 6
    [entry] = json.loads(ran.out)["paths"]
    assert (entry["path"], entry["status"]) == (closure["root"], "failed")


def test_json_is_there_once_when_a_root_cannot_be_made(
    run: Run, closure: dict[str, Any], source: list[str], store: Path, tmp_path: Path
) -> None:
    place = tmp_path / "file"
    place.touch()
    words = ["fetch", "--json", closure["root"], *source, "--store", store]
    ran = run(*words, "--root", place / "link")
    assert ran.code == 6
    report = json.loads(ran.out)
    assert {path["status"] for path in report["paths"]} == {"fetched"}
