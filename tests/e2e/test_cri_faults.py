"""What goes wrong with images of pods: caches, archives, containerd, our own end."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import io
import json
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from containerd_host import VERSIONS, Version, wait_until
from containers import World
from images import Image, Layer, busybox_layer, digest, layer, registry
from kubelet import CallError
from pods import KINDS, NAMESPACE, add_archive, node_of_pods, ref
from servers import Answer
from simulated_cache import KEY, OTHER_KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from images import Hub
    from pods import PodNode

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with registry(tmp_path_factory.mktemp("registry")) as hub:
        yield hub


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> Version:
    found: Version = request.param
    return found


def test_nobody_trusted_signed_it(version: Version, world: World) -> None:
    with node_of_pods(version, world.cache, keys=[str(OTHER_KEY.public())]) as here:
        with pytest.raises(CallError, match=str(world.app)) as caught:
            here.kubelet.pull(ref(world.app))
        assert caught.value.status == "FAILED_PRECONDITION"
        assert KEY.name in caught.value.text
        assert here.machine.cache.url in caught.value.text
        here.is_tidy()
        assert here.machine.stored() == []


def test_the_cache_is_down_and_comes_back(version: Version, world: World, tmp_path: Path) -> None:
    references = [ref(world.app), ref(add_archive(world, world.image(), tmp_path))]
    with node_of_pods(version, world.cache) as here:
        here.machine.cache.faults["*"] = Answer(status=404)
        for reference in references:
            with pytest.raises(CallError) as caught:
                here.kubelet.pull(reference)
            assert here.machine.cache.url in caught.value.text
            here.is_tidy()
        del here.machine.cache.faults["*"]
        for reference in references:
            here.kubelet.pull(reference)
        here.is_tidied()


def test_a_closure_that_is_not_whole(version: Version, world: World, tmp_path: Path) -> None:
    """The archive is there, what its layers name is not: nothing of the image stays."""
    archive = add_archive(
        world, world.hybrid(complete=True), tmp_path, name="lacking.tar.gz", packed=True
    )
    name = world.cache.nar_name(world.tools)
    whole = world.cache.objects[name]
    with node_of_pods(version, world.cache) as here:
        world.cache.objects[name] = whole[: len(whole) // 2]
        with pytest.raises(CallError, match=str(world.tools)):
            here.kubelet.pull(ref(archive))
        here.is_tidy()
        world.cache.objects[name] = whole
        here.kubelet.pull(ref(archive))
        here.is_tidied()


@pytest.mark.parametrize("kind", ["path", "packed"])
def test_kubelet_gives_up(kind: str, world: World, tmp_path: Path, hub: Hub) -> None:
    """The cache stalls; whoever waited is gone: so is all that was begun for him.

    A path stalls in our own fetch; what an archive does not refer to, in that of a layer which
    containerd prepares for us.
    """
    reference = KINDS[kind](world, tmp_path, hub)
    with node_of_pods("2.1", world.cache) as here:
        stalled = threading.Event()

        def stall(_request: object) -> Answer:
            stalled.set()
            return Answer(delay=300.0)

        here.machine.cache.faults[world.cache.nar_name(world.tools)] = stall
        with pytest.raises(CallError) as caught:
            here.kubelet.call("ImageService", "PullImage", image={"image": reference}, patience=2.0)
        assert caught.value.status == "DEADLINE_EXCEEDED"
        assert stalled.is_set()
        wait_until(
            lambda: not (here.machine.roots() or here.leases()),
            "something stays",
            of=here.machine.host,
        )
        here.is_tidy()
        here.machine.cache.faults.clear()
        here.kubelet.pull(reference)
        here.is_tidied()


# Hostile archives: signed by somebody who is trusted, and no image that may be unpacked all the
# same. What is wrong with the bytes of an archive is the subject of unit tests.


def repacked(image: Image, change: Callable[[str, bytes], bytes | None]) -> bytes:
    """The archive of an image, with other contents of its files."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in _files(image).items():
            changed = change(name, data)
            if changed is not None:
                entry = tarfile.TarInfo(name)
                entry.size = len(changed)
                archive.addfile(entry, io.BytesIO(changed))
    return file.getvalue()


