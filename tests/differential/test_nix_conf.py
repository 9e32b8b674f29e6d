"""The same `nix.conf` read by us and by real Nix: `nix show-config --json` is the judge.

Asks the Nix in PATH and, where NIXFETCH_TEST_CHROOT names the root of another system with a Nix in
it (needs root), that one too.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nixfetch.config import Config, ConfigError, load_config
from nixfetch.config.files import read_file
from nixfetch.config.settings import MAX_CONNECTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

pytestmark = pytest.mark.differential

TIMEOUT = 60  # seconds for one `nix show-config`
UNITS_SINCE = (2, 9)  # the first version known to read `2K`; 2.8 does not


@dataclass(frozen=True, slots=True)
class Nix:
    """A real Nix, and a directory of its system where files can be put."""

    root: Path
    command: list[str]
    place: Path
    """An empty directory, as this Nix sees it."""

    def put(self, files: Mapping[str, str]) -> None:
        for name, text in files.items():
            path = self.outside(self.place / name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def outside(self, path: Path) -> Path:
        """Where a file of that system is for us."""
        return self.root / path.relative_to("/")

    @property
    def version(self) -> tuple[int, ...]:
        text = self._run(["--version"], {}).stdout.split()[-1]
        return tuple(int(part) for part in text.split(".")[:2])

    def settings(self, environ: Mapping[str, str]) -> dict[str, object] | None:
        """All settings; None where Nix refuses them."""
        flags = ["--extra-experimental-features", "nix-command", "show-config", "--json"]
        done = self._run(flags, environ)
        if done.returncode:
            assert "error:" in done.stderr
            return None
        table = json.loads(done.stdout)
        return {name: entry["value"] for name, entry in table.items()}

    def _run(
        self, arguments: list[str], environ: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        path = {"PATH": os.environ["PATH"]}
        return subprocess.run(
            [*self.command, *arguments],
            env=path | dict(environ),
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT,
        )


@pytest.fixture(params=["path", "chroot"])
def nix(request: pytest.FixtureRequest) -> Iterator[Nix]:
    if request.param == "path":
        root, command = Path("/"), ["nix"]
        if not shutil.which("nix"):
            pytest.skip("no nix in PATH")
    else:
        named = os.environ.get("NIXFETCH_TEST_CHROOT")
        if not named or os.geteuid():
            pytest.skip("NIXFETCH_TEST_CHROOT is not set, or we are not root")
        root, command = Path(named), ["chroot", named, "nix"]
    with tempfile.TemporaryDirectory(dir=root / "tmp") as place:
        yield Nix(root, command, Path("/") / Path(place).relative_to(root))


def ours(nix: Nix, environ: Mapping[str, str]) -> Config | None:
    def read(path: Path) -> bytes | None:
        return read_file(nix.outside(path))

    try:
        return load_config({}, environ, read=read, exists=lambda path: nix.outside(path).is_file())
    except ConfigError:
        return None


def _stall_timeout(config: Config) -> int:
    """Ours, or Nix's default where ours is another."""
    return 300 if config.origins["stall_timeout"] == "default" else config.stall_timeout or 0


def _negative_ttl(config: Config) -> int:
    """The same."""
    ours = config.origins["narinfo_negative_ttl"] == "default"
    return 3600 if ours else config.narinfo_negative_ttl


def as_nix(config: Config) -> dict[str, object]:
    """Our settings by the names of Nix; "no limit" is 0 again."""
    no_limit = config.connections == MAX_CONNECTIONS
    return {
        "substituters": [url.rstrip("/") for url in config.substituters],
        "trusted-public-keys": list(config.trusted_keys),
        "secret-key-files": list(config.secret_key_files),
        "require-sigs": config.check_sigs,
        "http-connections": 0 if no_limit else config.connections,
        "connect-timeout": config.connect_timeout or 0,
        "stalled-download-timeout": _stall_timeout(config),
        "download-attempts": config.download_attempts,
        "download-speed": (config.bandwidth or 0) // 1024,
        "netrc-file": config.netrc_file,
        "ssl-cert-file": config.ca_file,
        "user-agent-suffix": config.user_agent_suffix,
        "narinfo-cache-positive-ttl": config.narinfo_positive_ttl,
        "narinfo-cache-negative-ttl": _negative_ttl(config),
        "narinfo-cache-meta-ttl": config.cache_info_ttl,
    }


def comparable(settings: Mapping[str, object], version: tuple[int, ...]) -> dict[str, object]:
    """What Nix says, but for what we leave out on purpose."""
    kept = dict(settings)
    urls = kept["substituters"]
    assert isinstance(urls, list)
    caches = [url.rstrip("/") for url in urls if url.startswith(("http", "s3", "file"))]
    kept["substituters"] = list(dict.fromkeys(caches))
    for name in ("trusted-public-keys", "secret-key-files"):
        words = kept[name]
        assert isinstance(words, list)
        kept[name] = list(dict.fromkeys(words))
    if version < UNITS_SINCE:
        kept.pop("connect-timeout")  # another default
    return kept


