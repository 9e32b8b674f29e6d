"""From what a manifest names to store paths: asks whoever knows."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from nixfetch.errors import FormatError, NixfetchError, facts
from nixfetch.formats.storepath import StorePath
from nixfetch.mirror.inventory import take_inventory
from nixfetch.streams import codecs
from nixfetch.streams.limits import read_all
from nixfetch.transport.urls import scheme
from nixfetch.warm.manifest import MAX_SIZE, parse_list

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from nixfetch.mirror import Destination
    from nixfetch.transport import Transport
    from nixfetch.transport.sink import Persist
    from nixfetch.warm.manifest import SourceSpec


_JSON = "application/json"  # Hydra has pages for people as well


class SourceError(NixfetchError):
    """What a manifest names gives no store paths. Facts: `source`."""

    exit_code = 5


class Resolver:
    """Finds the paths of a manifest's sources.

    Args:
        transport: the transport of the directory of a URL, and what kind of answer is wanted.
        mirror: opens a bucket or a directory to list.
        images: the store paths that the reference of an image names; none for others.
        persist: when to ask again.
        directory: what the names of files are relative to.
    """

    def __init__(
        self,
        *,
        transport: Callable[[str, str], Transport],
        mirror: Callable[[str], Destination],
        images: Callable[[str], tuple[str, ...]],
        persist: Persist,
        directory: Path,
    ) -> None:
        self._transport = transport
        self._mirror = mirror
        self._images = images
        self._persist = persist
        self._directory = directory

    def paths(self, source: SourceSpec) -> list[StorePath]:
        """The store paths of one source, each once.

        Raises:
            SourceError: what it names says nothing usable.
            NixfetchError: it does not answer.
        """
        with facts(source=source.name):
            return [path for path in dict.fromkeys(self._all(source)) if _fits(path, source)]

    def _all(self, source: SourceSpec) -> list[StorePath]:
        match source.kind:
            case "paths":
                return list(source.paths)
            case "store-paths":
                return list(_listed(self._read(source.where)))
            case "hydra":
                return _outputs(self._read(source.where, _JSON), source.outputs)
            case "pods":
                return list(self._pods(self._read(source.where)))
            case _:
                return self._cached(source.where)

    def _read(self, where: str, accept: str = "*/*") -> bytes:
        """What is at a URL or in a file, decompressed."""
        if scheme(where) is None:
            return _plain(self._file(where))
        base, _, name = where.partition("?")[0].rpartition("/")
        query = urlsplit(where).query
        transport = self._transport(base, accept)
        try:
            return _plain(self._persist(lambda: self._get(transport, name, query)))
        finally:
            transport.close()

    def _get(self, transport: Transport, name: str, query: str) -> bytes:
        with transport.open(f"{name}?{query}" if query else name) as body:
            chunks = body.chunks
            if body.encoding is not None:
                chunks = codecs.decode(body.encoding, chunks)
            return read_all(chunks, MAX_SIZE, what="list")

    def _file(self, name: str) -> bytes:
        file = self._directory / name
        try:
            with file.open("rb") as opened:
                raw = opened.read(MAX_SIZE + 1)
        except OSError as error:
            reason = (error.strerror or "unknown").lower()
            raise SourceError("cannot read", file=str(file), reason=reason) from error
        if len(raw) > MAX_SIZE:
            raise SourceError("file is too large", file=str(file), limit=MAX_SIZE)
        return raw

    def _pods(self, raw: bytes) -> Iterator[StorePath]:
        document = _json(raw)
        pods = document.get("items", [document]) if isinstance(document, dict) else document
        for image in _image_names(pods):
            for text in self._images(image):
                yield StorePath.parse_full(text)

    def _cached(self, url: str) -> list[StorePath]:
        mirror = self._mirror(url)
        try:
            return sorted(take_inventory(mirror).infos)
        finally:
            mirror.close()


def _fits(path: StorePath, source: SourceSpec) -> bool:
    return not source.match or any(fnmatchcase(path.base, pattern) for pattern in source.match)


def _plain(raw: bytes) -> bytes:
    """`raw`, decompressed if it is compressed."""
    compression = codecs.recognise(raw[: codecs.HEAD])
    if compression in {None, "none"}:
        return raw
    assert compression is not None
    return read_all(codecs.decode(compression, [raw]), MAX_SIZE, what="list")


def _listed(raw: bytes) -> Iterator[StorePath]:
    try:
        lines = parse_list(raw.decode())
    except UnicodeDecodeError:
        raise SourceError("list of store paths is not text") from None
    for line in lines:
        try:
            yield StorePath.parse_full(line)
        except FormatError as error:
            raise SourceError(
                "list has a line that is no store path", line=line[:200], reason=error.problem
            ) from error


def _outputs(raw: bytes, wanted: tuple[str, ...]) -> list[StorePath]:
    """The outputs of a build, as Hydra says them."""
    document = _json(raw)
    outputs = document.get("buildoutputs") if isinstance(document, dict) else None
    if not isinstance(outputs, dict) or not outputs:
        raise SourceError("not a build of Hydra", hint="a URL like …/job/…/latest-finished")
    status = document.get("buildstatus")
    if status not in {0, None}:
        raise SourceError("build failed", buildstatus=status)
    if lacking := [name for name in wanted if name not in outputs]:
        raise SourceError("build has no such output", output=lacking[0], outputs=sorted(outputs))
    paths = []
    for name in wanted or sorted(outputs):
        output = outputs[name]
        if not isinstance(output, dict) or not isinstance(output.get("path"), str):
            raise SourceError("not a build of Hydra", output=name)
        paths.append(StorePath.parse_full(output["path"]))
    return paths


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        what = "page for people" if raw.lstrip()[:1] == b"<" else "text"
        raise SourceError("expected JSON", got=what) from error


def _image_names(pods: object) -> Iterator[str]:
    for pod in pods if isinstance(pods, list) else ():
        spec = pod.get("spec") if isinstance(pod, dict) else None
        if not isinstance(spec, dict):
            continue
        for kind in ("initContainers", "containers", "ephemeralContainers"):
            for container in spec.get(kind) or ():
                image = container.get("image") if isinstance(container, dict) else None
                if isinstance(image, str):
                    yield image