def _files(image: Image) -> dict[str, bytes]:
    parts = [image.config(), image.manifest(), *(each.blob for each in image.layers)]
    manifest = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest(image.manifest()),
        "size": len(image.manifest()),
    }
    index = {"schemaVersion": 2, "manifests": [manifest]}
    return {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": json.dumps(index).encode(),
        **{f"blobs/{digest(part).replace(':', '/')}": part for part in parts},
    }


@dataclasses.dataclass(frozen=True, slots=True)
class RawLayer(Layer):
    """A layer that says of itself what is not so."""

    packed: bytes = b""
    said: str = ""

    @property
    def blob(self) -> bytes:
        return self.packed or super(RawLayer, self).blob

    @property
    def diff_id(self) -> str:
        return self.said or digest(self.tar)


def of(*layers: Layer) -> Image:
    return Image("example.test/hostile:v1", layers)


def _way_out() -> Layer:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        entry = tarfile.TarInfo("a/../../../../tmp/nixfetch-escaped")
        entry.size = 5
        archive.addfile(entry, io.BytesIO(b"gone\n"))
    return Layer(file.getvalue())


def _other_bytes(_name: str, data: bytes) -> bytes:
    # The time in the head of a gzip file, which nobody looks at.
    return data[:4] + b"\1" + data[5:] if data[:2] == b"\x1f\x8b" else data


@functools.cache
def bomb() -> bytes:
    return gzip.compress(bytes(400 * 1024 * 1024), 6, mtime=0)


def hostile() -> dict[str, tuple[Callable[[], bytes], str]]:
    """By name: an archive, and what the refusal has to say."""
    good = busybox_layer()
    honest = of(good)

    def same(_name: str, data: bytes) -> bytes:
        return data

    return {
        "another content": (lambda: repacked(honest, _other_bytes), "digest"),
        "another size": (
            lambda: repacked(honest, lambda _, d: d + b"\0" if d[:2] == b"\x1f\x8b" else d),
            "size",
        ),
        "a layer is missing": (
            lambda: repacked(honest, lambda _, d: None if d[:2] == b"\x1f\x8b" else d),
            "lacks",
        ),
        "a layer that holds something else": (
            lambda: repacked(of(good, RawLayer(layer({"a": b""}).tar, said=digest(b"b"))), same),
            "content",
        ),
        "a way out": (lambda: repacked(of(good, _way_out()), same), "leads out"),
        "a bomb": (
            lambda: repacked(of(good, RawLayer(b"", packed=bomb(), said=digest(b""))), same),
            "unpack",
        ),
        "ten thousand layers": (
            lambda: repacked(of(*[layer({"a": b""})] * 10_000), same),
            "more than an image may have",
        ),
        "a huge manifest": (
            lambda: repacked(of(layer({}, {"a": "a" * 5_000_000})), same),
            "too large",
        ),
        "a label that lies": (
            lambda: repacked(
                of(
                    good,
                    layer(
                        {},
                        {
                            "containerd.io/snapshot/nix-layer": "true",
                            "containerd.io/snapshot/nix-store-path.0": "/etc",
                        },
                    ),
                ),
                same,
            ),
            "store path",
        ),
        "no archive at all": (lambda: b"#!/bin/sh\n", "archive"),
    }


def test_hostile_archives(version: Version, world: World) -> None:
    """Refused, each with its reason; and nothing of them is left but in the store."""
    cases = hostile()
    paths = {
        name: world.cache.add(f"hostile-{number}.tar", make())
        for number, (name, (make, _)) in enumerate(cases.items())
    }
    with node_of_pods(version, world.cache) as here:
        for name, (_, reason) in cases.items():
            with pytest.raises(CallError) as caught:
                here.kubelet.pull(ref(paths[name]))
            assert reason in caught.value.text, (name, caught.value)
            assert caught.value.status in {"FAILED_PRECONDITION", "INVALID_ARGUMENT"}, name
            here.is_tidy()
        here.is_tidied()
        assert not Path("/tmp/nixfetch-escaped").exists()


