from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest

from nixfetch.cli.context import Context, UsageError
from nixfetch.cli.output import Output
from nixfetch.config import ConfigError
from nixfetch.errors import StoreError
from nixfetch.plan.sources import MissingError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from unit.cli.conftest import Run

NOWHERE = {"HOME": "/nowhere", "XDG_CONFIG_DIRS": "/nowhere"}


class Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


def load(
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    terminal: bool = False,
) -> tuple[Context, io.BytesIO]:
    err = Terminal() if terminal else io.BytesIO()
    output = Output(io.BytesIO(), err)
    return Context.load(flags or {}, NOWHERE | (dict(environ or {})), output), err


@pytest.mark.parametrize(
    ("term", "terminal", "steerable"),
    [("xterm", True, True), ("dumb", True, False), (None, True, False), ("xterm", False, False)],
)
def test_a_bar_needs_a_terminal_that_is_not_dumb(
    term: str | None, terminal: bool, steerable: bool
) -> None:
    context, _ = load({}, {"TERM": term} if term else {}, terminal=terminal)
    assert context.steerable is steerable


def test_caches_that_only_nix_can_use_are_named_once() -> None:
    _, err = load({}, {"NIX_CONFIG": "substituters = daemon /x"})
    assert err.getvalue().count(b"warning: NIX_CONFIG") == 2
    _, err = load({"verbosity": -1}, {"NIX_CONFIG": "substituters = daemon"})
    assert err.getvalue() == b""


def test_a_malformed_key_in_a_file_is_configuration() -> None:
    context, _ = load({}, {"NIXFETCH_EXTRA_TRUSTED_KEYS": "foo"})
    with pytest.raises(ConfigError) as caught:
        context.policy()
    assert caught.value.facts["setting"] == "trusted-keys"
    assert "NIXFETCH_EXTRA_TRUSTED_KEYS" in str(caught.value.facts["origin"])


def test_a_url_in_the_environment_is_configuration() -> None:
    with pytest.raises(ConfigError) as caught:
        load({}, {"NIXFETCH_FROM": "gopher://x"})
    assert caught.value.exit_code == 78


def test_the_policy() -> None:
    context, _ = load({"sigs_needed": "2", "no_check_sigs": True})
    policy = context.policy()
    assert (policy.needed, policy.check) == (2, False)
    assert [key.name for key in policy.keys] == ["cache.nixos.org-1"]


def test_a_store_that_cannot_be_is_named(tmp_path: Path) -> None:
    context, _ = load({"store": str(tmp_path)})
    with pytest.raises(StoreError) as caught:
        context.store(read_only=True)
    assert caught.value.facts["store"] == str(tmp_path)


def test_paths(closure: dict[str, Any], source: list[str], tmp_path: Path, run: Run) -> None:
    root = closure["root"]
    context, _ = load({"from": [source[1]], "store": str(tmp_path)})
    base = root.removeprefix("/nix/store/")
    with context.caches() as caches:
        for text in (root, base, base[:32], root + "/"):
            assert [str(path) for path in context.paths([text], caches=caches)] == [root]
        with pytest.raises(MissingError):
            context.paths(["0" * 32], caches=caches)
    assert run("fetch", root, *source, "--store", tmp_path).code == 0
    assert [str(path) for path in context.paths([base[:32]])] == [root]
    with pytest.raises(MissingError, match="no valid path has this hash part"):
        context.paths(["0" * 32])


@pytest.mark.parametrize("text", ["", "/home/x", "hello", "/nix/store/", "é" * 40, "x" * 5000])
def test_what_is_no_store_path_is_usage(text: str) -> None:
    context, _ = load()
    with pytest.raises(UsageError) as caught:
        context.paths([text])
    assert caught.value.problem.startswith("not a store path: ")
    assert len(caught.value.problem) < 400
    assert "HASH-NAME" in (caught.value.hint or "")


@pytest.mark.parametrize("base", ["/nix/store/{}-say-1.0", "{}-say-1.0", "{}"])
def test_a_file_of_a_store_path_is_told_from_it(base: str) -> None:
    context, _ = load()
    with pytest.raises(UsageError) as caught:
        context.paths([base.format("0" * 32) + "/bin/say"])
    assert (caught.value.hint or "").startswith("leave out /bin/say: ")
    assert "`nixfetch run`" in (caught.value.hint or "")
