"""Pods of a real k3s, out of a signed cache, on a machine without Nix.

Runs where $K3S names a k3s binary (1.33 or later: the first ones with a nix-snapshotter), as root,
with cgroups that it may use. Nothing is downloaded: the pause image is made here and laid where k3s
looks for images, pods use the network of the machine, and all that k3s would pull is turned off.

    K3S=/usr/local/bin/k3s pytest tests/e2e/k3s
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from containers import World
from images import Image, busybox_layer, free_port
from nixless import Nixless, lacking
from servers import LoopbackServer
from simulated_cache import KEY, store_path
from snapshotter import fragments
from snapshotter.fragments import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from nixfetch.formats.storepath import StorePath

K3S = os.environ.get("K3S", "")
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not K3S, reason="no k3s binary here: $K3S names none"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to run k3s"),
    pytest.mark.skipif(bool(lacking()), reason=f"needs {lacking()}"),
]
PAUSE = "example.test/pause:v1"
PATIENCE = 300.0  # seconds for k3s to begin, and for a pod to end
DATA = "/srv/k3s"
STOCK = f"{DATA}/agent/containerd/io.containerd.snapshotter.v1.nix"
CONTAINERD = "/run/k3s/containerd/containerd.sock"
_OFF = ("coredns", "servicelb", "traefik", "local-storage", "metrics-server")
_FLAGS = (
    "--disable-network-policy",
    "--disable-cloud-controller",
    "--disable-helm-controller",
    "--disable-kube-proxy",
    "--flannel-backend=none",
    "--egress-selector-mode=disabled",
    "--node-name=node",
    "--node-ip=127.0.0.1",
    "--bind-address=127.0.0.1",
)


@dataclass(frozen=True, slots=True)
class Cluster:
    """A k3s of one node on such a machine."""

    machine: Nixless
    log: Path

    def kubectl(self, *arguments: str, document: object = None, check: bool = True) -> str:
        """What `kubectl` says."""
        done = subprocess.run(
            self.machine.enter(K3S, "kubectl", *arguments),
            env={**self.machine.environ, "KUBECONFIG": f"{DATA}/kubeconfig", "HOME": "/srv"},
            input=None if document is None else json.dumps(document),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        if check and done.returncode:
            pytest.fail(f"{arguments}: {done.stderr}\n{self.tail()}")
        return done.stdout

    def run(self, name: str, *containers: dict[str, Any]) -> dict[str, str]:
        """Let a pod run to its end; gives what each container printed, by name."""
        self.kubectl("apply", "-f", "-", document=_pod(name, containers))
        self._await(name, "Succeeded")
        return {each["name"]: self.kubectl("logs", name, "-c", each["name"]) for each in containers}

    def _await(self, name: str, phase: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while (found := self.kubectl("get", "pod", name, "-o=jsonpath={.status.phase}")) != phase:
            if found == "Failed" or time.monotonic() > deadline:
                events = self.kubectl("get", "events", "--sort-by=.lastTimestamp")
                pytest.fail(f"pod is {found}\n{events}\n{self.tail()}")
            time.sleep(1.0)

    def tail(self) -> str:
        """The end of what k3s wrote."""
        return self.log.read_text(errors="replace")[-8000:]

    def until_ready(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until pods can be made."""
        deadline = time.monotonic() + PATIENCE
        while "default" not in self.kubectl("get", "serviceaccounts", check=False) or (
            "node" not in self.kubectl("get", "nodes", check=False)
        ):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"k3s does not begin\n{self.tail()}")
            time.sleep(1.0)


def _pod(name: str, containers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            # Without a CNI the node is never ready: only such a pod runs there all the same.
            "nodeName": "node",
            "hostNetwork": True,
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"imagePullPolicy": "IfNotPresent", **each} for each in containers],
        },
    }


