from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from servers import Answer, LoopbackServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from unit.cli.conftest import Run

KEY = {"NIXFETCH_PROXY_FROM_ENVIRONMENT": "false"}


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer({"nix-cache-info": b"StoreDir: /nix/store\n"}) as running:
        yield running


def test_secrets_of_a_closed_cache_are_shown_nowhere(
    run: Run, server: LoopbackServer, closure: dict[str, Any], tmp_path: Path
) -> None:
    server.faults["*"] = Answer(status=401)
    url = f"{server.url}?token-env=T"
    for flags in (["-vv"], ["--log-format", "json", "-v"], ["--json", "-vvv"]):
        words = ["fetch", closure["root"], "--from", url, "--store", tmp_path / "s", *flags]
        ran = run(*words, environ={"T": "hunter2"} | KEY)
        assert ran.code == 5
        assert "hunter2" not in ran.out + ran.err


def test_a_limit_on_the_rate(
    run: Run, closure: dict[str, Any], source: list[str], tmp_path: Path
) -> None:
    words = ["fetch", closure["root"], *source, "--store", tmp_path / "s", "--bandwidth"]
    assert run(*words, "1G").code == 0
    ran = run(*words, "fast")
    assert ran.code == 2
    assert "flag --bandwidth" in ran.err


def test_offline(
    run: Run, server: LoopbackServer, closure: dict[str, Any], source: list[str], tmp_path: Path
) -> None:
    store = ["--store", tmp_path / "s"]
    ran = run("fetch", closure["root"], "--from", server.url, *store, "--offline", environ=KEY)
    assert ran.code == 5
    assert "offline" in ran.err
    assert server.requests == []
    assert run("fetch", closure["root"], *source, *store, "--offline").code == 0
