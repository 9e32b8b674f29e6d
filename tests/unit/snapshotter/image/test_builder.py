from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from image_files import Made, laid, tar
from image_files import layout as files_of
from nixfetch.store import LocalStore
from simulated_cache import store_path
from snapshotter import labels
from snapshotter.errors import PreconditionError
from snapshotter.image import archive, inspection
from snapshotter.image.builder import Recipe, RecipeError, building
from snapshotter.image.trees import TreeError
from snapshotter.oci.config import Process
from snapshotter.oci.digests import ImageError
from snapshotter.oci.model import Platform
from store_of_images import (
    ALIAS,
    EMPTY,
    INFO,
    LIBC,
    SCRIPT,
    SERVER,
    TOOLS,
    WORDS,
    WRAPPER,
    Grown,
    grown,
    planted,
)

if TYPE_CHECKING:
    from snapshotter.image.trees import Trees
    from snapshotter.oci.image import Image

AMD64 = Platform("linux", "amd64")


@pytest.fixture(scope="module")
def garden(tmp_path_factory: pytest.TempPathFactory) -> Grown:
    return planted(tmp_path_factory.mktemp("store"))


def recipe(*paths: Any, **more: Any) -> Recipe:
    return Recipe(paths=paths, **{"platform": AMD64, **more})


def members(image: Image, number: int) -> dict[str, tarfile.TarInfo]:
    data = b"".join(inspection.unpacked(image, number))
    with tarfile.open(fileobj=io.BytesIO(data)) as opened:
        return {member.name: member for member in opened.getmembers()}


def test_a_layer_of_store_paths(garden: Grown) -> None:
    with garden.open() as trees, building(recipe(SERVER, SCRIPT), trees) as image:
        inspection.look_all(image)
        (layer,) = image.manifest.layers
        found = members(image, 0)
    paths = sorted([LIBC, SERVER, SCRIPT])
    assert labels.parse(layer.annotations) == labels.NixLayer(tuple(paths), None, complete=True)
    assert list(found) == ["nix", "nix/store", *(f"nix/store/{path.base}" for path in paths)]
    assert found[f"nix/store/{SERVER.base}"].isdir()
    script = found[f"nix/store/{SCRIPT.base}"]
    assert (script.isreg(), script.size, script.mode) == (True, 0, 0o555)
    assert {(each.mtime, each.uid, each.gid) for each in found.values()} == {(0, 0, 0)}


def test_a_path_that_is_a_link_has_the_place_of_what_it_leads_to(garden: Grown) -> None:
    with garden.open() as trees, building(recipe(ALIAS), trees) as image:
        assert members(image, 0)[f"nix/store/{ALIAS.base}"].isdir()


def test_a_closure_info(garden: Grown) -> None:
    with garden.open() as trees, building(recipe(SERVER, closure_info=INFO), trees) as image:
        found = labels.parse(image.manifest.layers[0].annotations)
    assert found == labels.NixLayer(tuple(sorted([LIBC, SERVER])), INFO, complete=True)


@pytest.mark.parametrize(
    ("paths", "info", "problem"),
    [
        ((SERVER, SCRIPT), INFO, "closureInfo is of another closure"),
        ((SERVER,), TOOLS, "not a closureInfo: it has no file store-paths"),
    ],
)
def test_what_is_no_closure_info(garden: Grown, paths: Any, info: Any, problem: str) -> None:
    with (
        garden.open() as trees,
        pytest.raises(RecipeError) as caught,
        building(recipe(*paths, closure_info=info), trees),
    ):
        pass
    assert caught.value.problem == problem


def test_a_plain_image_has_no_use_for_one(garden: Grown) -> None:
    with (
        garden.open() as trees,
        pytest.raises(RecipeError, match="no use for a closureInfo"),
        building(recipe(SERVER, closure_info=INFO, plain=True), trees),
    ):
        pass


def test_a_plain_image_has_the_files(garden: Grown) -> None:
    with garden.open() as trees, building(recipe(SERVER, plain=True), trees) as image:
        inspection.look_all(image)
        assert [layer.annotations for layer in image.manifest.layers] == [{}, {}]
        assert image.config.process == Process()
        every = {**members(image, 0), **members(image, 1)}
    top = f"nix/store/{SERVER.base}"
    assert every[f"{top}/bin/server"].size == 120
    modes = [every[f"{top}/{name}"].mode for name in ("bin", "bin/server", "etc/server.conf")]
    assert modes == [0o555, 0o555, 0o444]
    assert every[f"{top}/libc"].linkname == f"{LIBC}/lib/libc.so"
    assert {each.mtime for name, each in every.items() if name.startswith(top)} == {1}
    assert f"nix/store/{LIBC.base}/lib/libc.so" in every


