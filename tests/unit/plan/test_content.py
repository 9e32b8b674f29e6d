"""Content addresses against contents, each method with each algorithm."""

from __future__ import annotations

import hashlib
import importlib.util

import pytest

from nixfetch.errors import NixfetchError
from nixfetch.formats.contentaddress import ContentAddress, Method
from nixfetch.formats.git import GitHasher
from nixfetch.formats.hashes import Hash, hasher, sha256
from nixfetch.formats.nar import NarReader
from nixfetch.formats.narinfo import NarInfo
from nixfetch.formats.storepath import StorePath
from nixfetch.plan.content import WrongContentError, content_check
from trees import SAMPLE, File, Link, Tree, events, pieces, textbook

ALGORITHMS = ["md5", "sha1", "sha256", "sha512"]
if importlib.util.find_spec("blake3") is not None:
    ALGORITHMS.append("blake3")
SELFISH = "x6lavq09h07n0gz0n184w9jln2wxdxsq-selfish"


def judge(
    ca: ContentAddress,
    nar: bytes,
    path: StorePath | None = None,
    size: int = 7,
    *,
    signed: bool = False,
) -> None:
    """Raise unless `nar` is what `ca` says, for a path that mentions itself where given."""
    named = path or ca.path("a")
    info = NarInfo(
        path=named,
        nar_hash=sha256(nar),
        nar_size=len(nar),
        references=(path,) if path else (),
        url="nar/a",
        ca=ca,
    )
    check = content_check(info, signed=signed)
    assert check is not None
    reader = NarReader()
    for piece in pieces(nar, size):
        check.update(piece)
        for event in reader.feed(piece):
            check.apply(event)
    check.finish()


def digest(algorithm: str, data: bytes) -> Hash:
    made = hasher(algorithm)
    made.update(data)
    return Hash(algorithm, made.digest())


def git(algorithm: str, tree: Tree) -> Hash:
    made = GitHasher(algorithm)
    for event in events(tree):
        made.apply(event)
    return Hash(algorithm, made.digest())


def test_a_path_without_a_content_address_has_no_check() -> None:
    info = NarInfo(path=StorePath(SELFISH), nar_hash=sha256(b""), nar_size=1, url="nar/a")
    assert content_check(info) is None


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("tree", [File(b"hello"), File(b""), SAMPLE])
def test_recursive(algorithm: str, tree: Tree) -> None:
    nar = textbook(tree)
    judge(ContentAddress(Method.RECURSIVE, digest(algorithm, nar)), nar)
    with pytest.raises(WrongContentError) as caught:
        judge(ContentAddress(Method.RECURSIVE, digest(algorithm, nar + b"x")), nar)
    assert caught.value.problem == "content does not match its content address"
    assert caught.value.facts["actual"] == [str(digest(algorithm, nar))]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("contents", [b"hello", b"", bytes(1000)])
def test_flat(algorithm: str, contents: bytes) -> None:
    ca = ContentAddress(Method.FLAT, digest(algorithm, contents))
    judge(ca, textbook(File(contents)))
    with pytest.raises(WrongContentError, match="does not match"):
        judge(ca, textbook(File(contents + b"x")))


@pytest.mark.parametrize("method", [Method.FLAT, Method.TEXT])
@pytest.mark.parametrize(
    "tree", [File(b"hello", executable=True), {b"a": File(b"hello")}, Link(b"hello"), {}]
)
def test_what_a_flat_hash_does_not_cover_is_refused(method: Method, tree: Tree) -> None:
    ca = ContentAddress(method, sha256(b"hello"))
    with pytest.raises(WrongContentError) as caught:
        judge(ca, textbook(tree))
    assert caught.value.problem == "content address is for a plain file, and this is none"


def test_text() -> None:
    ca = ContentAddress(Method.TEXT, sha256(b"hello"))
    judge(ca, textbook(File(b"hello")))
    with pytest.raises(WrongContentError, match="does not match"):
        judge(ca, textbook(File(b"hallo")))


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
@pytest.mark.parametrize("tree", [File(b"hello"), File(b"x", executable=True), Link(b"x"), SAMPLE])
def test_git(algorithm: str, tree: Tree) -> None:
    judge(ContentAddress(Method.GIT, git(algorithm, tree)), textbook(tree), signed=True)
    with pytest.raises(WrongContentError, match="does not match"):
        judge(ContentAddress(Method.GIT, git(algorithm, tree)), textbook(File(b"another")))


@pytest.mark.parametrize("tree", [File(b"x", executable=True), Link(b"x")])
def test_what_a_git_hash_does_not_cover_needs_a_signature(tree: Tree) -> None:
    address = ContentAddress(Method.GIT, git("sha1", File(b"x")))
    judge(address, textbook(File(b"x")))
    judge(address, textbook(tree), signed=True)
    with pytest.raises(WrongContentError, match="plain file"):
        judge(address, textbook(tree))


def test_what_a_flat_hash_does_not_cover_needs_a_signature() -> None:
    address = ContentAddress(Method.FLAT, sha256(b"x"))
    program = textbook(File(b"x", executable=True))
    judge(address, program, signed=True)
    with pytest.raises(WrongContentError, match="plain file"):
        judge(address, program)


def selfish(base: str) -> bytes:
    """A file that names its own directory twice; what `make-content-addressed` was given."""
    text = f"I am /nix/store/{base}, twice /nix/store/{base}/x\n"
    return textbook({b"me": File(text.encode())})


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize(
    ("base", "ca"),
    [
        # Nix 2.8 hashes the offsets of the mentions behind the data
        (SELFISH, "fixed:r:sha256:08xka4q1g2lrk3fc1vynzzfxf0mmsfnakyc7q4dhpcghw7kv69ha"),
        # and 2.34 does not
        (
            "zza8325ysrkf6hj5mhs5bd0ad2lz5vhb-selfish",
            "fixed:r:sha256:0f6gd9p6pi2qv14z85j9cw5xkp5xv8havlq1mcfc4lqrhz8bx2l3",
        ),
    ],
)
def test_self_references_in_both_definitions(base: str, ca: str, size: int) -> None:
    address, path, nar = ContentAddress.parse(ca), StorePath(base), selfish(base)
    assert address.is_address_of(path, [path])
    judge(address, nar, path, size)
    with pytest.raises(WrongContentError) as caught:
        judge(address, nar.replace(b"twice", b"thrice"[:5]), path, size)
    actual = caught.value.facts["actual"]
    assert isinstance(actual, list)
    assert len(actual) == 2
    # The plain hash of the NAR is no content address of a path that mentions itself.
    with pytest.raises(WrongContentError):
        judge(ContentAddress(Method.RECURSIVE, sha256(nar)), nar, path, size)


def test_a_self_reference_that_does_not_occur_is_fine() -> None:
    # Both definitions are then the plain hash.
    nar = textbook(File(b"hello"))
    ca = ContentAddress(Method.RECURSIVE, Hash("sha256", hashlib.sha256(nar).digest()))
    judge(ca, nar, ca.path("a", self_reference=True))


def test_the_check_raises_errors_of_the_trust_family() -> None:
    assert issubclass(WrongContentError, NixfetchError)
    assert WrongContentError("x").exit_code == 4
