from __future__ import annotations

import gzip
import hashlib
import random
from typing import TYPE_CHECKING

import grpc
import pytest

import images
import nixfetch
from fake_containerd import Fake, fake_containerd
from images import layer, nix_layer
from simulated_cache import store_path
from snapshotter.cri.connection import Connection
from snapshotter.cri.lease import PIECE
from snapshotter.cri.loading import (
    MANAGED,
    Loader,
    WrongLayerError,
    connecting,
    load,
    names_in_kubernetes,
    tagged,
)
from snapshotter.cri.namespace import Namespace
from snapshotter.errors import InvalidArgumentError, UnavailableError
from snapshotter.image import archive
from snapshotter.imageref import NixReference, parse
from snapshotter.labels import NIX_LAYER_COMPLETE
from snapshotter.oci.digests import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from images import Layer

SNAPSHOT = "containerd.io/gc.ref.snapshot.nix"
PATH = store_path("app")


@pytest.fixture
def fake() -> Iterator[Fake]:
    with fake_containerd() as found:
        found.unpacked = gzip.decompress
        found.ready = lambda labels: NIX_LAYER_COMPLETE in labels
        yield found


@pytest.fixture
def into(fake: Fake) -> Iterator[Namespace]:
    with Connection(fake.socket) as connection:
        yield Namespace(connection, "k8s.io")


def image_of(*layers: Layer) -> images.Image:
    return images.Image("example.test/image:v1", layers)


def loaded(
    image: images.Image, tmp_path: Path, into: Namespace, *names: str, **more: object
) -> None:
    with archive.opening(image.archive(tmp_path / "image.tar")) as opened:
        load(opened, into, names=names or ("one",), **more)  # type: ignore[arg-type]


def chain(*layers: Layer) -> str:
    return image_of(*layers).chain()


def test_all_of_an_image(fake: Fake, into: Namespace, tmp_path: Path) -> None:
    one, two = layer({"a": b"a"}), layer({"b": b"b"}, {"containerd.io/snapshot/x": "y", "z": "z"})
    image = image_of(one, two)
    loaded(image, tmp_path, into, "one", "two", labels=MANAGED)

    manifest, config = images.digest(image.manifest()), images.digest(image.config())
    assert fake.named() == {"one": manifest, "two": manifest}
    assert dict(fake.images["one"].labels) == MANAGED
    assert fake.blobs.keys() == {manifest, config, one.digest, two.digest}
    assert fake.blobs[manifest].data == image.manifest()
    assert fake.blobs[manifest].labels == {
        "containerd.io/gc.ref.content.config": config,
        "containerd.io/gc.ref.content.l.0": one.digest,
        "containerd.io/gc.ref.content.l.1": two.digest,
    }
    assert fake.blobs[config].labels == {SNAPSHOT: image.chain()}
    assert fake.snapshots.keys() == {chain(one), chain(one, two)}
    top = fake.snapshots[image.chain()]
    assert (top.committed, top.parent) == (True, chain(one))
    # Annotations for snapshotters, and what the layer will be called; nothing else.
    assert top.labels == {
        "containerd.io/snapshot/x": "y",
        "containerd.io/snapshot.ref": image.chain(),
    }
    assert fake.leases == {}
    # All is there without the lease too.
    fake.collect()
    assert fake.snapshots.keys() == {chain(one), chain(one, two)}
    assert len(fake.blobs) == 4
    assert {each["containerd-namespace"] for each in fake.metadata} == {"k8s.io"}


def test_a_layer_that_is_ready_is_not_unpacked(fake: Fake, into: Namespace, tmp_path: Path) -> None:
    ours, plain = nix_layer([str(PATH)], complete=True), layer({"b": b"b"})
    loaded(image_of(ours, plain), tmp_path, into)
    assert fake.counted()["Snapshots/Prepare"] == 2
    assert fake.counted()["Diff/Apply"] == fake.counted()["Snapshots/Commit"] == 1
    # Its blob is there all the same: who exports the image finds it whole.
    assert ours.digest in fake.blobs


def test_an_image_without_layers(fake: Fake, into: Namespace, tmp_path: Path) -> None:
    loaded(image_of(), tmp_path, into)
    assert fake.snapshots == {}
    assert len(fake.blobs) == 2


