from __future__ import annotations

import pytest

from nixfetch.formats.contentaddress import ContentAddress, Method
from nixfetch.formats.hashes import sha256
from nixfetch.formats.signing import Signature
from nixfetch.report import ClosureSize, Columns, PathInfo, Survey
from simulated_cache import store_path

SHORT, LONGER = store_path("a"), store_path("longer")
EMPTY = sha256(b"")


def info(size: int = 5) -> PathInfo:
    return PathInfo(
        path=SHORT,
        nar_hash=EMPTY,
        nar_size=size,
        references=(),
        signatures=(Signature("a", b"\0"), Signature("b", b"\0")),
        ca=ContentAddress(Method.TEXT, EMPTY),
        ultimate=True,
    )


PLAIN = PathInfo(path=LONGER, nar_hash=EMPTY, nar_size=2**64 - 1, references=(), signatures=())


def survey(*listed: PathInfo) -> Survey:
    closures = {entry.path: ClosureSize(entry.nar_size * 2, None) for entry in listed}
    return Survey(listed=listed, closures=closures, missing=(), failures=())


def test_without_columns_there_is_the_path_alone() -> None:
    lines = list(Columns(human_readable=True).lines(survey(info(), PLAIN)))
    assert lines == [str(SHORT), str(LONGER)]


def test_no_paths_are_no_lines() -> None:
    assert list(Columns(size=True).lines(survey())) == []


def test_all_columns() -> None:
    columns = Columns(size=True, closure_size=True, signatures=True)
    ca = f"ca:text:{EMPTY}"
    assert list(columns.lines(survey(info(), PLAIN))) == [
        f"{SHORT}     \t          5\t         10\tultimate {ca} a:AA== b:AA==",
        f"{LONGER}\t18446744073709551615\t36893488147419103230\t",
    ]


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (1, "   0.0 KiB"),
        (52, "   0.1 KiB"),
        (1024, "   1.0 KiB"),
        (1024 * 1025 - 1, "1025.0 KiB"),  # Nix takes the next unit above 1024 whole ones
        (1024 * 1025, "   1.0 MiB"),
        (2**40, "1024.0 GiB"),
        (2**60, "1024.0 PiB"),
        (2**62, "   4.0 EiB"),
        (2**64 - 1, "  16.0 EiB"),  # where Nix prints a negative number
        (2**75, "32768.0 EiB"),
    ],
)
def test_human_readable_sizes(size: int, shown: str) -> None:
    [line] = Columns(size=True, human_readable=True).lines(survey(info(size)))
    assert line == f"{SHORT}\t{shown}"
