"""The client, against a registry in memory that does what it is told."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx
import pytest

import nixfetch
from image_files import INDEX, Made, described, digest, index, laid, layout
from snapshotter import imageref
from snapshotter.image import archive, inspection
from snapshotter.oci.digests import BlobError, ImageError
from snapshotter.oci.model import Platform
from snapshotter.registry import DeniedError, Identity, Patience, Registry, RegistryError
from snapshotter.registry.endpoint import Endpoint, is_loopback
from snapshotter.registry.upload import cut

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from snapshotter.oci.image import Image
    from snapshotter.registry import Login

SECRET = "hunter2"
MADE = Made()
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
AMD64 = Platform("linux", "amd64")
REFERENCE = imageref.parse_registry("hub.test/a/b:v1")
_NAME = r"/v2/(?P<name>[a-z/]+)/"


class Torn(httpx.SyncByteStream):
    """A body that breaks off."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __iter__(self) -> Iterator[bytes]:
        yield self._data
        raise httpx.ReadError("connection reset")


@dataclass(slots=True)
class Hub:
    """A registry in memory. A fault answers the next request that it likes, in place of the hub."""

    manifests: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    blobs: dict[tuple[str, str], bytes] = field(default_factory=dict)
    uploads: dict[str, bytearray] = field(default_factory=dict)
    faults: list[Callable[[httpx.Request], httpx.Response | None]] = field(default_factory=list)
    requests: list[httpx.Request] = field(default_factory=list)

    def add(self, made: Made, *, tag: str = "v1", name: str = "a/b") -> None:
        for blob in (made.config, made.layer):
            self.blobs[name, digest(blob)] = blob
        for reference in (tag, digest(made.manifest)):
            self.manifests[reference] = (MANIFEST, made.manifest)

    def asked(self, method: str, part: str = "") -> list[httpx.Request]:
        return [each for each in self.requests if each.method == method and part in str(each.url)]

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        for fault in self.faults:
            answer = fault(request)
            if answer is not None:
                self.faults.remove(fault)
                return answer
        for method, pattern, answer_of in (
            ("GET", _NAME + r"manifests/(?P<which>.+)", self._manifest),
            ("PUT", _NAME + r"manifests/(?P<which>.+)", self._put_manifest),
            ("GET", _NAME + r"blobs/(?P<which>sha256:.+)", self._blob),
            ("HEAD", _NAME + r"blobs/(?P<which>sha256:.+)", self._blob),
            ("POST", _NAME + r"blobs/uploads/", self._begin),
            ("PATCH", _NAME + r"blobs/uploads/(?P<which>.+)", self._patch),
            ("GET", _NAME + r"blobs/uploads/(?P<which>.+)", self._status),
            ("PUT", _NAME + r"blobs/uploads/(?P<which>.+)", self._finish),
        ):
            found = re.fullmatch(pattern, request.url.path)
            if found and method == request.method:
                return answer_of(request, **found.groupdict())
        return httpx.Response(404)

    def _manifest(self, request: httpx.Request, name: str, which: str) -> httpx.Response:
        if which not in self.manifests:
            said = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "unknown"}]}
            return httpx.Response(404, json=said)
        media_type, data = self.manifests[which]
        headers = {"Content-Type": media_type, "Docker-Content-Digest": digest(data)}
        return httpx.Response(200, content=data, headers=headers)

    def _put_manifest(self, request: httpx.Request, name: str, which: str) -> httpx.Response:
        self.manifests[which] = (request.headers["content-type"], request.content)
        return httpx.Response(201, headers={"Docker-Content-Digest": digest(request.content)})

    def _blob(self, request: httpx.Request, name: str, which: str) -> httpx.Response:
        data = self.blobs.get((name, which))
        if data is None:
            return httpx.Response(404)
        found = re.fullmatch(r"bytes=(\d+)-", request.headers.get("range", ""))
        if found is None:
            return httpx.Response(200, content=data)
        start = int(found[1])
        headers = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        return httpx.Response(206, content=data[start:], headers=headers)

    def _begin(self, request: httpx.Request, name: str) -> httpx.Response:
        source = (request.url.params.get("from", ""), request.url.params.get("mount", ""))
        if source in self.blobs:
            self.blobs[name, source[1]] = self.blobs[source]
            return httpx.Response(201)
        which = f"u{len(self.uploads)}"
        self.uploads[which] = bytearray()
        return httpx.Response(
            202, headers={"Location": f"/v2/{name}/blobs/uploads/{which}?state=0"}
        )

    def _patch(self, request: httpx.Request, name: str, which: str) -> httpx.Response:
        if which not in self.uploads:
            return httpx.Response(404)
        start = int(request.headers["content-range"].partition("-")[0])
        if start != len(self.uploads[which]):
            return httpx.Response(416)
        self.uploads[which] += request.content
        return self._status(request, name, which, status=202)

    def _status(
        self, request: httpx.Request, name: str, which: str, *, status: int = 204
    ) -> httpx.Response:
        if which not in self.uploads:
            return httpx.Response(404)
        has = len(self.uploads[which])
        location = f"/v2/{name}/blobs/uploads/{which}?state={has}"
        headers = {"Location": location, "Range": f"0-{max(0, has - 1)}"}
        return httpx.Response(status, headers=headers)

    def _finish(self, request: httpx.Request, name: str, which: str) -> httpx.Response:
        data = bytes(self.uploads.pop(which)) + request.content
        if digest(data) != request.url.params["digest"]:
            return httpx.Response(400, json={"errors": [{"code": "DIGEST_INVALID"}]})
        self.blobs[name, digest(data)] = data
        return httpx.Response(201)


