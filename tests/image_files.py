"""Files with images in them, honest ones and others, put together by hand.

    files = layout(image)                    # by name: what an OCI layout has
    files["index.json"] = b"…"               # and whatever should be wrong with it
    tarred(files, folder / "image.tar")      # or laid(files, folder)

Knows nothing of what it tests: names and digests are made here, with Python's own tarfile.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def dumped(value: object) -> bytes:
    return json.dumps(value).encode()


def described(media_type: str, data: bytes, **more: object) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(data), "size": len(data), **more}


def tar(files: Mapping[str, bytes]) -> bytes:
    """A tar archive of some files."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return output.getvalue()


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """An image of one layer, compressed with gzip."""

    contents: bytes = field(default_factory=lambda: tar({"etc/motd": b"hello"}))
    blob: bytes | None = None
    """Of the layer, where it is not what its contents are."""
    media_type: str = f"{LAYER}+gzip"
    diff_id: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    architecture: str = "amd64"
    words: Sequence[str] = ("/bin/sh",)

    @property
    def layer(self) -> bytes:
        return gzip.compress(self.contents, mtime=0) if self.blob is None else self.blob

    @property
    def config(self) -> bytes:
        return dumped(
            {
                "architecture": self.architecture,
                "os": "linux",
                "config": {"Cmd": list(self.words), "Env": ["A=1"], "StopSignal": "SIGINT"},
                "rootfs": {"type": "layers", "diff_ids": [self.diff_id or digest(self.contents)]},
                "history": [{"created_by": "by hand"}],
            }
        )

    @property
    def manifest(self) -> bytes:
        return dumped(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": described(CONFIG, self.config),
                "layers": [
                    described(self.media_type, self.layer, annotations=dict(self.annotations))
                ],
            }
        )

    @property
    def blobs(self) -> list[bytes]:
        return [self.config, self.manifest, self.layer]


def index(*images: Made, names: Sequence[str] = (), platforms: bool = False) -> bytes:
    """An index of some images."""
    listed = [described(MANIFEST, image.manifest) for image in images]
    for entry, name in zip(listed, names, strict=False):
        entry["annotations"] = {"org.opencontainers.image.ref.name": name}
    for entry, image in zip(listed, images, strict=True):
        if platforms:
            entry["platform"] = {"os": "linux", "architecture": image.architecture}
    return dumped({"schemaVersion": 2, "mediaType": INDEX, "manifests": listed})


def layout(*images: Made, names: Sequence[str] = (), platforms: bool = False) -> dict[str, bytes]:
    """What is in an OCI layout of some images."""
    every = [blob for image in images for blob in image.blobs]
    blobs = {f"blobs/{digest(blob).replace(':', '/')}": blob for blob in every}
    return {
        "oci-layout": dumped({"imageLayoutVersion": "1.0.0"}),
        "index.json": index(*images, names=names, platforms=platforms),
        **blobs,
    }


def docker(image: Made, *, tags: Sequence[str] = ("a.test/b:1",)) -> dict[str, bytes]:
    """What is in an archive of `docker save`, in the form of old."""
    return {
        "abc/layer.tar": image.contents if image.blob is None else image.blob,
        "config.json": image.config,
        "manifest.json": dumped(
            [{"Config": "config.json", "RepoTags": list(tags), "Layers": ["abc/layer.tar"]}]
        ),
    }


def tarred(files: Mapping[str, bytes], file: Path) -> Path:
    """Write files as an archive."""
    file.write_bytes(tar(files))
    return file


def laid(files: Mapping[str, bytes], folder: Path) -> Path:
    """Write files into a directory."""
    for name, data in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return folder
