from __future__ import annotations

import base64
import gzip
import hashlib
import json
import lzma
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import brotli
import pytest

from command import nixfetch
from data_dir import data_dir
from trees import SAMPLE, File, dump, nested, plant

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAR = dump(SAMPLE)
REFUSED_HERE_ALONE = {"trailing-garbage", "trailing-zero8", "two-nars"}


@pytest.fixture
def nar(tmp_path: Path) -> Path:
    file = tmp_path / "sample.nar"
    file.write_bytes(NAR)
    return file


def test_dump(tmp_path: Path) -> None:
    plant(SAMPLE, tmp_path / "tree")
    ran = nixfetch("nar", "dump", tmp_path / "tree")
    assert (ran.code, ran.out, ran.err) == (0, NAR, "")


def test_dump_of_nothing(tmp_path: Path) -> None:
    ran = nixfetch("nar", "dump", tmp_path / "gone")
    assert (ran.code, ran.out) == (6, b"")
    assert "error: no such file or directory" in ran.err


@pytest.mark.parametrize("compress", [bytes, gzip.compress, lzma.compress])
def test_unpack(compress: Callable[[bytes], bytes], nar: Path, tmp_path: Path) -> None:
    nar.write_bytes(compress(NAR))
    ran = nixfetch("nar", "unpack", nar, tmp_path / "tree")
    assert (ran.code, ran.out, ran.err) == (0, b"", "")
    assert nixfetch("nar", "dump", tmp_path / "tree").out == NAR


def test_unpack_from_standard_input(tmp_path: Path) -> None:
    assert nixfetch("nar", "unpack", "-", tmp_path / "tree", stdin=NAR).code == 0
    assert nixfetch("nar", "dump", tmp_path / "tree").out == NAR


