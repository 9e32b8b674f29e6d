"""Caches that are well, and caches with something wrong: what the doctor says of them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nixfetch.config.caches import Reach, reach
from nixfetch.config.cacheurl import CacheUrl
from nixfetch.config.keyring import Keyring
from nixfetch.doctor import Asking, Check, examine_cache, exit_code, glance
from nixfetch.doctor.cache import NOWHERE, percentile
from nixfetch.formats.signing import PublicKey
from nixfetch.formats.storepath import StorePath
from nixfetch.plan.trust import TrustPolicy
from nixfetch.transport import Pace, TransportOptions
from servers import Answer, LoopbackServer, Request

if TYPE_CHECKING:
    from collections.abc import Iterator

FIXTURES = Path(__file__).parents[3] / "fixtures"
PATHS = json.loads((FIXTURES / "paths.json").read_text())
ROOT = StorePath.parse(PATHS["root"].removeprefix("/nix/store/"))
POLICY = TrustPolicy((PublicKey.parse(PATHS["keys"]["fixture-1"]["public"]),))
OPTIONS = TransportOptions(trust_env=False, pace=Pace(connect=10, stall=10))
NARINFO = f"{ROOT.hash_part}.narinfo"


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer(FIXTURES / "cache-zstd") as server:
        yield server


def reached(url: str) -> Reach:
    return reach(CacheUrl.parse(url), options=OPTIONS, keyring=Keyring({}))


def examined(url: str, *paths: StorePath, policy: TrustPolicy = POLICY) -> dict[str, Check]:
    asking = Asking(policy=policy, paths=paths)
    return {check.name: check for check in examine_cache(reached(url), asking)}


def states(checks: dict[str, Check]) -> dict[str, str]:
    return {name: check.state for name, check in checks.items() if check.state != "ok"}


def test_a_cache_that_is_well(server: LoopbackServer) -> None:
    checks = examined(server.url, ROOT)
    assert states(checks) == {}
    assert list(checks) == [
        "credentials",
        "reachable",
        "nix-cache-info",
        "protocol",
        "clock",
        "latency",
        f"key of {ROOT.base}",
        "listing",
        "ranges",
    ]
    assert exit_code(checks.values()) == 0
    assert checks["latency"].facts["requests"] == 10
    assert len(server.requests) < 20


def test_a_directory_that_is_well() -> None:
    checks = examined((FIXTURES / "cache-xz").as_uri(), ROOT)
    assert states(checks) == {}
    assert "latency" not in checks


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Answer(b"busy", 503), 5),
        (Answer(b"", 401), 5),
        (Answer(b"", 403), 5),
        (Answer(reset=True), 5),
    ],
)
def test_a_cache_that_does_not_answer(server: LoopbackServer, answer: Answer, code: int) -> None:
    server.faults["*"] = answer
    checks = examined(server.url)
    assert states(checks) == {"reachable": "fail"}
    assert exit_code(checks.values()) == code
    assert len(server.requests) <= 3


def test_a_cache_that_only_keeps_its_info_to_itself(server: LoopbackServer) -> None:
    server.faults["nix-cache-info"] = Answer(b"", 403)
    checks = examined(server.url, ROOT)
    assert states(checks) == {"reachable": "warn"}
    assert checks["latency"].facts["requests"] == 10
    assert server.asked(NOWHERE) == 10


def test_a_cache_without_info(server: LoopbackServer) -> None:
    server.faults["nix-cache-info"] = Answer(b"", 404)
    assert states(examined(server.url, ROOT)) == {"reachable": "warn"}


@pytest.mark.parametrize(
    ("info", "code"),
    [(b"<html>log in", 4), (b"Priority: high", 4), (b"StoreDir: /gnu/store", 5)],
)
def test_info_that_is_wrong(server: LoopbackServer, info: bytes, code: int) -> None:
    server.faults["nix-cache-info"] = Answer(info)
    checks = examined(server.url)
    assert states(checks)["nix-cache-info"] == "fail"
    assert checks["nix-cache-info"].fix
    assert exit_code(checks.values()) == code


def test_a_key_that_is_not_trusted(server: LoopbackServer) -> None:
    other = PublicKey.parse("cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=")
    checks = examined(server.url, ROOT, policy=TrustPolicy((other,)))
    assert exit_code(checks.values()) == 4
    check = checks[f"key of {ROOT.base}"]
    assert "fixture-1" in check.found
    assert "--trusted-key" in str(check.fix)


def test_a_path_that_is_not_there(server: LoopbackServer) -> None:
    server.faults[NARINFO] = Answer(b"", 404)
    assert exit_code(examined(server.url, ROOT).values()) == 3


def test_a_path_in_the_place_of_another(server: LoopbackServer) -> None:
    narinfos = (FIXTURES / "cache-zstd").glob("*.narinfo")
    other = next(file for file in narinfos if file.name != NARINFO).read_bytes()
    server.faults[NARINFO] = Answer(other)
    assert exit_code(examined(server.url, ROOT).values()) == 4


def test_no_listing(server: LoopbackServer) -> None:
    server.faults[f"{ROOT.hash_part}.ls"] = Answer(b"", 404)
    assert states(examined(server.url, ROOT)) == {"listing": "warn"}


def test_ranges_that_are_ignored(server: LoopbackServer) -> None:
    def whole(request: Request) -> Answer | None:
        return Answer(b"StoreDir: /nix/store\n") if "range" in request.headers else None

    server.faults["*"] = whole
    assert states(examined(server.url)) == {"ranges": "warn"}


def test_ranges_of_nars_that_are_gone(server: LoopbackServer) -> None:
    def gone(request: Request) -> Answer | None:
        return Answer(b"", 404) if request.name.startswith("nar/") else None

    server.faults["*"] = gone
    assert states(examined(server.url, ROOT)) == {}  # that of nix-cache-info is as good
    server.faults["nix-cache-info"] = Answer(b"", 404)
    checks = examined(server.url, ROOT)
    assert states(checks) == {"reachable": "warn", "ranges": "warn"}
    assert checks["ranges"].found.startswith("not known")


def test_a_clock_that_is_wrong(server: LoopbackServer) -> None:
    asking = Asking(policy=POLICY, now=lambda: 0.0)
    checks = {check.name: check for check in examine_cache(reached(server.url), asking)}
    assert states(checks) == {"clock": "warn"}
    assert "ahead" in checks["clock"].found


def test_a_cache_that_is_slow(server: LoopbackServer) -> None:
    ticks = iter(range(1000))
    asking = Asking(policy=POLICY, clock=lambda: float(next(ticks)))
    checks = {check.name: check for check in examine_cache(reached(server.url), asking)}
    assert states(checks) == {"latency": "warn"}
    assert checks["latency"].facts["p50_seconds"] == 1.0


def test_a_cache_that_is_too_slow_to_be_asked_often(server: LoopbackServer) -> None:
    ticks = itertools.count(0.0, 4.0)
    asking = Asking(policy=POLICY, clock=lambda: float(next(ticks)))
    checks = {check.name: check for check in examine_cache(reached(server.url), asking)}
    assert checks["latency"].facts["requests"] == 3


def test_nobody_is_trusted(server: LoopbackServer) -> None:
    assert states(examined(server.url, policy=TrustPolicy())) == {"keys": "warn"}
    assert states(examined(f"{server.url}?trusted=1")) == {"keys": "warn"}


def test_parameters_without_effect(server: LoopbackServer) -> None:
    assert states(examined(f"{server.url}?priorty=1")) == {"URL": "warn"}


@pytest.mark.parametrize(
    ("answer", "state", "code"),
    [
        (None, "ok", 0),
        (Answer(b"", 404), "warn", 0),
        (Answer(b"", 403), "warn", 0),
        (Answer(b"", 401), "fail", 5),
        (Answer(b"<html>"), "fail", 4),
        (Answer(b"StoreDir: /other"), "fail", 5),
    ],
)
def test_a_glance(server: LoopbackServer, answer: Answer | None, state: str, code: int) -> None:
    if answer is not None:
        server.faults["nix-cache-info"] = answer
    check = glance(reached(server.url), Asking(policy=POLICY))
    assert (check.name, check.state, check.exit_code) == (server.url, state, code)
    assert len(server.requests) == 1


def test_secrets_are_not_told(server: LoopbackServer) -> None:
    server.faults["*"] = Answer(b"", 401)
    url = server.url.replace("http://", "http://puller:canary@")
    checks = [*examined(url).values(), glance(reached(url), Asking(policy=POLICY))]
    assert "canary" not in repr(checks)


@pytest.mark.parametrize(
    ("values", "percent", "found"),
    [([1.0], 50, 1.0), ([3.0, 1.0, 2.0], 50, 2.0), (list(map(float, range(1, 11))), 95, 10.0)],
)
def test_percentiles(values: list[float], percent: float, found: float) -> None:
    assert percentile(values, percent) == found


def test_the_gravest_failure_is_the_exit_code() -> None:
    def check(code: int) -> Check:
        return Check(name="x", state="fail", found="", exit_code=code)

    warning = Check(name="x", state="warn", found="", exit_code=6)
    assert exit_code([check(3), check(5), check(4), warning]) == 4
    assert exit_code([check(78), check(3)]) == 3
    assert exit_code([check(78)]) == 78
    assert exit_code([warning]) == 0
