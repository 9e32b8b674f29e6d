from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

from nixfetch.config import load_config
from nixfetch.config.composed import open_configured
from nixfetch.config.keyring import SecretError
from servers import Answer, LoopbackServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

INFO = b"StoreDir: /nix/store\nPriority: 7\n"
KEY = {"NIXFETCH_PROXY_FROM_ENVIRONMENT": "false"}


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer({"nix-cache-info": INFO}) as running:
        yield running


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    path.mkdir()
    return path


def ask(
    server: LoopbackServer, home: Path, environ: dict[str, str] | None = None, **flags: Any
) -> int:
    """The priority of the server's cache, with the settings of a user at `home`."""
    everything = {"HOME": str(home), "XDG_CONFIG_DIRS": "/nowhere"} | KEY | (environ or {})
    config = load_config({"from": [server.url], **flags}, everything)
    with open_configured(config, everything) as caches:
        return caches.in_order()[0].priority


def test_what_caches_said_is_kept_in_the_home_directory(server: LoopbackServer, home: Path) -> None:
    assert ask(server, home) == ask(server, home) == 7
    assert server.asked("nix-cache-info") == 1
    assert (home / ".cache/nixfetch/memo-v1.sqlite").exists()
    assert ask(server, home, refresh=True) == 7
    assert server.asked("nix-cache-info") == 2
    ask(server, home, {"NIX_CONFIG": "narinfo-cache-meta-ttl = 0"})
    assert server.asked("nix-cache-info") == 3


@pytest.mark.parametrize("place", ["XDG_CACHE_HOME", "NIXFETCH_CACHE_DIR"])
def test_it_may_be_kept_elsewhere(
    server: LoopbackServer, home: Path, tmp_path: Path, place: str
) -> None:
    ask(server, home, {place: str(tmp_path / "there")})
    assert [path.name for path in tmp_path.rglob("memo-v1.sqlite")] == ["memo-v1.sqlite"]
    assert not (home / ".cache").exists()


def test_no_place_to_keep_it_is_no_error(server: LoopbackServer, tmp_path: Path) -> None:
    assert ask(server, tmp_path / "none") == 7
    assert not (tmp_path / "none").exists()
    assert ask(server, tmp_path, {"NIXFETCH_CACHE_DIR": "/dev/null/x"}) == 7
    assert ask(server, tmp_path, {"HOME": ""}) == 7


def test_netrc(server: LoopbackServer, home: Path, caplog: pytest.LogCaptureFixture) -> None:
    netrc = home / "netrc"
    netrc.touch(mode=0o600)
    netrc.write_text("machine 127.0.0.1 password hunter2")
    server.faults["*"] = lambda request: (
        None if "authorization" in request.headers else Answer(status=404)
    )
    assert ask(server, home, {"NIXFETCH_NETRC_FILE": str(netrc)}) == 7
    assert (
        ask(
            server, home, {"NIX_CONFIG": f"netrc-file = {netrc}", "NIXFETCH_CACHE_DIR": "/dev/null"}
        )
        == 7
    )
    missing = str(home / "none")
    with pytest.raises(SecretError) as caught:
        ask(server, home, {"NIXFETCH_NETRC_FILE": missing})
    assert str(caught.value.facts["file"]) == missing
    with caplog.at_level(logging.WARNING):
        ask(server, home, {"NIX_CONFIG": f"netrc-file = {missing}"})
    assert f"NIX_CONFIG:1: there is no {missing}" in caplog.text


def test_permissions_of_what_is_kept(server: LoopbackServer, home: Path) -> None:
    ask(server, home)
    file = home / ".cache/nixfetch/memo-v1.sqlite"
    assert file.stat().st_mode & 0o777 == 0o600
