"""The same netrc read by us and by curl, through which Nix reads it.

Asks the curl in PATH and, where NIXFETCH_TEST_CHROOT names the root of another system with a curl
in it (needs root), that one too, which has to be curl 8: curl 7 reads some of it differently.
"""

from __future__ import annotations

import base64
import os
import random
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nixfetch.config.netrc import Netrc
from servers import Answer, LoopbackServer, Request

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.differential

HOST = "cache.example"
TIMEOUT = 60  # seconds for one request over loopback
AS_OURS = (8, 12)  # the first version that is known to read all of it as we do


@dataclass(frozen=True, slots=True)
class Curl:
    """A real curl, and a file of its system."""

    command: list[str]
    file: Path
    """As we see it."""
    inside: str
    """As it sees it."""

    @property
    def version(self) -> tuple[int, ...]:
        done = subprocess.run(
            [*self.command, "--version"],
            capture_output=True,
            text=True,
            check=True,
            timeout=TIMEOUT,
        )
        return tuple(int(part) for part in done.stdout.split()[1].split(".")[:2])

    def sends(self, text: str, *, user: str = "") -> str | None:
        """What it says of us to HOST: ``user:password``."""
        heard: list[str | None] = []

        def answer(request: Request) -> Answer:
            heard.append(request.headers.get("authorization"))
            return Answer(b"")

        self.file.write_text(text)
        with LoopbackServer() as server:
            server.faults["*"] = answer
            where = f"http://{user}{HOST}:{server.port}/"
            there = f"::127.0.0.1:{server.port}"
            flags = ["--silent", "--noproxy", "*", "--netrc-optional", "--connect-to", there]
            subprocess.run(
                [*self.command, *flags, "--netrc-file", self.inside, where],
                check=True,
                timeout=TIMEOUT,
            )
        [field] = heard
        return None if field is None else base64.b64decode(field.removeprefix("Basic ")).decode()


@pytest.fixture(params=["path", "chroot"])
def curl(request: pytest.FixtureRequest) -> Iterator[Curl]:
    if request.param == "path":
        root, command = Path("/"), ["curl"]
        if not shutil.which("curl"):
            pytest.skip("no curl in PATH")
    else:
        named = os.environ.get("NIXFETCH_TEST_CHROOT")
        if not named or os.geteuid():
            pytest.skip("NIXFETCH_TEST_CHROOT is not set, or we are not root")
        root, command = Path(named), ["chroot", named, "curl"]
    with tempfile.TemporaryDirectory(dir=root / "tmp") as place:
        file = Path(place) / "netrc"
        yield Curl([*command, "-q"], file, f"/{file.relative_to(root)}")


def ours(text: str, user: str | None = None) -> str | None:
    found = Netrc.parse(text).find(HOST, user)
    return None if found is None else f"{found.user}:{found.password}"


AGREED = [
    f"machine {HOST} login u password p",
    f"machine\n {HOST}\nlogin\n\tu\npassword\n p\n",
    f"machine {HOST}\r\nlogin u\r\npassword p\r\n",
    "MACHINE Cache.Example Login u PASSWORD p",
    f"machine {HOST} password p login u",
    f"machine {HOST} password p",
    f"machine {HOST} login u",
    f"machine {HOST}",
    "machine example login u password p",
    "machine *.example login u password p",
    f"machine {HOST}. login u password p",
    f"machine {HOST}:80 login u password p",
    f"machine {HOST} login u password p\nmachine {HOST} login v password q",
    f"machine {HOST} login x login u password p",
    f"machine {HOST} password y password p login u",
    f"machine {HOST} account a login u password p",
    "machine other login x password y\ndefault login u password p",
    "default",
    f"machine {HOST}\ndefault login u password p",
    "machine default login u password p",
    f"machine {HOST} login machine password default",
    f"macdef init\nmachine {HOST} login x password y\n\nmachine {HOST} login u password p",
    f"machine {HOST} login u password p\nmacdef init\nlogin x",
    f"# machine {HOST} login x password y\n  # z\nmachine {HOST} login u password p",
    f"machine {HOST} login u password p#q",
    f'machine {HOST} login "u x" password "a\\"b\\\\c\\nd\\re\\tf\\g"',
    f"machine {HOST} login u password p\\q\\\\r",
    f'machine {HOST} login u"x password p"',
    f'machine {HOST} login u password ""',
    f"machine {HOST} login ü password pä",
    f"foo machine {HOST} bar login u password p baz",
]


@pytest.mark.parametrize("text", AGREED)
def test_curl_reads_the_same(curl: Curl, text: str) -> None:
    assert curl.sends(text + "\n") == ours(text + "\n")


WORDS = ["login", "password", "account", "LOGIN", "Password"]
VALUES = ["u", "v", '"w x"', "#p", "p#", '"#"', "a\\b", 'c"d', "machine", '"\\"\\\\\\n"', '"e"']
BLANKS = [" ", "\n", "\t", " \n  "]
ODD = ["foo", "bar", '"login"', "\n# login x\n", "\nmacdef i\nlogin x password y\n\n"]


def written(chance: random.Random) -> str:
    """A file that makes sense, with all that may be in one."""
    parts: list[str] = []
    for _ in range(chance.randrange(1, 4)):
        parts += ["machine", chance.choice([HOST, HOST.upper(), "other.example"])]
        for _ in range(chance.randrange(4)):
            parts += [chance.choice(WORDS), chance.choice(VALUES)]
    if chance.random() < 1 / 3:
        parts += ["default", "login", "d", "password", "e"]
    if chance.random() < 1 / 2:
        parts.insert(0, chance.choice(ODD))
    # Where a line begins with it, "#p" is a comment, and what was to follow is missing.
    blanks = [" " if part.startswith("#") else chance.choice(BLANKS) for part in [*parts[1:], ""]]
    return "".join(part + blank for part, blank in zip(parts, blanks, strict=True))


@pytest.mark.parametrize("curl", ["chroot"], indirect=True)
@pytest.mark.parametrize("seed", range(100))
def test_generated_files_mean_the_same(curl: Curl, seed: int) -> None:
    assert curl.version >= AS_OURS
    text = written(random.Random(seed))
    assert curl.sends(text) == ours(text)
    assert curl.sends(text, user="u@") == (ours(text, "u") or "u:")
