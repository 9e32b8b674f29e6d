"""Pods as kubelet runs them, through both real containerds and our image service."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import io
import json
import os
import subprocess
import sys
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
from pods import NAMESPACE, PAUSE, node_of_pods, pause
from servers import Answer
from simulated_cache import KEY, OTHER_KEY, Executable, Link
from snapshotter.imageref import NixReference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from images import Hub
    from nixfetch.formats.storepath import StorePath
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


def ref(path: StorePath) -> str:
    """The reference of a store path, as kubelet has it after it has normalised it."""
    return str(NixReference(path))


def add_archive(
    world: World, image: Image, tmp_path: Path, *, name: str = "image.tar", packed: bool = False
) -> StorePath:
    """An archive of an image, as a path of the cache that refers to what is in the image."""
    data = image.archive(tmp_path / "made.tar").read_bytes()
    references = [world.app, world.tools, world.words]
    tree = gzip.compress(data, mtime=0) if packed else data
    return world.cache.add(name, tree, references=() if packed else references)


def tidy(here: PodNode) -> None:
    """Hold a node to having no trace of any image but the one of sandboxes."""
    if here.end_pods():
        here.machine.host.collect(NAMESPACE)
    assert here.names() == sorted([PAUSE, digest(pause().config())])
    assert here.snapshots() == []
    assert here.leases() == []
    assert set(here.blobs()) <= here.own_blobs
    assert here.machine.roots() == []
    # What was removed is freed a moment later.
    wait_until(
        lambda: len(here.machine.directories()) == len(here.machine.rows()) == 1,
        "directories of snapshots stay",
        of=here.machine.host,
    )


def gone(here: PodNode) -> None:
    """Remove all images, and let the collector have the store."""
    for name in here.kubelet.images():
        if name != PAUSE:
            here.kubelet.remove(name)
    tidy(here)
    ran = here.machine.nixfetch("gc")
    assert ran.code == 0, ran
    assert here.machine.stored() == []


KINDS: dict[str, Callable[[World, Path, Hub], str]] = {
    "archive": lambda world, tmp_path, _: ref(add_archive(world, world.image(), tmp_path)),
    "packed": lambda world, tmp_path, _: ref(
        add_archive(world, world.hybrid(complete=True), tmp_path, name="i.tar.gz", packed=True)
    ),
    "path": lambda world, _, __: ref(world.app),
    "ours": lambda world, _, hub: hub.push(world.image("ours", complete=True)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_cold_node(kind: str, version: Version, world: World, tmp_path: Path, hub: Hub) -> None:
    """From an empty store and one signed cache to a container that ends; and back again."""
    reference = KINDS[kind](world, tmp_path, hub)
    with node_of_pods(version, world.cache) as here:
        assert here.machine.stored() == []
        id_ = here.kubelet.pull(reference)
        found = here.kubelet.image(reference)
        assert found.id == id_
        assert reference in found.repo_tags
        assert here.kubelet.image(id_).id == id_
        assert reference in here.kubelet.images()
        command = [] if kind == "path" else [world.program]
        ran = here.pod().run(reference, "hello", command=command)
        said = "words of the store\napp: hello\n"
        assert (ran.code, ran.out, ran.err) == (0, said, "")
        here.end_pods()
        here.machine.store_is_whole(str(KEY.public()))
        # As kubelet removes images that nobody needs: by their ID.
        here.kubelet.remove(id_)
        assert here.kubelet.image(reference) is None
        gone(here)


def test_all_kinds_in_one_pod(version: Version, world: World, tmp_path: Path, hub: Hub) -> None:
    """Of the store and ordinary ones, side by side; and what they say when they fail."""
    references = {kind: make(world, tmp_path, hub) for kind, make in KINDS.items()}
    plain = Image("example.test/plain:v1", (busybox_layer(),))
    references["plain"] = hub.push(plain)
    with node_of_pods(version, world.cache) as here:
        pod = here.pod()
        for kind, reference in references.items():
            here.kubelet.pull(reference)
            command = ["/bin/sh", "-c", "echo plain; echo bad >&2; exit 3"]
            if kind != "plain":
                command = [world.program, kind]
            ran = pod.run(reference, name=kind, command=command)
            if kind == "plain":
                assert (ran.code, ran.out, ran.err) == (3, "plain\n", "bad\n")
            else:
                assert (ran.code, ran.out) == (0, f"words of the store\napp: {kind}\n")
        # Containers of all kinds at the same time; one of them is removed and the rest stays.
        running = {
            kind: pod.start(
                reference,
                name=f"long-{kind}",
                command=["/bin/sleep", "1000"]
                if kind in {"plain", "packed"}
                else [f"{world.tools}/bin/sleep", "1000"],
            )
            for kind, reference in references.items()
        }
        assert all(map(pod.is_running, running.values()))
        gone(here)


def test_names_that_are_no_references(version: Version, world: World) -> None:
    """Store paths with upper case and a plus; the program is a link into another path."""
    path = world.cache.add(
        "R+x11-4.3_",
        {b"bin": {b"R": Link(world.program.encode())}},
        references=[world.app],
    )
    reference = ref(path)
    assert "+" not in reference
    assert reference == reference.lower()
    with node_of_pods(version, world.cache) as here:
        here.kubelet.pull(reference)
        assert here.pod().run(reference, "4").out == "words of the store\napp: 4\n"
        gone(here)


def test_pulling_what_is_there(version: Version, world: World) -> None:
    """Each pod pulls an image with the tag `latest`: nothing is made or asked for again."""
    reference = ref(world.app)
    with node_of_pods(version, world.cache) as here:
        id_ = here.kubelet.pull(reference)
        asked = len(here.machine.cache.requests)
        before = (here.blobs(), here.snapshots(), here.machine.roots())
        for _ in range(3):
            assert here.kubelet.pull(reference) == id_
        # With a digest too, and that of another image is refused.
        (name,) = here.kubelet.image(reference).repo_digests
        assert here.kubelet.pull(name) == id_
        other = f"{name.partition('@')[0]}@sha256:{'0' * 64}"
        with pytest.raises(CallError, match="image has another digest"):
            here.kubelet.pull(other)
        assert here.kubelet.image(reference).id == id_
        assert (here.blobs(), here.snapshots(), here.machine.roots()) == before
        assert len(here.machine.cache.requests) == asked
        # Another path that is the same program is an image of its own, over the same snapshots.
        gone(here)
        # Removed and pulled again.
        assert here.kubelet.pull(reference) == id_
        gone(here)


def test_how_long_a_pull_takes(version: Version, world: World) -> None:
    """All of it there, and nothing loaded: 150 ms at most, on a machine that is not too busy."""
    reference = ref(world.app)
    with node_of_pods(version, world.cache) as here:
        taken = []
        for _ in range(8):
            begun = time.monotonic()
            here.kubelet.pull(reference)
            taken.append(time.monotonic() - begun)
            here.kubelet.remove(reference)
        # The first one fetches. The best of the others is what it takes when nobody disturbs.
        assert min(taken[1:]) < 0.15, taken
        # The store paths survive, for nobody collected.
        assert here.machine.cache.asked(world.cache.nar_name(world.app)) == 1


# What goes wrong.


def test_nobody_trusted_signed_it(version: Version, world: World) -> None:
    with node_of_pods(version, world.cache, keys=[str(OTHER_KEY.public())]) as here:
        with pytest.raises(CallError, match=str(world.app)) as caught:
            here.kubelet.pull(ref(world.app))
        assert caught.value.status == "FAILED_PRECONDITION"
        assert KEY.name in caught.value.text
        assert here.machine.cache.url in caught.value.text
        tidy(here)
        assert here.machine.stored() == []


def test_the_cache_is_down_and_comes_back(version: Version, world: World, tmp_path: Path) -> None:
    references = [ref(world.app), ref(add_archive(world, world.image(), tmp_path))]
    with node_of_pods(version, world.cache) as here:
        here.machine.cache.faults["*"] = Answer(status=404)
        for reference in references:
            with pytest.raises(CallError) as caught:
                here.kubelet.pull(reference)
            assert here.machine.cache.url in caught.value.text
            tidy(here)
        del here.machine.cache.faults["*"]
        for reference in references:
            here.kubelet.pull(reference)
        gone(here)


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
        tidy(here)
        world.cache.objects[name] = whole
        here.kubelet.pull(ref(archive))
        gone(here)


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
        tidy(here)
        here.machine.cache.faults.clear()
        here.kubelet.pull(reference)
        gone(here)


def test_many_pulls_at_a_time(version: Version, world: World, tmp_path: Path, hub: Hub) -> None:
    """The same ones, and different ones of the same paths: each path is fetched once."""
    apps = [
        world.cache.add(
            f"app-{number}",
            {b"bin": {b"run": Executable(b"#!/bin/false\n")}},
            references=[world.app],
        )
        for number in range(4)
    ]
    archive = add_archive(world, world.image(), tmp_path)
    ours = hub.push(world.image("many", complete=True))
    references = [*map(ref, apps), ref(world.app), ref(archive), ours]
    with (
        node_of_pods(version, world.cache) as here,
        ThreadPoolExecutor(2 * len(references)) as threads,
    ):
        ids = list(threads.map(here.kubelet.pull, references * 2))
        assert ids[: len(references)] == ids[len(references) :]
        for path in (world.app, world.tools, world.words, archive, *apps):
            assert here.machine.cache.asked(world.cache.nar_name(path)) == 1
        list(threads.map(here.kubelet.remove, references * 2))
        gone(here)


# Hostile archives: signed by somebody who is trusted, and no image that may be unpacked all the
# same. What is wrong with the bytes of an archive is the subject of unit tests.


def tampered(image: Image, tmp_path: Path, *, find: bytes, put: bytes) -> bytes:
    data = image.archive(tmp_path / "tampered.tar").read_bytes()
    assert data.count(find) == 1
    assert len(find) == len(put)
    return data.replace(find, put)


def repacked(image: Image, change: Callable[[str, bytes], bytes | None]) -> bytes:
    """The archive of an image, with other contents of its files."""
    file = io.BytesIO()
    source = io.BytesIO()
    with tarfile.open(fileobj=source, mode="w") as archive:
        for name, data in _files(image).items():
            entry = tarfile.TarInfo(name)
            changed = change(name, data)
            if changed is not None:
                entry.size = len(changed)
                archive.addfile(entry, io.BytesIO(changed))
    file.write(source.getvalue())
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
            tidy(here)
        gone(here)
        assert not Path("/tmp/nixfetch-escaped").exists()


def test_references_that_are_none(world: World) -> None:
    with node_of_pods("2.1", world.cache) as here:
        for text in ("nix:0/", "nix:0/etc/passwd", "nix:0/nix/store/short", "nix:0/nix/store/../x"):
            with pytest.raises(CallError) as caught:
                here.kubelet.pull(text)
            assert caught.value.status == "INVALID_ARGUMENT", text
        tidy(here)


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
        gone(here)


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
        gone(here)


def test_a_crash_while_it_pulls(version: Version, world: World) -> None:
    """What it had begun is gone once it is back: its lease, its roots, its snapshots."""
    reference = ref(world.app)
    with node_of_pods(version, world.cache) as here, ThreadPoolExecutor(1) as threads:
        for moment in (0.0, 0.01, 0.03, 0.06, 0.1):
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
            tidy(here)
        here.kubelet.pull(reference)
        gone(here)


def test_where_images_are(version: Version, world: World) -> None:
    """The directory that kubelet watches the space of is there."""
    with node_of_pods(version, world.cache) as here:
        found = here.kubelet.call("ImageService", "ImageFsInfo").image_filesystems
        assert [Path(usage.fs_id.mountpoint).is_dir() for usage in found] == [True]


def test_a_daemon_without_an_image_service(world: World) -> None:
    settings = "[image-service]\nenable = false"
    with node_of_pods("2.1", world.cache, settings=settings) as here:
        with pytest.raises(CallError) as caught:
            here.kubelet.images()
        assert caught.value.status == "UNIMPLEMENTED"


def snapshotter(here: PodNode, *arguments: str | Path) -> str:
    """`nixfetch-snapshotter` with the node's store and containerd."""
    store = ("--store", here.machine.nix.store, "--address", here.machine.host.socket)
    ran = subprocess.run(
        [sys.executable, "-m", "snapshotter.cli", *arguments, *store],
        env={"PATH": os.environ["PATH"], "HOME": str(here.machine.nix.folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran
    return ran.stdout


def test_images_from_the_command_line(version: Version, world: World, tmp_path: Path) -> None:
    """`image load` and `image build --to containerd://`: for `ctr`, and for pods."""
    archive = world.hybrid(complete=True).archive(tmp_path / "image.tar")
    with node_of_pods(version, world.cache) as here:
        host = here.machine.host
        snapshotter(here, "image", "load", archive, "containerd://default/loaded:v1")
        ran = host.once("docker.io/library/loaded:v1", world.program, "ctr", snapshotter="nix")
        assert ran.out == "words of the store\napp: ctr\n"
        target = f"containerd://{NAMESPACE}/example.test/built:v1"
        entrypoint = ("--entrypoint", world.program)
        snapshotter(here, "image", "build", str(world.app), "--to", target, *entrypoint)
        # CRI hears of it by an event.
        wait_until(
            lambda: here.kubelet.image("example.test/built:v1"), "CRI does not hear", of=host
        )
        ran = here.pod().run("example.test/built:v1", "pod")
        assert ran.out == "words of the store\napp: pod\n"
        host.tidy()
        gone(here)
