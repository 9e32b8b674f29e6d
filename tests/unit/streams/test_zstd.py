from __future__ import annotations

import os

import pytest
import zstandard

from nixfetch.streams.codecs import PIECE, CodecError, MemoryLimitError, TruncatedError, decode
from nixfetch.streams.zstd_frames import MAX_BLOCK, MAX_WINDOW, FrameScanner
from unit.streams.encoders import cut

MIB = 1 << 20
MAGIC = b"\x28\xb5\x2f\xfd"
RAW, RLE, COMPRESSED, RESERVED = range(4)


def block(kind: int, size: int, body: bytes, *, last: bool = True) -> bytes:
    return (size << 3 | kind << 1 | last).to_bytes(3, "little") + body


def frame(*blocks: bytes, window: int = 0x38, descriptor: int = 0) -> bytes:
    """A frame with a window byte; 0x38 means 128 KiB."""
    return MAGIC + bytes([descriptor, window]) + b"".join(blocks)


def skippable(content: bytes, digit: int = 0) -> bytes:
    magic = 0x184D2A50 + digit
    return magic.to_bytes(4, "little") + len(content).to_bytes(4, "little") + content


def whole(data: bytes, **options: int) -> bytes:
    return b"".join(decode("zstd", [data], **options))


def test_raw_and_rle_blocks() -> None:
    data = frame(block(RAW, 5, b"hello", last=False), block(RLE, 1000, b"x"))
    for size in (1, 2, 7, 100):
        assert b"".join(decode("zstd", cut(data, size))) == b"hello" + b"x" * 1000


def test_an_empty_last_block() -> None:
    assert whole(frame(block(RAW, 5, b"hello", last=False), block(RAW, 0, b""))) == b"hello"


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 65791, 65792, 300_000])
@pytest.mark.parametrize("write_checksum", [True, False])
@pytest.mark.parametrize("write_content_size", [True, False])
def test_each_form_of_header(size: int, write_checksum: bool, write_content_size: bool) -> None:
    data = os.urandom(size)
    encoder = zstandard.ZstdCompressor(
        write_checksum=write_checksum, write_content_size=write_content_size
    )
    encoded = encoder.compress(data)
    for step in (1, 1000, len(encoded)):
        assert b"".join(decode("zstd", cut(encoded, step))) == data
    with pytest.raises(TruncatedError):
        whole(encoded[:-1])


def test_frames_of_eight_bytes_of_content_size() -> None:
    data = MAGIC + b"\xe0" + (5).to_bytes(8, "little") + block(RAW, 5, b"hello")
    assert whole(data) == b"hello"


def test_skippable_frames_anywhere() -> None:
    one = frame(block(RAW, 3, b"one"))
    two = frame(block(RAW, 3, b"two"))
    data = skippable(b"head") + one + skippable(b"", 15) + skippable(b"x" * 300) + two
    for size in (1, 5, 1000):
        assert b"".join(decode("zstd", cut(data + skippable(b"tail"), size))) == b"onetwo"
    with pytest.raises(TruncatedError):
        whole(one + skippable(b"tail")[:-1])


def test_data_may_end_behind_any_frame_and_nowhere_else() -> None:
    one = zstandard.ZstdCompressor(write_checksum=True).compress(b"one" * 100)
    data = one + skippable(b"x") + one
    ends = {len(one), len(one) + 9, len(data)}
    for stop in range(len(data)):
        if stop in ends:
            whole(data[:stop])
        else:
            with pytest.raises(TruncatedError):
                whole(data[:stop])


def test_garbage_between_frames() -> None:
    one = frame(block(RAW, 3, b"one"))
    with pytest.raises(CodecError) as caught:
        whole(one + b"junk" + one)
    assert caught.value.facts["reason"] == "no frame where one should begin"
    with pytest.raises(CodecError):
        list(decode("zstd", cut(one + b"junk" + one, 1)))


def test_the_checksum_is_checked() -> None:
    encoded = bytearray(zstandard.ZstdCompressor(write_checksum=True).compress(b"hello" * 9))
    encoded[-1] ^= 1
    with pytest.raises(CodecError, match="checksum"):
        whole(bytes(encoded))


