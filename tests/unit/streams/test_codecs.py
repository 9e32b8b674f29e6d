from __future__ import annotations

import gzip
import hashlib
import itertools
import lzma
import os
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import brotli
import pytest

from nixfetch.errors import FormatError
from nixfetch.streams.codecs import (
    HEAD,
    MEMORY_LIMIT,
    PIECE,
    CodecError,
    MemoryLimitError,
    TruncatedError,
    UnsupportedCompressionError,
    decode,
    decoder,
    recognise,
    supported,
)
from unit.streams.encoders import ENCODERS, cut, lzip, raw_deflate

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20
every = pytest.mark.parametrize("compression", ENCODERS)
NAR = b"\x0d\0\0\0\0\0\0\0nix-archive-1\0\0\0" + b"\x01\0\0\0\0\0\0\0(\0\0\0\0\0\0\0"


def whole(compression: str, data: bytes) -> bytes:
    return b"".join(decode(compression, [data]))


# ---------------------------------------------------------------- none


def test_none_passes_bytes_in_bounded_pieces() -> None:
    data = os.urandom(PIECE + 1)
    assert list(decode("none", [b"", data, b"x"])) == [data[:PIECE], data[PIECE:], b"x"]


def test_none_may_be_empty() -> None:
    assert list(decode("none", [])) == []


# ---------------------------------------------------------------- every compression


@every
@pytest.mark.parametrize("chunks", [[], [b""]])
def test_no_input_at_all_is_truncated(compression: str, chunks: list[bytes]) -> None:
    with pytest.raises(TruncatedError) as caught:
        list(decode(compression, chunks))
    assert caught.value.facts == {"compression": compression}


@every
def test_an_encoding_of_nothing_decodes_to_nothing(compression: str) -> None:
    assert list(decode(compression, [ENCODERS[compression](b"")])) == []


@every
def test_what_follows_the_end_is_refused_in_the_same_chunk_and_in_the_next(
    compression: str,
) -> None:
    encoded = ENCODERS[compression](b"hello" * 100)
    for chunks in ([encoded + b"trailing garbage"], [encoded, b"trailing garbage"]):
        with pytest.raises(CodecError) as caught:
            list(decode(compression, chunks))
        assert caught.value.facts["compression"] == compression
        assert caught.value.facts["reason"]


@every
def test_a_nar_that_is_not_compressed_is_refused(compression: str) -> None:
    with pytest.raises(CodecError):
        whole(compression, NAR)


@every
def test_a_bomb_costs_a_window_and_a_piece(compression: str) -> None:
    size = 64 * MIB
    encoded = ENCODERS[compression](bytes(size))
    tracemalloc.start()
    try:
        sizes = [len(piece) for piece in decode(compression, cut(encoded, PIECE))]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(sizes) == size
    assert max(sizes) <= PIECE
    assert peak < 8 * MIB


@every
def test_a_bomb_that_nobody_waits_for_is_not_unpacked(compression: str) -> None:
    made = decode(compression, [ENCODERS[compression](bytes(16 * MIB))])
    assert sum(map(len, itertools.islice(made, 3))) <= 3 * PIECE
    made.close()  # type: ignore[attr-defined]  # what `for` does to a generator that it leaves


@every
def test_pieces_of_ordinary_data_are_not_crumbs(compression: str) -> None:
    data = os.urandom(64) * (2 * MIB // 64)
    sizes = [len(piece) for piece in decode(compression, cut(ENCODERS[compression](data), PIECE))]
    assert sum(sizes) == len(data)
    assert sum(sizes) / len(sizes) >= 64 * 1024


def test_the_next_chunk_is_asked_for_only_when_the_last_is_used_up() -> None:
    asked = []

    def chunks() -> Iterator[bytes]:
        for number in range(3):
            asked.append(number)
            yield gzip.compress(bytes(PIECE))

    made = decode("gzip", chunks())
    assert asked == []
    next(made)
    assert asked == [0]


# ---------------------------------------------------------------- xz, lzma


def lzma_without_marker(data: bytes) -> bytes:
    """The standard library always writes the marker; a chunk of its LZMA2 has none."""
    lzma2 = lzma.compress(data, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2}])
    properties, chunk = lzma2[5:6], lzma2[6:-1]
    return properties + (1 << 23).to_bytes(4, "little") + len(data).to_bytes(8, "little") + chunk


def test_xz_padding_between_streams_and_at_the_end() -> None:
    one, two = lzma.compress(b"one"), lzma.compress(b"two")
    padded = one + bytes(8) + two + bytes(4)
    for size in (1, 3, len(padded)):
        assert b"".join(decode("xz", cut(padded, size))) == b"onetwo"


@pytest.mark.parametrize("zeros", [1, 2, 3, 5])
def test_xz_padding_is_a_multiple_of_four(zeros: int) -> None:
    one = lzma.compress(b"one")
    with pytest.raises(CodecError, match="bytes after the end"):
        whole("xz", one + bytes(zeros) + one)
    with pytest.raises(TruncatedError):
        whole("xz", one + bytes(zeros))


