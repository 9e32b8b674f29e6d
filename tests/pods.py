"""A node of Kubernetes without Kubernetes: containerd with CRI, our daemon, a cache, a kubelet.

with node_of_pods("2.1", cache=World().cache) as here:
    here.kubelet.pull(reference); here.pod().run(reference).out
"""

from __future__ import annotations

import gzip
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from containerd_host import Version, node, scratch, wait_until
from containers import NAME, NUMBERS, Machine, World
from images import BUSYBOX, Content, Hub, Image, Program, digest, layer
from kubelet import CallError, Kubelet, Pod
from servers import LoopbackServer
from simulated_cache import KEY, SimulatedCache
from snapshotter.fragments import Settings, containerd_fragment
from snapshotter.imageref import NixReference
from snapshotter_daemon import address, daemon, root

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from nixfetch.formats.storepath import StorePath

NAMESPACE = "k8s.io"
PAUSE = "example.test/pause:v1"


@dataclass(slots=True)
class PodNode:
    """All of one node."""

    machine: Machine
    kubelet: Kubelet
    own_blobs: set[str] = field(default_factory=set)
    """Of the image of sandboxes."""
    _pods: list[Pod] = field(default_factory=list)

    def pod(self, name: str = "pod") -> Pod:
        """Run the sandbox of a pod; it ends with the node, if not before."""
        logs = self.machine.host.folder / "logs" / name
        logs.mkdir(parents=True)
        found = self.kubelet.pod(name, logs, cgroup=f"/{self.machine.host.name}")
        self._pods.append(found)
        return found

    def end_pods(self) -> bool:
        """End all pods; whether there were any."""
        had = bool(self._pods)
        while self._pods:
            self._pods.pop().end()
        return had

    def snapshots(self) -> list[str]:
        """Those of CRI's namespace, but for the pause image's."""
        return [
            line
            for line in self.machine.host.snapshots(NAME, NAMESPACE)
            if pause().chain() not in line
        ]

    def blobs(self) -> list[str]:
        """Digests of all blobs of CRI's namespace."""
        ran = self.machine.host.ctr("-n", NAMESPACE, "content", "ls", "-q")
        return sorted(ran.out.split())

    def new_blobs(self) -> set[str]:
        """Those that are not of the image of sandboxes, of which an index goes after a while."""
        return set(self.blobs()) - self.own_blobs

    def names(self) -> list[str]:
        """Names of all images of CRI's namespace."""
        ran = self.machine.host.ctr("-n", NAMESPACE, "image", "ls", "-q")
        return sorted(ran.out.split())

    def leases(self) -> list[str]:
        """Those of ours."""
        ran = self.machine.host.ctr("-n", NAMESPACE, "leases", "ls", "-q")
        return sorted(name for name in ran.out.split() if name.startswith("nixfetch-"))

    def restart(self) -> None:
        """Start the daemon once more, and wait until all have found it again."""
        self.machine.nix.up()
        wait_until(self.is_found, "the daemon is not found", of=self.machine.host)

    def is_found(self) -> bool:
        """Whether daemon and containerd have found each other."""
        try:
            self.kubelet.images()
        except CallError as error:
            if error.status != "UNIMPLEMENTED":
                return False
        words = ("-n", NAMESPACE, "snapshots", "--snapshotter", NAME, "ls")
        return self.machine.host.ctr(*words, check=False).code == 0

    def is_tidy(self) -> None:
        """Hold a node to having no trace of any image but the one of sandboxes."""
        if self.end_pods():
            self.machine.host.collect(NAMESPACE)
        assert self.names() == sorted([PAUSE, digest(pause().config())])
        assert self.snapshots() == []
        assert self.leases() == []
        assert self.new_blobs() == set()
        assert self.machine.roots() == []
        # What was removed is freed a moment later.
        wait_until(
            lambda: len(self.machine.directories()) == len(self.machine.rows()) == 1,
            "directories of snapshots stay",
            of=self.machine.host,
        )

    def is_tidied(self) -> None:
        """Remove all images, and let the collector have the store."""
        for name in self.kubelet.images():
            if name != PAUSE:
                self.kubelet.remove(name)
        self.is_tidy()
        ran = self.machine.nixfetch("gc")
        assert ran.code == 0, ran
        assert self.machine.stored() == []


