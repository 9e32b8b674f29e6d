"""The guides about Kubernetes and the files in deploy/ say what the program does."""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from nixfetch.cli.app import parsers
from snapshotter import cli, config, fragments, imageref
from snapshotter.fragments import Settings
from snapshotter.shim import commandline

PROJECT = Path(__file__).parents[3]
GUIDES = {
    name: (PROJECT / f"docs/guides/{name}.md").read_text() for name in ("kubernetes", "rootless")
}
DEPLOY = PROJECT / "deploy"
KUSTOMIZATIONS = sorted(file.parent.name for file in DEPLOY.glob("kubernetes/*/kustomization.yaml"))
FILES = [DEPLOY / "kind/Dockerfile", *DEPLOY.glob("kubernetes/**/*.yaml")]
ENDPOINT = f"unix://{Settings().address}"


def commands(text: str) -> Iterator[list[str]]:
    """Our commands in the code of a text, each from its name on; lines that go on are joined."""
    joined = re.sub(r" *\\\n[\s#]*", " ", text)
    code = re.findall(r"^(?: {4}|#|RUN).*", joined, re.MULTILINE)
    code += re.findall(r"`([^`\n]+)`", joined)
    for line in code:
        if found := re.search(r"(?<![\w/.-])(nixfetch(?:-snapshotter)?) [a-z].*", line):
            yield shlex.split(re.split(r" (?:#|&&|\|\|?|>>?) ", found[0])[0].replace('"', ""))


def options(parser: argparse.ArgumentParser, words: Sequence[str]) -> set[str]:
    """Flags of a verb, and of the action behind it."""
    known: set[str] = set()
    for action in parser._actions:
        known.update(action.option_strings)
        if isinstance(action, argparse._SubParsersAction):
            chosen = [word for word in words if word in action.choices]
            assert chosen, f"no verb in {words}"
            known |= options(action.choices[chosen[0]], words)
    return known


def test_there_are_commands_to_look_at() -> None:
    found = [words for text in GUIDES.values() for words in commands(text)]
    assert len(found) > 10
    assert ["nixfetch-snapshotter", "install", "--shim", "/opt/nixfetch/shim"] in found


@pytest.mark.parametrize("place", [*GUIDES, *map(str, FILES)])
def test_flags_in_commands_are_there(place: str) -> None:
    text = GUIDES.get(place) or Path(place).read_text()
    of_nixfetch = parsers()
    for words in commands(text):
        program, verb, *rest = words
        if program == "nixfetch":
            known = options(of_nixfetch[f"nixfetch {verb}"], rest)
        else:
            known = options(cli.parser(), [verb, *rest])
        given = {word.partition("=")[0] for word in rest if re.fullmatch(r"-.+", word)}
        assert given <= known, words


@pytest.mark.parametrize("place", GUIDES)
def test_settings_are_there(place: str, tmp_path: Path) -> None:
    """Each block that begins with the name of a file of ours is read by what reads that file."""
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", GUIDES[place], re.MULTILINE)
    found = 0
    for block in blocks:
        for part in re.split(r"^(?=    # [/~])", block, flags=re.MULTILINE):
            name, _, body = part.strip().partition("\n")
            body = re.sub(r"^    ", "", body, flags=re.MULTILINE).partition("\n    $")[0]
            if name.endswith("snapshotter.toml"):
                file = tmp_path / "snapshotter.toml"
                file.write_text(body.partition("\n$ ")[0])
                config.load({}, file)
                found += 1
            elif name.endswith("config.toml"):
                tomllib.loads(body)
                found += 1
    assert found


def test_what_the_stand_in_can_do_is_said_as_it_says_it() -> None:
    said = commandline.NIX_STORE.replace("...", "…")
    assert f"`{said}`" in GUIDES["kubernetes"]


def test_names_and_places_are_those_of_the_program() -> None:
    text = GUIDES["kubernetes"]
    assert f"imageServiceEndpoint: {ENDPOINT}" in text
    assert f'image-service-endpoint: "{ENDPOINT}"' in text
    assert f"under the name `{Settings().name}`" in text
    assert "/run/k3s/containerd/containerd.sock" in text
    assert "more than 1000 paths" in text
    assert config.Settings().max_binds == 1000


# Files.


def documents(file: Path) -> list[Any]:
    return list(yaml.safe_load_all(file.read_text()))


@pytest.mark.parametrize("name", KUSTOMIZATIONS)
def test_a_kustomization_names_files_that_are_there(name: str) -> None:
    place = DEPLOY / "kubernetes" / name
    (document,) = documents(place / "kustomization.yaml")
    assert document["kind"] == "Kustomization"
    for resource in document["resources"]:
        target = place / resource
        assert (target if target.is_file() else target / "kustomization.yaml").is_file()


def test_images_are_references_that_kubelet_takes() -> None:
    found = {}
    for file in DEPLOY.glob("kubernetes/*/kustomization.yaml"):
        for image in documents(file)[0].get("images", ()):
            tag = f":{image['newTag']}" if "newTag" in image else ""
            found[file.parent.name] = imageref.parse(image["newName"] + tag)
    assert isinstance(found["store-path"], imageref.NixReference)
    assert isinstance(found["registry"], imageref.RegistryReference)
    (pod,) = documents(DEPLOY / "kubernetes/mixed/pod.yaml")
    kinds = {type(imageref.parse(each["image"])) for each in pod["spec"]["containers"]}
    assert kinds == {imageref.NixReference, imageref.RegistryReference}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here")
@pytest.mark.parametrize("name", KUSTOMIZATIONS)
def test_kustomize_takes_them(name: str) -> None:
    command = ["kubectl", "kustomize", str(DEPLOY / "kubernetes" / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    kinds = {document["kind"] for document in yaml.safe_load_all(done.stdout)}
    assert kinds <= {"Deployment", "Service", "Pod"}
    images = set(_images(list(yaml.safe_load_all(done.stdout))))
    assert images
    if name != "redis":  # which leaves the image to the others
        assert "redis" not in images


def _images(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        if isinstance(value.get("image"), str):
            yield value["image"]
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _images(each)


def test_the_cluster_of_kind_asks_us_for_images() -> None:
    (cluster,) = documents(DEPLOY / "kind/cluster.yaml")
    (patch,) = map(yaml.safe_load, cluster["kubeadmConfigPatches"])
    assert patch == {"kind": "KubeletConfiguration", "imageServiceEndpoint": ENDPOINT}
    recipe = (DEPLOY / "kind/Dockerfile").read_text()
    assert f"docker build -t {cluster['nodes'][0]['image']} " in recipe
    tomllib.loads((DEPLOY / "kind/config.toml").read_text())


def test_the_node_of_kind_imports_what_is_installed() -> None:
    recipe = (DEPLOY / "kind/Dockerfile").read_text()
    from snapshotter import install, units

    assert f'imports = ["{install.CONTAINERD_FRAGMENT}"]' in recipe
    assert install.CONTAINERD_MAIN in recipe
    assert units.SOCKET in recipe
    assert units.SERVICE in recipe
    # An import stands at the top, before any table, where one more line goes with every version.
    main = tomllib.loads(f'imports = ["{install.CONTAINERD_FRAGMENT}"]\nversion = 3\n')
    assert main["imports"]
    assert "io.containerd.cri.v1.images" in fragments.containerd_fragment(Settings(), (2, 0, 0))
