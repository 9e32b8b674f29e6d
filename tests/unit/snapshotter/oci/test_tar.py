from __future__ import annotations

import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshotter.oci import tar
from snapshotter.oci.tar import TarError

ENTRIES = [
    tar.directory(b"a"),
    tar.file(b"a/b", b"x" * 1000),
    tar.link(b"a/" + b"l" * 150, b"t" * 200),
    tar.directory(b"d" * 120, 0o1777, mtime=1),
    tar.file(b"\xff\xfe", b""),
]


def read(data: bytes, piece: int = 10_000) -> list[tar.Member]:
    return list(tar.members(pieces(data, piece)))


def pieces(data: bytes, size: int) -> tar.Chunks:
    return tar.Chunks(data[at : at + size] for at in range(0, len(data), size))


def header(**changes: bytes) -> bytes:
    """A header of a file of three bytes, changed, with its checksum right."""
    fields = {
        "name": b"f".ljust(100, b"\0"),
        "mode": b"0000644\0",
        "owners": b"0000000\0" * 2,
        "size": b"00000000003\0",
        "mtime": b"0" * 11 + b"\0",
        "checksum": b" " * 8,
        "kind": b"0",
        "link": bytes(100),
        "magic": b"ustar\00000",
        "rest": bytes(247),
    } | changes
    block = b"".join(fields.values())
    assert len(block) == 512
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def test_what_is_written_others_read() -> None:
    data = b"".join(tar.archive(ENTRIES))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        found = archive.getmembers()
        assert [member.name for member in found] == [
            "a", "a/b", "a/" + "l" * 150, "d" * 120, "\udcff\udcfe",
        ]  # fmt: skip
        assert all(member.uid == member.gid == 0 and not member.uname for member in found)
        assert (found[0].isdir(), found[2].linkname) == (True, "t" * 200)
        assert (found[3].mode, found[3].mtime, found[1].mtime) == (0o1777, 1, 0)
        content = archive.extractfile(found[1])
        assert content is not None
        assert content.read() == b"x" * 1000


def test_the_same_bytes_each_time() -> None:
    assert b"".join(tar.archive(ENTRIES)) == b"".join(tar.archive(ENTRIES))


@pytest.mark.parametrize("piece", [1, 7, 512, 100_000])
def test_what_is_written_is_read(piece: int) -> None:
    data = b"".join(tar.archive(ENTRIES))
    found = read(data, piece)
    assert [(m.path, m.kind, m.size, m.link) for m in found] == [
        (entry.name, entry.kind, entry.size, entry.link) for entry in ENTRIES
    ]
    assert data[found[1].offset :][:1000] == b"x" * 1000


@pytest.mark.parametrize(
    "form",
    [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT],
    ids=["gnu", "pax", "ustar"],
)
def test_other_writers_are_read(form: int) -> None:
    names = ["./x", "d/" * 60 + "f", "é"]
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=form) as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 5
            archive.addfile(member, io.BytesIO(b"hello"))
    found = read(output.getvalue())
    assert [each.path.decode() for each in found] == ["x", *names[1:]]
    for each in found:
        assert output.getvalue()[each.offset :][: each.size] == b"hello"


def test_a_large_size_is_written_and_read() -> None:
    large = tar.Entry(name=b"a", mode=0o644, size=9 * 1024**3)
    block = next(iter(tar.archive([large])))
    with pytest.raises(TarError, match="ends early"):
        read(block)
    assert tarfile.TarInfo.frombuf(block, "utf-8", "strict").size == 9 * 1024**3


def test_order_puts_directories_before_what_is_in_them() -> None:
    names = [b"a/b", b"a-c", b"a", b"a/b/c"]
    found = [entry.name for entry in tar.in_order(map(tar.directory, names))]
    assert found == [b"a", b"a-c", b"a/b", b"a/b/c"]


def test_a_file_that_changed_meanwhile() -> None:
    entry = tar.Entry(name=b"a", mode=0o644, size=3, data=(b"ab",))
    with pytest.raises(TarError, match="changed while it was read"):
        b"".join(tar.archive([entry]))


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"5", b"6"])
def test_links_and_devices_have_no_data_whatever_they_say(kind: bytes) -> None:
    data = header(kind=kind) + header(name=b"next".ljust(100, b"\0")) + b"abc".ljust(512, b"\0")
    assert [(m.path, m.size) for m in read(data)] == [(b"f", 0), (b"next", 3)]