def test_small_paths_of_a_large_closure_share_a_layer(tmp_path: Path) -> None:
    names = [f"p{number:03}" for number in range(70)]
    store = grown(tmp_path, {name: (b"x" * 16 * int(name[1:]), ()) for name in names})
    with store.open() as trees:
        paths = tuple(map(store_path, names))
        with building(recipe(*paths, plain=True), trees) as image:
            assert len(image.manifest.layers) == 64
            last = members(image, 63)
    assert sorted(last) == sorted(
        ["nix", "nix/store", *(f"nix/store/{store_path(name).base}" for name in names[:7])]
    )


def test_copied_to_the_root(garden: Grown) -> None:
    with garden.open() as trees, building(recipe(copy_to_root=(SERVER, LIBC)), trees) as image:
        nix, root = image.manifest.layers
        found = members(image, 1)
    assert labels.parse(nix.annotations) is not None
    assert root.annotations == {}
    assert {name: each.linkname for name, each in found.items()} == {
        "bin": "", "bin/.server-wrapped": f"{SERVER}/bin/.server-wrapped",
        "bin/server": f"{SERVER}/bin/server", "etc": "", "etc/libc.conf": f"{LIBC}/etc/libc.conf",
        "etc/server.conf": f"{SERVER}/etc/server.conf", "lib": "",
        "lib/libc.so": f"{LIBC}/lib/libc.so", "libc": f"{SERVER}/libc",
    }  # fmt: skip
    assert found["etc"].mode == 0o755


@pytest.mark.parametrize(
    ("paths", "problem"),
    [
        ((SERVER, TOOLS), "two of the paths to be copied have it"),
        ((WORDS,), "only directories can be copied to the root"),
    ],
)
def test_what_cannot_be_copied(garden: Grown, paths: Any, problem: str) -> None:
    with (
        garden.open() as trees,
        pytest.raises(RecipeError) as caught,
        building(recipe(copy_to_root=paths), trees),
    ):
        pass
    assert caught.value.problem == problem


def test_users_and_a_place_for_files(garden: Grown) -> None:
    with garden.open() as trees, building(recipe(EMPTY, users=True), trees) as image:
        found = members(image, 1)
        assert labels.parse(image.manifest.layers[1].annotations) is None
        assert [line["created_by"] for line in image.config.history] == ["nixfetch-snapshotter"] * 2
    assert (found["tmp"].mode, found["root"].mode) == (0o1777, 0o700)
    assert {"etc/passwd", "etc/group", "etc/nsswitch.conf"} < set(found)


def test_what_is_not_in_the_store(garden: Grown) -> None:
    missing = store_path("missing")
    with (
        garden.open() as trees,
        pytest.raises(PreconditionError) as caught,
        building(recipe(SERVER, missing), trees),
    ):
        pass
    assert caught.value.facts["paths"] == [str(missing)]
    assert str(missing) in str(caught.value.hint)


def test_a_tree_that_is_gone(tmp_path: Path) -> None:
    store = grown(tmp_path, {"a": (b"a", ())})
    (tmp_path / "nix/store" / store_path("a").base).unlink()
    with (
        store.open() as trees,
        pytest.raises(TreeError, match="cannot read a store path"),
        building(recipe(store_path("a"), plain=True), trees),
    ):
        pass


def test_a_file_that_changes_while_it_is_read(tmp_path: Path) -> None:
    store = grown(tmp_path, {"a": (b"abc", ())})
    with store.open() as trees:
        node = trees.top(store_path("a"))
        Path(os.fsdecode(node.physical)).chmod(0o644)
        Path(os.fsdecode(node.physical)).write_bytes(b"abcdef")
        assert b"".join(node.chunks()) == b"abcdef"  # which the archive finds too long: test_tar


# Base images.


@pytest.fixture
def base(tmp_path: Path) -> Path:
    made = Made(annotations={labels.NIX_LAYER: "true", f"{labels.NIX_STORE_PATH}0": str(WORDS)})
    return laid(files_of(made, names=["a.test/base:1"]), tmp_path / "base")


def test_upon_a_base(garden: Grown, base: Path) -> None:
    ours = Process(entrypoint=("/x",), environment=("B=2",))
    with (
        archive.opening(base) as below,
        garden.open() as trees,
        building(recipe(SERVER, process=ours, base=below), trees) as image,
    ):
        inspection.look_all(image)
        assert image.manifest.layers[0] == below.manifest.layers[0]
        assert image.config.diff_ids[0] == below.config.diff_ids[0]
        assert image.manifest.annotations == {
            "org.opencontainers.image.base.name": "a.test/base:1",
            "org.opencontainers.image.base.digest": below.descriptor.digest,
        }
        process = image.config.process
        assert process.environment == ("A=1", "B=2")
        assert (process.entrypoint, process.command) == (("/x",), ())
        assert process.other == {"StopSignal": "SIGINT"}
        assert [line["created_by"] for line in image.config.history] == [
            "by hand", "nixfetch-snapshotter",
        ]  # fmt: skip


