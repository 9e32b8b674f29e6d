from __future__ import annotations

import gzip
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc
import pytest

import images
import nixfetch
from fake_containerd import Fake, eventually, fake_containerd
from images import layer, nix_layer
from node import Node, never
from simulated_cache import Executable, SimulatedCache
from snapshotter.cri.connection import Connection
from snapshotter.cri.imageroots import ImageRoots
from snapshotter.cri.loading import MANAGED
from snapshotter.cri.pulls import MADE_BY, Place, Pulls
from snapshotter.errors import InvalidArgumentError, PreconditionError, UnavailableError
from snapshotter.imageref import NixReference
from snapshotter.labels import NIX_LAYER_COMPLETE
from snapshotter.oci.digests import ImageError
from snapshotter.oci.model import Platform

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nixfetch import StorePath


class Here:
    """A node, a containerd, and who pulls into it."""

    def __init__(self, node: Node, fake: Fake) -> None:
        self.node, self.fake = node, fake
        add = node.cache.add
        self.lib = add("lib", b"lib")
        self.app = add("app", {b"bin": {b"app": Executable(b"#!/x")}}, references=[self.lib])

    @contextmanager
    def pulls(self, instance: str = "i") -> Iterator[Pulls]:
        with (
            self.node.substitute() as substitute,
            nixfetch.LocalStore(self.node.root, durable=False) as store,
            Connection(self.fake.socket) as connection,
        ):
            yield Pulls(
                Place(connection=connection),
                ImageRoots(substitute, instance),
                store,
                machine=Platform("linux", "amd64"),
                instance=instance,
                scratch=self.node.place,
            )

    def pull(self, path: StorePath, digest: str | None = None) -> str:
        with self.pulls() as pulls:
            return pulls.pull(NixReference(path, digest), cancelled=never)

    def rooted(self) -> set[str]:
        """Names of paths that roots of images keep."""
        rooted = self.node.rooted()
        return {path for root, paths in rooted.items() if "-image-" in root for path in paths}


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    with fake_containerd() as fake:
        # The nix layers of bare paths are ready; the one with users is unpacked from its blob.
        fake.ready = lambda labels: NIX_LAYER_COMPLETE in labels
        yield Here(Node(tmp_path, SimulatedCache()), fake)


def test_a_bare_path(here: Here) -> None:
    id_ = here.pull(here.app)
    name = str(NixReference(here.app))
    digest = here.fake.images[name].target.digest
    assert here.fake.named().keys() == {name, id_, f"{name.removesuffix(':latest')}@{digest}"}
    for image in here.fake.images.values():
        assert dict(image.labels) == {**MANAGED, MADE_BY: f"1@{digest}"}
    assert here.rooted() == {"app"}
    assert here.node.valid() == ["app", "lib"]
    assert here.fake.leases == {}
    assert here.node.collect() == set()


def test_what_is_known_is_not_made_again(here: Here) -> None:
    id_ = here.pull(here.app)
    digest = here.fake.images[id_].target.digest
    fetches = len(here.node.fetches)
    here.fake.calls.clear()
    assert here.pull(here.app) == id_
    assert here.pull(here.app, digest) == id_
    assert set(here.fake.calls) == {"Images/Get", "ImageService/ImageStatus"}
    assert len(here.node.fetches) == fetches
    with pytest.raises(ImageError, match="another digest"):
        here.pull(here.app, f"sha256:{'0' * 64}")
    assert here.rooted() == {"app"}


@pytest.mark.parametrize("lacking", ["the label", "another version", "the list of CRI"])
def test_what_only_looks_known_is_made_again(lacking: str, here: Here) -> None:
    id_ = here.pull(here.app)
    image = here.fake.images[str(NixReference(here.app))]
    match lacking:
        case "the label":
            del image.labels[MADE_BY]
        case "another version":
            image.labels[MADE_BY] = f"0@{image.target.digest}"
        case _:
            here.fake.deaf = 1
    here.fake.calls.clear()
    assert here.pull(here.app) == id_
    assert "Leases/Create" in here.fake.calls
    assert image.labels[MADE_BY] == f"1@{image.target.digest}"


