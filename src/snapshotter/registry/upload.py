"""One blob sent to a registry, piece by piece, and resumed where it breaks off.

    POST  /v2/NAME/blobs/uploads/          -> Location
    PATCH Location, Content-Range          -> Location, Range: what the registry has
    GET   Location                         -> the same, after a failure
    PUT   Location?digest=…                done; small blobs go with this one

Source: opencontainers/distribution-spec, spec.md, "Pushing Blobs".
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

import nixfetch
from snapshotter.registry.endpoint import UNSATISFIABLE, RegistryError, scopes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import httpx

    from snapshotter.oci.image import Image
    from snapshotter.oci.model import Descriptor
    from snapshotter.registry.endpoint import Endpoint

CHUNK = 8 * 1024 * 1024  # bytes sent at a time; object stores want 5 MiB at least
MAX_CHUNK = 128 * 1024 * 1024  # bytes that a registry may want at a time
_RANGE = re.compile(r"(?:bytes=)?0-([0-9]{1,18})\Z")
_NUMBER = re.compile(r"[0-9]{1,12}\Z")
_BYTES = {"Content-Type": "application/octet-stream"}


class UploadLostError(RegistryError):
    """The registry forgot what it had of an upload."""


def upload(
    endpoint: Endpoint, image: Image, blob: Descriptor, repository: str, *, chunk: int = CHUNK
) -> None:
    """Send a blob of an image.

    Args:
        endpoint: to where.
        image: has it.
        blob: which.
        repository: where it belongs.
        chunk: bytes sent at a time; more where the registry wants more.

    Raises:
        AuthenticationError: not for us.
        TransportError: the registry failed too often.
        ImageError: the blob cannot be read, or is not what it should be.
    """
    failures = 0
    while True:
        try:
            _Upload(endpoint, image, blob, repository, chunk).run()
        except UploadLostError as error:
            failures += 1
            endpoint.patience.wait(failures, error)
        else:
            return


class _Upload:
    """One upload, until the registry forgets it."""

    def __init__(
        self, endpoint: Endpoint, image: Image, blob: Descriptor, repository: str, chunk: int
    ) -> None:
        self._endpoint = endpoint
        self._image, self._blob = image, blob
        self._scopes = scopes(repository, push=True)
        self._location = endpoint.url(repository, "blobs/uploads/")
        self._chunk = chunk

    def run(self) -> None:
        self._endpoint.patiently(self._begin)
        rest = b""
        if self._blob.size > self._chunk:
            self._send_pieces()
        else:
            rest = b"".join(self._image.chunks(self._blob))
        self._endpoint.patiently(lambda: self._finish(rest))

    def _begin(self) -> None:
        with self._endpoint.opened("POST", self._location, self._scopes, content=b"") as response:
            self._location = self._endpoint.moved(self._location, response)
            least = response.headers.get("oci-chunk-min-length", "")
            if _NUMBER.match(least):
                self._chunk = max(self._chunk, min(int(least), MAX_CHUNK))

    def _send_pieces(self) -> None:
        sent = failures = 0
        while sent < self._blob.size:
            try:
                for piece in cut(self._image.chunks(self._blob), self._chunk, start=sent):
                    self._patch(piece, sent)
                    sent += len(piece)
                    failures = 0
            except UploadLostError:
                raise
            except nixfetch.TransportError as error:
                failures += 1
                self._endpoint.patience.wait(failures, error)
                sent = self._endpoint.patiently(self._learn)

    def _patch(self, piece: bytes, start: int) -> None:
        stop = start + len(piece)
        headers = {**_BYTES, "Content-Range": f"{start}-{stop - 1}"}
        with self._going_on("PATCH", self._location, headers, piece) as response:
            has = _has(response, stop)
        if has != stop:
            raise RegistryError("registry took a part of it", retryable=True, received=has)

    def _learn(self) -> int:
        """Ask how much the registry has."""
        with self._going_on("GET", self._location, {}, None) as response:
            return min(_has(response, 0), self._blob.size)

    def _finish(self, rest: bytes) -> None:
        url = self._location.copy_merge_params({"digest": self._blob.digest})
        with self._going_on("PUT", url, _BYTES, rest):
            pass

    @contextmanager
    def _going_on(
        self, method: str, url: httpx.URL, headers: Mapping[str, str], content: bytes | None
    ) -> Iterator[httpx.Response]:
        opened = self._endpoint.opened(method, url, self._scopes, headers=headers, content=content)
        with _losing(), opened as response:
            if method != "PUT" and "location" in response.headers:
                self._location = self._endpoint.moved(self._location, response)
            yield response


@contextmanager
def _losing() -> Iterator[None]:
    """Say of a refusal that the upload is lost, where it is."""
    try:
        yield
    except (nixfetch.NotFoundError, RegistryError) as error:
        missing = isinstance(error, nixfetch.NotFoundError)
        if not missing and error.facts.get("status") != UNSATISFIABLE:
            raise
        lost = UploadLostError("registry lost the upload", retryable=True)
        lost.facts = error.facts
        raise lost from error


def cut(chunks: Iterable[bytes], size: int, *, start: int) -> Iterator[bytes]:
    """`chunks` from an offset on, in pieces of `size` bytes; the last may be shorter."""
    waiting = bytearray()
    for chunk in chunks:
        skipped = min(start, len(chunk))
        start -= skipped
        waiting += chunk[skipped:]
        while len(waiting) >= size:
            yield bytes(waiting[:size])
            del waiting[:size]
    if waiting:
        yield bytes(waiting)


def _has(response: httpx.Response, otherwise: int) -> int:
    """Bytes that a registry has of an upload; it says "0-0" where it has none."""
    found = _RANGE.match(response.headers.get("range", ""))
    if found is None:
        return otherwise
    last = int(found[1])
    return last + 1 if last else 0
