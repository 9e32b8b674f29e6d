from __future__ import annotations

import gzip
import io
import lzma
import os
import resource
import tarfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import nixfetch
from image_files import (
    INDEX,
    LAYER,
    MANIFEST,
    Made,
    described,
    digest,
    docker,
    dumped,
    index,
    laid,
    layout,
    tar,
    tarred,
)
from snapshotter.image import archive, inspection
from snapshotter.image.places import ArchiveError, BombError, UnreadableError
from snapshotter.oci.digests import ImageError
from snapshotter.oci.model import Platform

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")
MADE = Made()
PLAIN = Made(blob=MADE.contents, media_type=LAYER)
ZSTD = Made(blob=zstandard.ZstdCompressor().compress(MADE.contents), media_type=f"{LAYER}+zstd")


def opened(file: Path, **choices: Any) -> tuple[Any, bytes]:
    """An image, with its first layer unpacked and all of it looked into."""
    with archive.opening(file, **choices) as image:
        inspection.look_all(image)
        return image, b"".join(inspection.unpacked(image, 0))


@pytest.mark.parametrize("made", [MADE, PLAIN, ZSTD], ids=["gzip", "plain", "zstd"])
@pytest.mark.parametrize("write", [tarred, laid], ids=["archive", "directory"])
def test_an_oci_layout(made: Made, write: Callable[..., Path], tmp_path: Path) -> None:
    image, contents = opened(write(layout(made, names=["v1"]), tmp_path / "image"), platform=AMD64)
    assert contents == MADE.contents
    assert image.manifest_bytes == made.manifest
    assert image.descriptor.digest == digest(made.manifest)
    assert image.id == digest(made.config)
    assert image.config.process.command == ("/bin/sh",)
    assert image.name == "v1"
    assert image.chain_ids() == [digest(MADE.contents)]


@pytest.mark.parametrize(
    "made", [MADE, replace(MADE, blob=MADE.layer), replace(MADE, blob=ZSTD.layer)]
)
def test_an_archive_of_docker(made: Made, tmp_path: Path) -> None:
    image, contents = opened(tarred(docker(made), tmp_path / "image.tar"), platform=AMD64)
    assert contents == MADE.contents
    assert image.name == "a.test/b:1"
    assert image.id == digest(MADE.config)
    assert image.manifest.layers[0].digest == digest(made.contents if not made.blob else made.blob)