def pause() -> Image:
    """The image of sandboxes: sleeps."""
    if not BUSYBOX.exists():
        pytest.skip("there is no static busybox here (package busybox-static)")
    content: dict[str, Content] = {"pause": Program(BUSYBOX.read_bytes()), "sleep": "pause"}
    return Image(PAUSE, (layer(content),), ("/sleep", "1000000"))


def cri_settings(version: Version) -> str:
    """CRI on a machine that is itself in a corner of another one."""
    if version == "1.6":
        return f"""
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  disable_apparmor = true
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "{NAME}"
  disable_snapshot_annotations = false
"""
    return f"""
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{PAUSE}"
[plugins."io.containerd.cri.v1.runtime"]
  disable_apparmor = true
  restrict_oom_score_adj = true
"""


@contextmanager
def node_of_pods(
    version: Version,
    cache: SimulatedCache,
    *,
    keys: Sequence[str] | None = None,
    settings: str = "",
) -> Iterator[PodNode]:
    """A node with an empty store, and nothing but the image of sandboxes.

    Args:
        version: of its containerd.
        cache: to fetch from.
        keys: to trust; by default that of the cache.
        settings: lines of the daemon's file of settings.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(scratch())
        server = stack.enter_context(LoopbackServer(cache.objects))
        ours = Settings(
            name=NAME,
            address=str(address(folder)),
            root=str(root(folder)),
            cri=version != "1.6",  # whose own table it would replace
        )
        # The daemon first: containerd tries at once, and after a failure not again for a while.
        nix = stack.enter_context(
            daemon(
                folder,
                containerd=folder / "containerd.sock",
                caches=[server.url],
                keys=[str(KEY.public())] if keys is None else keys,
                settings=settings,
            )
        )
        host = stack.enter_context(
            node(
                version,
                folder,
                fragments=[containerd_fragment(ours, NUMBERS[version])],
                settings=cri_settings(version),
            )
        )
        found = Machine(version, host, nix, server, version != "1.6" and "lower" not in settings)
        archive = pause().archive(folder / "pause.tar")
        host.ctr("-n", NAMESPACE, "image", "import", "--snapshotter", NAME, archive)
        kubelet = stack.enter_context(Kubelet(runtime=host.socket, images=nix.address))
        here = PodNode(found, kubelet)
        wait_until(here.is_found, "the daemon is not found", of=host)
        here.own_blobs = set(here.blobs())
        yield here
        here.end_pods()


# Images for it.


def ref(path: StorePath) -> str:
    """The reference of a store path, as kubelet has it after it has normalised it."""
    return str(NixReference(path))


def add_archive(
    world: World, image: Image, tmp_path: Path, *, name: str = "image.tar", packed: bool = False
) -> StorePath:
    """An archive of an image, as a path of the cache that refers to what is in the image."""
    data = image.archive(tmp_path / "made.tar").read_bytes()
    references = [world.app, world.tools, world.words]
    tree = gzip.compress(data, mtime=0) if packed else data
    return world.cache.add(name, tree, references=() if packed else references)


KINDS: dict[str, Callable[[World, Path, Hub], str]] = {
    "archive": lambda world, tmp_path, _: ref(add_archive(world, world.image(), tmp_path)),
    "packed": lambda world, tmp_path, _: ref(
        add_archive(world, world.hybrid(complete=True), tmp_path, name="i.tar.gz", packed=True)
    ),
    "path": lambda world, _, __: ref(world.app),
    "ours": lambda world, _, hub: hub.push(world.image("ours", complete=True)),
}