def test_a_base_for_another_machine(garden: Grown, base: Path) -> None:
    with (
        archive.opening(base) as below,
        garden.open() as trees,
        pytest.raises(RecipeError, match="base image is for another platform"),
        building(recipe(SERVER, base=below, platform=Platform("linux", "arm64")), trees),
    ):
        pass


def test_a_base_without_a_history(garden: Grown, tmp_path: Path) -> None:
    made = Made(contents=tar({"a": b""}))
    files = files_of(made)
    config = json.loads(made.config)
    del config["history"]
    data = json.dumps(config).encode()
    manifest = json.loads(made.manifest)
    manifest["config"].update(digest=f"sha256:{hashlib.sha256(data).hexdigest()}", size=len(data))
    text = json.dumps(manifest).encode()
    index = json.loads(files["index.json"])
    index["manifests"][0].update(
        digest=f"sha256:{hashlib.sha256(text).hexdigest()}", size=len(text)
    )
    files["index.json"] = json.dumps(index).encode()
    for each in (data, text):
        files[f"blobs/sha256/{hashlib.sha256(each).hexdigest()}"] = each
    with (
        archive.opening(laid(files, tmp_path / "base")) as below,
        garden.open() as trees,
        building(recipe(SERVER, base=below), trees) as image,
    ):
        assert image.config.history == ()
        with pytest.raises(ImageError, match="lacks a blob"):
            list(image.chunks(image.descriptor))


# The same bytes.

BUILD = """
import sys
from pathlib import Path
from snapshotter.image import layout
from snapshotter.image.builder import Recipe, building
from snapshotter.oci.config import Process
from snapshotter.oci.model import Platform
from store_of_images import SERVER, TOOLS, Grown
recipe = Recipe(
    paths=(TOOLS, SERVER), platform=Platform("linux", "amd64"), users=True,
    process=Process(labels={word: word for word in "abcdefgh"}), name="a.test/b:1",
    **{"plain": {"plain": True}, "nix": {"copy_to_root": (SERVER,)}}[sys.argv[3]],
)
with Grown(Path(sys.argv[1])).open() as trees, building(recipe, trees) as image:
    layout.write_archive(image, Path(sys.argv[2]))
"""


@pytest.mark.parametrize("kind", ["nix", "plain"])
def test_two_builds_are_equal(kind: str, garden: Grown, tmp_path: Path) -> None:
    """Whatever the hashes of strings, the place of temporary files, the umask and the clock."""
    other = planted(tmp_path / "other")
    results = []
    for number, (root, umask) in enumerate([(garden.root, 0o022), (other.root, 0o077)]):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", BUILD, root, folder / "image.tar", kind],
            env={
                **os.environ,
                "PYTHONHASHSEED": str(number + 1),
                "TMPDIR": str(folder),
                "PYTHONPATH": os.pathsep.join(sys.path),
                "TZ": ["UTC", "Asia/Tokyo"][number],
            },
            umask=umask,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        results.append((folder / "image.tar").read_bytes())
        assert [each.name for each in folder.iterdir()] == ["image.tar"]
    assert results[0] == results[1]


def test_links_and_trees(garden: Grown, tmp_path: Path) -> None:
    with garden.open() as trees:
        found = trees.resolve(f"{WRAPPER}/bin/run".encode())
        assert found is not None
        assert (found.name, found.is_program) == (b"bin/server", True)
        assert trees.resolve(f"{ALIAS}/libc".encode()) is not None
        for nowhere in (
            "/etc/passwd",
            "/nix/store",
            f"{SERVER}/none",
            f"{store_path('no')}/a",
            "/nix/store/x",
        ):
            assert trees.resolve(nowhere.encode()) is None, nowhere
        up = f"{SERVER}/../{LIBC.base}/lib/libc.so"
        assert trees.resolve(up.encode()) is not None
        assert [node.name for node in trees.walk(LIBC)] == [
            b"", b"etc", b"etc/libc.conf", b"lib", b"lib/libc.so",
        ]  # fmt: skip
        assert trees.listing(LIBC, b"none") == []


def test_links_in_a_circle(tmp_path: Path) -> None:
    from simulated_cache import Link

    a, b = store_path("a"), store_path("b")
    store = grown(tmp_path, {"a": (Link(str(b).encode()), ()), "b": (Link(str(a).encode()), ())})
    with store.open() as trees:
        assert trees.resolve(str(a).encode()) is None
        assert trees.is_file(a)


def test_a_store_of_which_nothing_is_valid(tmp_path: Path) -> None:
    LocalStore(tmp_path).close()
    base = store_path("a").base
    (tmp_path / "nix/store" / base).write_bytes(b"")
    with Grown(tmp_path).open() as trees:
        check_unknown(trees)


def check_unknown(trees: Trees) -> None:
    assert trees.resolve(str(store_path("a")).encode()) is None
    assert trees.size(store_path("a")) == 0