def test_loaded_twice(fake: Fake, into: Namespace, tmp_path: Path) -> None:
    """And what another image left behind gets the labels that this one needs."""
    image = image_of(layer({"a": b"a"}))
    loaded(image, tmp_path, into)
    config = fake.blobs[images.digest(image.config())]
    config.labels = {"other": "label", "containerd.io/gc.ref.snapshot.overlayfs": "x"}
    before = fake.counted()["Diff/Apply"]
    loaded(image, tmp_path, into, "one", labels=MANAGED)
    assert config.labels == {
        "other": "label",
        "containerd.io/gc.ref.snapshot.overlayfs": "x",
        SNAPSHOT: image.chain(),
    }
    assert fake.counted()["Diff/Apply"] == before
    assert dict(fake.images["one"].labels) == MANAGED


def test_a_name_goes_to_the_newer_image(fake: Fake, into: Namespace, tmp_path: Path) -> None:
    old, new = image_of(layer({"a": b"a"})), image_of(layer({"a": b"b"}))
    loaded(old, tmp_path, into)
    loaded(new, tmp_path, into)
    assert fake.named() == {"one": images.digest(new.manifest())}


def test_large_layers(fake: Fake, into: Namespace, tmp_path: Path) -> None:
    """In pieces; asked for before they are sent, and then not sent again."""
    content = random.Random(0).randbytes(3 * PIECE)
    image = image_of(layer({"a": content}))
    loaded(image, tmp_path, into)
    assert fake.blobs[image.layers[0].digest].data == image.layers[0].blob
    writes = fake.counted()["Content/Write"]
    assert writes == 4  # whether it is there; itself; the two documents
    loaded(image, tmp_path, into, "two")
    assert fake.counted()["Content/Write"] == writes + 3
    assert fake.ingests == {}


@pytest.mark.parametrize("size", [10, 2 * PIECE])
def test_the_same_layer_several_times(
    size: int, fake: Fake, into: Namespace, tmp_path: Path
) -> None:
    one, two = layer({"a": random.Random(0).randbytes(size)}), layer({"b": b"b"})
    image = image_of(one, two, one, one)
    loaded(image, tmp_path, into)
    assert len(fake.blobs) == 4
    assert len(fake.snapshots) == 4
    assert fake.snapshots[image.chain()].parent == chain(one, two, one)


# What goes wrong.


def test_a_layer_that_unpacks_to_something_else(
    fake: Fake, into: Namespace, tmp_path: Path
) -> None:
    """Whatever we saw in it: containerd says what it unpacked."""
    fake.unpacked = lambda _: b"something else"
    image = image_of(layer({"a": b"a"}))
    with pytest.raises(WrongLayerError) as caught:
        loaded(image, tmp_path, into)
    assert caught.value.facts["layer"] == image.layers[0].digest
    assert caught.value.facts["actual"] == images.digest(b"something else")
    assert fake.is_empty()


@pytest.mark.parametrize("size", [10, 3 * PIECE])
def test_blobs_that_lie(size: int, fake: Fake, into: Namespace, tmp_path: Path) -> None:
    image = image_of(layer({"good": b"a"}), layer({"a": random.Random(0).randbytes(size)}))
    file = image.archive(tmp_path / "image.tar")
    blob = image.layers[1].blob
    data = file.read_bytes()
    assert data.count(blob) == 1
    file.write_bytes(data.replace(blob, blob[:4] + b"\1" + blob[5:]))
    with (
        archive.opening(file) as opened,
        pytest.raises(ImageError, match="another digest") as caught,
    ):
        load(opened, into, names=("one",))
    assert caught.value.facts["layer"] == image.layers[1].digest
    assert fake.is_empty()


METHODS = [
    "Leases/Create",
    "Content/Write",
    "Snapshots/Prepare",
    "Diff/Apply",
    "Snapshots/Commit",
    "Images/Create",
]


@pytest.mark.parametrize("method", METHODS)
def test_a_service_that_fails(method: str, fake: Fake, into: Namespace, tmp_path: Path) -> None:
    """Nothing is left, and the same works once the service does."""
    image = image_of(layer({"a": b"a"}), layer({"b": b"b"}))
    fake.faults[method] = grpc.StatusCode.INTERNAL
    with pytest.raises(UnavailableError, match=method):
        loaded(image, tmp_path, into)
    assert fake.is_empty()
    fake.faults.clear()
    loaded(image, tmp_path, into)
    assert len(fake.snapshots) == 2


@pytest.mark.parametrize("nth", range(1, 4))
def test_one_of_several_names_fails(nth: int, fake: Fake, into: Namespace, tmp_path: Path) -> None:
    """Those that we made before are taken back; those that were there stay."""
    count = 0

    def fail() -> None:
        nonlocal count
        count += 1
        if count == nth:
            raise fake_refusal()

    older = image_of(layer({"old": b""}))
    loaded(older, tmp_path, into, "two")
    fake.faults["Images/Create"] = fail
    with pytest.raises(InvalidArgumentError):
        loaded(image_of(layer({"a": b"a"})), tmp_path, into, "one", "two", "three")
    assert fake.named().keys() == {"two"}
    assert fake.leases == {}