def test_xz_padding_does_not_stand_first() -> None:
    with pytest.raises(CodecError):
        whole("xz", bytes(4) + lzma.compress(b"one"))


def test_other_formats_have_no_padding() -> None:
    for compression in ENCODERS.keys() - {"xz"}:
        with pytest.raises(CodecError):
            whole(compression, ENCODERS[compression](b"one") + bytes(4))


@pytest.mark.parametrize(("compression", "form"), [("xz", "FORMAT_XZ"), ("lzma", "FORMAT_ALONE")])
def test_lzma_windows_are_limited(compression: str, form: str) -> None:
    coder = {"id": lzma.FILTER_LZMA2, "dict_size": 256 * MIB}
    if compression == "lzma":
        coder["id"] = lzma.FILTER_LZMA1
    encoder = lzma.LZMACompressor(getattr(lzma, form), filters=[{**coder, "mode": 1, "mf": 3}])
    encoded = encoder.compress(b"hello") + encoder.flush()
    with pytest.raises(MemoryLimitError) as caught:
        whole(compression, encoded)
    assert caught.value.facts == {"compression": compression, "limit": MEMORY_LIMIT}
    assert b"".join(decode(compression, [encoded], memory_limit=300 * MIB)) == b"hello"


def test_the_widest_window_of_the_xz_command_is_allowed() -> None:
    assert whole("xz", lzma.compress(b"hello", preset=9)) == b"hello"


def test_lzma_may_end_by_its_size() -> None:
    data = b"hello" * 100
    encoded = lzma_without_marker(data)
    for size in (1, 2, 3, len(encoded)):
        assert b"".join(decode("lzma", cut(encoded, size))) == data
    for stop in range(len(encoded)):
        with pytest.raises(TruncatedError):
            whole("lzma", encoded[:stop])
    with pytest.raises(CodecError, match="bytes after the end"):
        whole("lzma", encoded + b"x")


def test_lzma_is_one_stream() -> None:
    with pytest.raises(CodecError, match="bytes after the end"):
        whole("lzma", lzma.compress(b"x", lzma.FORMAT_ALONE) * 2)


# ---------------------------------------------------------------- lzip


def test_lzip_is_checked_by_hand() -> None:
    good = lzip(b"hello" * 100)
    assert whole("lzip", good) == b"hello" * 100
    for place, reason in [(0, "magic"), (4, "version"), (-20, "checksum"), (-16, "data size")]:
        bad = bytearray(good)
        bad[place] ^= 1
        with pytest.raises(CodecError, match=reason):
            whole("lzip", bytes(bad))
    with pytest.raises(CodecError, match="member size"):
        whole("lzip", good[:-1] + b"\1")


@pytest.mark.parametrize("code", [11, 12 | 1 << 5, 30])
def test_lzip_dictionaries_outside_the_format_are_refused(code: int) -> None:
    good = lzip(b"hello")
    with pytest.raises(CodecError, match="no such dictionary size"):
        whole("lzip", good[:5] + bytes([code]) + good[6:])


def test_lzip_dictionaries_are_limited() -> None:
    good = lzip(b"hello")
    assert whole("lzip", good[:5] + bytes([27]) + good[6:]) == b"hello"
    with pytest.raises(MemoryLimitError) as caught:
        whole("lzip", good[:5] + bytes([28]) + good[6:])
    assert caught.value.facts == {
        "compression": "lzip",
        "limit": MEMORY_LIMIT,
        "needed": 256 * MIB,
    }


# ---------------------------------------------------------------- gzip, deflate, brotli, lz4


@pytest.mark.parametrize("size", [1, 1000])
def test_deflate_with_and_without_its_header(size: int) -> None:
    data = b"hello" * 100
    for encoded in (zlib.compress(data), raw_deflate(data)):
        assert b"".join(decode("deflate", cut(encoded, size))) == data


def test_gzip_checks_its_checksum() -> None:
    encoded = bytearray(gzip.compress(b"hello"))
    encoded[-5] ^= 1
    with pytest.raises(CodecError, match="incorrect data check"):
        whole("gzip", bytes(encoded))


def test_a_piece_that_fills_exactly_is_not_the_last() -> None:
    for size in (PIECE - 1, PIECE, PIECE + 1, 2 * PIECE):
        for compression, encode in ENCODERS.items():
            assert whole(compression, encode(bytes(size))) == bytes(size)


def test_brotli_that_needs_more_input_waits_for_it() -> None:
    data = os.urandom(300_000)
    encoded = brotli.compress(data, quality=1)
    assert b"".join(decode("br", cut(encoded, 70_000))) == data


def test_lz4_frames_may_be_skippable() -> None:
    skippable = (0x184D2A53).to_bytes(4, "little") + (5).to_bytes(4, "little") + b"notes"
    frame = ENCODERS["lz4"](b"hello")
    for size in (1, 1000):
        assert b"".join(decode("lz4", cut(skippable + frame + skippable + frame, size))) == (
            b"hellohello"
        )


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("alias", "name"), [("identity", "none"), ("x-gzip", "gzip"), ("br", "br"), ("zstd", "zstd")]
)
def test_the_words_of_http(alias: str, name: str) -> None:
    encode = ENCODERS.get(name, bytes)
    assert whole(alias, encode(b"hello")) == b"hello"


