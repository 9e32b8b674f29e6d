"""Partial downloads: one holder each, bounded, and never in the way."""

from __future__ import annotations

import errno
import logging
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from nixfetch.cache import partial
from nixfetch.cache.partial import Partial, Partials, key
from nixfetch.formats.hashes import Hash
from places import names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NAME = "0" * 64
ETAG = '"version-1"'
DAY = 24 * 3600.0


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "partial"


@pytest.fixture
def partials(directory: Path) -> Partials:
    return Partials(directory, spare=0)


@pytest.fixture(autouse=True)
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="nixfetch.cache.partial")
    return caplog


def name(number: int) -> str:
    return f"{number:064x}"


def claimed(partials: Partials, of: str = NAME) -> Partial:
    found = partials.claim(of)
    assert found is not None
    return found


def keep(partials: Partials, data: bytes, of: str = NAME, validator: str | None = ETAG) -> None:
    with claimed(partials, of) as kept:
        kept.restart(validator)
        kept.append(data)


def kept(partials: Partials, of: str = NAME) -> bytes:
    with claimed(partials, of) as found:
        data = b"".join(found.read())
        assert len(data) == found.size
        return data


def lay(directory: Path, of: int, size: int, *, age: float) -> None:
    """A file of `size` bytes that was written `age` seconds ago."""
    directory.mkdir(exist_ok=True)
    line = b"nixfetch-partial 1 ".ljust(511) + b"\n"
    (directory / name(of)).write_bytes(line + bytes(size - len(line)))
    at = time.time() - age
    os.utime(directory / name(of), (at, at))


# What it is called


def test_a_file_is_called_by_its_content() -> None:
    digest = Hash("sha256", bytes(32))
    assert key(digest, "https://a", "nar/a.nar.xz") == key(digest, "https://b", "nar/b.nar.xz")
    assert key(digest, "", "") != key(Hash("sha256", bytes(31) + b"\1"), "", "")


def test_without_a_hash_it_is_called_by_its_place() -> None:
    places = [("https://a", "b"), ("https://a", "c"), ("https://b", "b"), ("https://a\nb", "")]
    keys = {key(None, *place) for place in places}
    assert len(keys) == len(places)
    assert all(len(text) == 64 and set(text) <= set("0123456789abcdef") for text in keys)


def test_odd_places_have_names() -> None:
    assert key(None, "file:///\udcff", "") != key(None, "file:///\ud800", "")


# What is kept


def test_what_came_is_there_for_the_next(partials: Partials) -> None:
    data = os.urandom(1_000_000)
    with claimed(partials) as first:
        assert (first.size, first.validator, list(first.read())) == (0, None, [])
        first.restart(ETAG)
        for start in range(0, len(data), 70_000):
            first.append(data[start : start + 70_000])
        assert (first.size, first.validator) == (len(data), ETAG)
    with claimed(partials) as second:
        assert (second.size, second.validator) == (len(data), ETAG)
        pieces = list(second.read())
        assert max(map(len, pieces)) <= 256 * 1024
        assert b"".join(pieces) == data


def test_it_grows_from_run_to_run(partials: Partials) -> None:
    for run in range(5):
        with claimed(partials) as found:
            assert b"".join(found.read()) == b"".join(b"%d" % n for n in range(run))
            found.append(b"%d" % run)


def test_what_came_without_a_version_is_kept(partials: Partials) -> None:
    with claimed(partials) as found:
        found.append(b"data")
    with claimed(partials) as found:
        assert (found.size, found.validator) == (4, None)


def test_another_version_starts_from_zero(partials: Partials) -> None:
    keep(partials, b"old " * 1000)
    keep(partials, b"new", validator='"version-2"')
    with claimed(partials) as found:
        assert (found.size, found.validator) == (3, '"version-2"')
        assert b"".join(found.read()) == b"new"


def test_an_error_on_the_way_keeps_what_came(partials: Partials) -> None:
    with suppress(KeyboardInterrupt), claimed(partials) as found:
        found.append(b"data")
        raise KeyboardInterrupt
    assert kept(partials) == b"data"