@dataclass(slots=True)
class Naps:
    """How long was waited."""

    seconds: list[float] = field(default_factory=list)

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


@contextmanager
def talking(
    hub: Callable[[httpx.Request], httpx.Response],
    *,
    host: str = "hub.test",
    login: Login | None = None,
    plain_http: bool = False,
    naps: Naps | None = None,
    chunk: int = 64,
) -> Iterator[Registry]:
    patience = Patience(sleep=naps or Naps(), fraction=lambda: 0.5)

    def stream(request: httpx.Request) -> httpx.Response:
        """As a network has it: the body is still to come."""
        answer = hub(request)
        if not answer.is_stream_consumed:
            return answer
        return httpx.Response(
            answer.status_code, headers=answer.headers, stream=httpx.ByteStream(answer.content)
        )

    with httpx.Client(transport=httpx.MockTransport(stream), trust_env=False) as client:
        endpoint = Endpoint(client, host, login=login, plain_http=plain_http, patience=patience)
        yield Registry(endpoint, chunk=chunk)


def status(
    code: int, method: str = "", part: str = "", **more: Any
) -> Callable[[httpx.Request], httpx.Response | None]:
    def fault(request: httpx.Request) -> httpx.Response | None:
        if method in {"", request.method} and part in str(request.url):
            return httpx.Response(code, **more)
        return None

    return fault


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Image]:
    """An image to be pushed, whose layer is larger than a piece."""
    with archive.opening(laid(layout(MADE), tmp_path / "made")) as image:
        assert image.manifest.layers[0].size > 64
        yield image


# Pulling.


def test_an_image_is_pulled() -> None:
    hub = Hub()
    hub.add(MADE)
    with talking(hub) as registry:
        image = registry.image(REFERENCE, platform=AMD64)
        inspection.look_all(image)
    assert image.manifest_bytes == MADE.manifest
    assert image.name == "hub.test/a/b:v1"
    assert all(request.url.scheme == "https" for request in hub.requests)
    assert "index.v1+json" in hub.requests[0].headers["accept"]


