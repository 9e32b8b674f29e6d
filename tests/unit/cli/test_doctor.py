"""`nixfetch doctor`: its lines, its document, its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

from command import nixfetch
from servers import Answer, LoopbackServer

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
