from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from mirror_walk import walk
from nixfetch.cache import BinaryCache, CacheGroup
from nixfetch.mirror import Sources, mirror_closure, open_mirror
from nixfetch.mirror.verify import Findings, repair_mirror, verify_mirror
from simulated_cache import KEY, OTHER_KEY, POLICY, SimulatedCache

if TYPE_CHECKING:
    from pathlib import Path

    from nixfetch.formats.storepath import StorePath


class World:
    """A cache, and a mirror of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.cache = SimulatedCache(priority=40)
        self.library = self.cache.add("library", {b"l": b"code" * 99}, compression="xz")
        self.tool = self.cache.add("tool", {b"t": b"more" * 99}, references=[self.library])
        with closing(open_mirror(str(directory))) as mirror, self.sources() as caches:
            mirror_closure([self.tool], sources=Sources(caches, POLICY), destination=mirror)

    def sources(self) -> CacheGroup:
        return CacheGroup([BinaryCache(self.cache)])

    def verify(self, **how: object) -> Findings:
        with closing(open_mirror(str(self.directory))) as mirror:
            return verify_mirror(mirror, policy=POLICY, **how)  # type: ignore[arg-type]

    def repair(self) -> Findings:
        with closing(open_mirror(str(self.directory))) as mirror, self.sources() as caches:
            findings = verify_mirror(mirror, policy=POLICY)
            repair_mirror(mirror, findings, sources=Sources(caches, POLICY))
        return findings

    def narinfo(self, path: StorePath) -> Path:
        return self.directory / self.cache.narinfo_name(path)

    def nar(self, path: StorePath) -> Path:
        return self.directory / self.cache.nar_name(path)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "mirror")


def problems(findings: Findings) -> list[tuple[str, str]]:
    return sorted((bad.subject, bad.error.problem) for bad in findings.bad)


def test_all_good(world: World) -> None:
    findings = world.verify()
    size = world.nar(world.tool).stat().st_size + world.nar(world.library).stat().st_size
    assert (findings.looked_at, findings.read, findings.bytes_read) == (2, 2, size)
    assert findings.to_json() == {
        "mirror": world.directory.as_uri(),
        "verified": 2,
        "read": 2,
        "bytes_read": size,
        "bad": [],
    }


def test_a_sample(world: World) -> None:
    chances = iter([0.1, 0.9])
    assert world.verify(share=0.5, chance=lambda: next(chances)).read == 1
    assert world.verify(share=0.0).read == 0


def test_what_can_be_bad(world: World) -> None:
    extra = [world.cache.add(f"extra-{number}", b"x" * 400) for number in range(4)]
    world.cache.dump(world.directory)
    gone, short, flipped, other = extra
    world.nar(gone).unlink()
    world.nar(short).write_bytes(b"short")
    data = bytearray(world.nar(flipped).read_bytes())
    data[200] ^= 1
    world.nar(flipped).write_bytes(data)
    info = replace(world.cache.infos[other], signatures=())
    signature = OTHER_KEY.sign(info.fingerprint())
    world.narinfo(other).write_bytes(replace(info, signatures=(signature,)).render())
    world.narinfo(world.library).write_bytes(b"no narinfo")
    found = world.verify()
    assert problems(found) == sorted(
        [
            (str(gone), "file of the NAR is not there"),
            (str(short), "file has the wrong size"),
            (str(flipped), "file has the wrong hash"),
            (str(other), "path is signed by no trusted key"),
            (world.library.hash_part, "line has no colon"),
            (str(world.tool), "references are not in the mirror"),
        ]
    )
    assert problems(world.verify(share=0.0)) == [
        problem for problem in problems(found) if problem[0] != str(flipped)
    ]
    findings = world.repair()
    assert [bad.subject for bad in findings.bad if not bad.is_repaired] == []
    assert problems(world.verify()) == []
    assert walk(world.directory).sins == ()


def test_the_wrong_nar_in_the_right_file(world: World) -> None:
    """Its hash agrees with the narinfo, which nobody signs there."""
    liar = SimulatedCache()
    other = liar.add("other", {b"l": b"evil" * 99})
    theirs, ours = liar.infos[other], world.cache.infos[world.library]
    world.narinfo(world.library).write_bytes(
        replace(
            ours,
            url=theirs.url,
            compression="none",
            file_hash=theirs.file_hash,
            file_size=theirs.file_size,
        ).render()
    )
    (world.directory / theirs.url).write_bytes(liar.objects[theirs.url])
    assert problems(world.verify()) == [(str(world.library), "archive has the wrong hash")]
    world.repair()
    assert problems(world.verify()) == []


def test_what_cannot_be_repaired(world: World) -> None:
    world.nar(world.library).unlink()
    world.cache.objects.clear()
    findings = world.repair()
    assert [bad.is_repaired for bad in findings.bad] == [False]
    assert "path is in no cache" in str(findings.bad[0].to_json()["repair_error"])


def test_names_as_other_tools_write_them(world: World) -> None:
    info = world.cache.infos[world.library]
    world.cache.publish(replace(info, url="deep/er/lib%2B.nar.xz"), key=KEY)
    world.narinfo(world.library).write_bytes(world.cache.objects[world.narinfo(world.library).name])
    (world.directory / "deep/er").mkdir(parents=True)
    (world.directory / info.url).rename(world.directory / "deep/er/lib+.nar.xz")
    assert problems(world.verify()) == []


def test_an_empty_one(tmp_path: Path) -> None:
    with closing(open_mirror(str(tmp_path))) as mirror:
        assert verify_mirror(mirror, policy=POLICY).looked_at == 0
