"""Small OCI images as values, and a registry of this machine to pull them from.

    image = Image("example.test/plain:v1", (busybox_layer(),), command=("/bin/sh",))
    image.archive(folder / "plain.tar")               # for `ctr image import`
    with registry(folder) as hub:
        hub.push(image)                               # gives the reference to pull it by
        hub.asked(image.layers[0])                    # how often its blob was asked for

Knows the OCI formats and the labels of Nix layers; knows nothing of containerd.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import socket
import subprocess
import tarfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

import nixfetch
from snapshotter.oci import nixlayer, tar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

BUSYBOX = Path("/usr/bin/busybox")
APPLETS = ("cat", "grep", "id", "ls", "rm", "sh", "sleep", "stat", "touch", "wc")
NIX_LAYER = "containerd.io/snapshot/nix-layer"
NIX_STORE_PATH = "containerd.io/snapshot/nix-store-path."
NIX_CLOSURE = "containerd.io/snapshot/nix-closure"
NIX_COMPLETE = "containerd.io/snapshot/nix-layer-complete"
_PATIENCE = 30.0  # seconds until a registry that does not answer is an error of the test
_INDEX = "application/vnd.oci.image.index.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


# What is in a layer: bytes are a file, a string is a symbolic link, None is a directory.


@dataclass(frozen=True, slots=True)
class Program:
    """A file that may be run."""

    data: bytes


Content = bytes | str | Program | None


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: a compressed tar archive, and what its descriptor says about it."""

    tar: bytes
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def blob(self) -> bytes:
        return _compressed(self.tar)

    @property
    def digest(self) -> str:
        """Under which a registry has it."""
        return digest(self.blob)

    @property
    def diff_id(self) -> str:
        return digest(self.tar)

    def descriptor(self) -> dict[str, Any]:
        found = describe(_LAYER, self.blob)
        return {**found, "annotations": dict(self.annotations)} if self.annotations else found


@cache
def _compressed(tar: bytes) -> bytes:
    return gzip.compress(tar, 6, mtime=0)


def digest(data: bytes) -> str:
    """The name of `data` in OCI's words."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def describe(media_type: str, data: bytes) -> dict[str, Any]:
    """A descriptor of `data`."""
    return {"mediaType": media_type, "digest": digest(data), "size": len(data)}


def layer(content: Mapping[str, Content], annotations: Mapping[str, str] | None = None) -> Layer:
    """A layer of files by name; the directories above them come by themselves."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name in sorted({*content, *_above(content)}):
            _add(archive, name, content.get(name))
    return Layer(file.getvalue(), annotations or {})


