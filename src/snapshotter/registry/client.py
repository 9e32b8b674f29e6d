"""Images pulled from a registry, and pushed to it.

    GET  /v2/NAME/manifests/REFERENCE           bounded, and checked against its digest
    GET  /v2/NAME/blobs/DIGEST                  resumed where it breaks off, checked as it comes
    POST /v2/NAME/blobs/uploads/?mount=&from=   a blob that another repository has; else `upload`
    PUT  /v2/NAME/manifests/REFERENCE           last, when all that it names is there

Source: opencontainers/distribution-spec, spec.md.
"""

from __future__ import annotations

import logging
import re
import ssl
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import httpx

import nixfetch
from snapshotter.imageref import is_digest
from snapshotter.oci.choice import choose, flat
from snapshotter.oci.digests import BlobError, ImageError, digest, verified
from snapshotter.oci.image import check_platform, read_image
from snapshotter.oci.model import INDEXES, MANIFESTS, MAX_MANIFEST, Index
from snapshotter.registry.endpoint import (
    CREATED,
    PARTIAL,
    Endpoint,
    Patience,
    RegistryError,
    is_loopback,
    scopes,
)
from snapshotter.registry.upload import CHUNK, upload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from snapshotter.imageref import RegistryReference
    from snapshotter.oci.image import Image
    from snapshotter.oci.model import Descriptor, Platform
    from snapshotter.registry.logins import Login

CONNECT, STALL = 15.0, 60.0  # seconds
_ACCEPT = ", ".join(sorted(MANIFESTS | INDEXES))
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/")


@contextmanager
def connecting(
    host: str,
    *,
    login: Login | None = None,
    plain_http: bool = False,
    ca_file: Path | None = None,
    patience: Patience | None = None,
    chunk: int = CHUNK,
    trust_env: bool = True,
) -> Iterator[Registry]:
    """Talk to a registry within the block.

    Args:
        host: with its port; `RegistryReference.endpoint`.
        login: at it; None: as anybody.
        plain_http: without TLS. Loopback is asked without TLS at first in any case.
        ca_file: certificates to trust in place of the usual ones, PEM.
        patience: how failures are waited out.
        chunk: bytes of a blob sent at a time.
        trust_env: whether the environment's proxies count; for loopback they never do.

    Raises:
        StoreError: the certificates cannot be read.
    """
    with (
        _bare_urls_in_logs(),
        httpx.Client(
            timeout=httpx.Timeout(STALL, connect=CONNECT),
            follow_redirects=False,
            trust_env=trust_env and not is_loopback(host),
            verify=True if ca_file is None else _trusting(ca_file),
            headers={"User-Agent": "nixfetch-snapshotter", "Accept-Encoding": "identity"},
        ) as client,
    ):
        endpoint = Endpoint(
            client, host, login=login, plain_http=plain_http, patience=patience or Patience()
        )
        yield Registry(endpoint, chunk=chunk)


