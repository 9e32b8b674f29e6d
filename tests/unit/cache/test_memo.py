"""What caches said lately: kept for a while, shared, bounded, and never in the way."""

from __future__ import annotations

import fcntl
import logging
import os
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from nixfetch.cache import memo
from nixfetch.cache.memo import Memo, Remembered
from places import names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CACHE = "https://cache.example.org"
PART = "0" * 32
RAW = b"StorePath: /nix/store/...\n" * 40
DAY = 24 * 3600


class Clock:
    """Seconds since 1970, as a test says."""

    def __init__(self) -> None:
        self.time = 1_800_000_000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "nixfetch" / "memo-v1.sqlite"


@pytest.fixture(autouse=True)
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="nixfetch.cache.memo")
    return caplog


def part(number: int) -> str:
    return f"{number:032}"


def remember(file: Path, *parts: str, raw: bytes | None = RAW) -> None:
    with closing(Memo(file)) as memo:
        for hash_part in parts or (PART,):
            memo.put(CACHE, hash_part, raw)


def is_remembered(file: Path, hash_part: str = PART) -> bool:
    with closing(Memo(file, busy=0.05)) as memo:
        return memo.get(CACHE, hash_part) is not None


def foreign(file: Path, *statements: str) -> None:
    file.parent.mkdir(exist_ok=True)
    with closing(sqlite3.connect(file)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


# What is remembered


def test_nothing_is_made_before_it_is_needed(file: Path) -> None:
    Memo(file).close()
    assert not file.parent.exists()


def test_what_was_said_is_there_in_the_next_run(file: Path) -> None:
    with closing(Memo(file)) as memo:
        memo.put(CACHE, part(1), RAW)
        memo.put(CACHE, part(2), None)
        memo.put_info(CACHE, b"StoreDir: /nix/store\n")
    for _ in range(2):
        with closing(Memo(file)) as memo:
            assert memo.get(CACHE, part(1)) == Remembered(RAW)
            assert memo.get(CACHE, part(2)) == Remembered(None)
            assert memo.get(CACHE, part(3)) is None
            assert memo.get_info(CACHE) == b"StoreDir: /nix/store\n"


def test_it_is_there_before_it_is_written(file: Path) -> None:
    with closing(Memo(file)) as memo:
        memo.put(CACHE, PART, RAW)
        assert not file.exists()
        assert memo.get(CACHE, PART) == Remembered(RAW)


def test_each_cache_speaks_for_itself(file: Path) -> None:
    with closing(Memo(file)) as memo:
        memo.put(CACHE, PART, RAW)
        assert memo.get("https://other.example.org", PART) is None
        assert memo.get_info(CACHE) is None


@pytest.mark.parametrize("written", [False, True])
def test_the_latest_word_counts(file: Path, *, written: bool) -> None:
    if written:
        remember(file)
    with closing(Memo(file)) as memo:
        memo.put(CACHE, PART, RAW)
        memo.put(CACHE, PART, None)
        assert memo.get(CACHE, PART) == Remembered(None)
    with closing(Memo(file)) as memo:
        assert memo.get(CACHE, PART) == Remembered(None)


@pytest.mark.parametrize("written", [False, True])
def test_what_is_forgotten_is_gone(file: Path, *, written: bool) -> None:
    if written:
        remember(file)
    with closing(Memo(file)) as memo:
        if not written:
            memo.put(CACHE, PART, RAW)
        assert memo.forget(CACHE, PART)
        assert memo.get(CACHE, PART) is None
        assert not memo.forget(CACHE, PART)
    assert not is_remembered(file)


def test_odd_urls_are_kept_apart(file: Path) -> None:
    urls = ["file:///tmp/\udcff", "file:///tmp/\ud800", "file:///tmp/\0", "", "'", "file:///tmp/é"]
    with closing(Memo(file)) as memo:
        for number, url in enumerate(urls):
            memo.put(url, PART, b"%d" % number)
    with closing(Memo(file)) as memo:
        assert [memo.get(url, PART) for url in urls] == [
            Remembered(b"%d" % number) for number in range(len(urls))
        ]


@pytest.mark.parametrize("name", ["a?mode=memory", "50%25#.sqlite", "a b", os.fsdecode(b"\xff")])
def test_odd_file_names(tmp_path: Path, name: str) -> None:
    remember(tmp_path / name)
    assert is_remembered(tmp_path / name)
    assert names(tmp_path) == [name]


def test_nothing_is_remembered_after_the_end(file: Path) -> None:
    memo = Memo(file)
    memo.put(CACHE, PART, RAW)
    memo.close()
    memo.put(CACHE, part(2), RAW)
    assert memo.get(CACHE, PART) is None
    assert not memo.forget(CACHE, PART)
    memo.close()
    assert is_remembered(file)
    assert not is_remembered(file, part(2))


# For how long


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize(("raw", "seconds"), [(RAW, memo.POSITIVE_TTL), (None, memo.NEGATIVE_TTL)])
def test_it_counts_for_a_while(
    file: Path, clock: Clock, raw: bytes | None, seconds: float, *, written: bool
) -> None:
    with closing(Memo(file, now=clock)) as memo:
        memo.put(CACHE, PART, raw)
        if written:
            memo.put(CACHE, part(2), bytes(256 * 1024))
            for number in range(3, 8):
                memo.put(CACHE, part(number), bytes(256 * 1024))
        clock.time += seconds - 1
        assert memo.get(CACHE, PART) == Remembered(raw)
        clock.time += 1
        assert memo.get(CACHE, PART) is None


def test_nix_cache_info_counts_for_a_while(file: Path, clock: Clock) -> None:
    with closing(Memo(file, info_ttl=DAY, now=clock)) as memo:
        memo.put_info(CACHE, b"info")
        clock.time += DAY - 1
        assert memo.get_info(CACHE) == b"info"
        clock.time += 1
        assert memo.get_info(CACHE) is None


def test_who_wants_to_remember_nothing_does_not(file: Path, clock: Clock) -> None:
    with closing(Memo(file, positive_ttl=0, negative_ttl=0, info_ttl=0, now=clock)) as memo:
        memo.put(CACHE, PART, RAW)
        memo.put(CACHE, part(2), None)
        memo.put_info(CACHE, b"info")
        assert [memo.get(CACHE, PART), memo.get(CACHE, part(2)), memo.get_info(CACHE)] == [None] * 3


@pytest.mark.parametrize("raw", [RAW, None])
def test_what_comes_from_the_future_is_not_believed(
    file: Path, clock: Clock, raw: bytes | None
) -> None:
    with closing(Memo(file, now=clock)) as memo:
        memo.put(CACHE, PART, raw)
        memo.put_info(CACHE, b"info")
        clock.time -= 2
        assert memo.get(CACHE, PART) is None
        assert memo.get_info(CACHE) is None
        memo.put(CACHE, PART, raw)
        assert memo.get(CACHE, PART) == Remembered(raw)


# How much


def test_a_long_text_is_not_kept_nor_what_it_stands_for(file: Path) -> None:
    remember(file, PART, raw=None)
    with closing(Memo(file)) as memo_:
        memo_.put(CACHE, part(1), bytes(memo.MAX_RAW))
        memo_.put(CACHE, part(2), bytes(memo.MAX_RAW + 1))
        memo_.put(CACHE, PART, bytes(memo.MAX_RAW + 1))
        assert memo_.get(CACHE, part(1)) == Remembered(bytes(memo.MAX_RAW))
        assert memo_.get(CACHE, part(2)) is None
        assert memo_.get(CACHE, PART) is None
    assert not is_remembered(file)


def test_the_file_is_bounded_and_what_came_first_goes(file: Path, clock: Clock) -> None:
    most = 2 * 1024 * 1024
    with closing(Memo(file, most=most, now=clock)) as memo:
        for number in range(5000):
            clock.time -= 60  # no clock has a say in what goes
            memo.put(CACHE, part(number), RAW)
        clock.time += 5000 * 60
        remembered = [memo.get(CACHE, part(number)) is not None for number in range(5000)]
    assert file.stat().st_size < most + 2 * 1024 * 1024
    assert 1000 < sum(remembered) < 2000
    assert remembered == sorted(remembered)  # the oldest are those that are not


def test_a_limit_below_everything(file: Path) -> None:
    with closing(Memo(file, most=1)) as memo:
        for number in range(600):
            memo.put(CACHE, part(number), RAW)
        assert memo.get(CACHE, part(0)) is None
    with closing(Memo(file, most=1)) as memo:
        assert memo.get(CACHE, part(599)) is None


def test_what_is_gathered_is_written_when_there_is_enough(file: Path, clock: Clock) -> None:
    with closing(Memo(file, now=clock)) as memo:
        memo.put(CACHE, PART, RAW)
        for number in range(1, 4):
            memo.put(CACHE, part(number), bytes(200 * 1024))
        assert not file.exists()
        for number in range(4, 10):
            memo.put(CACHE, part(number), bytes(200 * 1024))
        with closing(Memo(file, now=clock)) as reader:
            assert reader.get(CACHE, part(1)) == Remembered(bytes(200 * 1024))


@pytest.mark.parametrize("seconds", [1.0, -1.0])
def test_what_is_gathered_is_written_before_long(file: Path, clock: Clock, seconds: float) -> None:
    with closing(Memo(file, now=clock)) as memo, closing(Memo(file, now=clock)) as reader:
        memo.put(CACHE, PART, RAW)
        assert reader.get(CACHE, PART) is None
        clock.time += seconds
        memo.put(CACHE, part(2), RAW)
        assert reader.get(CACHE, part(2)) == Remembered(RAW)


# Whose it is


def test_nobody_else_may_read_it(file: Path) -> None:
    before = os.umask(0)
    try:
        with closing(Memo(file)) as memo:
            memo.put(CACHE, PART, RAW)
            for number in range(300):
                memo.put(CACHE, part(number), RAW)
            modes = {
                entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in file.parent.iterdir()
            }
    finally:
        os.umask(before)
    assert modes == {f"{file.name}{suffix}": 0o600 for suffix in ("", "-wal", "-shm")}
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_no_link_is_followed(file: Path, tmp_path: Path) -> None:
    remember(tmp_path / "other")
    file.parent.mkdir()
    file.symlink_to(tmp_path / "other")
    assert not is_remembered(file)
    file.unlink()
    file.symlink_to(tmp_path / "new")
    assert not is_remembered(file)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_left_alone(file: Path, make: Callable[[Path], None]) -> None:
    file.parent.mkdir()
    make(file)
    remember(file)
    assert not is_remembered(file)
    assert not file.is_file()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_belongs_to_somebody_else_is_left_alone(
    file: Path, logged: pytest.LogCaptureFixture
) -> None:
    remember(file)
    os.chown(file, 12345, 12345)
    before = file.read_bytes()
    remember(file, part(2))
    assert not is_remembered(file)
    assert file.read_bytes() == before
    assert "belongs to somebody else" in logged.text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives directories away")
def test_nothing_is_left_in_the_home_of_somebody_else(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 12345)
    remember(tmp_path / "cache" / "nixfetch" / "memo.sqlite")
    remember(tmp_path / "memo.sqlite")
    assert names(tmp_path) == []


def test_nothing_is_left_where_everybody_writes(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    remember(tmp_path / "memo.sqlite")
    assert names(tmp_path) == []
    tmp_path.chmod(0o1777)
    remember(tmp_path / "memo.sqlite")
    assert names(tmp_path) == ["memo.sqlite"]


@pytest.mark.parametrize(
    "statements",
    [
        ["create table other (x)"],
        ["create table said (x)", f"pragma application_id = {memo._STAMP[0]}"],
        [f"pragma application_id = {memo._STAMP[0]}", "pragma user_version = 2"],
        ["pragma application_id = 17", "create table said (x)"],
    ],
    ids=["no stamp", "no version", "a later version", "another program's"],
)
def test_a_database_that_is_not_ours_is_left_alone(
    file: Path, statements: list[str], logged: pytest.LogCaptureFixture
) -> None:
    foreign(file, *statements)
    before = file.read_bytes()
    with closing(Memo(file)) as memo:
        for number in range(600):
            memo.put(CACHE, part(number), RAW)
            assert memo.get_info(CACHE) is None
        assert memo.get(CACHE, part(1)) is None
    assert file.read_bytes() == before
    assert names(file.parent) == [file.name]
    assert [record.levelname for record in logged.records] == ["INFO"]
    assert "another program's, or of a later version" in logged.text


# What may be wrong with it


def _truncate(size: int) -> Callable[[Path], None]:
    return lambda file: os.truncate(file, size)


def _overwrite(offset: int, data: bytes) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        with file.open("r+b") as stream:
            stream.seek(offset)
            stream.write(data)

    return damage


def _without_table(file: Path) -> None:
    foreign(file, "drop table said")


def _another_table(file: Path) -> None:
    foreign(file, "drop table said", "create table said (x)")


DAMAGES = {
    "empty": _truncate(0),
    "a page": _truncate(4096),
    "half a page": _truncate(6000),
    "some pages": _truncate(5 * 4096),
    "text": lambda file: file.write_bytes(b"no database\n" * 1000),
    "zeros": lambda file: file.write_bytes(bytes(100_000)),
    "no magic": _overwrite(0, b"x"),
    "noise in the schema": _overwrite(100, b"\xa5" * 3000),
    "a table whose name is no UTF-8": _overwrite(4060, b"\x80"),
    "noise in all pages": _overwrite(4096, b"\xa5" * 200_000),
    "no table": _without_table,
    "another table": _another_table,
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_made_anew(
    file: Path, name: str, logged: pytest.LogCaptureFixture
) -> None:
    remember(file, *map(part, range(200)))
    DAMAGES[name](file)
    with closing(Memo(file)) as memo:
        for number in range(200):
            assert memo.get(CACHE, part(number)) in {None, Remembered(RAW)}
        memo.put(CACHE, part(500), RAW)
    assert is_remembered(file, part(500))
    assert len(logged.records) <= 1
    assert names(file.parent) == [file.name]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_columns_that_hold_something_else(file: Path) -> None:
    remember(file)
    foreign(file, "update said set raw = 'text'")
    assert not is_remembered(file)
    remember(file)
    foreign(file, "update said set at = 'yesterday'")
    assert not is_remembered(file)
    remember(file)
    assert is_remembered(file)


def test_a_file_that_becomes_damaged_is_made_anew(
    file: Path, logged: pytest.LogCaptureFixture
) -> None:
    remember(file)
    with closing(Memo(file)) as memo:
        assert memo.get(CACHE, PART) == Remembered(RAW)
        foreign(file, "drop table said")
        assert memo.get(CACHE, PART) is None
        memo.put(CACHE, PART, RAW)
    assert is_remembered(file)
    assert ["anew" in record.message for record in logged.records] == [True]


def test_who_finds_another_at_replacing_it_goes_without(
    file: Path, logged: pytest.LogCaptureFixture
) -> None:
    remember(file)
    os.truncate(file, 4096)
    directory = os.open(file.parent, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        assert not is_remembered(file)
        assert file.stat().st_size == 4096
        assert [record.levelname for record in logged.records] == ["INFO"]
    finally:
        os.close(directory)
    remember(file)
    assert is_remembered(file)


def test_a_file_that_is_damaged_again_and_again_is_given_up(
    file: Path, logged: pytest.LogCaptureFixture
) -> None:
    remember(file)
    with closing(Memo(file)) as memo:
        for _ in range(3):
            memo.get(CACHE, PART)
            if file.exists():
                foreign(file, "drop table if exists said")
            assert memo.get(CACHE, PART) is None
    assert len(logged.records) == 2


def test_another_process_that_replaces_the_file_is_not_disturbed(file: Path) -> None:
    remember(file)
    with closing(Memo(file)) as memo:
        assert memo.get(CACHE, PART) == Remembered(RAW)
        foreign(file, "drop table said")
        file.unlink()
        for suffix in ("-wal", "-shm"):
            file.with_name(file.name + suffix).unlink(missing_ok=True)
        remember(file, part(2))
        assert memo.get(CACHE, PART) is None
    assert is_remembered(file, part(2))


@pytest.mark.parametrize("when", ["opened", "written"])
def test_who_finds_it_locked_goes_without(
    file: Path, when: str, logged: pytest.LogCaptureFixture
) -> None:
    remember(file)
    with closing(Memo(file, busy=0.05)) as memo, closing(sqlite3.connect(file)) as other:
        if when == "opened":
            other.execute("pragma locking_mode = exclusive")
        else:
            assert memo.get(CACHE, PART) == Remembered(RAW)
        other.execute("begin immediate")
        other.execute("delete from said")
        for number in range(600):
            memo.put(CACHE, part(number), RAW)
            memo.get(CACHE, part(number))
        assert memo.get(CACHE, PART) is None
    assert [record.levelname for record in logged.records] == ["INFO"]
    assert is_remembered(file)


@pytest.mark.parametrize("name", ["file/memo", "file/below/memo"])
def test_a_place_where_nothing_can_be(
    tmp_path: Path, name: str, logged: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    with closing(Memo(tmp_path / name)) as memo:
        for number in range(600):
            memo.put(CACHE, part(number), RAW)
            assert memo.get(CACHE, part(number + 1)) is None
    assert [record.levelname for record in logged.records] == ["INFO"]


@pytest.fixture
def modes_count(tmp_path: Path) -> None:
    """Skip where a mode does not keep us from writing."""
    place = tmp_path / "read-only"
    place.mkdir(mode=0o500)
    if os.access(place, os.W_OK, effective_ids=True):
        pytest.skip("root may write anywhere")


@pytest.mark.parametrize("what", ["file", "directory"])
def test_what_may_not_be_written(
    modes_count: None, file: Path, what: str, logged: pytest.LogCaptureFixture
) -> None:
    remember(file)
    place = file if what == "file" else file.parent
    mode = stat.S_IMODE(place.stat().st_mode)
    place.chmod(mode & ~0o222)
    try:
        remember(file, *map(part, range(600)))
    finally:
        place.chmod(mode)
    assert [record.levelname for record in logged.records] == ["INFO"]
    assert is_remembered(file)


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """No file takes more than `size` bytes, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("size", [0, 4096, 40_000, 100_000])
def test_a_full_disk(file: Path, size: int, logged: pytest.LogCaptureFixture) -> None:
    with small_files(size), closing(Memo(file)) as memo:
        for number in range(1000):
            memo.put(CACHE, part(number), RAW)
            memo.get(CACHE, part(number))
    assert [record.levelname for record in logged.records] == ["INFO"]
    remember(file)
    assert is_remembered(file)


# With others


def test_threads_share_it(file: Path) -> None:
    with closing(Memo(file)) as memo:

        def work(thread: int) -> bool:
            numbers = range(thread * 1000, thread * 1000 + 400)
            for number in numbers:
                memo.put(CACHE, part(number), b"%d" % number)
            return all(memo.get(CACHE, part(n)) == Remembered(b"%d" % n) for n in numbers)

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, range(8)))
    assert is_remembered(file, part(7399))


SHARING = """
import logging, sys
from pathlib import Path
from nixfetch.cache.memo import Memo
logging.basicConfig(level=logging.INFO)
file, process = Path(sys.argv[1]), int(sys.argv[2])
print(flush=True)
sys.stdin.readline()
for run in range(3):
    memo = Memo(file, busy=60)
    for number in range(300):
        memo.put("cache", f"{process} {run} {number}", b"raw")
        memo.get("cache", f"{(process + 1) % 6} {run} {number}")
    memo.close()
"""


def started(*command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_processes_share_it_from_the_first_moment(file: Path) -> None:
    processes = [started(SHARING, str(file), str(number)) for number in range(6)]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    ends = [process.communicate(b"\n", timeout=100) for process in processes]
    assert [err for _, err in ends] == [b""] * 6
    with closing(Memo(file)) as memo:
        for process_ in range(6):
            for run in range(3):
                for number in range(300):
                    assert memo.get("cache", f"{process_} {run} {number}") is not None


KILLED = """
import sys
from pathlib import Path
from nixfetch.cache.memo import Memo
memo = Memo(Path(sys.argv[1]))
number = 0
while True:
    memo.put("cache", str(number), b"raw" * 400)
    number += 1
    if number % 256 == 0:
        print(number, flush=True)
"""


def test_a_kill_leaves_it_whole(file: Path, logged: pytest.LogCaptureFixture) -> None:
    for rounds in (1, 3, 7):
        process = started(KILLED, str(file))
        assert process.stdout is not None
        written = [int(process.stdout.readline()) for _ in range(rounds)]
        process.send_signal(signal.SIGKILL)
        process.communicate()
        with closing(Memo(file)) as memo:
            assert memo.get("cache", str(written[-1] - 1)) == Remembered(b"raw" * 400)
    assert not logged.records
