"""Where images come from and where they go, as users write it.

oci:DIR                     a directory of OCI's layout
FILE                        a tar archive, of OCI's layout or of `docker save`
docker://HOST/NAME:TAG      a registry
nix:0/nix/store/…           a store path; from there only
containerd://NAMESPACE/REF  containerd; to there only
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

from snapshotter import imageref
from snapshotter.errors import InvalidArgumentError, UnavailableError
from snapshotter.image import archive, layout, storeimage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from snapshotter.image.trees import Trees
    from snapshotter.imageref import RegistryReference
    from snapshotter.oci.image import Image
    from snapshotter.oci.model import Descriptor, Platform
    from snapshotter.registry import Logins, Registry

_OCI, _DOCKER, _CONTAINERD = "oci:", "docker://", "containerd://"
_HINT = "a place is oci:DIR, FILE.tar, docker://HOST/NAME:TAG or containerd://NAMESPACE/REF"


class PlaceError(InvalidArgumentError):
    """No image can be there, or go there."""

    exit_code = 2


class Loader(Protocol):
    """A client of containerd that can take images."""

    def load(self, image: Image, *, namespace: str, reference: str) -> str:
        """Make an image known to containerd, with its layers unpacked.

        Args:
            image: it.
            namespace: of containerd, such as ``k8s.io``.
            reference: what it is called there.

        Returns:
            The ID of the image: the digest of its configuration.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How registries, the store and containerd are reached."""

    logins: Callable[[], Logins] | None = None
    """Reads them, when a registry is asked."""
    plain_http: bool = False
    ca_file: Path | None = None
    trees: Callable[[], AbstractContextManager[Trees]] | None = None
    """Opens the store, for ``nix:0/…``."""
    containerd: Callable[[], AbstractContextManager[Loader]] | None = None
    scratch: Path | None = None

    def registry(self, reference: RegistryReference) -> AbstractContextManager[Registry]:
        """Talk to the registry of a reference."""
        from snapshotter.registry import connecting  # which loads an HTTP client

        return connecting(
            reference.endpoint,
            login=None if self.logins is None else self.logins().find(reference.host),
            plain_http=self.plain_http,
            ca_file=self.ca_file,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Put:
    """What became of an image."""

    digest: str
    """Of its manifest."""
    place: str
    blobs: dict[str, str] = field(default_factory=dict)
    """By digest: whether a registry had it, mounted it, or was sent it."""


@contextmanager
def opening(
    text: str, access: Access, *, platform: Platform | None, machine: Platform
) -> Iterator[Image]:
    """Open the image at a place; its blobs can be read within the block.

    Args:
        text: the place; also a reference alone, where there is no file of that name.
        access: to registries and the store.
        platform: that is asked for; None: whatever there is, if it is one.
        machine: what an image is for that does not say it, or that is of several platforms.

    Raises:
        PlaceError: the text is no place.
        NixfetchError: there is no image, or it cannot be read.
    """
    with ExitStack() as stack:
        reference = _nix(text)
        if reference is not None:
            if access.trees is None:
                raise PlaceError("no store to take it from", text=text[:300])
            trees = stack.enter_context(access.trees())
            yield stack.enter_context(
                storeimage.opening(
                    reference, trees, machine=platform or machine, scratch=access.scratch
                )
            )
        elif (file := _file(text)) is not None:
            opened = archive.opening(file, platform=platform, scratch=access.scratch)
            yield stack.enter_context(opened)
        else:
            remote = registry_reference(text)
            registry = stack.enter_context(access.registry(remote))
            yield registry.image(remote, platform=platform or machine)


def put(
    image: Image,
    text: str,
    access: Access,
    *,
    origins: Mapping[str, RegistryReference] = MappingProxyType({}),
) -> Put:
    """Write an image to a place.

    Args:
        image: it.
        text: the place.
        access: to registries and containerd.
        origins: by digest, where a blob came from: that registry need not be sent it again.

    Raises:
        PlaceError: the text is no place that images go to.
        NixfetchError: it cannot be written there.
    """
    digest = image.descriptor.digest
    if text.startswith(_CONTAINERD):
        namespace, _, name = text.removeprefix(_CONTAINERD).partition("/")
        _load(image, namespace, name, access)
    elif text.startswith(_DOCKER):
        remote = registry_reference(text).with_tag()
        blobs: dict[str, str] = {}

        def note(blob: Descriptor, how: str) -> None:
            blobs[blob.digest] = how

        sources = {
            digest: origin.repository
            for digest, origin in origins.items()
            if origin.host == remote.host
        }
        with access.registry(remote) as registry:
            registry.push(image, remote, sources=sources, on_blob=note)
        return Put(digest=digest, place=f"{_DOCKER}{remote}", blobs=blobs)
    elif text.startswith(_OCI):
        layout.write_directory(image, Path(text.removeprefix(_OCI)))
    else:
        layout.write_archive(image, Path(text))
    return Put(digest=digest, place=text)


def check(text: str, access: Access) -> None:
    """Make sure that a place is one that images go to, before anything is done.

    Raises:
        PlaceError: it is none.
        UnavailableError: it is containerd, and there is no client for it.
    """
    if text.startswith(_CONTAINERD):
        namespace, slash, name = text.removeprefix(_CONTAINERD).partition("/")
        if not (namespace and slash and name):
            raise PlaceError("not a place in containerd", text=text[:300], hint=_HINT)
        imageref.parse(name)
        _check_containerd(access)
    elif text.startswith(_DOCKER):
        registry_reference(text)
    elif "://" in text or _nix(text) is not None or not text.removeprefix(_OCI):
        raise PlaceError("not a place for an image", text=text[:300], hint=_HINT)


def name_at(text: str) -> str | None:
    """What an image is called that goes to a place; None where the place does not say."""
    if text.startswith(_DOCKER):
        return str(registry_reference(text).with_tag())
    if text.startswith(_CONTAINERD):
        return text.removeprefix(_CONTAINERD).partition("/")[2]
    return None


def registry_reference(text: str) -> RegistryReference:
    """The reference of a place in a registry."""
    return imageref.parse_registry(text.removeprefix(_DOCKER))


def origins_of(image: Image, text: str) -> dict[str, RegistryReference]:
    """By digest: the repository that a blob of an image is in; empty where it is from no registry.

    Args:
        image: it.
        text: where it came from.
    """
    if _nix(text) is not None or _file(text) is not None:
        return {}
    origin = registry_reference(text)
    blobs = (*image.manifest.layers, image.manifest.config)
    return {blob.digest: origin for blob in blobs}


def _nix(text: str) -> imageref.NixReference | None:
    if not text.startswith(imageref.NIX_HOST):
        return None
    found = imageref.parse(text)
    return found if isinstance(found, imageref.NixReference) else None


def _file(text: str) -> Path | None:
    if text.startswith(_OCI):
        return Path(text.removeprefix(_OCI))
    if text.startswith(_DOCKER):
        return None
    file = Path(text)
    return file if file.exists() or text.startswith(("/", "./", "../")) else None


def _check_containerd(access: Access) -> None:
    if access.containerd is None:
        raise UnavailableError(
            "there is no client for containerd's images in this version",
            hint="write FILE.tar, then: ctr --namespace NAMESPACE images import FILE.tar",
        )


def _load(image: Image, namespace: str, name: str, access: Access) -> None:
    _check_containerd(access)
    assert access.containerd is not None
    with access.containerd() as loader:
        loader.load(image, namespace=namespace, reference=name)