def test_what_is_discarded_is_gone(partials: Partials, directory: Path) -> None:
    with claimed(partials) as found:
        found.append(b"data")
        found.discard()
        assert (found.size, found.validator, list(found.read())) == (0, None, [])
        found.append(b"more")
        found.restart(ETAG)
        assert found.size == 0
        found.discard()
        assert names(directory) == []
    assert names(directory) == []
    found.close()


def test_nothing_leaves_no_file(partials: Partials, directory: Path) -> None:
    claimed(partials).close()
    with claimed(partials) as found:
        found.restart(ETAG)
    assert names(directory) == []


def test_discarding_while_it_is_read(partials: Partials) -> None:
    keep(partials, bytes(1_000_000))
    with claimed(partials) as found:
        pieces = found.read()
        next(pieces)
        found.discard()
        assert list(pieces) == []


@pytest.mark.parametrize(
    "validator", ["Ä", '"a\nb"', '"a\0"', '"' + "x" * 500 + '"', '"\N{SNOWMAN}"', "\x7f"]
)
def test_versions_that_cannot_be_kept(partials: Partials, validator: str) -> None:
    keep(partials, b"data", validator=validator)
    with claimed(partials) as found:
        assert (found.size, found.validator) == (4, None)


@pytest.mark.parametrize("validator", ['"a b"', '""', '"' + "x" * 398 + '"', "123-456"])
def test_versions_that_can_be_kept(partials: Partials, validator: str) -> None:
    keep(partials, b"data", validator=validator)
    with claimed(partials) as found:
        assert (found.size, found.validator) == (4, validator)


def test_nobody_else_may_read_it(partials: Partials, directory: Path) -> None:
    before = os.umask(0)
    try:
        keep(partials, b"data")
    finally:
        os.umask(before)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / NAME).stat().st_mode) == 0o600


# Who has it


def test_who_comes_second_goes_without(partials: Partials, directory: Path) -> None:
    with claimed(partials):
        assert partials.claim(NAME) is None
        assert Partials(directory).claim(NAME) is None
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(partials.claim, NAME).result() is None
        claimed(partials, name(1)).close()
    claimed(partials).close()


def test_who_was_second_may_have_it_later(partials: Partials) -> None:
    with claimed(partials) as first:
        assert partials.claim(NAME) is None
        first.append(b"data")
    assert kept(partials) == b"data"


HOLDING = """
import sys
from pathlib import Path
from nixfetch.cache.partial import Partials
partial = Partials(Path(sys.argv[1])).claim("0" * 64)
partial.restart('"version-1"')
for number in range(1000):
    partial.append(b"%03d" % number)
print(flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def holder(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that has the file."""
    command = [sys.executable, "-c", HOLDING, str(directory)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        yield process
        process.kill()


def test_another_process_has_it(holder: subprocess.Popen[bytes], partials: Partials) -> None:
    assert partials.claim(NAME) is None
    assert partials.sweep(max_age=0) == 0
    holder.communicate(b"\n")
    assert len(kept(partials)) == 3000


def test_who_is_killed_leaves_what_came(
    holder: subprocess.Popen[bytes], partials: Partials
) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert kept(partials) == b"".join(b"%03d" % number for number in range(1000))
    with claimed(partials) as found:
        assert found.validator == ETAG


def test_threads_never_have_it_together(directory: Path) -> None:
    """Nor may a file be removed under who has it: some claim, some sweep, some discard."""
    partials = Partials(directory, spare=0)
    having = threading.Lock()
    had = [0] * 6

    def work(thread: int) -> None:
        while had[thread] < 50:
            if thread == 0:
                partials.sweep(max_age=-1)
            found = partials.claim(NAME)
            if found is None:
                continue
            with found:
                assert having.acquire(blocking=False)
                found.append(b"data")
                assert (directory / NAME).exists()
                having.release()
                if thread % 2:
                    found.discard()
            had[thread] += 1

    with ThreadPoolExecutor(len(had)) as pool:
        list(pool.map(work, range(len(had))))
    assert had == [50] * 6


def test_a_file_of_the_same_name_is_not_taken_for_ours(partials: Partials, directory: Path) -> None:
    """Somebody emptied the directory by hand, and another process began anew."""
    with claimed(partials) as first:
        first.append(b"first")
        (directory / NAME).unlink()
        keep(partials, b"second")
        first.discard()
    assert kept(partials) == b"second"


# What may lie there


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x",
        b"nixfetch-partial 1 \n",
        bytes(512),
        bytes(5000),
        b"nixfetch-partial 2 ".ljust(511) + b"\ndata",
        b"nixfetch-partial 1 ".ljust(512) + b"data",
        b"nixfetch-partial 1 \xff".ljust(511) + b"\ndata",
        b"nixfetch-partial 1 \n".ljust(511) + b"\ndata",
        os.urandom(5000),
    ],
)
def test_what_does_not_parse_is_discarded(partials: Partials, directory: Path, data: bytes) -> None:
    directory.mkdir()
    (directory / NAME).write_bytes(data)
    with claimed(partials) as found:
        assert (found.size, found.validator) == (0, None)
        found.append(b"data")
    assert kept(partials) == b"data"