CASES: dict[str, dict[str, str]] = {
    "nothing": {},
    "plain": {
        "nix.conf": "substituters = https://a https://b/\ntrusted-public-keys = a-1:AAAA b-1:BBBB\n"
        "require-sigs = false\nhttp-connections = 7\nconnect-timeout = 3\n"
    },
    "aliases": {
        "nix.conf": "binary-caches = https://a\nbinary-cache-public-keys = a-1:AAAA\n"
        "binary-caches-parallel-connections = 9\n"
    },
    "extra adds to defaults": {
        "nix.conf": "extra-substituters = https://a\nextra-trusted-public-keys = a-1:AAAA\n"
        "extra-binary-caches = https://b\nextra-secret-key-files = /k1 /k2\n"
    },
    "extra before plain": {"nix.conf": "extra-substituters = https://a\nsubstituters = https://b"},
    "plain before extra": {"nix.conf": "substituters = https://b\nextra-substituters = https://a"},
    "extra for what is no list": {"nix.conf": "extra-connect-timeout = 9\nextra-foo = 1\n"},
    "blanks and comments": {
        "nix.conf": "\n# x\n  substituters\t=  https://a  # https://b\r\n\n\trequire-sigs = no\n \n"
    },
    "empty values": {"nix.conf": "substituters =\nuser-agent-suffix =\ntrusted-public-keys =\n"},
    "words are joined": {"nix.conf": "user-agent-suffix = a \t b#c\n"},
    "includes": {
        "nix.conf": "connect-timeout = 1\ninclude sub/one.conf\n!include none.conf\n",
        "sub/one.conf": "connect-timeout = 2\nsubstituters = https://a\ninclude ../two.conf\n",
        "two.conf": "extra-substituters = https://b\nhttp-connections = 3\n",
    },
    "an include of a directory": {"nix.conf": "include .\nhttp-connections = 3\n"},
    "a missing include": {"nix.conf": "include none.conf\n"},
    "layers": {
        "nix.conf": "extra-substituters = https://system\nhttp-connections = 1\n",
        "user1.conf": "extra-substituters = https://user1\nhttp-connections = 2\n",
        "user2.conf": "extra-substituters = https://user2\nhttp-connections = 3\n",
        "NIX_CONFIG": "extra-substituters = https://env\n",
    },
    "a layer replaces": {
        "nix.conf": "trusted-public-keys = a-1:AAAA\nextra-substituters = https://system\n",
        "user1.conf": "extra-trusted-public-keys = b-1:BBBB\n",
        "NIX_CONFIG": "substituters = https://env\nextra-trusted-public-keys = c-1:CCCC",
    },
    "numbers": {
        "nix.conf": "connect-timeout = +07\nhttp-connections = 0\nstalled-download-timeout = 0\n"
        "download-attempts = 9\ndownload-speed = 7\nnarinfo-cache-positive-ttl = 5\n"
        "narinfo-cache-negative-ttl = 0\n"
    },
    "stores among caches": {
        "nix.conf": "substituters = daemon https://a?priority=10&trusted=1 ssh://u@h /mnt s3://b?region=x\n"
    },
    "paths": {"nix.conf": "netrc-file = /a/netrc\nsecret-key-files = /k\n"},
    "duplicates": {
        "nix.conf": "extra-trusted-public-keys = a-1:AAAA a-1:AAAA\n"
        "extra-substituters = https://a https://a https://cache.nixos.org\n"
    },
    "unknown names": {
        "nix.conf": "foo = bar\nsubstitute = false\ntrusted-substituters = https://x\n"
    },
    "other blanks are none": {"nix.conf": "foo\x0c=\x0cx\n"},
    "no equals sign": {"nix.conf": "substituters https://a\n"},
    "a lone word": {"nix.conf": "substituters\n"},
    "equals sign without blanks": {"nix.conf": "substituters=https://a\n"},
    "an empty number": {"nix.conf": "connect-timeout =\n"},
    "a number below zero": {"nix.conf": "http-connections = -1\n"},
    "two numbers": {"nix.conf": "connect-timeout = 1 2\n"},
    "a hexadecimal number": {"nix.conf": "connect-timeout = 0x10\n"},
    "a large number": {"nix.conf": "http-connections = 99999999999999999999999\n"},
    "a unit alone": {"nix.conf": "connect-timeout = K\n"},
    "a boolean in capitals": {"nix.conf": "require-sigs = TRUE\n"},
    "booleans of other kinds": {"nix.conf": "require-sigs = 0\n"},
    "a mistake in NIX_CONFIG": {"NIX_CONFIG": "foo"},
    "a mistake that is overruled": {
        "nix.conf": "http-connections = x\n",
        "NIX_CONFIG": "http-connections = 3\n",
    },
}


@pytest.mark.parametrize("case", CASES)
def test_nix_conf_means_the_same(nix: Nix, case: str) -> None:
    files = dict(CASES[case])
    environ = {
        "HOME": str(nix.place),
        "NIX_CONF_DIR": str(nix.place),
        "NIX_USER_CONF_FILES": f"{nix.place}/user2.conf:{nix.place}/user1.conf",
        "NIX_CONFIG": files.pop("NIX_CONFIG", ""),
    }
    nix.put(files)
    assert_the_same(nix, environ)


