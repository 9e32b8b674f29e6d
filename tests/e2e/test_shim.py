"""The stand-ins on a machine without Nix and without /nix, called as nix-snapshotter calls them.

Source of the calls: nix-snapshotter, pkg/nix/nix.go, `defaultNixBuilder` and `NewExternalBuilder`;
of the links' places: pkg/nix/snapshotter.go, `prepareNixGCRoots`. They are the same from its first
release to the one in k3s.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from nixless import SHIM, Nixless, lacking
from servers import Answer, LoopbackServer
from simulated_cache import KEY, Executable, SimulatedCache, store_path
from worlds import ordinary_user

if TYPE_CHECKING:
    from collections.abc import Iterator

    from command import Ran
    from nixfetch.formats.storepath import StorePath

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to have another root directory"),
    pytest.mark.skipif(bool(lacking()), reason=f"needs {lacking()}"),
]
ROOT = "/srv/containerd/io.containerd.snapshotter.v1.nix"
"""Of a snapshotter; as k3s has it, but for where it begins."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node of a cluster: a machine without Nix, and nix-snapshotter as far as it calls us."""

    machine: Nixless
    cache: SimulatedCache
    server: LoopbackServer

    def builder(self, link: str, path: object) -> Ran:
        """What its own builder does; `link` may be empty."""
        arguments = ["--add-root", link] if link else []
        return self.machine.run("nix-store", *arguments, "--realise", path)

    def external_builder(self, link: str, path: object) -> Ran:
        """What it does where `external_builder` is set."""
        return self.machine.run(f"{SHIM}/external-builder", link, path)

    def prepare(self, number: str, *paths: StorePath) -> None:
        """Prepare a layer that says it needs `paths`: one call each, in order."""
        for path in paths:
            ran = self.builder(f"{ROOT}/gcroots/{number}/{path.base}", path)
            assert ran.code == 0, ran.err

    def remove(self, number: str) -> None:
        """Remove that layer."""
        shutil.rmtree(self.machine.top / ROOT.lstrip("/") / "gcroots" / number)

    def gcroots(self) -> dict[str, str]:
        """The links of all layers."""
        return self.machine.links(f"{ROOT}/gcroots")

    def keeps(self) -> set[str]:
        """What the real collector says that they keep: ``LINK -> PATH``."""
        said = self.machine.real_nix_store("--gc", "--print-roots").out.splitlines()
        return {line for line in said if line.startswith("/srv/")}

    def valid(self) -> list[str]:
        """Names of what real Nix finds valid, and as it should be."""
        self.machine.real_nix_store("--verify", "--check-contents")
        said = self.machine.real_nix_store("--query", "--requisites", *self._registered()).out
        return sorted(line[44:] for line in said.splitlines())

    def _registered(self) -> list[str]:
        said = self.machine.real_nix_store("--dump-db").out.splitlines()
        return sorted({line for line in said if line.startswith("/nix/store/")})

    def is_untouched(self) -> None:
        """Hold the machine to having no path and no link of ours."""
        assert self.gcroots() == {}
        assert not (self.machine.top / ROOT.lstrip("/")).exists()
        assert self.machine.links("/nix/var/nix/gcroots/auto") == {}
        store = self.machine.top / "nix/store"
        names = {entry.name for entry in store.iterdir()} if store.exists() else set()
        assert names <= {".links"}


@pytest.fixture
def node() -> Iterator[Node]:
    cache = SimulatedCache(priority=40)
    with Nixless.started() as machine, LoopbackServer(cache.objects) as server:
        machine.settings(server.url, str(KEY.public()))
        machine.install_shim()
        yield Node(machine, cache, server)


@pytest.fixture
def app(node: Node) -> StorePath:
    lib = node.cache.add("lib-1", {b"lib": b"x" * 5000}, compression="xz")
    program = Executable(b"#!/bin/sh\necho from the store\n")
    return node.cache.add("app-1", {b"bin": {b"app": program}}, references=[lib])


def test_there_is_no_nix_and_no_store_before(node: Node) -> None:
    assert not (node.machine.top / "nix").exists()
    plain = node.machine.run("env", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "nix-store", "--version")
    assert plain.code in {126, 127}
    assert node.machine.run("nix-store", "--version").out.startswith("nix-store (nixfetch) ")