def test_no_link_is_followed(partials: Partials, directory: Path, tmp_path: Path) -> None:
    directory.mkdir()
    other = tmp_path / "other"
    other.write_bytes(b"other")
    (directory / NAME).symlink_to(other)
    (directory / name(1)).hardlink_to(other)
    (directory / name(2)).symlink_to(tmp_path / "new")
    assert [partials.claim(of) for of in (NAME, name(1), name(2))] == [None] * 3
    partials.sweep(max_age=0)
    assert other.read_bytes() == b"other"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_left_alone(
    partials: Partials, directory: Path, make: Callable[[Path], None]
) -> None:
    directory.mkdir()
    make(directory / NAME)
    assert partials.claim(NAME) is None
    assert partials.sweep(max_age=-1) == 0
    assert names(directory) == [NAME]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_belongs_to_somebody_else_is_left_alone(partials: Partials, directory: Path) -> None:
    keep(partials, b"data")
    os.chown(directory / NAME, 12345, 12345)
    assert partials.claim(NAME) is None
    partials.sweep(max_age=-1)
    assert names(directory) == [NAME]


def test_a_place_where_nothing_can_be(tmp_path: Path, logged: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    for place in ("file", "file/below"):
        partials = Partials(tmp_path / place)
        assert partials.claim(NAME) is None
        assert partials.sweep() == 0
    assert {record.levelname for record in logged.records} == {"INFO"}


@pytest.fixture
def modes_count(tmp_path: Path) -> None:
    """Skip where a mode does not keep us from writing."""
    place = tmp_path / "read-only"
    place.mkdir(mode=0o500)
    if os.access(place, os.W_OK, effective_ids=True):
        pytest.skip("root may write anywhere")


def test_a_store_that_is_read_only(modes_count: None, partials: Partials, directory: Path) -> None:
    keep(partials, b"data")
    directory.chmod(0o500)
    try:
        assert partials.claim(name(1)) is None
        assert partials.sweep(max_age=-1) == 0
    finally:
        directory.chmod(0o700)
    assert kept(partials) == b"data"


# How much


@pytest.mark.parametrize("at", ["claim", "close"])
def test_the_oldest_go(directory: Path, at: str) -> None:
    partials = Partials(directory, most=10_000, spare=0)
    with claimed(partials) as found:
        found.append(b"data")
        for number in range(1, 6):
            lay(directory, number, 3000, age=1000 - number)
        if at == "claim":
            claimed(partials, name(9)).close()
            assert names(directory) == [NAME, name(3), name(4), name(5)]
    assert names(directory) == [NAME, name(3), name(4), name(5)]


def test_what_somebody_is_at_stays(directory: Path) -> None:
    partials = Partials(directory, most=10_000, spare=0)
    for number in range(5):
        lay(directory, number, 3000, age=1000 - number)
    with claimed(Partials(directory, spare=0), name(0)):
        assert partials.sweep() == 6000
        assert names(directory) == [name(0), name(3), name(4)]
        assert partials.sweep(max_age=-1) == 6000
        assert names(directory) == [name(0)]


def test_growth_ends_at_the_limit_and_what_came_stays(directory: Path) -> None:
    partials = Partials(directory, most=100_000, spare=0)
    data = os.urandom(200_000)
    with claimed(partials) as found:
        for start in range(0, len(data), 999):
            found.append(data[start : start + 999])
        assert found.size < 100_000
    beginning = kept(partials)
    assert len(beginning) > 80_000
    assert data.startswith(beginning)
    with claimed(partials) as found:
        found.append(data)
        assert found.size == len(beginning)
        found.restart(ETAG)
        found.append(data[:80_000])
    assert kept(partials) == data[:80_000]


def test_many_that_grow_stay_below_the_limit(directory: Path) -> None:
    partials = Partials(directory, most=160_000, spare=0)
    files = [claimed(partials, name(number)) for number in range(4)]
    for _ in range(100):
        for file in files:
            file.append(bytes(1000))
    for file in files:
        file.close()
    total = sum(entry.stat().st_size for entry in directory.iterdir())
    assert 100_000 < total <= 160_000
    assert len(names(directory)) >= 3


def test_the_oldest_go_for_what_grows(directory: Path) -> None:
    partials = Partials(directory, most=160_000, spare=0)
    for number in range(1, 4):
        lay(directory, number, 40_000, age=1000 - number)
    with claimed(partials) as found:
        for _ in range(70):
            found.append(bytes(1000))
        assert found.size == 70_000
    assert names(directory) == [NAME, name(2), name(3)]


def test_the_old_go(partials: Partials, directory: Path) -> None:
    for number, days in enumerate([0, 6, 8, 100, -1, -8]):
        lay(directory, number, 1000, age=days * DAY)
    (directory / "other").write_bytes(b"other")
    os.utime(directory / "other", (0, 0))
    assert partials.sweep() == 3000
    assert names(directory) == [name(0), name(1), name(4), "other"]
    assert partials.sweep(max_age=5 * DAY) == 1000
    assert partials.sweep(max_age=-1) == 2000
    assert names(directory) == ["other"]


def test_the_clock_is_an_argument(directory: Path) -> None:
    lay(directory, 1, 1000, age=0)
    assert Partials(directory, now=lambda: time.time() + 6 * DAY).sweep() == 0
    assert Partials(directory, now=lambda: time.time() + 8 * DAY).sweep() == 1000


def test_nothing_to_sweep(partials: Partials, directory: Path) -> None:
    assert partials.sweep() == 0
    assert not directory.exists()


# What the disk refuses


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """No file takes more than `size` bytes, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("size", [0, 100, 512, 600, 5000])
def test_a_disk_that_refuses_is_warned_of_once(
    partials: Partials, directory: Path, size: int, logged: pytest.LogCaptureFixture
) -> None:
    with small_files(size):
        for number in range(3):
            with claimed(partials, name(number)) as found:
                found.restart(ETAG)
                for _ in range(10):
                    found.append(bytes(1000))
                assert (found.size, found.validator) == (0, None)
                assert names(directory) == []
                found.restart(ETAG)
                found.append(b"data")
                assert found.size == 0
    assert [record.levelname for record in logged.records] == ["WARNING"]
    assert os.strerror(errno.EFBIG) in logged.text


def test_what_others_need_of_the_disk_stays_free(directory: Path) -> None:
    disk = os.statvfs(directory.parent)
    partials = Partials(directory, spare=disk.f_blocks * disk.f_frsize)
    with claimed(partials) as found:
        found.append(b"data")
        assert found.size == 0
    assert names(directory) == []


def test_a_file_that_becomes_shorter(
    partials: Partials, directory: Path, logged: pytest.LogCaptureFixture
) -> None:
    keep(partials, bytes(1_000_000))
    with claimed(partials) as found:
        pieces = found.read()
        next(pieces)
        os.truncate(directory / NAME, 300_000)
        assert sum(map(len, pieces)) < 300_000
        assert found.size == 0
    assert names(directory) == []
    assert [record.levelname for record in logged.records] == ["WARNING"]


def test_the_limits_are_those_of_the_documentation() -> None:
    assert (partial.MOST, partial.MAX_AGE) == (4 * 1024**3, 7 * DAY)