def test_the_machine_picks_from_an_index() -> None:
    hub = Hub()
    arm = Made(architecture="arm64")
    hub.add(MADE, tag="x")
    hub.add(arm, tag="y")
    hub.manifests["v1"] = (INDEX, index(MADE, arm, platforms=True))
    with talking(hub) as registry:
        for platform in ("linux/arm64", "linux/amd64"):
            found = registry.image(REFERENCE, platform=Platform.parse(platform))
            assert str(found.config.platform) == platform


def test_by_digest() -> None:
    hub = Hub()
    hub.add(MADE)
    pinned = imageref.parse_registry(f"hub.test/a/b:gone@{digest(MADE.manifest)}")
    with talking(hub) as registry:
        assert registry.image(pinned).manifest_bytes == MADE.manifest
        hub.manifests[digest(MADE.manifest)] = (MANIFEST, MADE.manifest + b" ")
        with pytest.raises(BlobError, match="another digest"):
            registry.image(pinned)


def lying(hub: Hub) -> None:
    hub.faults.append(
        status(
            200,
            "GET",
            "manifests",
            content=MADE.manifest,
            headers={"Content-Type": MANIFEST, "Docker-Content-Digest": digest(b"x")},
        )
    )


def bad_index(hub: Hub) -> None:
    listed = [described(MANIFEST, MADE.manifest, platform={"os": "linux", "architecture": "amd64"})]
    listed[0]["size"] += 1
    hub.manifests["v1"] = (INDEX, json.dumps({"schemaVersion": 2, "manifests": listed}).encode())


@pytest.mark.parametrize(
    ("spoil", "kind", "problem"),
    [
        (lambda hub: hub.manifests.clear(), nixfetch.NotFoundError, "registry has no such thing"),
        (lying, BlobError, "blob has another digest"),
        (bad_index, BlobError, "blob has another size"),
        (lambda hub: hub.faults.append(status(200)), ImageError, "not a manifest of an image"),
        (
            lambda hub: hub.faults.append(status(200, content=bytes(5 * 1024**2))),
            ImageError,
            "answer of the registry is too large",
        ),
        (lambda hub: hub.faults.append(status(403)), DeniedError, "registry does not allow it"),
        (
            lambda hub: hub.faults.append(status(401)),
            nixfetch.AuthenticationError,
            "registry wants a login of a kind that is not known here",
        ),
        (
            lambda hub: hub.faults.append(status(418, text=SECRET)),
            RegistryError,
            "registry answers with an error",
        ),
        (
            lambda hub: hub.faults.append(status(302, headers={"Location": "http://hub.test/"})),
            RegistryError,
            "redirect from https to http",
        ),
        (
            lambda hub: hub.faults.append(status(302, headers={"Location": "file:///etc/passwd"})),
            RegistryError,
            "malformed redirect",
        ),
        (lambda hub: hub.faults.append(status(302)), RegistryError, "malformed redirect"),
        (
            lambda hub: hub.faults.extend([status(302, headers={"Location": "/v2/x"})] * 9),
            RegistryError,
            "too many redirects",
        ),
    ],
)
def test_what_cannot_be_pulled(
    spoil: Callable[[Hub], None], kind: type[nixfetch.NixfetchError], problem: str
) -> None:
    hub = Hub()
    hub.add(MADE)
    spoil(hub)
    with talking(hub) as registry, pytest.raises(kind) as caught:
        inspection.look_all(registry.image(REFERENCE, platform=AMD64))
    assert caught.value.problem == problem
    assert caught.value.facts["image"] == "hub.test/a/b:v1"
    assert SECRET not in str(caught.value)


def test_what_a_refusal_says_is_shown() -> None:
    with talking(Hub()) as registry, pytest.raises(nixfetch.NotFoundError) as caught:
        registry.image(REFERENCE)
    assert caught.value.facts == {
        "image": "hub.test/a/b:v1",
        "host": "hub.test",
        "name": "a/b/manifests/v1",
        "said": "MANIFEST_UNKNOWN: unknown",
        "status": 404,
    }