def test_references_that_are_none(world: World) -> None:
    with node_of_pods("2.1", world.cache) as here:
        for text in ("nix:0/", "nix:0/etc/passwd", "nix:0/nix/store/short", "nix:0/nix/store/../x"):
            with pytest.raises(CallError) as caught:
                here.kubelet.pull(text)
            assert caught.value.status == "INVALID_ARGUMENT", text
        here.is_tidy()


# Ends and beginnings.


def test_containerd_comes_and_goes(version: Version, world: World) -> None:
    """Without it the service says so, and takes up again by itself; images are kept meanwhile."""
    reference = ref(world.app)
    with node_of_pods(version, world.cache) as here:
        id_ = here.kubelet.pull(reference)
        roots = here.machine.roots()
        here.machine.host.down()
        for method in ("ListImages", "ImageFsInfo"):
            with pytest.raises(CallError) as caught:
                here.kubelet.call("ImageService", method)
            assert caught.value.status == "UNAVAILABLE"
        with pytest.raises(CallError) as caught:
            here.kubelet.pull(reference)
        assert caught.value.status == "UNAVAILABLE"
        assert here.machine.roots() == roots
        here.machine.host.up()
        wait_until(lambda: _answers(here), "the service does not answer", of=here.machine.host)
        assert here.kubelet.image(reference).id == id_
        assert here.pod().run(reference, "again").out == "words of the store\napp: again\n"
        here.is_tidied()


def _answers(here: PodNode) -> bool:
    with suppress(CallError):
        here.kubelet.images()
        return True
    return False


def test_images_that_others_removed(version: Version, world: World) -> None:
    """While we were away: their roots go at the next start; those of the others stay."""
    kept, lost = ref(world.app), ref(world.tools)
    with node_of_pods(version, world.cache) as here:
        here.kubelet.pull(kept)
        id_ = here.kubelet.pull(lost)
        before = set(here.machine.roots())
        here.machine.nix.crash()
        names = [name for name in here.names() if name == id_ or str(world.tools) in name]
        here.machine.host.ctr("-n", NAMESPACE, "image", "rm", *names)
        here.restart()
        wait_until(
            lambda: not [root for root in here.machine.roots() if world.tools.hash_part in root],
            "the root of an image that is gone stays",
            of=here.machine.host,
        )
        here.machine.host.collect(NAMESPACE)
        assert set(here.machine.roots()) < before
        assert any(world.app.hash_part in root for root in here.machine.roots())
        assert here.pod().run(kept, "on").out == "words of the store\napp: on\n"
        here.is_tidied()


def test_a_crash_while_it_pulls(version: Version, world: World) -> None:
    """What it had begun is gone once it is back: its lease, its roots, its snapshots."""
    reference = ref(world.app)
    with node_of_pods(version, world.cache) as here, ThreadPoolExecutor(1) as threads:
        for moment in (0.0, 0.02, 0.06):
            pull = threads.submit(here.kubelet.pull, reference)
            time.sleep(moment)
            here.machine.nix.crash()
            assert isinstance(pull.exception(), CallError | None)
            here.restart()
            wait_until(lambda: here.leases() == [], "a lease stays", of=here.machine.host)
            if here.kubelet.image(reference):
                here.kubelet.remove(reference)
            here.machine.host.collect(NAMESPACE)
            wait_until(lambda: not here.machine.roots(), "roots stay", of=here.machine.host)
            here.is_tidy()
        here.kubelet.pull(reference)
        here.is_tidied()


def test_a_daemon_without_an_image_service(world: World) -> None:
    settings = "[image-service]\nenable = false"
    with node_of_pods("2.1", world.cache, settings=settings) as here:
        with pytest.raises(CallError) as caught:
            here.kubelet.images()
        assert caught.value.status == "UNIMPLEMENTED"