def assert_the_same(nix: Nix, environ: Mapping[str, str]) -> None:
    """Both refuse the settings, or both find the same values in them."""
    theirs = nix.settings(environ)
    config = ours(nix, environ)
    if theirs is None or config is None:
        assert theirs is None
        assert config is None
        return
    expected = comparable(theirs, nix.version)
    found = as_nix(config)
    common = found.keys() & expected.keys()
    assert {name: found[name] for name in common} == {name: expected[name] for name in common}


WORDS = {  # what generated lines are made of, by name
    ("substituters", "extra-substituters", "binary-caches", "extra-binary-caches"): (
        "https://a https://b/ s3://c?region=x file:///d daemon"
    ),
    (
        "trusted-public-keys",
        "extra-trusted-public-keys",
        "extra-binary-cache-public-keys",
        "secret-key-files",
        "extra-secret-key-files",
        "user-agent-suffix",
        "extra-user-agent-suffix",
        "foo",
        "extra-foo",
    ): "k-1:AAAA l-1:BBBB /m = include true",
    ("http-connections", "download-attempts", "binary-caches-parallel-connections"): "1 7 007 +2",
    ("extra-download-attempts", "extra-require-sigs"): "1 true x",
    ("require-sigs",): "true false yes no 1 0",
}
MISTAKES = ("foo", "= x", "include none", "require-sigs = 2", "download-attempts = 1 2", "foo=x")
MISTAKE_RATE = 1 / 150  # of lines


def line(chance: random.Random) -> str:
    if chance.random() < MISTAKE_RATE:
        return chance.choice(MISTAKES)
    names, words = chance.choice(list(WORDS.items()))
    name = chance.choice(names)
    many = ("true" in words and " =" in words) or "daemon" in words
    count = chance.choice([0, 1, 2, 3]) if many else 1
    parts = [name, "=", *chance.choices(words.split(), k=count)]
    blanks = (chance.choice([" ", "\t", "  "]) for _ in parts)
    written = "".join(part + blank for part, blank in zip(parts, blanks, strict=True))
    return written + chance.choice(["", "", "# https://x", "\r", "\n"])


def lines(chance: random.Random, *includes: str) -> str:
    written = [line(chance) for _ in range(10)]
    for include in includes:
        written.insert(chance.randrange(10), include)
    return "\n".join(written)


@pytest.mark.parametrize("seed", range(60))
def test_generated_files_mean_the_same(nix: Nix, seed: int) -> None:
    chance = random.Random(seed)
    nix.put(
        {
            "nix.conf": lines(chance, "include other.conf", "!include none"),
            "user.conf": lines(chance, "!include other.conf"),
            "other.conf": "extra-substituters = https://other\nhttp-connections = 77",
        }
    )
    environ = {
        "HOME": str(nix.place),
        "NIX_CONF_DIR": str(nix.place),
        "NIX_USER_CONF_FILES": f"{nix.place}/user.conf",
        "NIX_CONFIG": lines(chance),
    }
    assert_the_same(nix, environ)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"XDG_CONFIG_HOME": "/c"},
        {"XDG_CONFIG_DIRS": "/a::/b"},
        {"XDG_CONFIG_DIRS": "/b:/a", "XDG_CONFIG_HOME": "/c"},
        {"NIX_USER_CONF_FILES": "/b/nix/nix.conf"},
        {"NIX_USER_CONF_FILES": ""},
    ],
)
def test_user_files_are_found_in_the_same_places(nix: Nix, variables: dict[str, str]) -> None:
    nix.put(
        {
            f"{directory}/nix/nix.conf": f"extra-substituters = https://{name}\n"
            f"user-agent-suffix = {name}\n"
            for name, directory in {"h": ".config", "a": "a", "b": "b", "c": "c"}.items()
        }
    )
    place = str(nix.place)
    environ = {"HOME": place, "NIX_CONF_DIR": place} | {
        name: ":".join(part and f"{place}{part}" for part in value.split(":"))
        for name, value in variables.items()
    }
    theirs, config = nix.settings(environ), ours(nix, environ)
    assert theirs is not None
    assert config is not None
    assert as_nix(config)["substituters"] == comparable(theirs, (2, 8))["substituters"]
    assert config.user_agent_suffix == theirs["user-agent-suffix"]


def test_units_are_those_of_newer_versions(nix: Nix) -> None:
    nix.put({"nix.conf": "connect-timeout = 2K\nnarinfo-cache-positive-ttl = 3m\n"})
    environ = {"HOME": str(nix.place), "NIX_CONF_DIR": str(nix.place), "NIX_USER_CONF_FILES": ""}
    theirs, config = nix.settings(environ), ours(nix, environ)
    assert config is not None
    assert (config.connect_timeout, config.narinfo_positive_ttl) == (2048, 3 * 2**20)
    if nix.version < UNITS_SINCE:
        assert theirs is None
    else:
        assert theirs is not None
        assert (theirs["connect-timeout"], theirs["narinfo-cache-positive-ttl"]) == (
            2048,
            3 * 2**20,
        )
