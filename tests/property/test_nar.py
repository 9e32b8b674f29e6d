"""Properties of the NAR reader and writer that hold for every tree and every way to cut it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nixfetch.formats import listing
from nixfetch.formats.nar import Contents, NarError, NarReader, Regular, wire
from nixfetch.formats.nar.writer import write
from property.strategies import cut, trees
from trees import File, Tree, dump, events, pieces, read, strings, textbook

if TYPE_CHECKING:
    from nixfetch.formats.nar import Event


def without_offsets(some: list[Event]) -> list[Event]:
    return [event._replace(offset=0) if isinstance(event, Regular) else event for event in some]


@given(tree=trees)
def test_the_writer_follows_the_grammar(tree: Tree) -> None:
    assert dump(tree) == textbook(tree)


@given(tree=trees, places=st.lists(st.integers(0, 2000)))
@example(tree={b")": File(b"one"), b"z": File(b"two")}, places=[])  # go-nix loses "z"
def test_cutting_the_stream_changes_nothing(tree: Tree, places: list[int]) -> None:
    nar = textbook(tree)
    whole = read([nar])
    assert without_offsets(whole) == list(events(tree))
    assert read(cut(nar, places)) == whole
    assert read(pieces(nar, 1)) == whole


@given(tree=trees)
def test_reading_then_writing_gives_the_bytes_back(tree: Tree) -> None:
    nar = textbook(tree)
    assert b"".join(write(read(pieces(nar, 7)))) == nar


@given(tree=trees)
def test_offsets_are_where_the_contents_stand(tree: Tree) -> None:
    nar = textbook(tree)
    found = read([nar])
    for event, following in zip(found, [*found[1:], None], strict=True):
        if isinstance(event, Regular) and event.size:
            assert isinstance(following, Contents)
            assert nar[event.offset : event.offset + event.size] == bytes(following.data)


@given(tree=trees, data=st.data())
def test_every_prefix_is_truncated_and_never_more(tree: Tree, data: st.DataObject) -> None:
    nar = textbook(tree)
    length = data.draw(st.integers(0, len(nar) - 1))
    with pytest.raises(NarError, match="truncated"):
        read([nar[:length]])


@given(tree=trees, more=st.binary(min_size=1, max_size=20), size=st.integers(1, 300))
def test_nothing_may_follow(tree: Tree, more: bytes, size: int) -> None:
    with pytest.raises(NarError, match="bytes after the end"):
        read(pieces(textbook(tree) + more, size))


@given(tree=trees, position=st.integers(0), flip=st.integers(1, 255))
def test_damage_is_a_nar_error_or_another_archive(tree: Tree, position: int, flip: int) -> None:
    nar = bytearray(textbook(tree))
    nar[position % len(nar)] ^= flip
    with suppress(NarError):
        assert b"".join(write(read([bytes(nar)]))) == nar


tokens = st.sampled_from(
    [
        "nix-archive-1",
        "(",
        ")",
        "type",
        "regular",
        "directory",
        "symlink",
        "executable",
        "contents",
        "target",
        "entry",
        "name",
        "node",
        "a",
        "b",
        "..",
        "a/b",
        "a\0",
        "",
    ]
)


@given(words=st.lists(tokens, max_size=25), tail=st.binary(max_size=9))
def test_any_words_are_a_nar_error_or_a_canonical_archive(words: list[str], tail: bytes) -> None:
    nar = strings("nix-archive-1", *words) + tail
    with suppress(NarError):
        assert b"".join(write(read([nar]))) == nar


@given(junk=st.binary(max_size=200))
def test_junk_is_a_nar_error(junk: bytes) -> None:
    with pytest.raises(NarError):
        read([junk])


@given(tree=trees, size=st.integers(1, 50))
def test_memory_is_one_token_at_most(tree: Tree, size: int) -> None:
    reader = NarReader()
    for piece in pieces(textbook(tree), size):
        reader.feed(piece)
        assert len(reader._unread) <= wire.MAX_TARGET + 2 * wire.LENGTH + size
    assert reader.offset == len(textbook(tree))


@given(tree=trees)
def test_a_listing_survives_its_file(tree: Tree) -> None:
    root = listing.of_nar(read([textbook(tree)]))
    assert listing.parse(listing.render(root)) == root