def fake_refusal() -> Exception:
    from fake_containerd import RefusedError

    return RefusedError(grpc.StatusCode.INVALID_ARGUMENT)


def test_another_was_faster(fake: Fake, into: Namespace, tmp_path: Path) -> None:
    """Somebody committed the layer while we unpacked it: theirs is taken, ours removed."""
    image = image_of(layer({"a": b"a"}))

    def other() -> None:
        from fake_containerd import Snapshot

        fake.snapshots[image.chain()] = Snapshot("", {}, committed=True)

    fake.faults["Diff/Apply"] = other
    loaded(image, tmp_path, into)
    assert fake.snapshots.keys() == {image.chain()}
    # Asked for once more: from then on it is ours as well, whatever becomes of theirs.
    assert fake.counted()["Snapshots/Prepare"] == 2


def test_nobody_waits_any_more(fake: Fake, tmp_path: Path) -> None:
    gone = False

    def leave() -> None:
        nonlocal gone
        gone = True
        raise fake_refusal()

    image = image_of(layer({"a": b"a"}))
    with Connection(fake.socket) as connection:
        into = Namespace(connection, "k8s.io", cancelled=lambda: gone)
        fake.faults["Snapshots/Prepare"] = leave
        with pytest.raises(nixfetch.NixfetchError):
            loaded(image, tmp_path, into)
    assert fake.is_empty()


# Names, and the client for the command line.


def test_names(tmp_path: Path) -> None:
    image = image_of(layer({"a": b"a"}))
    file = image.archive(tmp_path / "image.tar")
    manifest, config = images.digest(image.manifest()), images.digest(image.config())
    with archive.opening(file) as opened:
        nix = NixReference(PATH)
        assert names_in_kubernetes(nix, opened) == (
            config,
            f"nix:0{PATH}@{manifest}",
            f"nix:0{PATH}:latest",
        )
        registry = parse("example.test/a:v1")
        assert names_in_kubernetes(registry, opened) == (
            config,
            f"example.test/a@{manifest}",
            "example.test/a:v1",
        )
        pinned = parse(f"example.test/a@{manifest}")
        assert tagged(pinned) is None
        assert names_in_kubernetes(pinned, opened) == (config, f"example.test/a@{manifest}")


@pytest.mark.parametrize(
    ("namespace", "named"),
    [
        ("default", {"docker.io/library/app:latest"}),
        ("k8s.io", {"docker.io/library/app:latest", "ID", "docker.io/library/app@DIGEST"}),
    ],
)
def test_a_loader(namespace: str, named: set[str], fake: Fake, tmp_path: Path) -> None:
    image = image_of(layer({"a": b"a"}))
    manifest, config = images.digest(image.manifest()), images.digest(image.config())
    named = {name.replace("DIGEST", manifest).replace("ID", config) for name in named}
    with (
        archive.opening(image.archive(tmp_path / "i.tar")) as opened,
        connecting(fake.socket, snapshotter="other") as loader,
    ):
        assert isinstance(loader, Loader)
        assert loader.load(opened, namespace=namespace, reference="app") == config
        with pytest.raises(InvalidArgumentError):
            loader.load(opened, namespace=namespace, reference="No Reference")
    assert fake.named().keys() == named
    assert {each["containerd-namespace"] for each in fake.metadata} == {namespace}
    assert fake.blobs[config].labels == {
        "containerd.io/gc.ref.snapshot.other": image.layers[0].diff_id
    }
    managed = dict(fake.images["docker.io/library/app:latest"].labels)
    assert managed == (MANAGED if namespace == "k8s.io" else {})


def test_leases_of_nobody(fake: Fake) -> None:
    with Connection(fake.socket) as connection:
        into = Namespace(connection, "k8s.io")
        fake.leases |= {"nixfetch-i-old-1": {}, "nixfetch-i-now-1": {}, "nixfetch-j-old-1": {}}
        into.end_leases("nixfetch-i", but="nixfetch-i-now")
    assert fake.leases.keys() == {"nixfetch-i-now-1", "nixfetch-j-old-1"}


def test_digests_are_what_they_were(fake: Fake, into: Namespace, tmp_path: Path) -> None:
    """Blobs in containerd are the bytes of the archive."""
    loaded(image_of(layer({"a": b"a"}), layer({"b": b"b" * 100_000})), tmp_path, into)
    for digest, blob in fake.blobs.items():
        assert digest == f"sha256:{hashlib.sha256(blob.data).hexdigest()}"