def test_the_paths_of_a_layer_one_by_one(node: Node, app: StorePath) -> None:
    closure = [*node.cache.infos]
    node.prepare("12", *closure)
    links = {f"12/{path.base}": str(path) for path in closure}
    assert node.gcroots() == links
    assert sorted(node.machine.links("/nix/var/nix/gcroots/auto").values()) == [
        f"{ROOT}/gcroots/{link}" for link in sorted(links)
    ]
    assert node.machine.run(f"{app}/bin/app").out == "from the store\n"  # at /nix/store, as it is
    assert node.server.asked(node.cache.nar_name(app)) == 1


@pytest.mark.skipif(shutil.which("nix-store") is None, reason="there is no Nix here")
class TestRealNix:
    def test_it_sees_the_links_and_keeps_what_they_point_to(
        self, node: Node, app: StorePath
    ) -> None:
        node.prepare("12", *node.cache.infos)
        closure = [*node.cache.infos]
        loose = node.cache.add("loose-1")
        assert node.builder("", loose).code == 0
        assert node.keeps() == {f"{ROOT}/gcroots/12/{path.base} -> {path}" for path in closure}
        assert node.valid() == ["app-1", "lib-1", "loose-1"]
        node.machine.real_nix_store("--gc")
        assert node.valid() == ["app-1", "lib-1"]
        assert node.machine.run(f"{app}/bin/app").code == 0

    def test_a_removed_layer_keeps_nothing(self, node: Node, app: StorePath) -> None:
        node.prepare("12", app)
        other = node.cache.add("other-1")
        node.prepare("13", other, app)
        node.remove("12")
        node.machine.real_nix_store("--gc")
        assert node.valid() == ["app-1", "lib-1", "other-1"]
        node.remove("13")
        node.machine.real_nix_store("--gc")
        assert node.keeps() == set()
        assert node.valid() == []


def test_our_own_collector_where_there_is_no_other(node: Node, app: StorePath) -> None:
    other = node.cache.add("other-1")
    node.prepare("12", app)
    node.prepare("13", other)
    node.remove("13")
    ran = node.machine.run(sys.executable, "-m", "nixfetch.cli", "gc", "--store", "/")
    assert ran.code == 0, ran.err
    store = node.machine.top / "nix/store"
    closure = {app.base, *(path.base for path in node.cache.infos[app].references)}
    assert {entry.name for entry in store.iterdir()} - {".links"} == closure


def test_the_external_builder(node: Node, app: StorePath) -> None:
    link = f"{ROOT}/gcroots/7/{app.base}"
    archive = node.cache.add("image.tar", b"an archive")
    for _ in range(2):
        ran = node.external_builder(link, app)
        assert (ran.code, ran.out) == (0, ""), ran.err
        ran = node.external_builder("", archive)  # of the image service: nothing keeps it
        assert (ran.code, ran.out) == (0, ""), ran.err
    assert node.gcroots() == {f"7/{app.base}": str(app)}
    assert len(node.machine.links("/nix/var/nix/gcroots/auto")) == 1
    assert node.machine.run("cat", archive).out == "an archive"