def test_a_blob_goes_on_where_it_broke_off() -> None:
    hub = Hub()
    hub.add(MADE)
    blob = MADE.layer
    hub.faults = [
        status(200, "GET", digest(blob), stream=Torn(blob[:10])),
        status(
            206, "GET", digest(blob), stream=Torn(blob[10:20]),
            headers={"Content-Range": f"bytes 10-{len(blob) - 1}/{len(blob)}"},
        ),
        status(503, "GET", digest(blob)),
        status(200, "GET", digest(blob), stream=Torn(blob[:30])),  # which ignores the range
    ]  # fmt: skip
    naps = Naps()
    with talking(hub, naps=naps) as registry:
        inspection.look_all(registry.image(REFERENCE))
    ranges = [request.headers.get("range") for request in hub.asked("GET", digest(blob))]
    assert ranges == [None, "bytes=10-", "bytes=20-", "bytes=20-", "bytes=30-"]
    assert len(naps.seconds) == 4


def test_a_blob_that_is_another_or_too_long() -> None:
    hub = Hub()
    hub.add(MADE)
    for data in (MADE.layer[:-1] + b"x", MADE.layer + b"x"):
        hub.blobs["a/b", digest(MADE.layer)] = data
        with talking(hub) as registry, pytest.raises(BlobError):
            list(registry.image(REFERENCE).chunks(registry.image(REFERENCE).manifest.layers[0]))


def test_another_part_than_was_asked_for() -> None:
    hub = Hub()
    hub.add(MADE)
    blob = digest(MADE.layer)
    hub.faults = [
        status(200, "GET", blob, stream=Torn(MADE.layer[:1])),
        status(206, "GET", blob, content=b"y", headers={"Content-Range": "bytes 0-1/2"}),
    ]
    with talking(hub) as registry, pytest.raises(RegistryError, match="of another part"):
        inspection.look_all(registry.image(REFERENCE))


def test_failures_are_waited_out_up_to_a_point() -> None:
    hub = Hub()
    hub.add(MADE)
    naps = Naps()
    hub.faults = [status(503), status(429, headers={"Retry-After": "7"})]
    with talking(hub, naps=naps) as registry:
        registry.image(REFERENCE)
        assert naps.seconds == [0.125, 7.0]
        hub.faults = [status(503)] * 9
        with pytest.raises(RegistryError) as caught:
            registry.image(REFERENCE)
    assert caught.value.facts["status"] == 503
    assert len(hub.faults) == 4


