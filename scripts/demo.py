"""The demo: every command is printed as a user would type it, run, and held to its outcome.

Works as root and as an ordinary user, without network, on a machine without Nix. Exits with 0
only when every step did what it should.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
PATHS = json.loads((FIXTURES / "paths.json").read_text())
ROOT, KEY = PATHS["root"], PATHS["keys"]["fixture-1"]["public"]
GREET = PATHS["roles"]["dynamic"]
NOT_BELIEVED = 4
PATIENCE = 20.0  # seconds for any one command
NARINFO = f"{Path(GREET).name[:32]}.narinfo"


def main() -> None:
    if shutil.which("nixfetch") is None:
        _fail("`nixfetch` in PATH; `make demo` sees to that")
    with _workplace() as place:
        os.chdir(place)
        shutil.copytree(FIXTURES / "cache-zstd", "cache")
        with _serving("cache") as url:
            _say("Say once where from, whom to trust, and where to; flags would do as well.")
            _export(NIXFETCH_FROM=url, NIXFETCH_TRUSTED_KEYS=KEY, NIXFETCH_STORE=f"{place}/store")
            _look()
            _fetch()
        _check(place / "store")
        _run_program(place / "store")
        _refuse_tampered_nar()
        _refuse_forged_narinfo()
    _say("All of it did what it should.")


def _look() -> None:
    _say("What does the cache say about it? Nothing is downloaded but narinfos.")
    _run("nixfetch", "path-info", "--closure-size", "--human-readable", "--sigs", ROOT)
    closure = _run("nixfetch", "closure", ROOT).splitlines()
    _expect(sorted(closure) == sorted(PATHS["closure"]), "the closure is the one that was built")


def _fetch() -> None:
    _say("Fetch it. -v says of each path where it came from and who vouches for it.")
    told = _run("nixfetch", "fetch", "-v", ROOT, with_errors=True)
    _expect(told.count("signed by fixture-1") == len(PATHS["keys"]["fixture-1"]["signs"]), "signed")
    _expect("fetched 11 paths" in told, "all eleven paths came")
    _say("Once more: there is nothing left to do.")
    _expect("already" in _run("nixfetch", "fetch", ROOT, with_errors=True), "nothing was fetched")


def _check(store: Path) -> None:
    _say("Here it lies, as Nix would have it; every byte and every signature is checked again.")
    _run("ls", "-l", f"{store}/nix/store")
    _run("nixfetch", "verify", "--all")


def _run_program(store: Path) -> None:
    _say("Run the program: it sees its closure at /nix/store, and nobody else does.")
    program, greeting = PATHS["programs"]["dynamic"], PATHS["output"]["dynamic"]
    refusal = _refusal(["nixfetch", "run", program, "you"])
    if refusal is not None and "namespace" in refusal:
        print(f"This machine lets an ordinary user make no namespace: {refusal}")
        print("So the dynamic program cannot see /nix/store; the static one needs nothing.")
        static = f"{store}{PATHS['programs']['static']}"
        _expect("hello from the Nix store" in _run(static, "you"), "the program ran")
        return
    _expect(_run("nixfetch", "run", program, "you") == greeting, "the program greeted")
    _say("Or have others mount it: bubblewrap, runc, systemd, fstab.")
    spec = json.loads(_run("nixfetch", "mounts", GREET))
    _expect(len(spec["mounts"]) == len(spec["closure"]), "one mount a path")


def _refuse_tampered_nar() -> None:
    import zstandard

    from nixfetch.streams import codecs

    _say("A cache that was tampered with: one byte of one archive is another.")
    file = Path("tampered", _field("cache", "URL"))
    _copy("tampered")
    nar = b"".join(codecs.decode("zstd", [file.read_bytes()]))
    offset = nar.index(b"this line")
    nar = nar.replace(b"this line", b"This line", 1)
    file.write_bytes(zstandard.compress(nar))
    print(f"$ # {file}, byte {offset} of what is packed in it: t -> T")
    told = _refused("tampered", store="tampered-store")
    _expect("archive has the wrong hash" in told, "the hash gave it away")


def _refuse_forged_narinfo() -> None:
    _say("A cache that lies: a narinfo names other content than was signed.")
    _copy("forged")
    old = _field("forged", "NarHash")
    new = "sha256:" + old.removeprefix("sha256:")[::-1].replace("z", "0", 1)
    # The first digit of 52 holds one bit: 0 or 1.
    new = f"sha256:0{new.removeprefix('sha256:')[1:]}"
    _run("sed", "-i", f"s/{old}/{new}/", f"forged/{NARINFO}")
    told = _refused("forged", store="forged-store")
    _expect("signature is wrong" in told, "the signature gave it away")


def _refused(cache: str, *, store: str) -> str:
    """Fetch from `cache`, which must fail as it should, and leave nothing of the bad path."""
    with _serving(cache) as url:
        command = ("nixfetch", "fetch", ROOT, "--from", url, "--store", store)
        told = _run(*command, status=NOT_BELIEVED, with_errors=True)
    _expect("error: " in told and GREET in told, "the message names the path")
    _say("Nothing of it was left in the store, nor of what refers to it.")
    names = _run("ls", f"{store}/nix/store").split()
    bad = {Path(path).name[:32] for path in (GREET, ROOT)}
    _expect(not any(name[:32] in bad for name in names), "the store is clean")
    return told


def _field(cache: str, name: str) -> str:
    found = re.search(rf"^{name}: (\S+)$", Path(cache, NARINFO).read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def _copy(name: str) -> None:
    print(f"$ cp -r cache {name}")
    shutil.copytree("cache", name)


@contextmanager
def _serving(cache: str) -> Iterator[str]:
    """Serve a directory on loopback; gives the URL."""
    command = ["nixfetch", "serve", "--cache", cache, "--listen", "127.0.0.1:0"]
    print(f"$ {shlex.join(command)} &")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            line = server.stderr.readline().rstrip()
            print(line, flush=True)
            url = re.search(r"http://\S+", line)
            _expect(url is not None, "the server says where it listens")
            assert url is not None
            yield url[0]
        finally:
            server.terminate()


def _run(*command: str, status: int = 0, with_errors: bool = False) -> str:
    """Show a command, run it, show its output; what it wrote."""
    print(f"$ {shlex.join(command)}", flush=True)
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if with_errors else None,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    print(done.stdout, end="", flush=True)
    if status:
        print(f"$ echo $?\n{done.returncode}")
    _expect(done.returncode == status, f"exit code {status}, not {done.returncode}")
    return done.stdout


def _refusal(command: list[str]) -> str | None:
    """Why `command` cannot be run here; None where it can."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except OSError as error:
        return str(error)
    return (done.stderr.strip() or f"exit code {done.returncode}") if done.returncode else None


def _export(**variables: str) -> None:
    for name, value in variables.items():
        print(f"$ export {name}={shlex.quote(value)}")
    os.environ |= variables


@contextmanager
def _workplace() -> Iterator[Path]:
    """A fresh directory, and no settings of this machine or its user."""
    place = Path(tempfile.mkdtemp(prefix="nixfetch-demo-"))
    for name in list(os.environ):
        if name.startswith(("NIXFETCH_", "NIX_", "XDG_")):
            del os.environ[name]
    os.environ |= {"HOME": str(place), "NIX_CONF_DIR": str(place)}
    try:
        yield place
    finally:
        os.chdir("/")
        for directory, _, _ in os.walk(place):  # store paths are read-only
            Path(directory).chmod(0o700)
        shutil.rmtree(place)


def _say(text: str) -> None:
    print(f"\n# {text}", flush=True)


def _expect(fulfilled: bool, what: str) -> None:
    if not fulfilled:
        _fail(what)


def _fail(what: str) -> NoReturn:
    sys.exit(f"demo: expected: {what}")


if __name__ == "__main__":
    main()