def test_unpack_over_something(nar: Path, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    ran = nixfetch("nar", "unpack", nar, tmp_path / "tree")
    assert ran.code == 6
    assert f"error: destination exists already: {tmp_path / 'tree'}" in ran.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_unpack_that_is_interrupted_leaves_nothing(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "nixfetch.cli", "nar", "unpack", "-", str(tmp_path / "tree")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(NAR[:-100])
        process.stdin.flush()
        give_up = time.monotonic() + 30
        while not list(tmp_path.glob(".nixfetch-*/tree/a")) and time.monotonic() < give_up:
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(30) == code
    assert not list(tmp_path.iterdir())


def test_ls(nar: Path) -> None:
    assert nixfetch("nar", "ls", nar).out == b"./a\n./b\n./c\n./z\n"
    assert nixfetch("nar", "ls", nar, "/c/").out == b"./run\n./to\n"
    assert nixfetch("nar", "ls", nar, "c/run").out == b"run\n"
    assert nixfetch("nar", "ls", "-R", "-", "c", stdin=NAR).out == b"./run\n./to\n"
    assert nixfetch("nar", "ls", nar, "/c/to", "--long").out == (
        b"lrwxrwxrwx                    0 to -> ../a\n"
    )


@pytest.mark.parametrize(
    "arguments", [["--json", "nar", "ls", "-R"], ["nar", "ls", "-R", "--json"]]
)
def test_ls_as_json(arguments: list[str], nar: Path) -> None:
    ran = nixfetch(*arguments, nar, "/c")
    assert ran.out.count(b"\n") == 1
    assert json.loads(ran.out) == {
        "type": "directory",
        "entries": {
            "run": {
                "type": "regular",
                "size": 10,
                "executable": True,
                "narOffset": NAR.index(b"#!/bin/sh"),
            },
            "to": {"type": "symlink", "target": "../a"},
        },
    }


def test_ls_longer_than_what_is_held_in_memory() -> None:
    names = [b"%06d" % number + b"-" * 200 for number in range(6000)]
    nar = dump({name: File() for name in names})
    lines = nixfetch("nar", "ls", "-", stdin=nar).out.splitlines()
    assert lines == [b"./" + name for name in names]


def test_ls_prints_nothing_of_a_bad_archive() -> None:
    for flags in ([], ["--json"]):
        ran = nixfetch("nar", "ls", "-", *flags, stdin=NAR + b"\0")
        assert (ran.code, ran.out) == (4, b"")
        assert "bytes after the end of the archive: -" in ran.err


def test_names_that_are_no_text_keep_their_bytes() -> None:
    nar = dump({b"\xff\n\x1b": File(b"x")})
    assert nixfetch("nar", "ls", "-", stdin=nar).out == b"./\xff\n\x1b\n"
    assert nixfetch("nar", "cat", "-", "\udcff\n\x1b", stdin=nar).out == b"x"
    assert b"\xff\\n\\u001b" in nixfetch("nar", "ls", "-", "--json", stdin=nar).out


def test_cat(nar: Path) -> None:
    ran = nixfetch("nar", "cat", nar, "/c/run")
    assert (ran.code, ran.out, ran.err) == (0, b"#!/bin/sh\n", "")


def test_cat_says_when_the_rest_is_bad() -> None:
    ran = nixfetch("nar", "cat", "-", "/a", stdin=NAR[:-8])
    assert (ran.code, ran.out) == (4, b"hello")
    assert "archive is truncated: -" in ran.err


@pytest.mark.parametrize(("inside", "problem"), [("/c", "not a regular"), ("/no", "no such file")])
def test_cat_of_what_has_no_contents(inside: str, problem: str, nar: Path) -> None:
    ran = nixfetch("nar", "cat", nar, inside)
    assert (ran.code, ran.out) == (1, b"")
    assert problem in ran.err
    assert f"inside: {inside}\n" in ran.err


def test_ls_of_what_is_not_there(nar: Path) -> None:
    ran = nixfetch("nar", "ls", nar, "/c/no")
    assert (ran.code, ran.out) == (1, b"")
    assert f"error: no such file in the archive: {nar}\n" in ran.err


@pytest.mark.parametrize("algorithm", ["sha256", "sha512", "sha1", "md5"])
def test_hash_is_sri_by_default(algorithm: str, tmp_path: Path) -> None:
    plant(SAMPLE, tmp_path / "tree")
    digest = base64.b64encode(hashlib.new(algorithm, NAR).digest()).decode()
    for flags in ([], ["--sri"]):
        ran = nixfetch("nar", "hash", "--type", algorithm, *flags, tmp_path / "tree")
        assert ran.out.decode() == f"{algorithm}-{digest}\n"


def test_hash_in_other_forms(tmp_path: Path) -> None:
    plant(SAMPLE, tmp_path / "tree")
    digest = hashlib.sha256(NAR)
    ran = nixfetch("nar", "hash", "--base16", tmp_path / "tree")
    assert ran.out.decode() == digest.hexdigest() + "\n"
    assert len(nixfetch("nar", "hash", "--base32", tmp_path / "tree").out) == 53
    bare = nixfetch("nar", "hash", "--base64", tmp_path / "tree").out
    assert nixfetch("nar", "hash", tmp_path / "tree").out == b"sha256-" + bare


def test_hash_of_a_nar_on_standard_input() -> None:
    ran = nixfetch("nar", "hash", "--base16", "-", stdin=lzma.compress(NAR))
    assert ran.out.decode() == hashlib.sha256(NAR).hexdigest() + "\n"


def test_compression_without_magic() -> None:
    compressed = brotli.compress(NAR)
    assert nixfetch("nar", "ls", "-", "--compression", "br", stdin=compressed).code == 0
    ran = nixfetch("nar", "ls", "-", stdin=compressed)
    assert ran.code == 4
    assert "hint: brotli and lzma have no magic" in ran.err


def test_compression_that_is_none(nar: Path) -> None:
    ran = nixfetch("nar", "ls", nar, "--compression", "zip")
    assert ran.code == 2
    assert "error: no such compression" in ran.err


def test_depth() -> None:
    nar = dump(nested(70, File(b"deep")))
    inside = "/d" * 70
    assert nixfetch("nar", "cat", "-", inside, stdin=nar).code == 4
    assert nixfetch("nar", "cat", "-", inside, "--nar-max-depth", "71", stdin=nar).out == b"deep"
    assert nixfetch("nar", "cat", "-", inside, "--nar-max-depth", "70", stdin=nar).code == 4
    assert nixfetch("nar", "cat", "-", inside, "--nar-max-depth", "0", stdin=nar).code == 2


@pytest.mark.parametrize("action", ["ls", "cat", "unpack"])
def test_a_file_that_is_missing(action: str, tmp_path: Path) -> None:
    ran = nixfetch("nar", action, tmp_path / "gone", tmp_path / "x")
    assert (ran.code, ran.out) == (6, b"")


@pytest.mark.parametrize("arguments", [[], ["unpack", "-"], ["cat", "-"], ["fold", "-"]])
def test_usage(arguments: list[str]) -> None:
    assert nixfetch("nar", *arguments).code == 2


def test_every_crafted_archive_at_every_entry(tmp_path: Path) -> None:
    folder = data_dir("crafted-nar")
    good = set()
    for line in folder.joinpath("RESULTS.txt").read_text().splitlines():
        name, _, verdicts = line.partition("|")
        if "34: OK" in verdicts:
            good.add(name.strip())
    good -= REFUSED_HERE_ALONE
    files = sorted(folder.glob("*.nar"))
    assert len(files) >= 50
    for file in files:
        destination = tmp_path / "here/destination"
        destination.parent.mkdir()
        data = file.read_bytes()
        ran = {
            "unpack": nixfetch("nar", "unpack", file, destination),
            "unpack xz": nixfetch("nar", "unpack", "-", f"{destination}2", stdin=xz(data)),
            "ls": nixfetch("nar", "ls", "-R", "-l", file),
            "ls json": nixfetch("nar", "ls", "-R", "--json", file),
            "hash": nixfetch("nar", "hash", "-", stdin=data),
            "cat": nixfetch("nar", "cat", file, "/"),
        }
        cat = ran.pop("cat")
        codes = {entry: result.code for entry, result in ran.items()}
        if file.stem in good:
            assert codes == dict.fromkeys(codes, 0), file.name
            assert cat.code in {0, 1}, file.name
            assert nixfetch("nar", "dump", destination).out == data
            (tmp_path / "here").rename(tmp_path / file.stem)
            continue
        assert codes == dict.fromkeys(codes, 4), file.name
        assert cat.code == 4, file.name
        assert all(not result.out for result in ran.values()), file.name
        assert not list(destination.parent.iterdir()), file.name
        destination.parent.rmdir()


def xz(data: bytes) -> bytes:
    return lzma.compress(data, preset=0)
