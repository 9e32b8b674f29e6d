"""What a cache said in one run and what the next run makes of it, with the real command.

Each run has the same store and home, so that it may remember; between two of them the store is
collected, so that there is something to fetch.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

import sins
from hostile_server import HostileServer
from measured import Place, measured
from simulated_cache import KEY, SimulatedCache

if TYPE_CHECKING:
    from pathlib import Path

    from hostile_server import Behaviour
    from measured import Ended
    from nixfetch.formats.storepath import StorePath

pytestmark = pytest.mark.e2e

PUBLIC = str(KEY.public())
LIMIT = 60.0  # seconds for one command
SETTINGS = {"NIXFETCH_DOWNLOAD_ATTEMPTS": "1"}
CONTENTS = b"contents" * 1000


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place.below(tmp_path / "place")


def fetch(place: Place, path: StorePath, server: HostileServer, *flags: str) -> Ended:
    command = [*place.command([str(path)], [server.url], PUBLIC), *flags]
    return measured(command, environ=place.environ(SETTINGS), limit=LIMIT)


def collect(place: Place) -> None:
    command = [sys.executable, "-m", "nixfetch.cli", "gc", "--store", str(place.store)]
    ended = measured(command, environ=place.environ({}), limit=LIMIT)
    assert ended.code == 0, ended.err
    assert place.valid() == []


def test_what_was_found_is_not_asked_for_again(place: Place) -> None:
    cache = SimulatedCache()
    path = cache.add("path", CONTENTS)
    with HostileServer(cache.objects) as server:
        for _ in range(2):
            ended = fetch(place, path, server)
            assert ended.code == 0, ended.err
            collect(place)
    assert server.asked("*.narinfo") == 1
    assert server.asked("nar/*") == 2


def test_what_was_missing_is_not_asked_for_again_at_once(place: Place) -> None:
    cache = SimulatedCache()
    path = cache.add("path", CONTENTS)
    name = cache.narinfo_name(path)
    with HostileServer({}) as server:
        assert [fetch(place, path, server).code for _ in range(2)] == [3, 3]
    assert server.asked(name) == 1


def test_refresh_asks_again(place: Place) -> None:
    cache = SimulatedCache()
    path = cache.add("path", CONTENTS)
    objects: dict[str, bytes] = {}
    with HostileServer(objects) as server:
        assert fetch(place, path, server).code == 3
        objects |= cache.objects
        ended = fetch(place, path, server, "--refresh")
    assert ended.code == 0, ended.err


NO_ANSWERS: dict[str, Behaviour] = {
    "captive portal": sins.captive_portal,
    "401": sins.saying(401),
    "403 on everything": sins.saying(403),
    "500": sins.saying(500),
    "429": sins.saying(429),
    "nonsense": sins.saying(200, b"nonsense"),
    "empty": sins.saying(200),
    "hangs up": sins.hang_up,
    "redirects in a loop": sins.redirect("/{name}"),
    "another path's": sins.another("*.narinfo"),
}


@pytest.mark.parametrize("name", NO_ANSWERS)
def test_what_is_no_answer_is_not_remembered(name: str, place: Place) -> None:
    cache = SimulatedCache()
    path = cache.add("path", CONTENTS)
    cache.add("other", b"other")
    with HostileServer(cache.objects, {"*": NO_ANSWERS[name]}) as server:
        assert fetch(place, path, server).code in {4, 5}
        server.sins.clear()
        ended = fetch(place, path, server)
    assert ended.code == 0, ended.err


def test_a_cache_that_moved_its_nars(place: Place) -> None:
    """The narinfo that is remembered names a NAR that is gone; the new one is asked for."""
    cache = SimulatedCache()
    path = cache.add("path", CONTENTS, compression="xz")
    with HostileServer(cache.objects) as server:
        ended = fetch(place, path, server)
        assert ended.code == 0, ended.err
        collect(place)
        del cache.objects[cache.nar_name(path)]
        cache.add("path", CONTENTS, compression="zstd")
        ended = fetch(place, path, server)
    assert (ended.code, ended.errors) == (0, []), ended.err
    place.is_whole([str(path)], PUBLIC)


def test_trust_is_not_remembered(place: Place) -> None:
    """What one run believed on one key's word, the next does not without that key."""
    cache = SimulatedCache()
    path = cache.add("path", CONTENTS)
    with HostileServer(cache.objects) as server:
        assert fetch(place, path, server).code == 0
        collect(place)
        stranger = "stranger-1:+nNuwhQNJRQck6VMRVIvF1txkx1bhUap9tL7fEBx5MM="
        command = place.command([str(path)], [server.url], stranger)
        ended = measured(command, environ=place.environ(SETTINGS), limit=LIMIT)
    assert ended.code == 4, ended.err
    assert server.asked("nar/*") == 1


def test_a_cache_that_was_dead_is_alive_again(place: Place) -> None:
    """A circuit breaker is for one run."""
    cache = SimulatedCache()
    paths = [cache.add(f"path-{number}", b"%d" % number) for number in range(20)]
    top = cache.add("top", CONTENTS, references=paths)
    with HostileServer(cache.objects, {"*": sins.saying(503)}) as server:
        assert fetch(place, top, server).code == 5
        server.sins.clear()
        ended = fetch(place, top, server)
    assert ended.code == 0, ended.err
