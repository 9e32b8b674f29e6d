"""Whether the NARs of a closure are there."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nixfetch.config.caches import open_caches
from nixfetch.doctor import NarCensus, take_census
from nixfetch.formats.narinfo import NarInfo
from nixfetch.formats.signing import PublicKey
from nixfetch.formats.storepath import StorePath
from nixfetch.plan.retry import RetrySchedule
from nixfetch.plan.trust import TrustPolicy
from nixfetch.transport import TransportOptions, locate
from servers import Answer, LoopbackServer

if TYPE_CHECKING:
    from collections.abc import Iterator

FIXTURES = Path(__file__).parents[3] / "fixtures"
PATHS = json.loads((FIXTURES / "paths.json").read_text())
ROOT = StorePath.parse(PATHS["root"].removeprefix("/nix/store/"))
POLICY = TrustPolicy((PublicKey.parse(PATHS["keys"]["fixture-1"]["public"]),))
OPTIONS = TransportOptions(trust_env=False)


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer(FIXTURES / "cache-zstd") as server:
        yield server


def census(server: LoopbackServer) -> NarCensus:
    with (
        open_caches([server.url], options=OPTIONS, retry=RetrySchedule(tries=1)) as caches,
        closing(locate(server.url, options=OPTIONS)) as transport,
    ):
        return take_census([ROOT], caches=caches, transport=lambda _: transport, policy=POLICY)


def nar_of(path: StorePath) -> str:
    raw = (FIXTURES / f"cache-zstd/{path.hash_part}.narinfo").read_bytes()
    return NarInfo.parse(raw).url


def test_all_are_there(server: LoopbackServer) -> None:
    assert census(server) == NarCensus(there=len(PATHS["closure"]), lost=())
    nars = [request for request in server.requests if request.name.startswith("nar/")]
    assert len(nars) == len(PATHS["closure"])
    assert {request.headers["range"] for request in nars} == {"bytes=0-0"}


def test_one_is_gone(server: LoopbackServer) -> None:
    server.faults[nar_of(ROOT)] = Answer(b"", 404)
    found = census(server)
    [(path, error)] = found.lost
    assert path == ROOT
    assert error.facts["cache"] == server.url
    assert found.there == len(PATHS["closure"]) - 1


def test_a_narinfo_is_gone(server: LoopbackServer) -> None:
    server.faults[f"{ROOT.hash_part}.narinfo"] = Answer(b"", 404)
    found = census(server)
    assert [path for path, _ in found.lost] == [ROOT]
    assert found.there == 0
