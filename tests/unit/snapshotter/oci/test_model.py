from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from snapshotter.oci.digests import BlobError, ImageError, digest, verified
from snapshotter.oci.model import (
    LAYER,
    MANIFEST,
    MAX_MANIFEST,
    Descriptor,
    Index,
    Manifest,
    Platform,
    compression_of,
    layer_type,
    oci_layer_type,
)
from snapshotter.oci.reading import DocumentError, Fields, canonical, document

BLOB = Descriptor.of(LAYER, b"layer", {"a": "b"})
DOCUMENT: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": MANIFEST,
    "config": {
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": digest(b"{}"),
        "size": 2,
    },
    "layers": [BLOB.document()],
}


def changed(**changes: object) -> bytes:
    return json.dumps({**DOCUMENT, **changes}).encode()


def test_a_manifest_is_read_and_written_in_one_way() -> None:
    manifest = Manifest.parse(changed(annotations={"x": "y"}))
    assert manifest.layers == (BLOB,)
    assert manifest.annotations == {"x": "y"}
    data = manifest.json()
    assert Manifest.parse(data) == manifest
    assert data == canonical(json.loads(data))
    assert b" " not in data


def test_what_is_not_known_is_dropped_but_not_refused() -> None:
    data = changed(subject={"what": "ever"}, layers=[{**BLOB.document(), "data": 7, "urls": ["u"]}])
    assert Manifest.parse(data).layers[0].urls == ("u",)


@pytest.mark.parametrize(
    ("data", "problem", "place"),
    [
        (b"", "manifest is not JSON", None),
        (b"\xff", "manifest is not JSON", None),
        (b"[" * 100_000, "manifest is not JSON", None),
        (b"[1e999]", "manifest is not JSON", None),
        (b"NaN", "manifest is not JSON", None),
        (b"9" * 5000, "manifest is not JSON", None),
        (b"[]", "not a JSON object", "manifest"),
        (b" " * (MAX_MANIFEST + 1), "manifest is too large", None),
        (changed(schemaVersion=1), "schema of a manifest that is too old", "manifest"),
        (changed(schemaVersion="2"), "not a size, or missing", "manifest.schemaVersion"),
        (changed(mediaType="text/plain"), "not the media type that it should be", "manifest"),
        (changed(manifests=[]), "index and manifest at the same time", "manifest.manifests"),
        (changed(config=None), "manifest has no configuration", "manifest.config"),
        (changed(config=[]), "not a JSON object", "manifest.config"),
        (changed(layers={}), "not a JSON array", "manifest.layers"),
        (changed(layers=[7]), "not a JSON object", "manifest.layers[0]"),
        (changed(layers=[{}]), "not a string, or missing", "manifest.layers[0].digest"),
        (
            changed(layers=[{**BLOB.document(), "digest": "sha256:../../etc/passwd"}]),
            "not a digest that can be checked",
            "manifest.layers[0].digest",
        ),
        (
            changed(layers=[{**BLOB.document(), "digest": "md5:" + "0" * 32}]),
            "not a digest that can be checked",
            "manifest.layers[0].digest",
        ),
        (
            changed(layers=[{**BLOB.document(), "size": -1}]),
            "not a size, or missing",
            "manifest.layers[0].size",
        ),
        (
            changed(layers=[{**BLOB.document(), "size": True}]),
            "not a size, or missing",
            "manifest.layers[0].size",
        ),
        (
            changed(layers=[{**BLOB.document(), "annotations": {"a": 1}}]),
            "not a string, or missing",
            "manifest.layers[0].annotations.a",
        ),
        (
            changed(layers=[BLOB.document()] * 10_000),
            "more than an image may have",
            "manifest.layers",
        ),
    ],
)
def test_what_is_no_manifest(data: bytes, problem: str, place: str | None) -> None:
    with pytest.raises(DocumentError) as caught:
        Manifest.parse(data)
    assert caught.value.problem == problem
    assert caught.value.facts.get("place") == place


def test_a_manifest_that_is_a_list_of_them() -> None:
    with pytest.raises(DocumentError, match="index and manifest at the same time"):
        Index.parse(json.dumps({"schemaVersion": 2, "manifests": [], "layers": []}).encode())


def test_a_manifest_that_no_registry_would_take() -> None:
    many = Descriptor.of(LAYER, b"", {f"label-{number}": "x" * 300 for number in range(15_000)})
    manifest = Manifest(config=Descriptor.of("c", b""), layers=(many,))
    with pytest.raises(ImageError, match="manifest is too large") as caught:
        manifest.json()
    assert "--closure" in str(caught.value.hint)
    with pytest.raises(ImageError, match="too many layers"):
        Manifest(config=Descriptor.of("c", b""), layers=(BLOB,) * 129).json()


