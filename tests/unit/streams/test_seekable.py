from __future__ import annotations

import random

import pytest
import zstandard

from nixfetch.streams import codecs
from nixfetch.streams.codecs import CodecError
from nixfetch.streams.seekable import (
    FOOTER,
    FRAME,
    SeekableCompressor,
    parse_table,
    table,
    table_size,
)


def compressed(data: bytes, *, piece: int = 100_000, frame: int = FRAME) -> bytes:
    compressor = SeekableCompressor(3, frame=frame)
    frames: list[bytes] = []
    for start in range(0, len(data), piece):
        frames += compressor.feed(data[start : start + piece])
    return b"".join([*frames, *compressor.finish()])


def random_text(size: int) -> bytes:
    return bytes(random.Random(1).choices(b"abcdefgh", k=size))


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001, 5000, 12345])
@pytest.mark.parametrize("piece", [1, 7, 1000, 100_000])
def test_any_decoder_reads_it(size: int, piece: int) -> None:
    data = random_text(size)
    made = compressed(data, piece=piece, frame=1000)
    assert b"".join(codecs.decode("zstd", [made])) == data
    reader = zstandard.ZstdDecompressor().stream_reader(made, read_across_frames=True)
    assert reader.read() == data
    assert made == compressed(data, piece=13, frame=1000)


def test_parts_can_be_read() -> None:
    data = random_text(3 * FRAME + 5)
    made = compressed(data)
    size = table_size(made[-FOOTER:])
    assert size is not None
    parts = parse_table(made[-size:])
    assert [part.content_stop - part.content_start for part in parts] == [FRAME] * 3 + [5]
    assert parts[-1].stop == len(made) - size
    for part in parts:
        content = zstandard.decompress(made[part.start : part.stop])
        assert content == data[part.content_start : part.content_stop]


@pytest.mark.parametrize("data", [b"", b"short", bytes(100), zstandard.compress(b"x" * 100)])
def test_without_a_table(data: bytes) -> None:
    assert table_size(data) is None


def test_tables_with_checksums_are_read_too() -> None:
    plain = table([(5, 10)])
    entry = plain[8:16] + b"\1\2\3\4"
    checked = plain[:4] + (len(entry) + FOOTER).to_bytes(4, "little") + entry
    checked += plain[16:20] + b"\x80" + plain[21:]
    assert parse_table(checked) == parse_table(plain)


@pytest.mark.parametrize(
    "raw",
    [
        table([(1, 1)])[:-FOOTER] + b"\0" * FOOTER,
        table([(1, 1)])[8:],
        b"\0" + table([(1, 1)])[1:],
        table([(1, 1)]) + b"x",
        table([(1, 1), (2, 2)])[:12] + table([(1, 1), (2, 2)])[20:],
    ],
)
def test_bad_tables(raw: bytes) -> None:
    with pytest.raises(CodecError):
        parse_table(raw)


def test_unknown_kinds_of_tables() -> None:
    raw = bytearray(table([(1, 1)]))
    raw[-5] |= 0x04
    with pytest.raises(CodecError):
        table_size(bytes(raw))
    raw = bytearray(table([(1, 1)]))
    raw[-9:-5] = b"\xff" * 4
    with pytest.raises(CodecError):
        table_size(bytes(raw))
