"""Images that we build, as a real registry, skopeo, umoci and containerd see them."""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

import nixfetch
from certificates import Authority
from containerd_host import VERSIONS, node, scratch
from registries import PASSWORD, USER, docker_config, running, tokens
from simulated_cache import Executable, store_path
from snapshotter import imageref
from snapshotter.image import archive, inspection
from snapshotter.image.builder import Recipe, building
from snapshotter.oci.model import Platform
from snapshotter.registry import Patience, Registry, connecting
from snapshotter.registry.endpoint import Endpoint
from store_of_images import grown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from containerd_host import Version
    from e2e.conftest import Demo

pytestmark = pytest.mark.e2e

IMAGE = (sys.executable, "-m", "snapshotter.cli", "image")
PATIENCE = 60.0  # seconds for any one command; all take less than two
BLOB = 9_000_000  # bytes that nothing compresses: two pieces of an upload


@dataclass(frozen=True, slots=True)
class Ran:
    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Shop:
    """A store with the demo closure, and a folder to work in."""

    store: Path
    folder: Path

    def image(self, *arguments: object, ok: bool = True, **environ: Any) -> Ran:
        """`nixfetch-snapshotter image`."""
        return run(
            *IMAGE, *arguments, ok=ok, NIXFETCH_STORE=str(self.store),
            HOME=str(self.folder), **environ,
        )  # fmt: skip


def run(*command: object, ok: bool = True, **environ: str) -> Ran:
    done = subprocess.run(
        [str(word) for word in command],
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert not ok or done.returncode == 0, done.stderr
    return Ran(done.returncode, done.stdout, done.stderr)


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"there is no {name} here")
    return found


def skopeo(*arguments: object, ok: bool = True) -> Ran:
    return run(tool("skopeo"), "--insecure-policy", *arguments, ok=ok)


