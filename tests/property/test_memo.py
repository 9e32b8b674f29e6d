"""The memo beside a dictionary, and with any bytes of its file changed."""

from __future__ import annotations

import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nixfetch.cache.memo import Memo, Remembered

if TYPE_CHECKING:
    from collections.abc import Iterator

CACHES = ["https://a.example.org", "https://b.example.org"]
PARTS = [f"{number:032}" for number in range(3)]
POSITIVE, NEGATIVE = 1000, 100  # seconds
START = 1_000_000


@dataclass(frozen=True, slots=True)
class Put:
    cache: str
    part: str
    raw: bytes | None


@dataclass(frozen=True, slots=True)
class Forget:
    cache: str
    part: str


@dataclass(frozen=True, slots=True)
class Wait:
    seconds: int
    """Below zero: somebody sets the clock back."""


@dataclass(frozen=True, slots=True)
class Reopen:
    pass


Step = Put | Forget | Wait | Reopen
caches, parts = st.sampled_from(CACHES), st.sampled_from(PARTS)
steps = st.one_of(
    st.builds(Put, caches, parts, st.none() | st.binary(max_size=20)),
    st.builds(Forget, caches, parts),
    st.builds(Wait, st.integers(-50, 600)),
    st.builds(Reopen),
)


@pytest.fixture(scope="module", autouse=True)
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@settings(deadline=None)
@given(plan=st.lists(steps, max_size=30))
def test_it_remembers_as_a_dictionary_does(directory: Path, plan: list[Step]) -> None:
    now = START
    said: dict[tuple[str, str], tuple[bytes | None, int]] = {}
    with tempfile.TemporaryDirectory(dir=directory) as name:

        def opened() -> Memo:
            file = Path(name) / "memo"
            return Memo(file, positive_ttl=POSITIVE, negative_ttl=NEGATIVE, now=lambda: now)

        memo = opened()
        for step in plan:
            match step:
                case Put(cache, part, raw):
                    memo.put(cache, part, raw)
                    said[cache, part] = (raw, now)
                case Forget(cache, part):
                    assert memo.forget(cache, part) == (said.pop((cache, part), None) is not None)
                case Wait(seconds):
                    now += seconds
                case Reopen():
                    memo.close()
                    memo = opened()
            for cache in CACHES:
                for part in PARTS:
                    raw, at = said.get((cache, part), (None, now + 1))
                    ttl = NEGATIVE if raw is None else POSITIVE
                    expected = Remembered(raw) if 0 <= now - at < ttl else None
                    assert memo.get(cache, part) == expected
        memo.close()


@pytest.fixture(scope="module")
def whole(directory: Path) -> Path:
    """A file that remembers something."""
    with closing(Memo(directory / "whole")) as memo:
        for number in range(100):
            memo.put(CACHES[0], f"{number:032}", b"raw %d" % number * number)
    return directory / "whole"


@settings(deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0), st.binary(min_size=1, max_size=40)), max_size=8),
    size=st.none() | st.integers(0),
)
def test_any_damage_is_borne(
    directory: Path, whole: Path, changes: list[tuple[int, bytes]], size: int | None
) -> None:
    damaged = bytearray(whole.read_bytes())
    length = len(damaged)
    for position, data in changes:
        at = position % length
        damaged[at : at + len(data)] = data
    if size is not None:
        del damaged[size % length :]
    file = directory / "damaged"
    file.write_bytes(damaged)
    for _ in range(2):
        with closing(Memo(file)) as memo:
            for number in range(110):
                memo.get(CACHES[0], f"{number:032}")
            memo.put(CACHES[0], "new", b"new")
            assert memo.get(CACHES[0], "new") in {None, Remembered(b"new")}
    for left in directory.glob("damaged*"):
        left.unlink()


@settings(deadline=None)
@given(size=st.integers(0))
def test_zeros_from_a_power_cut_are_replaced(directory: Path, whole: Path, size: int) -> None:
    """What came late to the disk is not there: the file has its size, and zeros."""
    file = directory / "cut"
    before = whole.read_bytes()
    kept = size % len(before) // 512 * 512
    file.write_bytes(before[:kept] + bytes(len(before) - kept))
    for _ in range(2):
        with closing(Memo(file)) as memo:
            for number in range(100):
                found = memo.get(CACHES[0], f"{number:032}")
                assert found in {None, Remembered(b"raw %d" % number * number)}
                memo.put(CACHES[0], f"{number:032}", b"raw %d" % number * number)
            memo.put_info(CACHES[0], b"info")
    with closing(Memo(file)) as memo:
        assert memo.get_info(CACHES[0]) == b"info"
    file.unlink()
