"""Containers out of the Nix store, run by both real containerds.

With 1.6 store paths come as the first lower layer, with 2.1 as read-only binds.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from containerd_host import VERSIONS, Version
from containers import FIXTURES, NAME, Machine, World, demo, machine
from images import Image, busybox_layer, layer, nix_layer
from simulated_cache import KEY

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

MODES = [*((version, "auto") for version in VERSIONS), ("2.1", "lower")]


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module", params=MODES, ids="-".join)
def here(request: pytest.FixtureRequest, world: World) -> Iterator[Machine]:
    """A machine that all tests share, in each way to mount store paths."""
    version, mode = request.param
    settings = f'mount-mode = "{mode}"'
    with machine(version, world.cache, settings=settings) as here:
        before = here.host.mounts()
        yield here
        here.host.tidy()
        here.is_tidy()
        assert here.host.mounts() == before
        here.store_is_whole(str(KEY.public()))


@pytest.fixture
def hybrid(here: Machine, world: World) -> Image:
    image = world.hybrid()
    here.load(image)
    return image


def test_an_ordinary_image_runs_as_with_overlayfs(here: Machine) -> None:
    image = Image("example.test/plain:v1", (busybox_layer(), busybox_layer(**{"etc/more": b"x"})))
    here.load(image)
    here.load(image, snapshotter="overlayfs")
    script = "stat -c '%n %F %a %u:%g' / /* /bin/* /etc/*; cat /etc/more; touch /new && ls /new; id"
    ran = here.once(image, "sh", "-c", script)
    assert "/new" in ran.out
    assert ran == here.host.once(image.name, "sh", "-c", script, snapshotter="overlayfs")


def test_an_image_of_store_paths_alone(here: Machine, world: World) -> None:
    image = world.image()
    here.load(image)
    assert here.once(image).out == "words of the store\napp: you\n"


def test_both_forms_of_labels(here: Machine, world: World) -> None:
    for number, form in enumerate(
        (
            {"numbered": False, "closure": str(world.info)},
            {"numbered": True, "closure": str(world.info)},
        )
    ):
        image = world.image(f"form-{number}", **form)
        here.load(image)
        assert here.once(image).out == "words of the store\napp: you\n"


def test_a_hybrid_image(here: Machine, world: World, hybrid: Image) -> None:
    ran = here.once(hybrid, "sh", "-c", f"{world.program} and me; cat /etc/passwd")
    assert ran.out == "words of the store\napp: and me\nroot:x:0:0:root:/:/bin/sh\n"


def test_store_paths_below_an_ordinary_layer(here: Machine, world: World) -> None:
    image = Image("example.test/upside-down:v1", (world.layer(), busybox_layer()))
    here.load(image)
    assert here.once(image, world.program).out == "words of the store\napp:\n"


def test_store_paths_in_two_layers(here: Machine, world: World) -> None:
    first = nix_layer([str(world.tools), str(world.words)], files=[str(world.words)])
    second = nix_layer([str(world.app)])
    image = Image("example.test/split:v1", (first, second), (world.program, "split"))
    here.load(image)
    assert here.once(image).out == "words of the store\napp: split\n"


def test_a_store_path_that_is_a_file(here: Machine, world: World) -> None:
    words = str(world.words)
    layers = (busybox_layer(), nix_layer([words], files=[words]))
    image = Image("example.test/file:v1", layers)
    here.load(image)
    ran = here.once(image, "sh", "-c", f"ls /nix/store; cat {words}; test -f {words} && echo file")
    assert ran.out == f"{world.words.base}\nwords of the store\nfile\n"


def test_links_out_of_the_store_that_a_builder_made(here: Machine, world: World) -> None:
    content = {"bin/app": world.program, "etc/words": str(world.words)}
    image = Image(
        "example.test/copied:v1", (world.layer(content=content),), ("/bin/app", "linked"), ()
    )
    here.load(image)
    assert here.once(image).out == "words of the store\napp: linked\n"
    told = here.once(image, f"{world.tools}/bin/cat", "/etc/words")
    assert told.out == "words of the store\n"


def test_a_container_sees_its_closure_and_no_other_path(
    here: Machine, world: World, hybrid: Image
) -> None:
    image = Image("example.test/stranger:v1", (busybox_layer(), nix_layer([str(world.stranger)])))
    here.load(image)
    assert world.stranger.base in here.stored()
    seen = here.once(hybrid, "ls", "-a", "/nix", "/nix/store").out
    names = [path.rpartition("/")[2] for path in world.closure]
    shown = "".join(f"{name}\n" for name in sorted([".", "..", *names]))
    assert seen == f"/nix:\n.\n..\nstore\n\n/nix/store:\n{shown}"
    other = here.once(image, "ls", "/nix/store").out
    assert other == f"{world.stranger.base}\n"


def test_who_writes_to_the_store(here: Machine, world: World, hybrid: Image) -> None:
    place = f"{world.app}/share"
    script = f"""
        exec 2>/tmp/errors
        echo new > {place}/new; echo $?
        echo changed > {place}/empty; echo $?
        echo more >> {world.words}; echo $?
        rm -f {world.program}; echo $?
        ls {place}; cat {world.words}; wc -l </tmp/errors; cat /tmp/errors
    """
    ran = here.once(hybrid, "sh", "-c", script)
    if here.binds:
        assert ran.out.startswith("1\n1\n1\n1\nempty\nwords of the store\n4\n")
        assert ran.out.count("Read-only file system") == 4
    else:
        # In its own upper layer, as with any file of an image.
        assert ran.out == "0\n0\n0\n0\nempty\nnew\nwords of the store\nmore\n0\n"
    here.store_is_whole(str(KEY.public()))
    again = here.once(hybrid, "sh", "-c", f"ls {place}; {world.program} again")
    assert again.out == "empty\nwords of the store\napp: again\n"


def test_how_store_paths_are_mounted(here: Machine, world: World, hybrid: Image) -> None:
    table = here.once(hybrid, "cat", "/proc/mounts").out.splitlines()
    store = [line.split() for line in table if "/nix/store" in line.split()[1]]
    if here.binds:
        assert [fields[1] for fields in store] == list(world.closure)
        assert all("ro" in fields[3].split(",") for fields in store)
    else:
        assert not store
    (top,) = [line.split() for line in table if line.split()[1] == "/"]
    assert top[2] == "overlay"
    # Never the store itself, with its database and other people's paths.
    layers = top[3].partition("lowerdir=")[2].partition(",")[0].split(":")
    assert str(here.nix.store) not in layers
    assert not any(layer.endswith("nix/store") for layer in layers)


def test_two_containers_of_one_image(here: Machine, world: World, hybrid: Image) -> None:
    here.start(hybrid, "first", "sleep", "1000")
    here.start(hybrid, "second", "sleep", "1000")
    here.host.stop("first")
    assert here.host.inside("second", world.program, "alive").out.endswith("app: alive\n")
    here.host.stop("second")


def test_what_is_executed_later_sees_the_same(here: Machine, world: World, hybrid: Image) -> None:
    here.start(hybrid, "long", "sleep", "1000")
    assert (
        here.host.inside("long", "ls", "/nix/store").out
        == here.once(hybrid, "ls", "/nix/store").out
    )
    here.host.stop("long")


def test_a_view_for_reading(here: Machine, hybrid: Image) -> None:
    """`ctr snapshots view` and `ctr image mount` show what a container would see, read-only."""
    place = here.host.folder / "view"
    place.mkdir()
    here.host.ctr("image", "mount", "--snapshotter", NAME, hybrid.name, place)
    shown = here.host.run("ls", place / "bin/busybox").out
    assert shown
    refused = here.host.run("touch", place / "new", check=False)
    assert "Read-only" in refused.err
    here.host.ctr("image", "unmount", "--rm", "--snapshotter", NAME, place)
    assert not [line for line in here.host.mounts() if str(place) in line]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_closure_that_nix_made(version: Version) -> None:
    """With a loader, libraries and a reference to itself; nothing stays when the image goes."""
    real = demo()
    image = Image("example.test/demo:v1", (real.layer(),), (real.program, "you"), ())
    with machine(version, directory=FIXTURES / "cache-zstd") as here:
        here.load(image)
        assert here.once(image).out == real.output
        assert here.roots()
        kept = here.nixfetch("gc")
        assert (kept.code, kept.out) == (0, "")
        assert len(here.stored()) == len(real.closure)
        here.host.tidy()
        here.is_tidy()
        freed = here.nixfetch("gc")
        assert freed.code == 0
        assert here.stored() == []


@pytest.mark.parametrize("version", VERSIONS)
def test_a_large_closure_and_a_tall_image(version: Version, world: World) -> None:
    """Two thousand paths, and 128 layers; the figures are those of benchmarks/snapshotter.py."""
    small = list(map(str, world.big(2000)))
    paths = nix_layer([*world.closure, *small], files=[str(world.words), *small])
    large = Image("example.test/large:v1", (busybox_layer(), paths))
    layers = (layer({f"layer-{number}": b""}) for number in range(127))
    tall = Image("example.test/tall:v1", (*layers, busybox_layer()))
    with machine(version, world.cache) as here:
        here.load(large)
        begun = time.monotonic()
        ran = here.once(large, "sh", "-c", f"ls /nix/store | wc -l; cat {small[-1]}")
        assert time.monotonic() - begun < 30.0
        assert ran.out == "2003\ntop"
        here.load(tall)
        assert here.once(tall, "sh", "-c", "ls / | grep -c layer").out == "127\n"
        here.host.tidy()
        here.is_tidy()
