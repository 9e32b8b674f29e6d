"""`nixfetch doctor`: its lines, its document, its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from command import nixfetch
from servers import Answer, LoopbackServer, Request

if TYPE_CHECKING:
    from unit.cli.conftest import Run

FIXTURES = Path(__file__).parents[3] / "fixtures"
PATHS = json.loads((FIXTURES / "paths.json").read_text())
KEY = PATHS["keys"]["fixture-1"]["public"]
CACHE = (FIXTURES / "cache-zstd").as_uri()


def test_a_cache_that_is_well() -> None:
    ran = nixfetch("doctor", CACHE, "--trusted-key", KEY, "--nars", PATHS["root"])
    assert ran.code == 0, ran.out
    lines = ran.out.decode().splitlines()
    assert all(line.startswith("ok    ") for line in lines)
    assert lines[-1] == f"ok    NARs: {len(PATHS['closure'])} are there, 0 are not"


def test_a_hash_part_is_enough_for_nars() -> None:
    hash_part = PATHS["root"].removeprefix("/nix/store/").partition("-")[0]
    ran = nixfetch("doctor", CACHE, "--trusted-key", KEY, "--nars", hash_part)
    assert ran.code == 0, ran.out
    assert b" 0 are not\n" in ran.out


def test_a_cache_whose_key_we_do_not_trust() -> None:
    ran = nixfetch("doctor", CACHE, "--nars", PATHS["root"])
    assert ran.code == 4
    assert b"fail  key of " in ran.out
    assert b"      fix: if you trust it, add --trusted-key fixture-1:" in ran.out


def test_a_document() -> None:
    ran = nixfetch("doctor", CACHE, "--json", "--trusted-key", KEY, "--nars", PATHS["root"])
    report = json.loads(ran.out)
    assert (report["cache"], report["exit_code"]) == (CACHE, 0)
    assert {check["state"] for check in report["checks"]} == {"ok"}
    assert report["checks"][-1]["facts"] == {"there": len(PATHS["closure"]), "lost": []}


def test_nobody_answers() -> None:
    with LoopbackServer() as server:
        url = server.url
    ran = nixfetch("doctor", url)
    assert ran.code == 5
    assert b"fail  reachable: cannot connect" in ran.out


def test_a_nar_that_is_gone() -> None:
    with LoopbackServer(FIXTURES / "cache-zstd") as server:
        arguments = ["doctor", server.url, "--trusted-key", KEY, "--nars", PATHS["root"], "--json"]
        nixfetch(*arguments)
        gone = next(name for name in reversed(server.names()) if name.startswith("nar/"))
        server.faults[gone] = Answer(b"", 404)
        ran = nixfetch(*arguments)
    report = json.loads(ran.out)
    assert ran.code == report["exit_code"] == 3
    [census] = [check for check in report["checks"] if check["check"] == "NARs"]
    assert len(census["facts"]["lost"]) == 1


def test_all_nars_are_gone() -> None:
    def gone(request: Request) -> Answer | None:
        return Answer(b"", 404) if request.name.startswith("nar/") else None

    with LoopbackServer(FIXTURES / "cache-zstd") as server:
        server.faults["*"] = gone
        arguments = ["doctor", server.url, "--trusted-key", KEY, "--nars", PATHS["root"]]
        ran = nixfetch(*arguments)
        report = json.loads(nixfetch(*arguments, "--json").out)
    assert ran.code == report["exit_code"] == 3
    lines = ran.out.decode().splitlines()
    count = len(PATHS["closure"])
    assert f"fail  NARs: 0 are there, {count} are not" in lines
    assert lines[-1] == f"fail  NARs: {count - 10} more not there; --json lists all"
    assert len([check for check in report["checks"] if check["state"] == "fail"]) == count + 1


def test_this_machine(tmp_path: Path) -> None:
    ran = nixfetch("doctor", "--store", tmp_path / "store", "--from", CACHE)
    assert ran.code == 0, ran.out
    for name in ("store", "disk", "database", "decoders", "libraries", "proxies", CACHE):
        assert f"  {name}: ".encode() in ran.out
    assert not (tmp_path / "store").exists()


def test_offline_nobody_is_asked(tmp_path: Path) -> None:
    with LoopbackServer() as server:
        ran = nixfetch("doctor", "--offline", "--store", tmp_path, "--from", server.url)
    assert (ran.code, server.requests) == (0, [])
    assert f"warn  {server.url}: not asked: the run is offline\n" in ran.out.decode()


@pytest.mark.parametrize("nars", [[], ["--nars", PATHS["root"]]])
def test_offline_the_cache_of_a_url_is_not_asked(nars: list[str]) -> None:
    with LoopbackServer(FIXTURES / "cache-zstd") as server:
        ran = nixfetch("doctor", server.url, "--offline", "--trusted-key", KEY, *nars)
    assert (ran.code, server.requests) == (5, [])
    assert ran.out.decode() == (
        "fail  reachable: not asked: the run is offline\n      fix: leave out --offline\n"
    )


def test_offline_a_directory_is_examined() -> None:
    ran = nixfetch("doctor", CACHE, "--offline", "--trusted-key", KEY, "--nars", PATHS["root"])
    assert ran.code == 0, ran.out


def test_offline_no_nar_is_asked_for_that_is_remembered(run: Run, tmp_path: Path) -> None:
    environ = {"XDG_CACHE_HOME": str(tmp_path)}
    with LoopbackServer(FIXTURES / "cache-zstd") as server:
        source = ["--from", server.url, "--trusted-key", KEY, "--store", tmp_path / "store"]
        run("path-info", PATHS["root"], *source, environ=environ)
        asked = len(server.requests)
        assert asked
        ran = run("doctor", *source, "--offline", "--nars", PATHS["root"], environ=environ)
        assert len(server.requests) == asked
    assert ran.code == 5, ran.out
    assert "fail  NARs: 0 are there" in ran.out


def test_this_machine_and_a_closure(tmp_path: Path) -> None:
    ran = nixfetch(
        *("doctor", "--store", tmp_path, "--from", CACHE, "--trusted-key", KEY),
        *("--nars", PATHS["root"]),
    )
    assert ran.code == 0, ran.out
    assert b" 0 are not\n" in ran.out


def test_what_is_no_cache() -> None:
    ran = nixfetch("doctor", "gopher://cache")
    assert (ran.code, ran.out) == (2, b"")
    assert "not a kind of cache" in ran.err


def test_secrets_stay_secret() -> None:
    with LoopbackServer() as server:
        server.faults["*"] = Answer(b"", 401)
        url = server.url.replace("http://", "http://me:canary@")
        ran = nixfetch("doctor", url, "--json", "-vv")
    assert ran.code == 5
    assert "canary" not in ran.out.decode() + ran.err
