"""Values to generate: file trees, store paths, hashes, keys, narinfos, graphs of references."""

from __future__ import annotations

import string as ascii_
from itertools import pairwise
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from nixfetch.formats.base32 import ALPHABET
from nixfetch.formats.contentaddress import ContentAddress, Method
from nixfetch.formats.hashes import SIZES, Hash
from nixfetch.formats.narinfo import MAX_NUMBER, NarInfo
from nixfetch.formats.signing import SecretKey, Signature
from nixfetch.formats.storepath import StorePath
from trees import File, Link, Tree

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME_CHARACTERS = ascii_.ascii_letters + ascii_.digits + "+-._?="
VISIBLE = "".join(map(chr, range(33, 127)))
KEY_NAMES = "".join(set(VISIBLE) - {":"})

file_names = st.one_of(
    st.sampled_from([b")", b"(", b"entry", b"node", b"name", b"type", b"a" * 255, b"\xff", b"\n"]),
    st.binary(min_size=1, max_size=20).filter(
        lambda name: name not in {b".", b".."} and not {0, ord("/")} & set(name)
    ),
)
files = st.builds(File, st.binary(max_size=64), st.booleans())
links = st.builds(Link, st.binary(min_size=1, max_size=40).filter(lambda target: 0 not in target))
trees: st.SearchStrategy[Tree] = st.recursive(
    files | links, lambda nodes: st.dictionaries(file_names, nodes, max_size=4), max_leaves=12
)

hash_parts = st.text(ALPHABET, min_size=32, max_size=32)
names = st.text(NAME_CHARACTERS, min_size=1, max_size=30).filter(
    lambda name: name.split("-")[0] not in {".", ".."}
)
store_paths = st.builds(lambda part, name: StorePath.parse(f"{part}-{name}"), hash_parts, names)


def hashes(*algorithms: str) -> st.SearchStrategy[Hash]:
    return st.sampled_from(algorithms).flatmap(
        lambda algorithm: st.builds(
            Hash,
            st.just(algorithm),
            st.binary(min_size=SIZES[algorithm], max_size=SIZES[algorithm]),
        )
    )


content_addresses = st.one_of(
    st.builds(ContentAddress, st.just(Method.TEXT), hashes("sha256")),
    st.builds(ContentAddress, st.just(Method.GIT), hashes("sha1", "sha256")),
    st.builds(ContentAddress, st.sampled_from([Method.FLAT, Method.RECURSIVE]), hashes(*SIZES)),
)
key_names = st.text(KEY_NAMES, min_size=1, max_size=20)
secret_keys = st.builds(SecretKey.from_seed, key_names, st.binary(min_size=32, max_size=32))
signatures = st.builds(Signature, key_names, st.binary(max_size=70))
narinfos = st.builds(
    NarInfo,
    path=store_paths,
    nar_hash=hashes("sha256"),
    nar_size=st.integers(1, MAX_NUMBER),
    references=st.sets(store_paths, max_size=4).map(lambda paths: tuple(sorted(paths))),
    signatures=st.lists(signatures, max_size=3).map(lambda some: tuple(sorted(some, key=str))),
    url=st.text(VISIBLE, min_size=1, max_size=40),
    compression=st.sampled_from(["none", "xz", "zstd", "bzip2"]),
    file_hash=st.none() | hashes("sha256"),
    file_size=st.none() | st.integers(0, MAX_NUMBER),
    deriver=st.none() | store_paths,
    ca=st.none() | content_addresses,
    extra=st.lists(
        st.tuples(st.sampled_from(["System", "X-Own", "sig"]), st.text(VISIBLE, max_size=9)),
        max_size=2,
    ).map(tuple),
)


@st.composite
def graphs(draw: st.DrawFn, *, max_size: int = 12) -> list[tuple[StorePath, list[StorePath]]]:
    """Paths and what each refers to, without circles but for itself; references come first."""
    size = draw(st.integers(1, max_size))
    order = [numbered(n) for n in draw(st.permutations(range(size)))]
    return [
        (path, draw(st.lists(st.sampled_from(order[: position + 1]), unique=True, max_size=4)))
        for position, path in enumerate(order)
    ]


def numbered(number: int) -> StorePath:
    """A store path of its own for each number."""
    digits = ""
    for _ in range(32):
        number, digit = divmod(number, 32)
        digits = ALPHABET[digit] + digits
    return StorePath(f"{digits}-n")


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """`data` cut at these places, taken modulo its length."""
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:stop] for start, stop in pairwise(edges)]
