from __future__ import annotations

import json

import pytest

from nixfetch.formats import listing
from nixfetch.formats.listing import ListedDirectory, ListedFile, ListedSymlink, ListingError
from nixfetch.formats.nar import wire
from trees import SAMPLE, File, Link, dump, read

# What Nix 2.34 writes beside the NAR of SAMPLE; 2.8 has another order of keys.
WRITTEN = (
    b'{"root":{"entries":{"a":{"narOffset":232,"size":5,"type":"regular"},'
    b'"b":{"entries":{},"type":"directory"},'
    b'"c":{"entries":{"run":{"executable":true,"narOffset":760,"size":10,"type":"regular"},'
    b'"to":{"target":"../a","type":"symlink"}},"type":"directory"},'
    b'"z":{"narOffset":1184,"size":0,"type":"regular"}},"type":"directory"},"version":1}'
)


def document(root: object) -> bytes:
    return json.dumps({"version": 1, "root": root}).encode()


def test_of_a_nar_and_back() -> None:
    root = listing.of_nar(read([dump(SAMPLE)]))
    assert listing.render(root) == WRITTEN
    assert listing.parse(WRITTEN) == root


def test_of_a_nar_that_is_one_file_or_link() -> None:
    assert listing.of_nar(read([dump(File(b"hello"))])) == ListedFile(5, offset=96)
    assert listing.of_nar(read([dump(Link(b"there"))])) == ListedSymlink(b"there")


def test_entries_come_in_order_of_their_bytes() -> None:
    root = ListedDirectory({b"b": ListedFile(1), b"\xc3\xa9": ListedFile(2), b"a": ListedFile(3)})
    assert [*listing.to_json(root)["entries"]] == ["a", "b", "é"]


def test_offset_and_executable_may_be_missing() -> None:
    assert listing.parse(document({"type": "regular", "size": 3})) == ListedFile(3)
    written = listing.to_json(ListedFile(3))
    assert written == {"size": 3, "type": "regular"}


def test_names_that_are_not_utf_8_keep_their_bytes() -> None:
    root = ListedDirectory({b"\xff": ListedSymlink(b"\xfe\xe9")})
    raw = listing.render(root)
    assert b'"\xff"' in raw
    assert listing.parse(raw) == root


NESTED = '{"type":"directory","entries":{"a":'


def nested(levels: int) -> bytes:
    """A directory in a directory in a directory."""
    inner = NESTED * (levels - 1) + '{"type":"directory","entries":{}}' + "}}" * (levels - 1)
    return f'{{"version":1,"root":{inner}}}'.encode()


def test_depth_is_that_of_nars() -> None:
    listing.parse(nested(wire.MAX_DEPTH))
    with pytest.raises(ListingError, match="nested too deep"):
        listing.parse(nested(wire.MAX_DEPTH + 1))
    with pytest.raises(ListingError, match="not JSON"):
        listing.parse(nested(100_000))


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"", "listing is not JSON"),
        (b"\xff", "listing is not JSON"),
        (b"1" * 5000, "listing is not JSON"),
        (b"[]", "listing has another version"),
        (b"{}", "listing has another version"),
        (b'{"version":2,"root":{}}', "listing has another version"),
        (b'{"version":1}', "node is not an object, or nested too deep"),
        (document([]), "node is not an object, or nested too deep"),
    ],
)
def test_no_listing(raw: bytes, problem: str) -> None:
    with pytest.raises(ListingError) as caught:
        listing.parse(raw)
    assert caught.value.problem == problem


def test_too_large() -> None:
    with pytest.raises(ListingError, match="too large"):
        listing.parse(bytes(listing.MAX_SIZE + 1))


@pytest.mark.parametrize(
    ("node", "problem"),
    [
        ({}, "node has no known type"),
        ({"type": "fifo"}, "node has no known type"),
        ({"type": "regular"}, "node has no known type"),
        ({"type": "regular", "size": -1}, "node has no known type"),
        ({"type": "regular", "size": True}, "node has no known type"),
        ({"type": "regular", "size": "1"}, "node has no known type"),
        ({"type": "symlink"}, "node has no known type"),
        ({"type": "symlink", "target": 1}, "node has no known type"),
        ({"type": "directory"}, "node has no known type"),
        ({"type": "directory", "entries": []}, "node has no known type"),
        *(
            ({"type": "regular", "size": 1, "narOffset": offset}, "narOffset is not a number")
            for offset in (-1, True, "1", 1.5)
        ),
        *(
            ({"type": "directory", "entries": {name: {}}}, "file name is not allowed")
            for name in ("", ".", "..", "a/b", "a\0", "a" * 256)
        ),
        *(
            ({"type": "symlink", "target": target}, "symlink target is not allowed")
            for target in ("", "a\0", "a" * 4096)
        ),
        ({"type": "symlink", "target": "\ud800"}, "file name or target is not text"),
        (
            {"type": "directory", "entries": {"\ud800": {}}},
            "file name or target is not text",
        ),
    ],
)
def test_no_node(node: object, problem: str) -> None:
    for root in (node, {"type": "directory", "entries": {"x": node}}):
        with pytest.raises(ListingError) as caught:
            listing.parse(document(root))
        assert caught.value.problem == problem