def test_the_content_size_is_checked() -> None:
    with pytest.raises(CodecError):
        whole(MAGIC + b"\x20\x06" + block(RAW, 5, b"hello"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (frame(block(RAW, 1, b"x"), descriptor=0x08), "reserved bit is set"),
        (frame(block(RESERVED, 1, b"x")), "no such type of block"),
        (frame(block(RAW, MAX_BLOCK + 1, bytes(MAX_BLOCK + 1))), "block is too large"),
        (frame(block(RLE, 1025, b"x"), window=0), "block is too large"),
        (MAGIC + b"\x01\x38\x07" + block(RAW, 1, b"x"), "needs a dictionary"),
        (MAGIC + b"\x23\x07\0\0\0\x01" + block(RAW, 1, b"x"), "needs a dictionary"),
    ],
)
def test_illegal_headers(data: bytes, reason: str) -> None:
    for size in (1, len(data)):
        with pytest.raises(CodecError) as caught:
            list(decode("zstd", cut(data, size)))
        assert caught.value.facts == {"compression": "zstd", "reason": reason}


def test_a_dictionary_id_of_zero_is_none() -> None:
    assert whole(MAGIC + b"\x01\x38\x00" + block(RAW, 1, b"x")) == b"x"


def test_windows_are_limited() -> None:
    widest = 17 << 3  # 2 ** (10 + 17) bytes
    assert whole(frame(block(RAW, 1, b"x"), window=widest)) == b"x"
    for window, needed in [(widest + 1, MAX_WINDOW // 8 * 9), (0xFF, 15 << 38)]:
        for memory_limit in (MAX_WINDOW, 1 << 40):
            with pytest.raises(MemoryLimitError) as caught:
                whole(frame(block(RAW, 1, b"x"), window=window), memory_limit=memory_limit)
            assert caught.value.facts == {
                "compression": "zstd",
                "limit": MAX_WINDOW,
                "needed": needed,
            }
    with pytest.raises(MemoryLimitError):
        whole(frame(block(RAW, 1, b"x")), memory_limit=64 * 1024)


def test_a_single_segment_is_a_window() -> None:
    size = (MAX_WINDOW + 1).to_bytes(4, "little")
    with pytest.raises(MemoryLimitError):
        whole(MAGIC + b"\xa0" + size + block(RAW, 1, b"x"))


def test_damage_inside_a_block_is_reported_by_the_library() -> None:
    with pytest.raises(CodecError) as caught:
        whole(frame(block(COMPRESSED, 5, b"\xff" * 5)))
    assert "error" in str(caught.value.facts["reason"])


def test_blocks_that_make_much_of_little_come_one_piece_at_a_time() -> None:
    blocks = [block(RLE, MAX_BLOCK, b"x", last=False)] * 1000 + [block(RLE, 1, b"x")]
    sizes = [len(piece) for piece in decode("zstd", [frame(*blocks)])]
    assert sizes == [PIECE] * 500 + [1]


def test_frames_one_after_another_fill_pieces_together() -> None:
    data = frame(block(RAW, 1, b"x")) * 1000
    assert list(decode("zstd", [data])) == [b"x" * 1000]


def test_cuts_come_no_further_apart_than_a_piece_over_all_calls() -> None:
    scanner = FrameScanner(MAX_WINDOW)
    data = frame(*[block(COMPRESSED, 10, bytes(10), last=False)] * 9)
    assert list(scanner.cuts(data[:6])) == []
    assert not scanner.complete
    # the header of each block is before the cut, its ten bytes behind
    assert list(scanner.cuts(data[6:])) == [13 * n + 3 for n in (2, 4, 6, 8)]


@pytest.mark.parametrize("level", [1, 3, 19])
def test_many_blocks_of_each_level(level: int) -> None:
    data = b"".join(os.urandom(997) * 300 for _ in range(10))
    encoded = zstandard.ZstdCompressor(level=level).compress(data)
    pieces = list(decode("zstd", cut(encoded, 64 * 1024)))
    assert b"".join(pieces) == data
    assert max(map(len, pieces)) <= PIECE