@pytest.fixture(scope="module")
def store(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    policy = nixfetch.TrustPolicy((nixfetch.PublicKey.parse(demo.key),))
    with (
        nixfetch.open_caches([f"file://{demo.cache('cache-zstd')}"]) as caches,
        nixfetch.LocalStore(root) as opened,
    ):
        wanted = [nixfetch.StorePath.parse_full(demo.root)]
        nixfetch.fetch_closure(wanted, caches=caches, policy=policy, store=opened)
    return root


@pytest.fixture
def shop(store: Path, tmp_path: Path) -> Shop:
    return Shop(store, tmp_path)


@pytest.mark.parametrize("kind", ["nix", "plain"])
@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_skopeo_and_umoci_take_what_we_build(
    kind: str, compression: str, shop: Shop, demo: Demo
) -> None:
    folder, file = shop.folder / "image", shop.folder / "image.tar"
    more = ["--plain"] if kind == "plain" else ["--copy-to-root", demo.root]
    for target in (f"oci:{folder}", file):
        shop.image(
            "build", demo.root, "--to", target, "--entrypoint", f"{demo.root}/bin/greet",
            "--env", "A=b", "--name", "example.test/demo:v1", "--compression", compression,
            "--users", *more,
        )  # fmt: skip
    for place in (f"oci:{folder}:v1", f"oci-archive:{file}", f"docker-archive:{file}"):
        config = json.loads(skopeo("inspect", "--config", place).out)
        assert config["config"]["Entrypoint"] == [f"{demo.root}/bin/greet"]
        assert json.loads(skopeo("inspect", place).out)["Architecture"] == "amd64"
    copy = shop.folder / "copy"
    # It would compress layers that are not, and lose their annotations.
    skopeo("copy", "-q", "--preserve-digests", f"oci-archive:{file}", f"oci:{copy}:v1")
    with archive.opening(copy) as image:
        inspection.look_all(image)
        numbered = [
            label
            for layer in image.manifest.layers
            for label in layer.annotations
            if label.startswith("containerd.io/snapshot/nix-store-path.")
        ]
    assert len(numbered) == (0 if kind == "plain" else len(demo.closure))
    if compression == "zstd":  # which this umoci does not know
        return
    bundle = shop.folder / "bundle"
    run(tool("umoci"), "unpack", "--image", f"{folder}:v1", bundle)
    unpacked = bundle / f"rootfs{demo.programs['static']}"
    assert unpacked.exists() is (kind == "plain")
    if kind == "plain":
        assert filecmp.cmp(unpacked, f"{shop.store}{demo.programs['static']}", shallow=False)
    else:
        link = bundle / "rootfs/bin/greet"
        assert link.readlink() == Path(f"{demo.root}/bin/greet")


def test_two_builds_are_equal(shop: Shop, demo: Demo) -> None:
    found = []
    for number in ("1", "2"):
        temporary = shop.folder / number
        temporary.mkdir()
        for kind, more in (("nix", ["--users"]), ("plain", ["--plain"])):
            file = temporary / f"{kind}.tar"
            shop.image(
                "build", demo.root, "--to", file, "--label", "a=b", "--label", "c=d", *more,
                PYTHONHASHSEED=number, TMPDIR=str(temporary), TZ=f"UTC-{number}",
            )  # fmt: skip
            found.append((kind, file.read_bytes()))
        assert sorted(each.name for each in temporary.iterdir()) == ["nix.tar", "plain.tar"]
    assert found[:2] == found[2:]


def test_a_registry_with_tokens(shop: Shop, demo: Demo) -> None:
    with tokens() as server, running(shop.folder / "hub", auth=server) as hub:
        login: dict[str, Any] = {
            "DOCKER_CONFIG": str(docker_config(shop.folder / "docker", hub.host))
        }
        base, ours = f"docker://{hub.host}/some/base:1", f"docker://{hub.host}/some/app:1"
        shop.image("build", demo.programs["static"].partition("/bin")[0], "--to", base, **login)
        pushed = shop.image(
            "build", demo.root, "--from-image", base, "--to", ours, "--json",
            "--entrypoint", demo.programs["dynamic"], **login,
        )  # fmt: skip
        document = json.loads(pushed.out)
        assert [layer["how"] for layer in document["layers"]] == ["mounted", "uploaded"]
        mounts = [each for each in hub.requests() if "mount=" in each[1]]
        assert [status for _, _, status in mounts] == [401, 201]  # the first one without a token
        raw = skopeo(
            "inspect", "--raw", "--tls-verify=false", "--creds", f"{USER}:{PASSWORD}", ours
        )
        assert document["digest"] == f"sha256:{hashed(raw.out)}"
        again = shop.image("inspect", ours, "--check", "--json", **login)
        assert json.loads(again.out)["digest"] == document["digest"]
        pinned = f"docker://{hub.host}/some/app@{document['digest']}"
        assert json.loads(shop.image("inspect", pinned, "--json").out)["id"] == document["id"]
        assert any("pull,push" in scope for scopes, _ in server.asked for scope in scopes)


def hashed(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()


def test_upon_a_base_of_docker(shop: Shop, demo: Demo) -> None:
    """Its layers have Docker's media types; what is built is taken by all tools all the same."""
    with running(shop.folder / "hub") as hub:
        file, built = shop.folder / "base.tar", shop.folder / "built"
        static = demo.programs["static"].partition("/bin")[0]
        shop.image("build", static, "--plain", "--to", file, "--env", "A=b")
        base = f"docker://{hub.host}/base:1"
        skopeo(
            "copy", "-q", "--format", "v2s2", "--dest-tls-verify=false", f"oci-archive:{file}", base
        )  # fmt: skip
        shop.image(
            "build", demo.root, "--from-image", base, "--to", f"oci:{built}", "--name", "a.test/b:1"
        )  # fmt: skip
        shop.image("inspect", f"oci:{built}", "--check")
        run(tool("umoci"), "unpack", "--image", f"{built}:1", shop.folder / "bundle")
        assert (shop.folder / f"bundle/rootfs{demo.programs['static']}").exists()
        docker = shop.folder / "docker.tar"
        skopeo("copy", "-q", f"oci:{built}:1", f"docker-archive:{docker}:a.test/b:1")
        shop.image("inspect", docker, "--check")


def test_who_may_not_push(shop: Shop, demo: Demo) -> None:
    with tokens() as server, running(shop.folder / "hub", auth=server) as hub:
        target = f"docker://{hub.host}/some/app:1"
        nobody = shop.image("build", demo.root, "--to", target, ok=False)
        assert nobody.code == 5
        assert f"hint: docker login {hub.host}" in nobody.err
        config = docker_config(shop.folder / "docker", hub.host, password="wrong-secret")
        wrong = shop.image("build", demo.root, "--to", target, ok=False, DOCKER_CONFIG=str(config))
        assert wrong.code == 5
        assert "login is refused" in wrong.err
        assert "wrong-secret" not in wrong.err + wrong.out
        assert "Traceback" not in nobody.err + wrong.err


def test_a_registry_with_passwords(shop: Shop, demo: Demo) -> None:
    with running(shop.folder / "hub", auth="basic") as hub:
        target = f"docker://{hub.host}/app:1"
        assert shop.image("build", demo.root, "--to", target, ok=False).code == 5
        login: dict[str, Any] = {
            "DOCKER_CONFIG": str(docker_config(shop.folder / "docker", hub.host))
        }
        shop.image("build", demo.root, "--to", target, **login)
        file = shop.folder / "image.tar"
        shop.image("build", demo.root, "--to", file, "--plain")
        shop.image("push", file, f"docker://{hub.host}/plain:1", **login)
        found = skopeo(
            "inspect", "--tls-verify=false", "--creds", f"{USER}:{PASSWORD}",
            f"docker://{hub.host}/plain:1",
        )  # fmt: skip
        assert len(json.loads(found.out)["Layers"]) == len(demo.closure)


def test_a_program_for_logins(shop: Shop, demo: Demo) -> None:
    with running(shop.folder / "hub", auth="basic") as hub:
        program = shop.folder / "bin/docker-credential-mine"
        program.parent.mkdir()
        answer = json.dumps({"Username": USER, "Secret": PASSWORD})
        program.write_text(f"#!/bin/sh\nread host; [ \"$host\" = {hub.host} ] && echo '{answer}'\n")
        program.chmod(0o755)
        config = shop.folder / "config.json"
        config.write_text(json.dumps({"credHelpers": {hub.host: "mine"}}))
        shop.image(
            "build", demo.root, "--to", f"docker://{hub.host}/app:1", "--authfile", config,
            PATH=f"{program.parent}:{os.environ['PATH']}",
        )  # fmt: skip


def test_no_log_has_a_secret(
    shop: Shop, demo: Demo, caplog: pytest.LogCaptureFixture, large: Any
) -> None:
    caplog.set_level("DEBUG")
    with tokens() as server, running(shop.folder / "hub", auth=server) as hub:
        login = nixfetch.Basic(USER, PASSWORD)
        with connecting(hub.host, login=login) as registry:
            reference = imageref.parse_registry(f"{hub.host}/a:1")
            registry.push(large, reference)
            inspection.look_all(registry.image(reference))
    written = " ".join(record.getMessage() for record in caplog.records if record.name == "httpx")
    assert "/v2/a/blobs/uploads/" in written
    assert "_state=" not in written  # what an upload may be gone on with
    everything = caplog.text
    assert PASSWORD not in everything
    assert login.authorization() not in everything
    assert "Bearer ey" not in everything


def test_a_registry_with_tls(shop: Shop, demo: Demo) -> None:
    authority = Authority(shop.folder, "authority")
    with running(shop.folder / "hub", tls=authority.issue("registry")) as hub:
        target = f"docker://{hub.host}/app:1"
        unknown = shop.image("build", demo.root, "--to", target, ok=False)
        assert unknown.code == 5
        assert "CERTIFICATE_VERIFY_FAILED" in unknown.err
        assert "--ca-file" in unknown.err
        shop.image("build", demo.root, "--to", target, "--ca-file", authority.file)
        shop.image("inspect", target, "--check", "--ca-file", authority.file)


class Cutting(httpx.HTTPTransport):
    """Loses the answers to some requests, which were heard all the same."""

    def __init__(self, losing: dict[str, int]) -> None:
        super().__init__()
        self._losing = losing

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        if self._losing.get(request.method, 0):
            self._losing[request.method] -= 1
            response.read()
            response.close()
            raise httpx.ReadError("cut off")
        return response


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """An image with a blob of several pieces."""
    import random

    data = random.Random(1).randbytes(BLOB)
    store = grown(tmp_path_factory.mktemp("large"), {"large": (Executable(data), ())})
    recipe = Recipe(paths=(store_path("large"),), platform=Platform("linux", "amd64"), plain=True)
    with store.open() as trees, building(recipe, trees) as image:
        yield image


def test_a_large_blob_goes_in_pieces_and_comes_back(large: Any, tmp_path: Path) -> None:
    with running(tmp_path) as hub, connecting(hub.host, trust_env=False) as registry:
        reference = imageref.parse_registry(f"{hub.host}/large:1")
        registry.push(large, reference)
        inspection.look_all(registry.image(reference))
        patches = [each for each in hub.requests() if each[0] == "PATCH"]
        assert [status for _, _, status in patches] == [202, 202]


def test_an_upload_goes_on_after_its_connection_broke(large: Any, tmp_path: Path) -> None:
    losing = {"PATCH": 2, "POST": 1, "PUT": 1, "HEAD": 1}
    patience = Patience(sleep=lambda _seconds: None)
    with ExitStack() as stack:
        hub = stack.enter_context(running(tmp_path))
        client = stack.enter_context(httpx.Client(transport=Cutting(losing), trust_env=False))
        endpoint = Endpoint(client, hub.host, login=None, plain_http=True, patience=patience)
        registry = Registry(endpoint, chunk=1_000_000)
        reference = imageref.parse_registry(f"{hub.host}/large:1")
        registry.push(large, reference)
        inspection.look_all(registry.image(reference))
    assert set(losing.values()) == {0}


@pytest.mark.parametrize("version", VERSIONS)
def test_an_image_goes_into_containerd(version: Version, shop: Shop, demo: Demo) -> None:
    """By its own services, unpacked, without a registry and without `ctr`."""
    with scratch() as folder, node(version, folder) as host:
        to = ("--address", host.socket, "--snapshotter", "overlayfs")
        shop.image(
            "build", demo.root, "--plain", "--to", "containerd://default/example.test/demo:v1",
            "--entrypoint", demo.programs["dynamic"], "--cmd", "you", *to,
        )  # fmt: skip
        assert host.ctr("run", "--rm", "example.test/demo:v1", "one").out == demo.output["dynamic"]
        file = folder / "image.tar"
        shop.image("build", demo.root, "--to", file)
        shop.image("load", file, "containerd://other/example.test/nix:v1", *to)
        assert "example.test/nix:v1" in host.ctr("--namespace", "other", "image", "ls").out


@pytest.mark.parametrize("version", VERSIONS)
def test_a_plain_image_runs_without_us(version: Version, shop: Shop, demo: Demo) -> None:
    """In a containerd that knows no snapshotter but its own."""
    with scratch() as folder, node(version, folder) as host:
        file = folder / "image.tar"
        shop.image(
            "build", demo.root, "--plain", "--to", file, "--name", "example.test/demo:v1",
            "--entrypoint", demo.programs["dynamic"], "--cmd", "you",
        )  # fmt: skip
        host.ctr("image", "import", file)
        ran = host.ctr("run", "--rm", "example.test/demo:v1", "one")
        assert ran.out == demo.output["dynamic"]
