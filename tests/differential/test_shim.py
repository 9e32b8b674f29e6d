"""The stand-in for `nix-store` beside the real one: the same command lines, one after the other.

What is compared is what a caller can see: the exit code, stdout, links, and what Nix's collector
makes of them. Of stderr the last line of Nix, where ours is to be the same sentence.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from real_nix import SYSTEMS, real_nix
from simulated_cache import KEY, SimulatedCache, store_path

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from real_nix import RealNix

pytestmark = pytest.mark.differential

SHIM = (
    sys.executable,
    "-c",
    "import sys; from snapshotter.shim import nix_store; sys.exit(nix_store())",
)
IN = 'cd "$1"; shift; exec "$@"'
APP, LIB, TOOL = (store_path(name) for name in ("app-1.0", "lib-1.0", "tool"))
MISSING = store_path("missing")


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of one command line; places are called ``@``."""

    code: int
    out: list[str]
    links: dict[str, str]


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two, with a directory and a store of its own."""

    place: Path
    inside: str
    """What it calls its place."""
    nix: RealNix
    ours: bool

    def run(self, *arguments: str) -> tuple[Seen, str]:
        words = [word.replace("@", self.inside) for word in arguments]
        done = self._ours(words) if self.ours else self._theirs(words)
        err = done.stderr.decode().replace(self.inside, "@")
        out = done.stdout.decode().replace(self.inside, "@").splitlines()
        return Seen(done.returncode, out, self._links()), err

    def _ours(self, words: list[str]) -> subprocess.CompletedProcess[bytes]:
        environ = {
            "HOME": str(self.place),
            "PATH": os.environ["PATH"],
            "XDG_CONFIG_DIRS": "/nowhere",
            "NIX_CONF_DIR": "/nowhere",
            "NIXFETCH_STORE": str(self.place / "store"),
            "NIXFETCH_FROM": f"file://{self.place}/cache",
            "NIXFETCH_TRUSTED_KEYS": str(KEY.public()),
        }
        return subprocess.run(
            [*SHIM, *words],
            env=environ,
            cwd=self.place / "here",
            capture_output=True,
            check=False,
            timeout=60,
        )

    def _theirs(self, words: list[str]) -> subprocess.CompletedProcess[bytes]:
        here: tuple[str | Path, ...] = (self.place / "here", "nix-store")
        here += ("--store", self.place / "store")
        settings = {
            "substitute": "true",
            "substituters": f"file://{self.inside}/cache",
            "trusted-public-keys": str(KEY.public()),
        }
        return self.nix.run("sh", "-c", IN, "sh", *here, *words, check=False, settings=settings)

    def _links(self) -> dict[str, str]:
        """Links that are there, but for the stores' own, and what gcroots/auto points to."""
        found = {}
        for entry in sorted(self.place.rglob("*")):
            parts = entry.relative_to(self.place).parts
            if not entry.is_symlink() or (parts[0] == "store" and "auto" not in parts):
                continue
            target = str(entry.readlink()).replace(self.inside, "@")
            # Those of gcroots/auto are called by a hash of where the other link is, which differs.
            found[f"auto {target}" if "auto" in parts else "/".join(parts)] = target
        return found


@dataclass(frozen=True, slots=True)
class Pair:
    ours: Side
    theirs: Side

    def same(self, *arguments: str) -> tuple[Seen, str, str]:
        """Hold ours to what Nix does; gives that, and what both said."""
        ours, our_words = self.ours.run(*arguments)
        theirs, their_words = self.theirs.run(*arguments)
        assert ours == theirs
        return ours, our_words, their_words

    def refused(self, *arguments: str) -> None:
        """Hold ours to failing as Nix does, in its words; nothing is to come of it."""
        before, _ = self.ours.run("--realise")
        seen, our_words, their_words = self.same(*arguments)
        assert (seen.code, seen.out, seen.links) == (1, [], before.links)
        assert our_words.splitlines()[0] == _sentence(their_words)


def _sentence(err: str) -> str:
    """The line of Nix that says what is wrong; the newer one puts files in other quotes."""
    said = next(line for line in err.splitlines() if line.startswith("error:"))
    return said.replace('"', "'")