def _above(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        for parent in Path(name).parents:
            if parent.name:
                yield str(parent)


def _add(archive: tarfile.TarFile, name: str, content: Content) -> None:
    entry = tarfile.TarInfo(name)
    match content:
        case None:
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        case str():
            entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, content, 0o777
            archive.addfile(entry)
        case bytes() | Program():
            data = content.data if isinstance(content, Program) else content
            entry.size, entry.mode = len(data), 0o755 if isinstance(content, Program) else 0o644
            archive.addfile(entry, io.BytesIO(data))


def busybox_layer(**more: Content) -> Layer:
    """A layer that can be worked in: busybox under the names of some of its programs."""
    if not BUSYBOX.exists():
        pytest.skip("there is no static busybox here (package busybox-static)")
    links: dict[str, Content] = {f"bin/{name}": "busybox" for name in APPLETS}
    rest: dict[str, Content] = {"tmp": None, "etc/passwd": b"root:x:0:0:root:/:/bin/sh\n"}
    return layer({"bin/busybox": Program(BUSYBOX.read_bytes()), **links, **rest, **more})


def nix_layer(
    paths: Sequence[str],
    *,
    files: Sequence[str] = (),
    closure: str | None = None,
    numbered: bool = True,
    complete: bool = False,
    content: Mapping[str, Content] | None = None,
    annotated: bool = True,
) -> Layer:
    """A layer of store paths: their mountpoints, and labels that name them.

    Args:
        paths: what the layer brings, as full store paths.
        files: those of them that are files.
        closure: the value of the label of the newer form; None: not there.
        numbered: whether the labels of the older form are there.
        complete: whether it says that its labels say all.
        content: more than mountpoints: copy-to-root.
        annotated: False: no labels at all.
    """
    points: dict[str, Content] = {
        path.removeprefix("/"): b"" if path in files else None for path in paths
    }
    labels: dict[str, str] = {}
    if numbered:
        labels[NIX_LAYER] = "true"
        labels |= {f"{NIX_STORE_PATH}{number}": path for number, path in enumerate(paths)}
    if closure is not None:
        labels[NIX_CLOSURE] = closure
    if complete:
        labels[NIX_COMPLETE] = "true"
    if complete and not content:  # only the very bytes of our own builder are believed
        parsed = {nixfetch.StorePath.parse_full(path): path in files for path in paths}
        return Layer(b"".join(tar.archive(nixlayer.places(parsed))), labels)
    return layer({**points, **(content or {})}, labels if annotated else {})


@dataclass(frozen=True, slots=True)
class Image:
    """Layers, and what to run in them."""

    name: str
    layers: tuple[Layer, ...]
    command: tuple[str, ...] = ("/bin/sh",)
    environment: tuple[str, ...] = ("PATH=/bin",)

    def config(self) -> bytes:
        return _json(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Cmd": list(self.command), "Env": list(self.environment)},
                "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in self.layers]},
            }
        )

    def manifest(self) -> bytes:
        return _json(
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": describe(_CONFIG, self.config()),
                "layers": [layer.descriptor() for layer in self.layers],
            }
        )

    def archive(self, file: Path) -> Path:
        """Write it as `ctr image import` reads it; gives `file`."""
        manifest = describe(_MANIFEST, self.manifest())
        manifest["annotations"] = {"io.containerd.image.name": self.name}
        manifest["platform"] = {"architecture": "amd64", "os": "linux"}
        index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [manifest]}
        parts = [self.config(), self.manifest(), *(layer.blob for layer in self.layers)]
        blobs = {f"blobs/{digest(part).replace(':', '/')}": part for part in parts}
        with tarfile.open(file, "w") as archive:
            _add(archive, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
            _add(archive, "index.json", _json(index))
            for name, part in blobs.items():
                _add(archive, name, part)
        return file

    def chain(self) -> str:
        """The chain ID of its last layer."""
        found = ""
        for each in self.layers:
            joined = f"{found} {each.diff_id}".strip()
            found = digest(joined.encode()) if found else joined
        return found


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


# A registry.


@dataclass(frozen=True, slots=True)
class Hub:
    """A registry that runs."""

    host: str
    log: Path

    def push(self, image: Image) -> str:
        """Put an image in; gives the reference to pull it by."""
        repository, _, tag = image.name.rpartition("/")[2].partition(":")
        base = f"http://{self.host}/v2/{repository}"
        with httpx.Client(timeout=_PATIENCE, trust_env=False) as client:
            for part in [image.config(), *(layer.blob for layer in image.layers)]:
                begun = client.post(f"{base}/blobs/uploads/").raise_for_status()
                place = httpx.URL(begun.headers["Location"])
                place = place.copy_add_param("digest", digest(part))
                kind = {"Content-Type": "application/octet-stream"}
                client.put(place, content=part, headers=kind).raise_for_status()
            kind = {"Content-Type": _MANIFEST}
            manifest = image.manifest()
            client.put(f"{base}/manifests/{tag}", content=manifest, headers=kind).raise_for_status()
        return f"{self.host}/{repository}:{tag}"

    def requests(self) -> list[tuple[str, str]]:
        """The methods and paths of all requests so far."""
        return re.findall(r'"(GET|HEAD|PUT|POST|PATCH) (/v2/\S*) HTTP/', self.log.read_text())

    def asked(self, layer: Layer, *, since: int = 0) -> int:
        """How often somebody asked for the blob of `layer`, or whether it is there.

        Args:
            layer: whose blob.
            since: this many requests are older, and do not count.
        """
        return sum(
            method in {"GET", "HEAD"} and path.endswith(f"/blobs/{layer.digest}")
            for method, path in self.requests()[since:]
        )


@contextmanager
def registry(folder: Path) -> Iterator[Hub]:
    """A registry on loopback, with its blobs and its log below `folder`."""
    program = shutil.which("docker-registry", path=f"{os.environ['PATH']}:/usr/bin:/usr/sbin")
    if program is None:
        pytest.skip("there is no docker-registry here")
    folder.mkdir(parents=True, exist_ok=True)
    host = f"127.0.0.1:{free_port()}"
    config, log = folder / "registry.json", folder / "registry.log"  # JSON is YAML
    config.write_text(
        json.dumps(
            {
                "version": "0.1",
                "log": {"accesslog": {"disabled": False}, "level": "warn"},
                "storage": {"filesystem": {"rootdirectory": str(folder / "blobs")}},
                "http": {"addr": host},
            }
        )
    )
    with (
        log.open("w") as output,
        subprocess.Popen(
            [program, "serve", config], stdout=output, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            _await(f"http://{host}/v2/", process, log)
            yield Hub(host, log)
        finally:
            process.terminate()


def _await(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    with httpx.Client(trust_env=False) as client:
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, "the registry does not answer"
            try:
                client.get(url).raise_for_status()
            except httpx.TransportError:
                time.sleep(0.02)
            else:
                return


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