def test_an_index_is_read_and_written_in_one_way() -> None:
    arm = Descriptor.of(MANIFEST, b"m")
    index = Index(manifests=(arm,), annotations={"a": "b"})
    assert Index.parse(index.json()) == index


@pytest.mark.parametrize(
    ("media_type", "compression"),
    [
        ("application/vnd.oci.image.layer.v1.tar", "none"),
        ("application/vnd.oci.image.layer.v1.tar+gzip", "gzip"),
        ("application/vnd.oci.image.layer.v1.tar+zstd", "zstd"),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", "gzip"),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "gzip"),
    ],
)
def test_layers_by_their_media_types(media_type: str, compression: str) -> None:
    assert compression_of(media_type) == compression


@pytest.mark.parametrize("media_type", ["", "text/plain", f"{LAYER}+gzip+encrypted", f"{LAYER}.gz"])
def test_media_types_of_no_layer(media_type: str) -> None:
    with pytest.raises(ImageError, match="no media type of a layer"):
        compression_of(media_type)


@pytest.mark.parametrize(
    ("media_type", "expected"),
    [
        ("application/vnd.docker.image.rootfs.diff.tar", LAYER),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", f"{LAYER}+gzip"),
        ("application/vnd.docker.image.rootfs.diff.tar.zstd", f"{LAYER}+zstd"),
        (
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        ),
        (f"{LAYER}+zstd", f"{LAYER}+zstd"),
        ("application/x-other", "application/x-other"),
    ],
)
def test_layers_of_docker_by_the_name_of_oci(media_type: str, expected: str) -> None:
    assert oci_layer_type(media_type) == expected


def test_media_types_of_our_layers() -> None:
    assert [compression_of(layer_type(name)) for name in ("none", "gzip", "zstd")] == [
        "none", "gzip", "zstd",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("machine", "image", "runs"),
    [
        ("linux/amd64", "linux/amd64", True),
        ("linux/amd64", "linux/arm64", False),
        ("linux/amd64", "windows/amd64", False),
        ("linux/amd64", "linux/amd64/v2", False),
        ("linux/amd64/v3", "linux/amd64/v2", True),
        ("linux/arm64", "linux/arm64/v8", True),
        ("linux/arm", "linux/arm/v6", True),
        ("linux/arm/v6", "linux/arm/v7", False),
    ],
)
def test_which_machine_runs_what(machine: str, image: str, *, runs: bool) -> None:
    assert Platform.parse(machine).runs(Platform.parse(image)) is runs
    assert str(Platform.parse(machine)) == machine


@pytest.mark.parametrize("text", ["", "linux", "linux/", "linux/a/b/c", "linux/a b", "/"])
def test_what_is_no_platform(text: str) -> None:
    with pytest.raises(ImageError, match="not a platform"):
        Platform.parse(text)


def test_a_stream_that_is_what_it_should_be() -> None:
    assert b"".join(verified([b"la", b"yer"], digest=digest(b"layer"), size=5)) == b"layer"
    long = f"sha512:{hashlib.sha512(b'layer').hexdigest()}"
    assert b"".join(verified([b"layer"], digest=long, size=5)) == b"layer"


@pytest.mark.parametrize(
    ("chunks", "problem"),
    [
        ([b"laye"], "blob ends early"),
        ([b"layer", b"s"], "blob is larger than it should be"),
        ([b"laier"], "blob has another digest"),
        ([], "blob ends early"),
    ],
)
def test_a_stream_that_is_not(chunks: list[bytes], problem: str) -> None:
    passed: list[bytes] = []
    with pytest.raises(BlobError) as caught:
        passed.extend(verified(chunks, digest=digest(b"layer"), size=5))
    assert caught.value.problem == problem
    assert len(b"".join(passed)) <= 5


def test_fields_are_asked_for_with_a_default_or_are_there() -> None:
    fields = Fields("x", {"a": None, "n": 3})
    assert fields.text("a", "d") == fields.text("b", "d") == "d"
    assert (fields.number("n"), fields.number("m", 4)) == (3, 4)
    assert fields.texts("b", 1) == ()
    assert fields.mapping("b") == {}
    with pytest.raises(DocumentError):
        fields.text("n")
    with pytest.raises(DocumentError):
        Fields("x", {"a": [1]}).texts("a", 1)
    assert document(b"[1.5]", what="x", limit=5) == [1.5]
    with pytest.raises(DocumentError, match="x is too large"):
        document(b"[1.55]", what="x", limit=5)
