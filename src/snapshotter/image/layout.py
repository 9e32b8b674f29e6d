"""Images written to files: a directory of OCI's layout, or a tar archive that Docker loads too.

    DIR/oci-layout  DIR/index.json  DIR/blobs/sha256/…
    FILE            the same in a tar archive, and `manifest.json`

An index names blobs that are there: it is written last, and takes its name when it is whole.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

import nixfetch
from snapshotter import imageref
from snapshotter.oci import tar
from snapshotter.oci.choice import CONTAINERD_NAME, NAME
from snapshotter.oci.model import MAX_MANIFEST, Descriptor, Index
from snapshotter.oci.reading import canonical

if TYPE_CHECKING:
    from collections.abc import Iterator

    from snapshotter.oci.image import Image

_LAYOUT = canonical({"imageLayoutVersion": "1.0.0"})
_MODE = 0o644


class OutputError(nixfetch.StoreError):
    """An image cannot be written there."""


def write_archive(image: Image, file: Path) -> None:
    """Write an image as a tar archive; it has its name when it is whole.

    Raises:
        OutputError: it cannot be written.
        NixfetchError: the image cannot be read.
    """
    with _replacing(file) as output:
        for chunk in tar.archive(_entries(image)):
            _write(output, chunk, file)


def write_directory(image: Image, folder: Path) -> None:
    """Write an image into a directory; images of other names that it has stay.

    Raises:
        OutputError: it cannot be written, or the directory is there and is no OCI layout.
        NixfetchError: the image cannot be read.
    """
    try:
        folder.mkdir(exist_ok=True)
        index = _extended(folder, _described(image))
        blobs = folder / "blobs/sha256"
        blobs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_written(folder, error) from error
    for blob in _blobs(image):
        file = folder / _place(blob)
        if not file.exists():
            with _replacing(file) as output:
                for chunk in _chunks(image, blob):
                    _write(output, chunk, file)
    for name, data in (("oci-layout", _LAYOUT), ("index.json", index)):
        with _replacing(folder / name) as output:
            _write(output, data, folder / name)


def _entries(image: Image) -> list[tar.Entry]:
    """What is in an archive, in the order of the names."""
    blobs = [
        tar.Entry(name=_place(blob).encode(), mode=_MODE, size=blob.size, data=_chunks(image, blob))
        for blob in _blobs(image)
    ]
    folders = {entry.name.rpartition(b"/")[0] for entry in blobs}
    index = Index(manifests=(_described(image),)).json()
    return tar.in_order(
        [
            tar.directory(b"blobs"),
            *map(tar.directory, folders),
            *blobs,
            tar.file(b"index.json", index),
            tar.file(b"manifest.json", _for_docker(image)),
            tar.file(b"oci-layout", _LAYOUT),
        ]
    )


def _blobs(image: Image) -> list[Descriptor]:
    every = [image.descriptor, image.manifest.config, *image.manifest.layers]
    return list({blob.digest: blob for blob in every}.values())


def _chunks(image: Image, blob: Descriptor) -> Iterator[bytes]:
    if blob.digest == image.descriptor.digest:
        yield image.manifest_bytes
    else:
        yield from image.chunks(blob)


def _place(blob: Descriptor) -> str:
    return f"blobs/{blob.digest.replace(':', '/', 1)}"


def _described(image: Image) -> Descriptor:
    """The manifest, as an index names it."""
    annotations = {}
    if image.name is not None:
        annotations[CONTAINERD_NAME] = image.name
        annotations[NAME] = _tag(image.name)
    return Descriptor(
        media_type=image.manifest.media_type,
        digest=image.descriptor.digest,
        size=image.descriptor.size,
        annotations=annotations,
        platform=image.config.platform,
    )


def _tag(name: str) -> str:
    """What tools that know no references call it."""
    found = imageref.parse(name)
    return (isinstance(found, imageref.RegistryReference) and found.tag) or imageref.LATEST


def _for_docker(image: Image) -> bytes:
    return canonical(
        [
            {
                "Config": _place(image.manifest.config),
                "Layers": [_place(layer) for layer in image.manifest.layers],
                "RepoTags": [image.name] if image.name else [],
            }
        ]
    )


def _extended(folder: Path, ours: Descriptor) -> bytes:
    """The index of a directory, with an image in it."""
    file = folder / "index.json"
    if not file.exists():
        if any(folder.iterdir()):
            raise OutputError("directory is there, and is no OCI layout", folder=str(folder))
        return Index(manifests=(ours,)).json()
    with file.open("rb") as opened:
        index = Index.parse(opened.read(MAX_MANIFEST + 1))
    name = ours.annotations.get(CONTAINERD_NAME)
    others = [other for other in index.manifests if not _replaces(ours, other, name)]
    return Index(manifests=(*others, ours), annotations=index.annotations).json()


def _replaces(ours: Descriptor, other: Descriptor, name: str | None) -> bool:
    return other.digest == ours.digest or other.annotations.get(CONTAINERD_NAME) == name


@contextmanager
def _replacing(file: Path) -> Iterator[IO[bytes]]:
    """A file that takes its name when the block is left without an error."""
    try:
        fd, temporary = tempfile.mkstemp(prefix=f".{file.name[:100]}.", dir=file.parent)
    except OSError as error:
        raise _not_written(file, error) from error
    try:
        with os.fdopen(fd, "wb") as output:
            yield output
            _finish(output, Path(temporary), file)
    except BaseException:
        with suppress(OSError):
            Path(temporary).unlink()
        raise


def _finish(output: IO[bytes], temporary: Path, file: Path) -> None:
    try:
        output.flush()
        os.fchmod(output.fileno(), _MODE)
        os.fsync(output.fileno())
        temporary.replace(file)
    except OSError as error:
        raise _not_written(file, error) from error


def _write(output: IO[bytes], data: bytes, file: Path) -> None:
    try:
        output.write(data)
    except OSError as error:
        raise _not_written(file, error) from error


def _not_written(file: Path, error: OSError) -> OutputError:
    return OutputError("cannot write an image", file=str(file), reason=error.strerror or str(error))