def test_roots_come_back_with_a_pull(here: Here) -> None:
    """Somebody removed them, and a collector may have come."""
    here.pull(here.app)
    with nixfetch.LocalStore(here.node.root) as store:
        roots = nixfetch.Roots(store)
        for name in roots.sets():
            roots.remove(name)
    assert here.node.collect() == {"app", "lib"}
    here.pull(here.app)
    assert here.node.valid() == ["app", "lib"]
    assert here.rooted() == {"app"}


def archive_of(here: Here, tmp_path: Path, image: images.Image, name: str) -> StorePath:
    data = image.archive(tmp_path / "image.tar").read_bytes()
    if not name.endswith(".gz"):
        return here.node.cache.add(name, data, references=[here.app])
    return here.node.cache.add(name, gzip.compress(data, mtime=0))  # nobody sees what it names


@pytest.mark.parametrize("name", ["image.tar", "image.tar.gz"])
def test_an_archive(name: str, here: Here, tmp_path: Path) -> None:
    here.fake.unpacked = gzip.decompress
    layers = (layer({"a": b""}), nix_layer([str(here.app)], complete=True))
    image = images.Image("example.test/image:v1", layers)
    path = archive_of(here, tmp_path, image, name)
    assert here.pull(path) == images.digest(image.config())
    assert here.rooted() == {name}
    assert here.node.valid() == sorted(["app", "lib", name])
    assert len(here.node.fetches) == (2 if name.endswith(".gz") else 1)
    manifest = images.digest(image.manifest())
    assert set(here.fake.named().values()) == {manifest}
    assert str(NixReference(path)) in here.fake.named()


def test_what_several_layers_need_comes_at_once(here: Here, tmp_path: Path) -> None:
    """One fetch for all of them, and one for each list of a closure; before containerd is asked."""
    others = [here.node.cache.add(f"other-{number}", b"") for number in range(3)]
    listed = here.node.cache.add("listed", b"")
    info = here.node.add_closure_info(listed)
    layers = [nix_layer([str(path)], complete=True) for path in (here.lib, *others, *others)]
    layers.append(nix_layer([], closure=str(info), numbered=False, complete=True))
    image = images.Image("example.test/image:v1", tuple(layers))
    path = archive_of(here, tmp_path, image, "image.tar.gz")
    here.fake.unpacked = gzip.decompress
    here.fake.faults["Leases/Create"] = grpc.StatusCode.FAILED_PRECONDITION
    with pytest.raises(PreconditionError):
        here.pull(path)
    assert here.node.fetches == [[path], [here.lib, *others], [info]]
    names = ["closure-info", "image.tar.gz", "lib", "listed", "other-0", "other-1", "other-2"]
    assert here.node.valid() == names
    here.fake.faults.clear()
    here.pull(path)
    assert here.rooted() == {"image.tar.gz"}  # the layers have roots of their own, as snapshots


def test_labels_that_lie(here: Here, tmp_path: Path) -> None:
    """Containerd never hears of them."""
    evil = {
        "containerd.io/snapshot/nix-layer": "true",
        "containerd.io/snapshot/nix-closure": "/etc",
    }
    image = images.Image("example.test/image:v1", (layer({"a": b""}), layer({}, evil)))
    path = archive_of(here, tmp_path, image, "image.tar")
    with pytest.raises(InvalidArgumentError) as caught:
        here.pull(path)
    assert caught.value.facts["layer"] == image.layers[1].digest
    assert set(here.fake.calls) == {"Images/Get"}
    assert here.rooted() == set()


def test_a_path_is_the_same_image_for_ever(here: Here) -> None:
    """Whoever changes what is made of a path changes `_MAKING` in `pulls`, and this."""
    here.pull(here.app)
    image = here.fake.images[str(NixReference(here.app))]
    made = (image.labels[MADE_BY].partition("@")[0], image.target.digest)
    assert made == (
        "1",
        "sha256:433485f25e56b9faa140ccf4b8eb57b29e92f86eec92233b57ad8bc9a150e7c9",
    )