@contextmanager
def cluster(machine: Nixless, folder: Path, *flags: str) -> Iterator[Cluster]:
    """k3s with nothing in it but what is needed."""
    images = machine.top / DATA.lstrip("/") / "agent/images"
    images.mkdir(parents=True)
    pause = Image(PAUSE, (busybox_layer(),), ("/bin/sleep", "1000000"))
    pause.archive(images / "pause.tar")
    port = free_port()
    command = [K3S, "server", f"--data-dir={DATA}", f"--write-kubeconfig={DATA}/kubeconfig"]
    command += [f"--https-listen-port={port}", f"--pause-image={PAUSE}"]
    command += [*_FLAGS, *(f"--disable={each}" for each in _OFF), *flags]
    log = folder / "k3s.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            machine.enter(*command),
            env={**machine.environ, "HOME": "/srv"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    found = Cluster(machine, log)
    try:
        found.until_ready(process)
        yield found
        found.kubectl("delete", "pods", "--all", "--wait", check=False)
    finally:
        process.terminate()
        process.wait(PATIENCE)  # containers end with the machine


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def machine(world: World) -> Iterator[Nixless]:
    with Nixless.started(processes=True) as machine, LoopbackServer(world.cache.objects) as server:
        machine.settings(server.url, str(KEY.public()))
        yield machine


def _archive(world: World, folder: Path) -> StorePath:
    """An image of the closure as a path of the cache, called by its own path as Nix builds them."""
    image = replace(world.image(), name=f"nix:0{store_path('image.tar')}:latest")
    data = image.archive(folder / "image.tar").read_bytes()
    return world.cache.add("image.tar", data, references=[world.info])


def test_its_own_nix_snapshotter_with_the_stand_in(
    machine: Nixless, world: World, tmp_path: Path
) -> None:
    """The one that k3s has calls `nix-store`; there is no other one here than ours."""
    machine.install_shim()
    archive = _archive(world, tmp_path)
    with cluster(machine, tmp_path, "--snapshotter=nix") as k3s:
        said = k3s.run("app", {"name": "app", "image": f"nix:0{archive}"})
        assert said == {"app": "words of the store\napp: you\n"}
        links = machine.links(f"{STOCK}/gcroots")
        assert set(links.values()) == set(world.closure)
        auto = machine.links("/nix/var/nix/gcroots/auto")
        assert set(auto.values()) == {f"{STOCK}/gcroots/{link}" for link in links}
        if shutil.which("nix-store"):
            machine.real_nix_store("--verify", "--check-contents")


def test_our_daemon_with_the_containerd_in_it(
    machine: Nixless, world: World, tmp_path: Path
) -> None:
    """A bare store path, an archive, and an ordinary image, in one pod."""
    archive = _archive(world, tmp_path)
    settings = Settings(name="nixfetch", address="/run/nixfetch.sock", root="/srv/snapshots")
    place = machine.top / DATA.lstrip("/") / "agent/etc/containerd"
    place.mkdir(parents=True)
    for name, version in (("config-v3.toml.tmpl", (2, 0, 0)), ("config.toml.tmpl", (1, 7, 0))):
        (place / name).write_text(fragments.k3s_template(settings, version))
    (machine.top / "srv/daemon.toml").write_text(
        f'root = "{settings.root}"\naddress = "{settings.address}"\nstore = "/srv/store"\n'
        f'containerd-address = "{CONTAINERD}"\n[image-service]\nsnapshotter = "{settings.name}"\n'
    )
    command = [sys.executable, "-m", "snapshotter.cli", "serve", "--config", "/srv/daemon.toml"]
    with (tmp_path / "daemon.log").open("wb") as log:
        daemon = subprocess.Popen(
            machine.enter(*command), env=machine.environ, stdout=log, stderr=log
        )
    try:
        endpoint = f"--image-service-endpoint=unix://{settings.address}"
        with cluster(machine, tmp_path, f"--snapshotter={settings.name}", endpoint) as k3s:
            said = k3s.run(
                "mixed",
                {"name": "path", "image": f"nix:0{world.app}"},
                {"name": "archive", "image": f"nix:0{archive}"},
                {"name": "ordinary", "image": PAUSE, "command": ["/bin/sh", "-c", "echo plain"]},
            )
        assert said["path"].startswith("words of the store\n")
        assert said["archive"] == "words of the store\napp: you\n"
        assert said["ordinary"] == "plain\n"
        assert not (machine.top / "nix").exists()
    finally:
        daemon.terminate()
        daemon.wait(PATIENCE)