class TestFailures:
    """A call that fails says why, leaves nothing, and the next one works."""

    def fails(self, node: Node, path: StorePath, *reasons: str) -> None:
        link = f"{ROOT}/gcroots/12/{path.base}"
        for build in (node.builder, node.external_builder):
            ran = build(link, path)
            assert (ran.code, ran.out) == (1, "")
            assert ran.err.startswith("error: ") or "\nerror: " in ran.err
            for reason in (str(path), *reasons):
                assert reason in ran.err
            node.is_untouched()

    def works(self, node: Node, path: StorePath) -> None:
        node.prepare("12", path)
        assert node.gcroots() == {f"12/{path.base}": str(path)}

    def test_in_no_cache(self, node: Node) -> None:
        path = store_path("late-1")
        self.fails(node, path, node.server.url, "no substituter")
        assert node.cache.add("late-1") == path
        self.works(node, path)

    def test_not_to_be_believed(self, node: Node, app: StorePath) -> None:
        node.machine.settings(node.server.url, "other-1:" + "A" * 43 + "=")
        self.fails(node, app, node.server.url, KEY.name, "no trusted key")
        node.machine.settings(node.server.url, str(KEY.public()))
        self.works(node, app)

    def test_cut_short(self, node: Node, app: StorePath) -> None:
        (lib,) = node.cache.infos[app].references
        name = node.cache.nar_name(lib)
        data = node.cache.objects[name]
        node.server.faults[name] = Answer(data[: len(data) // 2])
        self.fails(node, app, node.server.url, str(lib))
        del node.server.faults[name]
        self.works(node, app)

    def test_the_cache_is_down(self, node: Node, app: StorePath) -> None:
        node.machine.settings("http://127.0.0.1:9", str(KEY.public()))
        self.fails(node, app, "http://127.0.0.1:9")
        node.machine.settings(node.server.url, str(KEY.public()))
        self.works(node, app)

    def test_settings_that_make_no_sense(self, node: Node, app: StorePath) -> None:
        node.machine.settings("nonsense", str(KEY.public()))
        ran = node.builder(f"{ROOT}/gcroots/12/x", app)
        assert ran.code == 1
        assert "/etc/nixfetch/config.toml" in ran.err

    def test_what_is_no_store_path(self, node: Node) -> None:
        for evil in ("/etc", "/", "/nix/store/../../etc", "/nix/store", "/root", "etc", ""):
            for build in (node.builder, node.external_builder):
                ran = build(f"{ROOT}/gcroots/12/x", evil)
                assert (ran.code, ran.out) == (1, "")
                assert ran.err.startswith("error: ")
        node.is_untouched()
        assert node.server.requests == []


class TestOrdinaryUser:
    """As in rootless k3s: a user, and a /nix that somebody made for it, or not."""

    USER = 12345  # who `ordinary_user` is

    def build(self, node: Node, link: str, path: StorePath) -> Ran:
        python = ordinary_user()
        if python is None:
            pytest.skip("no Python with the packages that every user may run")
        code = "import sys; from snapshotter.shim import nix_store; sys.exit(nix_store())"
        command = [*python[: python.index("-m")], "-c", code]
        return node.machine.run(*command, "--add-root", link, "--realise", path)

    def place(self, node: Node, name: str) -> None:
        command = ("install", "-d", "-o", self.USER, "-m", "0755", name)
        assert node.machine.run(*command).code == 0

    def test_without_a_place_for_the_store(self, node: Node, app: StorePath) -> None:
        self.place(node, "/srv/mine")
        ran = self.build(node, "/srv/mine/12/x", app)
        assert ran.code == 1
        assert ran.err == (
            "error: permission denied (file /nix, errno EACCES)\n"
            "hint: as root, make /nix and give it to who runs this: install -d -o USER /nix\n"
        )
        assert not (node.machine.top / "nix").exists()
        assert node.machine.links("/srv/mine") == {}

    def test_with_one(self, node: Node, app: StorePath) -> None:
        self.place(node, "/srv/mine")
        self.place(node, "/nix")
        ran = self.build(node, "/srv/mine/12/x", app)
        assert (ran.code, ran.out) == (0, "/srv/mine/12/x\n"), ran.err
        assert node.machine.run(f"{app}/bin/app").out == "from the store\n"
        ran = self.build(node, "/srv/others/12/x", app)
        assert ran.code == 1
        assert "'/srv' is not writable" in ran.err


class TestLinks:
    def refused(self, node: Node, link: str, path: StorePath, reason: str) -> None:
        for build in (node.builder, node.external_builder):
            ran = build(link, path)
            assert (ran.code, ran.out) == (1, "")
            assert ran.err.startswith("error: ")
            assert reason in ran.err
        assert node.server.requests == []  # it is seen before anything is fetched
        assert node.machine.links("/nix/var/nix/gcroots/auto") == {}

    def test_a_directory_that_is_read_only(self, node: Node, app: StorePath) -> None:
        node.machine.run("mkdir", "/srv/sealed")
        mount = "mount -t tmpfs -o ro seal /srv/sealed"
        assert node.machine.run("sh", "-c", mount).code == 0
        self.refused(node, f"/srv/sealed/12/{app.base}", app, "not writable")

    def test_a_file_where_a_directory_is_wanted(self, node: Node, app: StorePath) -> None:
        node.machine.run("touch", "/srv/file")
        self.refused(node, f"/srv/file/12/{app.base}", app, "Not a directory")

    @pytest.mark.parametrize("target", ["/etc", "/srv/nowhere", "../nix/store"])
    def test_a_link_that_is_not_ours(self, node: Node, app: StorePath, target: str) -> None:
        node.machine.run("ln", "-s", target, "/srv/link")
        self.refused(node, "/srv/link", app, "already exists")
        assert node.machine.links("/srv")["link"] == target

    def test_one_of_an_earlier_try(self, node: Node, app: StorePath) -> None:
        other = node.cache.add("other-1")
        for path in (other, app, app):
            assert node.builder("/srv/link", path).out == "/srv/link\n"
        assert node.machine.links("/srv")["link"] == str(app)
        assert list(node.machine.links("/nix/var/nix/gcroots/auto").values()) == ["/srv/link"]

    def test_a_relative_one(self, node: Node, app: StorePath) -> None:
        ran = node.machine.run("nix-store", "--add-root", "deep/er/x", "--realise", app, cwd="/srv")
        assert ran.out == "/srv/deep/er/x\n"
        ran = node.machine.run(f"{SHIM}/external-builder", "y", app, cwd="/srv")
        assert ran.code == 0
        assert sorted(node.machine.links("/nix/var/nix/gcroots/auto").values()) == [
            "/srv/deep/er/x",
            "/srv/y",
        ]

    def test_below_a_link_to_a_directory(self, node: Node, app: StorePath) -> None:
        node.machine.run("sh", "-c", "mkdir /srv/real && ln -s real /srv/alias")
        assert node.builder("/srv/alias/12/x", app).out == "/srv/alias/12/x\n"
        assert node.machine.links("/srv")["real/12/x"] == str(app)


def test_many_at_a_time(node: Node) -> None:
    """Layers are pulled side by side, and share paths."""
    libs = [node.cache.add(f"lib-{number}", b"x" * 3000) for number in range(6)]
    apps = [node.cache.add(f"app-{number}", references=libs) for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        done = list(
            pool.map(lambda app: node.builder(f"{ROOT}/gcroots/{app.name}/{app.base}", app), apps)
        )
    assert [ran.code for ran in done] == [0] * 6, done
    assert node.gcroots() == {f"{app.name}/{app.base}": str(app) for app in apps}
    for path in (*libs, *apps):
        assert node.server.asked(node.cache.nar_name(path)) == 1


def test_a_hundred_paths_that_are_there_cost_no_look_at_a_cache(node: Node) -> None:
    paths = [node.cache.add(f"path-{number}") for number in range(100)]
    top = node.cache.add("all-of-them", references=paths)
    node.prepare("1", top)
    asked = len(node.server.requests)
    node.prepare("2", *paths[::10])  # each is a process
    assert len(node.server.requests) == asked
    assert len(node.gcroots()) == 11


def test_another_store_where_the_settings_name_one(node: Node, app: StorePath) -> None:
    ran = node.machine.run("nix-store", "--realise", app, NIXFETCH_STORE="/srv/store")
    assert ran.code == 0
    assert (node.machine.top / "srv/store" / str(app).lstrip("/")).is_dir()
    assert not (node.machine.top / "nix").exists()


def test_a_killed_one_leaves_nothing_that_the_next_one_does_not_mend(
    node: Node, app: StorePath
) -> None:
    gate = node.cache.nar_name(app)
    node.server.faults[gate] = Answer(node.cache.objects[gate], pause=30.0, piece=10)
    link = f"{ROOT}/gcroots/12/{app.base}"
    command = node.machine.enter("nix-store", "--add-root", link, "--realise", app)
    with subprocess.Popen(command, env=node.machine.environ, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        while f"copying path '{app}'".encode() not in process.stderr.readline():
            pass
        process.kill()
    del node.server.faults[gate]
    assert node.gcroots() == {}
    node.prepare("12", app)
    assert node.gcroots() == {f"12/{app.base}": str(app)}
    names = {entry.name for entry in (node.machine.top / "nix/store").iterdir()}
    assert names == {".links", *(path.base for path in node.cache.infos)}