@pytest.fixture(params=SYSTEMS)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    cache = SimulatedCache()
    cache.add("app-1.0", {b"bin": {b"app": b"x"}}, references=[cache.add("lib-1.0", b"lib")])
    cache.add("tool", b"tool")
    with real_nix(request.param) as nix:
        for place in (tmp_path, nix.place):
            cache.dump(place / "cache")
            (place / "here").mkdir()
        yield Pair(
            Side(tmp_path, str(tmp_path), nix, ours=True),
            Side(nix.place, nix.inside(nix.place), nix, ours=False),
        )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--add-root", f"@/gcroots/12/{APP.base}", "--realise", str(APP)],
        ["--realise", str(APP)],
        ["-r", str(APP), str(TOOL)],
        ["--realize", str(APP), "--add-root", "relative"],
        ["--add-root", "down/../deep/./er", "--realise", str(APP)],
        ["--add-root", "../beside", "-r", str(APP)],
        ["--add-root", "r", "--realise", str(APP), str(TOOL), str(APP)],
        ["--add-root", "r", "--indirect", "--realise", f"{APP}/bin/app"],
        ["--add-root", "one", "--add-root", "two", "--realise", str(APP)],
        ["--realise", f"{APP}/../{TOOL.base}"],
        ["--realise"],
        ["--realise", "--add-root", "r"],
    ],
    ids=" ".join,
)
def test_what_works(pair: Pair, arguments: list[str]) -> None:
    seen, ours, theirs = pair.same(*arguments)
    assert seen.code == 0
    assert ("did not specify '--add-root'" in ours) == ("did not specify '--add-root'" in theirs)
    again, ours, theirs = pair.same(*arguments)
    assert again == seen
    assert ours == theirs  # the warning, or nothing


def test_a_link_into_the_store_is_replaced(pair: Pair) -> None:
    pair.same("--add-root", "r", "--realise", str(APP))
    seen, _, _ = pair.same("--add-root", "r", "--realise", str(TOOL))
    assert seen.links["here/r"] == str(TOOL)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--realise", "/etc"],
        ["--realise", "@/here"],
        ["--realise", "/nix/store"],
        ["--realise", f"{APP}/../../../etc"],
        ["--realise", str(APP), "/etc", "--add-root", "r"],
        ["--realise", "--foo", str(APP)],
        ["--add-root"],
        ["--realise", "--add-root"],
        [],
        ["--add-root", "r"],
        [str(APP)],
    ],
    ids=" ".join,
)
def test_what_is_refused(pair: Pair, arguments: list[str]) -> None:
    pair.refused(*arguments)


@pytest.mark.parametrize("kind", ["file", "directory", "link", "dangling"])
def test_something_in_the_way(pair: Pair, kind: str) -> None:
    for side in (pair.ours, pair.theirs):
        place = side.place / "here/r"
        match kind:
            case "file":
                place.write_text("mine")
            case "directory":
                place.mkdir()
            case "link":
                place.symlink_to("/etc")
            case _:
                place.symlink_to("nowhere")
    pair.refused("--add-root", "r", "--realise", str(APP))


def test_what_no_cache_has(pair: Pair) -> None:
    for more in ([], ["--add-root", "deep/r"], [str(APP), "--add-root", "r"]):
        seen, ours, theirs = pair.same("--realise", str(MISSING), *more)
        assert (seen.code, seen.out, seen.links) == (1, [], {})
        assert str(MISSING) in _sentence(theirs)
        if pair.theirs.nix.version >= (2, 34):
            assert ours.splitlines()[-1] != _sentence(theirs)  # the reasons come after it
            assert _sentence(theirs) in ours


def test_nothing_that_is_refused_is_an_operation_of_ours(pair: Pair) -> None:
    """Real operations of Nix that a stand-in must not seem to do."""
    for arguments in (["--gc"], ["-q", str(APP)], ["--delete", str(APP)], ["--verify"]):
        seen, words = pair.ours.run(*arguments)
        assert (seen.code, seen.out) == (1, [])
        assert f"unknown flag '{arguments[0]}'" in words


def test_nix_sees_the_links(pair: Pair, tmp_path: Path) -> None:
    """Its collector, on our store; where it is in another system, that is shown our place."""
    link = f"@/gcroots/12/{APP.base}"
    pair.ours.run("--add-root", link, "--realise", str(APP))
    pair.ours.run("--realise", str(TOOL))
    nix = pair.theirs.nix
    enter: list[str] = list(nix.enter)
    seen = nix.root / tmp_path.relative_to("/")
    if enter:
        seen.mkdir(parents=True)
        show = f"mount --bind {tmp_path} {seen}; exec " + '"$@"'
        enter = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", show, "sh", *enter]

    def ask(*words: str) -> list[str]:
        store = ["nix-store", "--store", f"{tmp_path}/store"]
        done = subprocess.run(
            [*enter, *store, *words],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/nowhere"}
            | {"NIX_CONFIG": "build-users-group =\n", "NIX_CONF_DIR": "/nowhere"},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return done.stdout.replace('"', "").splitlines()

    try:
        said = ask("--gc", "--print-roots")
        assert f"{tmp_path}/gcroots/12/{APP.base} -> {APP}" in said
        ask("--verify", "--check-contents")
        ask("--gc")
        valid = ask("--query", "--requisites", str(APP))
        assert sorted(valid) == sorted(map(str, (APP, LIB)))
        assert not (tmp_path / "store" / str(TOOL).lstrip("/")).exists()
        (tmp_path / "gcroots/12" / APP.base).unlink()  # nix-snapshotter removes the directory
        ask("--gc")
        assert not (tmp_path / "store" / str(APP).lstrip("/")).exists()
    finally:
        if nix.enter:
            os.removedirs(seen)  # and what was made above it