def test_a_registry_that_does_not_answer() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    def no_tls(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("[SSL: WRONG_VERSION_NUMBER]")

    naps = Naps()
    with talking(refuse, naps=naps) as registry, pytest.raises(RegistryError) as caught:
        registry.image(REFERENCE)
    assert len(naps.seconds) == 4
    assert caught.value.facts["reason"] == "refused"
    with talking(no_tls, naps=naps) as registry, pytest.raises(RegistryError) as caught:
        registry.image(REFERENCE)
    assert len(naps.seconds) == 4
    assert "--plain-http" in str(caught.value.hint)


def test_credentials_stay_at_their_origin() -> None:
    """A registry hands blobs out by links into an object store."""
    hub = Hub()
    hub.add(MADE)
    blob = digest(MADE.layer)
    hub.faults = [
        status(401, "GET", "manifests", headers={"WWW-Authenticate": 'Basic realm="x"'}),
        status(307, "GET", f"hub.test/v2/a/b/blobs/{blob}", headers={"Location": f"https://cdn.test/v2/a/b/blobs/{blob}"}),
    ]  # fmt: skip
    with talking(hub, login=nixfetch.Basic("u", SECRET)) as registry:
        inspection.look_all(registry.image(REFERENCE))
    seen = {(each.url.host, "authorization" in each.headers) for each in hub.requests[1:]}
    assert seen == {("hub.test", True), ("cdn.test", False)}


def test_a_token_is_fetched_from_where_the_registry_says() -> None:
    hub = Hub()
    hub.add(MADE)
    challenge = {"WWW-Authenticate": 'Bearer realm="https://auth.test/token",service="hub"'}
    hub.faults = [
        status(401, "GET", "manifests", headers=challenge),
        status(200, "GET", "auth.test", json={"token": SECRET}),
    ]
    with talking(hub, login=nixfetch.Basic("u", "p")) as registry:
        inspection.look_all(registry.image(REFERENCE))
    (asked,) = hub.asked("GET", "auth.test")
    assert asked.headers["authorization"] == nixfetch.Basic("u", "p").authorization()
    assert asked.url.params["scope"] == "repository:a/b:pull"
    after = hub.requests[hub.requests.index(asked) + 1 :]
    assert {each.headers["authorization"] for each in after} == {f"Bearer {SECRET}"}


def test_an_identity_is_sent_as_a_form() -> None:
    hub = Hub()
    hub.add(MADE)
    challenge = {"WWW-Authenticate": 'Bearer realm="https://auth.test/token"'}
    hub.faults = [
        status(401, "GET", "manifests", headers=challenge),
        status(200, "POST", "auth.test", json={"access_token": "t"}),
    ]
    with talking(hub, login=Identity(SECRET)) as registry:
        registry.image(REFERENCE)
    (asked,) = hub.asked("POST", "auth.test")
    assert f"refresh_token={SECRET}".encode() in asked.content


# Pushing.


def test_an_image_is_pushed_and_pulled_again(made: Image) -> None:
    hub = Hub()
    told = []
    with talking(hub) as registry:
        pushed = registry.push(made, REFERENCE, on_blob=lambda _blob, how: told.append(how))
        assert told == ["uploaded", "uploaded"]
        again = registry.image(REFERENCE)
        inspection.look_all(again)
        assert pushed == made.descriptor.digest == digest(again.manifest_bytes)
        told.clear()
        registry.push(made, REFERENCE, on_blob=lambda _blob, how: told.append(how))
        assert told == ["present", "present"]
    pieces = [request.headers["content-range"] for request in hub.asked("PATCH")]
    size = made.manifest.layers[0].size
    assert pieces[:2] == ["0-63", f"64-{size - 1}"]
    assert hub.requests[-1].headers["content-type"] == MANIFEST


def test_small_blobs_go_at_once(made: Image) -> None:
    hub = Hub()
    with talking(hub, chunk=1024**2) as registry:
        registry.push(made, REFERENCE)
    assert hub.asked("PATCH") == []


def test_a_registry_may_want_larger_pieces(made: Image) -> None:
    hub = Hub()
    location = {
        "Location": "https://hub.test/v2/a/b/blobs/uploads/u",
        "OCI-Chunk-Min-Length": "999",
    }
    hub.uploads["u"] = bytearray()
    hub.faults = [status(202, "POST", headers=location)]
    with talking(hub) as registry:
        registry.push(made, REFERENCE)
    assert [len(each.content) for each in hub.asked("PATCH", "uploads/u?")] == []


def test_without_a_tag_the_digest_names_it(made: Image) -> None:
    hub = Hub()
    with talking(hub) as registry:
        registry.push(made, imageref.parse_registry("hub.test/a/b"))
    assert list(hub.manifests) == [made.descriptor.digest]


def test_blobs_of_other_repositories_are_mounted(made: Image) -> None:
    hub = Hub()
    hub.add(MADE, name="base")
    told: list[str] = []
    with talking(hub) as registry:
        registry.push(
            made,
            REFERENCE,
            sources=dict.fromkeys([digest(MADE.layer), digest(MADE.config)], "base"),
            on_blob=lambda _blob, how: told.append(how),
        )
    assert told == ["mounted", "mounted"]
    assert hub.asked("PUT", "uploads") == []


def test_what_may_not_be_mounted_is_sent(made: Image) -> None:
    hub = Hub(faults=[status(403, "POST", "mount"), status(202, "POST", "mount")])
    told: list[str] = []
    with talking(hub) as registry:
        registry.push(
            made,
            REFERENCE,
            sources=dict.fromkeys([digest(MADE.layer), digest(MADE.config)], "b"),
            on_blob=lambda _blob, how: told.append(how),
        )
    assert told == ["uploaded", "uploaded"]


@pytest.mark.parametrize(
    "faults",
    [
        [status(503, "PATCH", "state=64")],
        [status(500, "PATCH", "state=0")],
        [status(404, "PATCH", "state=64")],
        [status(416, "PATCH", "state=64")],
        [status(503, "PATCH", "state=64"), status(503, "GET", "uploads")],
        [status(503, "PATCH", "state=64"), status(404, "GET", "uploads")],
        [status(503, "PUT", "uploads"), status(503, "PUT", "manifests")],
        [status(202, "PATCH", "state=64", headers={"Range": "0-70"})],
        [status(503, "POST"), status(503, "HEAD")],
    ],
)
def test_uploads_go_on_where_they_broke_off(faults: list[Any], made: Image) -> None:
    hub = Hub(faults=faults)
    with talking(hub) as registry:
        registry.push(made, REFERENCE)
        inspection.look_all(registry.image(REFERENCE))
    assert hub.faults == []


def test_an_upload_that_is_lost_each_time(made: Image) -> None:
    hub = Hub(faults=[status(404, "PATCH")] * 9)
    with talking(hub) as registry, pytest.raises(RegistryError, match="lost the upload") as caught:
        registry.push(made, REFERENCE)
    assert caught.value.facts["digest"] == made.manifest.layers[0].digest
    assert len(hub.asked("PATCH")) == 5


def test_a_push_that_is_not_allowed(made: Image) -> None:
    said = {"errors": [{"code": "DENIED", "message": "requested access is denied"}]}
    hub = Hub(faults=[status(403, "POST", json=said)])
    with talking(hub) as registry, pytest.raises(DeniedError) as caught:
        registry.push(made, REFERENCE)
    assert caught.value.facts["said"] == "DENIED: requested access is denied"


def test_a_registry_that_stores_something_else(made: Image) -> None:
    other = {"Docker-Content-Digest": digest(b"other")}
    hub = Hub(faults=[status(201, "PUT", "manifests", headers=other)])
    with talking(hub) as registry, pytest.raises(ImageError, match="another manifest now"):
        registry.push(made, REFERENCE)


# With TLS and without.


@pytest.mark.parametrize(
    ("host", "plain_http", "probe", "scheme"),
    [
        ("hub.test", False, None, "https"),
        ("hub.test", True, None, "http"),
        ("127.0.0.1:5000", False, 200, "http"),
        ("127.0.0.1:5000", False, 401, "http"),
        ("127.0.0.1:5000", False, 400, "https"),
        ("127.0.0.1:5000", True, None, "http"),
    ],
)
def test_what_is_talked(host: str, *, plain_http: bool, probe: int | None, scheme: str) -> None:
    hub = Hub()
    hub.add(MADE)
    if probe is not None:
        hub.faults = [status(probe)]
    with talking(hub, host=host, plain_http=plain_http) as registry:
        registry.image(imageref.parse_registry(f"{host}/a/b:v1"))
    assert hub.faults == []
    assert {each.url.scheme for each in hub.requests[probe is not None :]} == {scheme}


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True), ("localhost:5000", True), ("a.localhost", True), ("127.0.0.1", True),
        ("127.9.9.9:1", True), ("[::1]:5000", True), ("10.0.0.1", False), ("hub.test:5000", False),
        ("localhost.test", False), ("127.0.0.1.test", False),
    ],
)  # fmt: skip
def test_what_is_loopback(host: str, *, local: bool) -> None:
    assert is_loopback(host) is local


def test_pieces_from_an_offset() -> None:
    chunks = [b"abc", b"defg", b"", b"h"]
    assert list(cut(chunks, 3, start=0)) == [b"abc", b"def", b"gh"]
    assert list(cut(chunks, 3, start=4)) == [b"efg", b"h"]
    assert list(cut(chunks, 3, start=8)) == []
