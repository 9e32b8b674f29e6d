"""Pulls by both real containerds: what they fetch, and what is left when that fails."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
from moto.server import ThreadedMotoServer

from containerd_host import VERSIONS, Ran, Version
from containers import NAME, Machine, UnavailableError, World, machine
from images import Image, busybox_layer, layer, nix_layer, registry
from servers import Answer
from simulated_cache import KEY, OTHER_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from images import Hub

pytestmark = pytest.mark.e2e

PULLS = 16
SHARED = 200  # store paths
WAYS = [("1.6", "CRI"), ("2.1", "CRI"), ("2.1", "transfer")]
"""Those ways to pull in which the labels of a layer reach a snapshotter."""
BOTH = [("1.6", "CRI"), ("2.1", "transfer")]
KINDS = ("nix-layer", "bare", "closure")
"""How a label lies: on a layer that says it is one, on one that does not, in the newer form."""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with registry(tmp_path_factory.mktemp("registry")) as hub:
        yield hub


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(params=WAYS, ids="-".join)
def way(request: pytest.FixtureRequest) -> tuple[Version, str]:
    found: tuple[Version, str] = request.param
    return found


@contextmanager
def pulling(here: Machine, how: str) -> Iterator[Puller]:
    puller = Puller(here, how)
    yield puller
    # Whatever happened, what it made goes away without a trace.
    here.host.tidy(puller.namespace)
    here.is_tidy()


class Puller:
    """Pulls in one way, and runs what it pulled."""

    def __init__(self, here: Machine, how: str) -> None:
        self.here, self.how = here, how
        self.namespace = "k8s.io" if how == "CRI" else "default"

    def pull(self, reference: str) -> str:
        """Gives what went wrong; nothing when it worked."""
        if self.how == "CRI":
            try:
                self.here.cri("PullImage", reference)
            except UnavailableError as error:
                return str(error.facts["reason"])
            return ""
        words = ("image", "pull", "--plain-http", "--snapshotter", NAME, reference)
        ran = self.here.host.ctr(*words, check=False)
        return ran.err if ran.code else ""

    def run(self, reference: str, *command: str, check: bool = True) -> Ran:
        return self.here.host.once(
            reference, *command, snapshotter=NAME, namespace=self.namespace, check=check
        )


def test_a_cold_node(way: tuple[Version, str], world: World, hub: Hub) -> None:
    """An empty store, a signed cache; and no request for the blob of a layer that says it all."""
    version, how = way
    image = world.image(f"cold-{version}-{how}".lower(), complete=True)
    reference = hub.push(image)
    with machine(version, world.cache) as here, pulling(here, how) as puller:
        assert here.stored() == []
        assert puller.pull(reference) == ""
        assert here.stored() == sorted(Path(path).name for path in world.closure)
        assert puller.run(reference).out == "words of the store\napp: you\n"
        assert hub.asked(image.layers[0]) == 0
        for path in (world.app, world.tools, world.words):
            assert here.cache.asked(world.cache.nar_name(path)) == 1
        here.store_is_whole(str(KEY.public()))


@pytest.fixture
def bucket(world: World) -> Iterator[str]:
    """The same cache in a bucket, for those with credentials."""
    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    session = boto3.Session(aws_access_key_id="key", aws_secret_access_key="secret")
    with closing(session.client("s3", "us-east-1", endpoint_url=endpoint)) as client:
        client.create_bucket(Bucket="bucket")
        for name, data in world.cache.objects.items():
            client.put_object(Bucket="bucket", Key=name, Body=data)
    yield f"s3://bucket?endpoint={endpoint}&region=us-east-1"
    server.stop()


def test_a_cold_node_and_a_bucket(world: World, hub: Hub, bucket: str) -> None:
    image = world.image("bucket", complete=True)
    reference = hub.push(image)
    environ = {
        "AWS_ACCESS_KEY_ID": "AKIATESTS",
        "AWS_SECRET_ACCESS_KEY": "hush-hush-hush",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with (
        machine("2.1", caches=[bucket], environ=environ) as here,
        pulling(here, "transfer") as puller,
    ):
        assert puller.pull(reference) == ""
        assert puller.run(reference).out == "words of the store\napp: you\n"
        here.store_is_whole(str(KEY.public()))


@pytest.mark.parametrize("way", BOTH, ids="-".join)
def test_many_pulls_that_share_paths(way: tuple[Version, str], world: World, hub: Hub) -> None:
    """Each path is fetched once, whoever needs it first."""
    version, how = way
    shared = tuple(map(str, world.big(SHARED)))
    references = []
    for number in range(PULLS):
        own = world.cache.add(f"own-{number}", b"%d" % number)
        paths = (*world.closure, *shared, str(own))
        several = nix_layer(paths, files=[*shared, str(own), str(world.words)], complete=True)
        name = f"example.test/share-{version}-{how}-{number}:v1".lower()
        references.append(hub.push(Image(name, (several,), (world.program, str(number)))))
    with machine(version, world.cache) as here, pulling(here, how) as puller:
        with ThreadPoolExecutor(PULLS) as pool:
            assert set(pool.map(puller.pull, references)) == {""}
        asked = Counter(name for name in here.cache.names() if name.startswith("nar/"))
        assert len(asked) == len(shared) + PULLS + len(world.closure)
        assert set(asked.values()) == {1}
        ran = puller.run(references[-1])
        assert ran.out == f"words of the store\napp: {PULLS - 1}\n"


def test_layers_that_do_not_say_it_all_are_fetched(
    way: tuple[Version, str], world: World, hub: Hub
) -> None:
    """A stock image, with links that no label tells of, above an ordinary layer."""
    version, how = way
    content = {"bin/app": world.program}
    layers = (
        busybox_layer(**{"etc/of": f"{version} {how}".encode()}),
        world.layer(content=content),
    )
    image = Image(f"example.test/stock-{version}-{how}:v1".lower(), layers)
    reference = hub.push(image)
    with machine(version, world.cache) as here, pulling(here, how) as puller:
        before = len(hub.requests())
        assert puller.pull(reference) == ""
        assert [hub.asked(layer, since=before) for layer in image.layers] == [1, 1]
        assert puller.run(reference, "app", "found").out == "words of the store\napp: found\n"


def test_a_layer_of_ours_below_others(way: tuple[Version, str], world: World, hub: Hub) -> None:
    """Below: containerd fetches all layers from the first that it has to unpack."""
    version, how = way
    marked = f"{version} {how}".encode()
    layers = (
        world.layer(complete=True),
        busybox_layer(**{"etc/of": marked}),
        layer({"bin/app": world.program, "etc/above": marked}),
    )
    image = Image(f"example.test/mixed-{version}-{how}:v1".lower(), layers)
    reference = hub.push(image)
    with machine(version, world.cache) as here, pulling(here, how) as puller:
        before = len(hub.requests())
        assert puller.pull(reference) == ""
        assert [hub.asked(layer, since=before) for layer in image.layers] == [0, 1, 1]
        ran = puller.run(reference, "sh", "-c", "app mixed; cat /etc/above")
        assert ran.out == f"words of the store\napp: mixed\n{version} {how}"


def test_nobody_trusted_signed_it(way: tuple[Version, str], world: World, hub: Hub) -> None:
    version, how = way
    reference = hub.push(world.image(f"untrusted-{version}-{how}".lower(), complete=True))
    trusted = [str(OTHER_KEY.public())]
    with machine(version, world.cache, keys=trusted) as here, pulling(here, how) as puller:
        problem = puller.pull(reference)
        assert "signature" in problem or "trusted" in problem, problem
        assert any(path in problem for path in world.closure)
        assert KEY.name in problem
        assert here.cache.url in problem
        nothing_is_left(here, world)


def nothing_is_left(here: Machine, world: World) -> None:
    """After a pull that failed: no snapshot, no root, and no path but perhaps a whole one."""
    assert not here.rows()
    assert not here.directories()
    assert not here.roots()
    assert set(here.stored()) <= {Path(path).name for path in world.closure}


def test_the_cache_is_down_and_comes_back(way: tuple[Version, str], world: World, hub: Hub) -> None:
    version, how = way
    reference = hub.push(world.image(f"down-{version}-{how}".lower(), complete=True))
    with machine(version, world.cache) as here, pulling(here, how) as puller:
        for status in (404, 503):
            here.cache.faults["*"] = Answer(status=status)
            problem = puller.pull(reference)
            assert any(path in problem for path in world.closure), problem
            assert here.cache.url in problem
            nothing_is_left(here, world)
        del here.cache.faults["*"]
        assert puller.pull(reference) == ""
        assert puller.run(reference).out == "words of the store\napp: you\n"


def test_a_nar_is_cut_short(way: tuple[Version, str], world: World, hub: Hub) -> None:
    version, how = way
    reference = hub.push(world.image(f"cut-{version}-{how}".lower(), complete=True))
    name = world.cache.nar_name(world.tools)
    whole = world.cache.objects[name]
    with machine(version, world.cache) as here, pulling(here, how) as puller:
        world.cache.objects[name] = whole[: len(whole) // 2]
        problem = puller.pull(reference)
        assert str(world.tools) in problem, problem
        assert here.cache.url in problem
        nothing_is_left(here, world)
        world.cache.objects[name] = whole
        assert puller.pull(reference) == ""
        assert puller.run(reference).out == "words of the store\napp: you\n"


@pytest.mark.parametrize("version", VERSIONS)
def test_layers_whose_labels_never_arrived(version: Version, world: World, hub: Hub) -> None:
    """Unpacked without annotations, as `ctr` does at times: paths are told by their mountpoints."""
    local = ("--local",) if version != "1.6" else ()
    image = world.hybrid(f"poisoned-{version}")
    reference = hub.push(image)
    with machine(version, world.cache) as here, pulling(here, "ctr") as puller:
        words = ("image", "pull", *local, "--plain-http", "--snapshotter", NAME, reference)
        here.host.ctr(*words)
        ran = puller.run(reference, "sh", "-c", f"ls /nix/store; {world.program} derived")
        assert ran.out.endswith("words of the store\napp: derived\n")
        # And whoever pulls it later with all labels finds it in working order.
        if version != "1.6":
            assert Puller(here, "transfer").pull(reference) == ""
        assert puller.run(reference, world.program).out == "words of the store\napp:\n"


EVIL = {
    "the root": "/",
    "a directory of the host": "/etc",
    "the store": "/nix/store",
    "its links": "/nix/store/.links",
    "a way up": "/nix/store/../../etc",
    "a way up from a path": "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-a/../../../etc",
    "below a path": "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-a/bin",
    "an option": "--option",
    "a line break": "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-a\n/etc",
    "too long": "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-" + "a" * 300,
    "nowhere": "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-nowhere",
}


@pytest.mark.parametrize("way", BOTH, ids="-".join)
def test_labels_that_lie(way: tuple[Version, str], world: World, hub: Hub) -> None:
    """With and without the label that says it is a nix layer: the pull fails, and says why."""
    version, how = way
    base = layer({"bin/true": b""})
    with machine(version, world.cache) as here, pulling(here, how) as puller:
        for number, (what, value) in enumerate(EVIL.items()):
            for kind in KINDS if number < 2 else KINDS[number % 3 :][:1]:
                labels = {"containerd.io/snapshot/nix-store-path.0": value}
                if kind == "nix-layer":
                    labels["containerd.io/snapshot/nix-layer"] = "true"
                elif kind == "closure":
                    labels = {"containerd.io/snapshot/nix-closure": value}
                evil = layer({f"evil-{number}-{kind}-{version}": b""}, labels)
                name = f"example.test/evil-{number}-{kind}-{version}:v1"
                reference = hub.push(Image(name, (base, evil)))
                problem = puller.pull(reference)
                assert problem, f"{what}, {kind}"
                ran = puller.run(reference, "ls", "/nix/store", check=False)
                assert ran.code, f"{what}, {kind}: {ran}"
        assert here.stored() == []


@pytest.mark.parametrize("version", VERSIONS)
def test_empty_directories_that_only_look_like_store_paths(version: Version, world: World) -> None:
    """An ordinary image may have them: that no cache knows them is no error."""
    unknown = "/nix/store/0123456789abcdfghijklmnpqrsvwxyz-nowhere"
    layers = (busybox_layer(), nix_layer([unknown], annotated=False))
    image = Image("example.test/nowhere:v1", layers)
    with machine(version, world.cache) as here:
        here.load(image)
        assert here.once(image, "ls", "/nix/store", unknown).out.count("nowhere") == 2
        assert here.stored() == []
        here.host.tidy()
        here.is_tidy()


@pytest.mark.parametrize("version", VERSIONS)
def test_unlabelled_layers_of_a_cache_that_lets_nobody_in(version: Version, world: World) -> None:
    """Then nobody knows what they are: no container is run with empty directories."""
    image = world.hybrid(annotated=False)
    with machine(version, world.cache) as here:
        here.cache.faults["*"] = Answer(status=401)
        loaded = here.load(image, check=False)
        ran = here.once(image, world.program, check=False)
        assert loaded.code
        assert ran.code
        assert here.cache.url in loaded.err
        here.cache.faults.clear()
        here.load(image)
        assert here.once(image, world.program).out == "words of the store\napp:\n"
        here.host.tidy()
        here.is_tidy()