@pytest.mark.parametrize(
    "word", ["compress", "lrzip", "grzip", "lzop", "XZ", "xz ", "", "bz2", "brotli", "gz"]
)
def test_other_words_are_refused_at_once(word: str) -> None:
    with pytest.raises(UnsupportedCompressionError) as caught:
        decode(word, [])
    assert isinstance(caught.value, FormatError)
    assert caught.value.facts == {"compression": word}
    assert caught.value.hint is None


def test_a_missing_package_is_named() -> None:
    with pytest.raises(UnsupportedCompressionError) as caught:
        decoder("lz4", installed=lambda _package: False)
    assert caught.value.hint == "pip install 'nixfetch[lz4]'"
    assert caught.value.facts == {"compression": "lz4"}


def test_supported_says_what_works_here() -> None:
    names = ("none", "xz", "bzip2", "zstd", "br", "gzip", "lzip", "lzma")
    hopeless = ("compress", "lrzip", "lzop", "grzip")
    without = dict.fromkeys(names, True) | {"lz4": False} | dict.fromkeys(hopeless, False)
    assert supported(lambda _package: False) == without
    assert supported() == without | {"lz4": True}


# ---------------------------------------------------------------- recognise


@pytest.mark.parametrize("compression", sorted(ENCODERS.keys() - {"deflate"}))
def test_magic(compression: str) -> None:
    without_magic = {"br", "lzma"}
    expected = None if compression in without_magic else compression
    assert recognise(ENCODERS[compression](NAR * 100)[:HEAD]) == expected


def test_magic_of_what_we_cannot_decode_leads_to_an_error_that_names_it() -> None:
    compression = recognise(b"\x1f\x9d\x90\x0d\x00")
    assert compression == "compress"
    with pytest.raises(UnsupportedCompressionError):
        decoder(compression)


def test_a_nar_is_recognised_and_nothing_else_is() -> None:
    assert recognise(NAR[:HEAD]) == "none"
    assert recognise(b"") is None
    assert recognise(NAR[: HEAD - 1]) is None
    assert recognise(b"hello, world, this is not one") is None


# ---------------------------------------------------------------- imports, real files


def test_heavy_libraries_are_imported_only_when_they_are_used() -> None:
    program = (
        "import sys, nixfetch.streams.codecs as codecs\n"
        "codecs.decoder('xz'), codecs.supported()\n"
        "print(sorted({'zstandard', 'brotli', 'lz4'} & sys.modules.keys()))\n"
        "codecs.decoder('zstd'), codecs.decoder('br'), codecs.decoder('lz4')\n"
        "print(sorted({'zstandard', 'brotli', 'lz4'} & sys.modules.keys()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["[]", "['brotli', 'lz4', 'zstandard']"]


def caches() -> Path:
    root = os.environ.get("NIXFETCH_TEST_DATA")
    if not root:
        pytest.skip("NIXFETCH_TEST_DATA is not set")
    return Path(root)


def narinfos(cache: Path) -> Iterator[dict[str, str]]:
    for path in sorted(cache.glob("*.narinfo")):
        lines = path.read_text().splitlines()
        yield dict(line.split(": ", 1) for line in lines if ": " in line)


def nix32(digest: bytes) -> str:
    number = int.from_bytes(digest, "little")
    digits = "0123456789abcdfghijklmnpqrsvwxyz"
    return "".join(digits[number >> 5 * n & 31] for n in reversed(range(52)))


@pytest.mark.parametrize(
    "name", ["none", "xz", "lzma", "bzip2", "zstd", "gzip", "br", "lzip", "lz4"]
)
@pytest.mark.parametrize("size", [7, MIB])
def test_caches_that_nix_wrote(name: str, size: int) -> None:
    cache = caches() / "nix-caches" / f"c-{name}"
    fields = list(narinfos(cache))
    assert fields
    for info in fields:
        assert info["Compression"] == name
        packed = (cache / info["URL"]).read_bytes()
        nar = b"".join(decode(name, cut(packed, size)))
        assert f"sha256:{nix32(hashlib.sha256(nar).digest())}" == info["NarHash"]
        assert len(nar) == int(info["NarSize"])
        assert recognise(packed[:HEAD]) == (None if name in {"br", "lzma"} else name)


def test_the_compress_cache_that_nix_wrote_is_refused_by_name() -> None:
    for info in narinfos(caches() / "nix-caches" / "c-compress"):
        with pytest.raises(UnsupportedCompressionError) as caught:
            decode(info["Compression"], [])
        assert caught.value.facts == {"compression": "compress"}


def test_real_xz_nars() -> None:
    cache = caches() / "real-mini-cache"
    for info in narinfos(cache):
        nar = whole("xz", (cache / info["URL"]).read_bytes())
        assert f"sha256:{nix32(hashlib.sha256(nar).digest())}" == info["NarHash"]