def test_old_directories_end_with_a_slash() -> None:
    data = header(kind=b"\0", name=b"d/".ljust(100, b"\0"))
    assert [(m.path, m.kind, m.size) for m in read(data)] == [(b"d", tar.DIRECTORY, 0)]


def test_a_sparse_map_is_passed_over() -> None:
    first = header(kind=b"S", magic=b"ustar  \0", rest=bytes(217) + b"\1" + bytes(29))
    more = bytes(504) + b"\1" + bytes(7)
    last = bytes(512)
    data = first + more + last + b"abc".ljust(512, b"\0") + header(kind=b"5")
    assert [(m.kind, m.size, m.offset) for m in read(data)] == [(b"S", 3, 1536), (b"5", 0, 2560)]


def test_prefixes_of_posix_only() -> None:
    prefix = b"p".ljust(155, b"\0")
    posix = header(rest=bytes(80) + prefix + bytes(12), kind=b"5")
    gnu = header(rest=bytes(80) + prefix + bytes(12), kind=b"5", magic=b"ustar  \0")
    assert [m.name for m in read(posix + gnu)] == [b"p/f", b"f"]


def pax(*records: bytes, kind: bytes = b"x") -> bytes:
    data = b"".join(records)
    size = b"%011o\0" % len(data)
    return header(kind=kind, size=size) + data.ljust(len(data) + -len(data) % 512, b"\0")


def test_pax_says_more() -> None:
    data = pax(b"11 path=xy\n", b"9 size=5\n")
    found = read(data + header() + b"hello".ljust(512, b"\0"))
    assert [(m.name, m.size) for m in found] == [(b"xy", 5)]


def test_global_headers_are_of_no_member() -> None:
    """As Go has it; Python would give the name to all that follow."""
    data = pax(b"11 path=xy\n", kind=b"g") + header(kind=b"5")
    assert [m.name for m in read(data)] == [b"f"]


@pytest.mark.parametrize(
    "record",
    [
        b"path=xy\n", b"99 path=xy\n", b"11 path=xyz", b"5 a\n", b"0 \n", b"-1 a=b\n",
        b"9 size=x\n", b"10 size=-1\n", b"30 size=99999999999999999999\n", b" ", b"9 a\0=bc\n",
    ],
)  # fmt: skip
def test_malformed_pax(record: bytes) -> None:
    with pytest.raises(TarError):
        read(pax(record) + header())


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"x" * 512, "malformed number"),
        (b"short", "archive ends early"),
        (header()[:400], "archive ends early"),
        (header(), "archive ends early"),
        (header() + b"ab", "archive ends early"),
        (header()[:-1] + b"x", "not a tar archive, or damaged"),
        (header(size=b"\xff" * 12), "negative number"),
        (header(size=b"\x80" + b"\x7f" * 11), "number is too large"),
        (header(size=b"0000000000x\0"), "malformed number"),
        (header(kind=b"L", size=b"77777777777\0"), "name of a member is too long"),
        (header(kind=b"x", size=b"00010000000\0"), "name of a member is too long"),
        (header(kind=b"L", size=b"00000000400\0") + b"x", "archive ends early"),
        ((header(kind=b"L") + b"abc".ljust(512, b"\0")) * 9, "too many headers before one member"),
        (header(kind=b"S", magic=b"ustar  \0", rest=bytes(217) + b"\1" * 30), "archive ends early"),
    ],
)
def test_damaged_archives(data: bytes, problem: str) -> None:
    with pytest.raises(TarError) as caught:
        read(data)
    assert caught.value.problem == problem


def test_more_members_than_may_be() -> None:
    data = b"".join(tar.archive([tar.directory(b"a")] * 4))
    assert len(list(tar.members(pieces(data, 512), limit=4))) == 4
    with pytest.raises(TarError, match="too many members"):
        list(tar.members(pieces(data, 512), limit=3))


def test_nothing_is_an_empty_archive() -> None:
    assert read(b"") == read(bytes(512)) == read(bytes(10_240)) == []


@given(st.binary(max_size=2000), st.integers(0, 511), st.integers(0, 255))
def test_garbage_is_refused_or_read(data: bytes, place: int, byte: int) -> None:
    damaged = bytearray(b"".join(tar.archive(ENTRIES)))
    damaged[place] = byte
    for each in (data, bytes(damaged)):
        try:
            read(each)
        except TarError:
            continue