class _BareUrls(logging.Filter):
    """Takes the queries off URLs: those of object stores are signed, and good for anybody."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                word.copy_with(query=None) if isinstance(word, httpx.URL) else word
                for word in record.args
            )
        return True


@contextmanager
def _bare_urls_in_logs() -> Iterator[None]:
    """The client logs all that it asks for; whoever listens sees no secrets meanwhile."""
    logger, bare = logging.getLogger("httpx"), _BareUrls()
    logger.addFilter(bare)
    try:
        yield
    finally:
        logger.removeFilter(bare)


def _trusting(file: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(file))
    except OSError as error:  # SSLError is one
        raise nixfetch.StoreError(
            "cannot read the certificates", file=str(file), reason=str(error)
        ) from error


class Registry:
    """One registry. Not to be shared among threads."""

    def __init__(self, endpoint: Endpoint, *, chunk: int = CHUNK) -> None:
        self._endpoint = endpoint
        self._chunk = chunk

    @property
    def host(self) -> str:
        return self._endpoint.host

    def image(self, reference: RegistryReference, *, platform: Platform | None = None) -> Image:
        """The image that a reference means; its layers are read when they are asked for.

        Args:
            reference: of this registry.
            platform: of the machine that it is for; picks from an index, and must fit.

        Raises:
            NotFoundError: there is none.
            AuthenticationError: not for us.
            ImageError: it is none, or for other platforms, or not what its digest says.
            TransportError: the registry did not answer.
        """
        repository = _Repository(self, reference.repository)
        with nixfetch.facts(image=str(reference)):
            media_type, data = self.manifest(reference.repository, reference.wanted)
            if media_type in INDEXES:
                found = choose(flat(Index.parse(data), repository.whole), platform=platform)
                data = repository.whole(found.blob)
            image = read_image(data, repository, name=str(reference.with_tag()))
            if platform is not None:
                check_platform(image, platform)
            return image

    def manifest(self, repository: str, wanted: str) -> tuple[str, bytes]:
        """The media type and the bytes of a manifest or an index.

        Args:
            repository: where.
            wanted: a tag, or a digest.

        Raises:
            NotFoundError, AuthenticationError, TransportError: as for `image`.
            ImageError: it is none, larger than may be, or not what its digest says.
        """
        media_type, data = self._endpoint.patiently(lambda: self._manifest(repository, wanted))
        if media_type not in MANIFESTS | INDEXES:
            raise ImageError("not a manifest of an image", media_type=media_type[:150])
        return media_type, data

    def _manifest(self, repository: str, wanted: str) -> tuple[str, bytes]:
        url = self._endpoint.url(repository, f"manifests/{wanted}")
        headers = {"Accept": _ACCEPT}
        with self._endpoint.opened("GET", url, scopes(repository), headers=headers) as response:
            data = self._endpoint.body(response, MAX_MANIFEST)
            said = response.headers.get("docker-content-digest", "")
            media_type = response.headers.get("content-type", "").partition(";")[0].strip()
        expected = wanted if is_digest(wanted) else said
        if is_digest(expected):
            b"".join(verified((data,), digest=expected, size=len(data)))
        return media_type, data

    def blob(self, repository: str, blob: Descriptor) -> Iterator[bytes]:
        """Read a blob; where it breaks off, it goes on.

        Raises, while it is iterated:
            BlobError: its bytes are not what `blob` promises; instead of their end.
            NotFoundError, AuthenticationError, TransportError: as for `image`.
        """
        return verified(self._resumed(repository, blob), digest=blob.digest, size=blob.size)

    def _resumed(self, repository: str, blob: Descriptor) -> Iterator[bytes]:
        """The bytes of a blob as they come, over as many answers as it takes."""
        received = failures = 0
        while True:
            try:
                for chunk in self._from(repository, blob, received):
                    received += len(chunk)
                    failures = 0
                    yield chunk
                if received < blob.size:
                    raise RegistryError("body ended early", retryable=True, received=received)
            except nixfetch.TransportError as error:
                failures += 1
                self._endpoint.patience.wait(failures, error)
            else:
                return

    def _from(self, repository: str, blob: Descriptor, start: int) -> Iterator[bytes]:
        """A blob from an offset on."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        url = self._endpoint.url(repository, f"blobs/{blob.digest}")
        with self._endpoint.opened("GET", url, scopes(repository), headers=headers) as response:
            skip = start
            if response.status_code == PARTIAL:
                found = _CONTENT_RANGE.match(response.headers.get("content-range", ""))
                if found is None or int(found[1]) != start:
                    raise RegistryError("answer is of another part", host=self.host)
                skip = 0
            for chunk in self._endpoint.chunks(response):
                if skip < len(chunk):
                    yield chunk[skip:]
                skip = max(0, skip - len(chunk))

    def has(self, repository: str, digest: str) -> bool:
        """Whether a repository has a blob.

        Raises:
            AuthenticationError, TransportError: as for `image`.
        """
        return self._endpoint.patiently(lambda: self._has(repository, digest))

    def _has(self, repository: str, digest: str) -> bool:
        url = self._endpoint.url(repository, f"blobs/{digest}")
        try:
            with self._endpoint.opened("HEAD", url, scopes(repository, push=True)):
                return True
        except nixfetch.NotFoundError:
            return False

    def push(
        self,
        image: Image,
        reference: RegistryReference,
        *,
        sources: Mapping[str, str] = MappingProxyType({}),
        on_blob: Callable[[Descriptor, str], None] = lambda _blob, _how: None,
    ) -> str:
        """Push an image: what is there already is not sent.

        Args:
            image: it.
            reference: of this registry; under the digest where there is no tag.
            sources: by digest: another repository of this registry that has that blob.
            on_blob: is told of each blob, and ``present``, ``mounted`` or ``uploaded``.

        Returns:
            The digest of its manifest.

        Raises:
            AuthenticationError: not for us.
            ImageError: the image cannot be read, or the registry has something else now.
            TransportError: the registry did not answer.
        """
        with nixfetch.facts(image=str(reference)):
            blobs = {blob.digest: blob for blob in (*image.manifest.layers, image.manifest.config)}
            for blob in blobs.values():
                with nixfetch.facts(digest=blob.digest):
                    source = sources.get(blob.digest)
                    how = self._placed(image, blob, reference.repository, source)
                on_blob(blob, how)
            found = digest(image.manifest_bytes)
            wanted = reference.tag or found
            self._endpoint.patiently(lambda: self._tag(image, reference.repository, wanted))
            return found

    def _placed(self, image: Image, blob: Descriptor, repository: str, source: str | None) -> str:
        if self.has(repository, blob.digest):
            return "present"
        if source not in {None, repository} and self._mounted(repository, blob, str(source)):
            return "mounted"
        upload(self._endpoint, image, blob, repository, chunk=self._chunk)
        return "uploaded"

    def _mounted(self, repository: str, blob: Descriptor, other: str) -> bool:
        """Ask for a blob of another repository; where we may not read there, it has none."""
        try:
            return self._endpoint.patiently(lambda: self._mount(repository, blob, other))
        except nixfetch.AuthenticationError:
            return False

    def _mount(self, repository: str, blob: Descriptor, other: str) -> bool:
        url = self._endpoint.url(repository, "blobs/uploads/")
        url = url.copy_merge_params({"mount": blob.digest, "from": other})
        wanted = (*scopes(repository, push=True), *scopes(other))
        with self._endpoint.opened("POST", url, wanted, content=b"") as response:
            return response.status_code == CREATED

    def _tag(self, image: Image, repository: str, wanted: str) -> None:
        with self._endpoint.opened(
            "PUT",
            self._endpoint.url(repository, f"manifests/{wanted}"),
            scopes(repository, push=True),
            headers={"Content-Type": image.manifest.media_type},
            content=image.manifest_bytes,
        ) as response:
            said = response.headers.get("docker-content-digest", "")
        if said not in {"", digest(image.manifest_bytes)}:
            raise ImageError("registry has another manifest now", actual=said[:150])


@dataclass(frozen=True, slots=True)
class _Repository:
    """The blobs of a repository."""

    registry: Registry
    name: str

    def chunks(self, blob: Descriptor) -> Iterator[bytes]:
        return self.registry.blob(self.name, blob)

    def whole(self, blob: Descriptor) -> bytes:
        """A manifest or an index that another index names."""
        _, data = self.registry.manifest(self.name, blob.digest)
        if len(data) != blob.size:
            raise BlobError(
                "blob has another size", digest=blob.digest, expected=blob.size, actual=len(data)
            )
        return data