def test_an_image_for_another_machine(here: Here, tmp_path: Path) -> None:
    class Foreign(images.Image):
        def config(self) -> bytes:
            return images.Image.config(self).replace(b"amd64", b"arm64")

    path = archive_of(here, tmp_path, Foreign("example.test/a:v1", (layer({}),)), "image.tar")
    with pytest.raises(ImageError, match="platform"):
        here.pull(path)
    assert here.rooted() == set()
    assert here.fake.is_empty()


@pytest.mark.parametrize(
    "method", ["Leases/Create", "Snapshots/Prepare", "Diff/Apply", "Images/Create"]
)
def test_nothing_is_left_of_what_fails(method: str, here: Here) -> None:
    here.fake.faults[method] = grpc.StatusCode.FAILED_PRECONDITION
    with pytest.raises(PreconditionError):
        here.pull(here.app)
    assert here.fake.is_empty()
    assert here.rooted() == set()
    assert here.node.collect() == {"app", "lib"}
    here.fake.faults.clear()
    here.pull(here.app)
    assert here.rooted() == {"app"}


def test_a_failure_beside_an_older_image(here: Here) -> None:
    """That one stays, and so does its root."""
    here.pull(here.app)
    here.fake.images[str(NixReference(here.app))].labels[MADE_BY] = "old"
    here.fake.faults["Images/Update"] = grpc.StatusCode.INTERNAL
    with pytest.raises(UnavailableError):
        here.pull(here.app)
    assert str(NixReference(here.app)) in here.fake.images
    assert here.rooted() == {"app"}


def test_containerd_is_away(here: Here) -> None:
    here.fake.faults |= dict.fromkeys(("Images/Get", "Images/List"), grpc.StatusCode.UNAVAILABLE)
    with pytest.raises(UnavailableError):
        here.pull(here.app)
    # Whether there is an image nobody knows, so its root stays until containerd says.
    assert here.rooted() == {"app"}
    with here.pulls() as pulls:
        pulls.try_sweep()
        assert here.rooted() == {"app"}
        here.fake.faults.clear()
        pulls.try_sweep()
    assert here.rooted() == set()


def test_a_cache_without_it(here: Here) -> None:
    del here.node.cache.objects[f"{here.lib.hash_part}.narinfo"]
    with pytest.raises(nixfetch.FetchFailedError):
        here.pull(here.app)
    assert here.fake.is_empty()
    assert here.rooted() == set()


def test_swept_at_the_start_and_now_and_then(here: Here) -> None:
    """As soon as containerd answers: leases of earlier processes, roots of images that are gone."""
    here.pull(here.app)
    here.pull(here.lib)
    here.fake.leases |= {"nixfetch-i-dead-1": {}, "nixfetch-other-1": {}}
    gone = here.fake.images[str(NixReference(here.lib))].target.digest
    here.fake.images = {
        name: image for name, image in here.fake.images.items() if image.target.digest != gone
    }
    here.fake.faults["Leases/List"] = grpc.StatusCode.UNAVAILABLE
    ended = threading.Event()
    with here.pulls() as pulls:
        thread = threading.Thread(target=pulls.keep_swept, args=[ended])
        thread.start()
        try:
            eventually(lambda: here.fake.counted()["Leases/List"] > 1)
            assert here.rooted() == {"app", "lib"}
            here.fake.faults.clear()
            eventually(lambda: here.rooted() == {"app"})
            assert here.fake.leases.keys() == {"nixfetch-other-1"}
        finally:
            ended.set()
            thread.join(30.0)
        assert not thread.is_alive()


def test_two_daemons_share_a_store(here: Here) -> None:
    with here.pulls("one") as one, here.pulls("two") as two:
        one.pull(NixReference(here.app), cancelled=never)
        here.fake.images.clear()
        two.sweep()
        assert here.rooted() == {"app"}
        one.sweep()
        assert here.rooted() == set()