@pytest.mark.parametrize(
    "pack", [gzip.compress, lzma.compress, zstandard.ZstdCompressor().compress]
)
def test_an_archive_that_is_compressed_as_a_whole(
    pack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    file = tmp_path / "image.tar.x"
    file.write_bytes(pack(tar(docker(MADE))))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    _, contents = opened(file, scratch=scratch)
    assert contents == MADE.contents
    assert list(scratch.iterdir()) == []


def test_what_is_both_is_read_as_oci(tmp_path: Path) -> None:
    other = replace(MADE, words=("/other",))
    file = tarred({**docker(other), **layout(MADE)}, tmp_path / "image.tar")
    assert opened(file)[0].config.process.command == ("/bin/sh",)


def test_links_in_archives_of_docker(tmp_path: Path) -> None:
    """As `docker save` wrote layers that two images share."""
    files = docker(MADE)
    contents = files.pop("abc/layer.tar")
    file = tmp_path / "image.tar"
    with tarfile.open(file, "w") as output:
        for name, data in {**files, "./def/layer.tar": contents}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            output.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("abc/layer.tar")
        link.type, link.linkname = tarfile.SYMTYPE, "../def/./layer.tar"
        output.addfile(link)
    assert opened(file)[1] == contents


def test_several_images_are_told_apart(tmp_path: Path) -> None:
    other = replace(MADE, words=("/other",))
    file = tarred(layout(MADE, other, names=["v1", "v2"]), tmp_path / "image.tar")
    with pytest.raises(ImageError, match="several images") as caught:
        opened(file)
    assert caught.value.facts["images"] == ["v1", "v2"]
    assert caught.value.facts["file"] == str(file)
    assert opened(file, name="v2")[0].config.process.command == ("/other",)


def test_the_machine_picks_from_an_index(tmp_path: Path) -> None:
    arm = replace(MADE, architecture="arm64")
    inner = index(MADE, arm, platforms=True)
    files = layout(MADE, arm)
    files[f"blobs/{digest(inner).replace(':', '/')}"] = inner
    files["index.json"] = dumped({"schemaVersion": 2, "manifests": [described(INDEX, inner)]})
    file = tarred(files, tmp_path / "image.tar")
    assert str(opened(file, platform=ARM64)[0].config.platform) == "linux/arm64"
    assert str(opened(file, platform=AMD64)[0].config.platform) == "linux/amd64"
    with pytest.raises(ImageError, match="image is for other platforms"):
        opened(file, platform=Platform("linux", "riscv64"))


def test_an_image_for_another_machine(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="image is for another platform"):
        opened(tarred(layout(MADE), tmp_path / "image.tar"), platform=ARM64)


# Hostile ones.


def with_manifest(manifest: bytes) -> dict[str, bytes]:
    """An honest layout but for its manifest."""
    files = layout(MADE)
    files[f"blobs/{digest(manifest).replace(':', '/')}"] = manifest
    listed = [described(MANIFEST, manifest)]
    files["index.json"] = dumped({"schemaVersion": 2, "manifests": listed})
    return files


def damaged(**changes: bytes | None) -> dict[str, bytes]:
    """An honest layout but for some blobs."""
    files = layout(MADE)
    names = {
        "config": f"blobs/{digest(MADE.config).replace(':', '/')}",
        "layer": f"blobs/{digest(MADE.layer).replace(':', '/')}",
        "manifest": f"blobs/{digest(MADE.manifest).replace(':', '/')}",
        "index": "index.json",
        "layout": "oci-layout",
    }
    for key, data in changes.items():
        if data is None:
            del files[names[key]]
        else:
            files[names[key]] = data
    return files


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


LAYERS = [described(f"{LAYER}+gzip", MADE.layer)] * 10_000
HOSTILE = {
    "nothing in it": ({}, "no image in there"),
    "something else": ({"a": b""}, "no image in there"),
    "lies about the manifest": (
        damaged(manifest=flipped(MADE.manifest)),
        "blob has another digest",
    ),
    "lies about the configuration": (
        damaged(config=flipped(MADE.config)),
        "blob has another digest",
    ),
    "lies about the layer": (
        {**layout(PLAIN), f"blobs/{digest(PLAIN.layer).replace(':', '/')}": flipped(PLAIN.layer)},
        "blob has another digest",
    ),
    "damaged layer": (damaged(layer=flipped(MADE.layer)), "compressed data is damaged"),
    "longer layer": (damaged(layer=MADE.layer + b"x"), "blob has another size"),
    "shorter layer": (damaged(layer=MADE.layer[:-1]), "blob has another size"),
    "no layer": (damaged(layer=None), "image lacks a blob"),
    "no configuration": (damaged(config=None), "image lacks a blob"),
    "no manifest": (damaged(manifest=None), "image lacks a blob"),
    "no index": (damaged(index=None), "image lacks a file"),
    "another version": (
        damaged(layout=b'{"imageLayoutVersion": "2.0"}'),
        "unknown version of the OCI layout",
    ),
    "large oci-layout": (damaged(layout=b" " * 5000), "file of an image is too large"),
    "large index": (damaged(index=b" " * (5 * 1024**2)), "file of an image is too large"),
    "large manifest": (with_manifest(b" " * (5 * 1024**2)), "manifest is too large"),
    "10 000 layers": (
        with_manifest(
            dumped({"schemaVersion": 2, "config": described("c", b""), "layers": LAYERS})
        ),
        "more than an image may have",
    ),
    "no layer, one diff": (
        with_manifest(
            dumped({
                "schemaVersion": 2,
                "config": described("application/vnd.oci.image.config.v1+json", MADE.config),
            })
        ),
        "manifest and configuration have different numbers of layers",
    ),
    "artifact": (
        with_manifest(dumped({"schemaVersion": 2, "config": described("a/b", b""), "layers": []})),
        "not an image for containers",
    ),
    "digest that is a path": (
        with_manifest(
            MADE.manifest.replace(digest(MADE.layer).encode(), b"sha256:../../../etc/passwd")
        ),
        "not a digest that can be checked",
    ),
    "layer of another type": (
        layout(replace(MADE, media_type=f"{LAYER}+xz")),
        "no media type of a layer",
    ),
    "layer that is no gzip": (
        layout(replace(MADE, blob=b"x" * 100)),
        "compressed data is damaged",
    ),
    "layer cut off": (layout(replace(MADE, blob=MADE.layer[:-9])), None),
    "layer that is no tar": (
        layout(replace(MADE, contents=b"x" * 1024)),
        "malformed number",
    ),
    "layer of other contents": (
        layout(replace(MADE, diff_id=digest(b"other"))),
        "layer has another content",
    ),
    "name out of the layer": (
        layout(replace(MADE, contents=tar({"a/../../b": b""}))),
        "name leads out of the layer",
    ),
    "name out of the archive": (
        {**layout(MADE), "../../etc/cron.d/x": b""},
        "name leads out of the archive",
    ),
    "absolute name": ({**layout(MADE), "/etc/cron.d/x": b""}, "name leads out of the archive"),
    "configuration out of the archive": (
        {**docker(MADE), "manifest.json": b'[{"Config": "../../etc/passwd", "Layers": []}]'},
        "name leads out of the archive",
    ),
    "layer of docker out of the archive": (
        {
            **docker(MADE),
            "manifest.json": b'[{"Config": "config.json", "Layers": ["/etc/passwd"]}]',
        },
        "name leads out of the archive",
    ),
    "layer of docker that is not there": (
        {**docker(MADE), "manifest.json": b'[{"Config": "config.json", "Layers": ["x"]}]'},
        "image lacks a layer",
    ),
    "layer of docker too few": (
        {**docker(MADE), "manifest.json": b'[{"Config": "config.json", "Layers": []}]'},
        "manifest and configuration have different numbers of layers",
    ),
    "layer of docker that is another": (
        docker(replace(MADE, blob=tar({"other": b""}), diff_id=digest(MADE.contents))),
        "blob has another digest",
    ),
    "docker of several images": (
        {**docker(MADE), "manifest.json": dumped([{"Config": "a"}, {"Config": "b"}])},
        "several images there",
    ),
    "docker of none": ({**docker(MADE), "manifest.json": b"[]"}, "no such image there"),
    "docker of no list": ({**docker(MADE), "manifest.json": b"{}"}, "not a JSON array"),
    "10 001 members": (
        {f"m{number}": b"" for number in range(10_001)},
        "archive has too many members",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archives_are_refused(case: str, tmp_path: Path) -> None:
    files, problem = HOSTILE[case]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with pytest.raises(nixfetch.FormatError) as caught:
        opened(tarred(files, tmp_path / "image.tar"), scratch=scratch)
    assert problem is None or caught.value.problem == problem
    assert sorted(each.name for each in tmp_path.iterdir()) == ["image.tar", "scratch"]
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    "data",
    [b"", b"\0" * 1024, b"x" * 2000, b"\x1f\x8b", b"\x1f\x8b" + b"x" * 100, tar({"a": b"b"})[:700]],
)
def test_what_is_no_archive(data: bytes, tmp_path: Path) -> None:
    file = tmp_path / "image.tar"
    file.write_bytes(data)
    with pytest.raises(nixfetch.FormatError):
        opened(file)


def test_two_members_of_one_name(tmp_path: Path) -> None:
    """Readers differ in which of them counts."""
    file = tmp_path / "image.tar"
    file.write_bytes(tar({"index.json": b"{}"})[:1024] + tar(layout(MADE)))
    with pytest.raises(ArchiveError, match="two members of one name"):
        opened(file)


@pytest.mark.parametrize("target", ["../../../etc/passwd", "a", "layer.tar"])
def test_links_that_lead_nowhere_or_out(target: str, tmp_path: Path) -> None:
    file = tmp_path / "image.tar"
    with tarfile.open(file, "w") as output:
        files = docker(MADE)
        del files["abc/layer.tar"]
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            output.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("abc/layer.tar")
        link.type, link.linkname = tarfile.SYMTYPE, target
        output.addfile(link)
    with pytest.raises(ArchiveError) as caught:
        opened(file)
    assert caught.value.problem in {
        "link leads out of the archive", "image lacks a layer", "too many links",
    }  # fmt: skip


def bomb(pack: Callable[[bytes], bytes]) -> bytes:
    """320 MiB of zeros, in frames or members of 16 MiB."""
    return pack(bytes(16 * 1024**2)) * 20


@pytest.mark.parametrize(
    ("pack", "media_type"),
    [
        (lambda data: gzip.compress(data, mtime=0), f"{LAYER}+gzip"),
        (zstandard.ZstdCompressor().compress, f"{LAYER}+zstd"),
    ],
    ids=["gzip", "zstd"],
)
def test_layers_that_are_bombs(
    pack: Callable[[bytes], bytes], media_type: str, tmp_path: Path
) -> None:
    made = Made(blob=bomb(pack), media_type=media_type, diff_id=digest(b""))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BombError):
        opened(tarred(layout(made), tmp_path / "image.tar"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024  # KiB


def test_archives_that_are_bombs(tmp_path: Path) -> None:
    file = tmp_path / "image.tar.zst"
    file.write_bytes(bomb(zstandard.ZstdCompressor().compress))
    with pytest.raises(BombError):
        opened(file)
    assert [each.name for each in tmp_path.iterdir()] == ["image.tar.zst"]


@given(data=st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_is_refused_or_harms_nothing(data: st.DataObject, tmp_path: Path) -> None:
    """A byte anywhere, or an end anywhere: the image is the one that it was, or there is none."""
    whole = data.draw(st.sampled_from([tar(layout(MADE)), tar(docker(MADE))]))
    damaged = bytearray(whole)
    damaged[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path / "image.tar"
    file.write_bytes(damaged[: data.draw(st.integers(0, len(whole)))])
    try:
        _, contents = opened(file)
    except (nixfetch.FormatError, UnreadableError):
        return
    assert contents == MADE.contents


def test_an_image_is_bounded_as_a_whole(tmp_path: Path) -> None:
    file = tarred(layout(MADE), tmp_path / "image.tar")
    with archive.opening(file) as image:
        assert inspection.look(image, 0) == inspection.Looked(size=len(MADE.contents), members=1)
        with pytest.raises(BombError):
            inspection.look_all(image, limit=len(MADE.contents) - 1)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError) as caught:
        opened(tmp_path / "none")
    assert caught.value.facts["reason"] == "No such file or directory"


def test_what_is_neither_file_nor_directory(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ArchiveError, match="neither a file nor a directory"):
        opened(tmp_path / "fifo")


@pytest.mark.parametrize("name", ["index.json", f"blobs/{digest(MADE.layer).replace(':', '/')}"])
def test_links_in_a_directory_are_not_followed(name: str, tmp_path: Path) -> None:
    folder = laid(layout(MADE), tmp_path / "image")
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnreadableError, match="cannot open a file of an image"):
        opened(folder)


def test_a_folder_in_a_directory_that_is_a_link(tmp_path: Path) -> None:
    folder = laid(layout(MADE), tmp_path / "image")
    (folder / "blobs").rename(tmp_path / "blobs")
    (folder / "blobs").symlink_to(tmp_path / "blobs")
    with pytest.raises(nixfetch.NixfetchError):
        opened(folder)


def test_a_pipe_in_a_directory(tmp_path: Path) -> None:
    folder = laid(layout(MADE), tmp_path / "image")
    (folder / "index.json").unlink()
    os.mkfifo(folder / "index.json")
    with pytest.raises(ArchiveError, match="not a regular file"):
        opened(folder)
