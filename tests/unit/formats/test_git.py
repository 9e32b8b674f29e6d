"""Git hashes against git itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nixfetch.formats.git import GitHasher
from property.strategies import file_names, files, links
from trees import SAMPLE, File, Link, Tree, events, plant

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def digest(tree: Tree, algorithm: str = "sha1") -> str:
    hasher = GitHasher(algorithm)
    for event in events(tree):
        hasher.apply(event)
    return hasher.digest().hex()


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        # git hash-object; the two best known hashes of git
        (File(b""), "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"),
        (File(b"hello\n"), "ce013625030ba8dba906f756967f9e9ca394464a"),
        (File(b"hello\n", executable=True), "ce013625030ba8dba906f756967f9e9ca394464a"),
        ({}, "4b825dc642cb6eb9a060e54bf8d69288fbee4904"),
        # printf %s ../a | git hash-object --stdin
        (Link(b"../a"), "82f488f26965d3d02080ccf7969854a23f0f32b1"),
    ],
)
def test_known_hashes(tree: Tree, expected: str) -> None:
    assert digest(tree) == expected


def test_an_empty_directory_counts_unlike_in_git() -> None:
    assert digest({b"a": File(b"x"), b"d": {}}) != digest({b"a": File(b"x")})


def without_empty_directories(tree: Tree) -> Tree:
    match tree:
        case dict():
            kept = {name: without_empty_directories(child) for name, child in tree.items()}
            return {name: child for name, child in kept.items() if child != {}}
        case _:
            return tree


def write_tree(tree: Tree, algorithm: str) -> str:
    """What `git write-tree` says of the directory `tree`."""
    with tempfile.TemporaryDirectory() as parent:
        plant(tree, Path(parent, "work"))
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": parent,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_DIR": f"{parent}/git",
            "GIT_WORK_TREE": f"{parent}/work",
            "GIT_DEFAULT_HASH": algorithm,
        }

        def git(*command: str) -> str:
            return subprocess.run(
                ["git", "-c", "core.autocrlf=false", *command],
                cwd=f"{parent}/work",
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            ).stdout.strip()

        git("init", "-q")
        git("add", "-A", "-f", ".")
        return git("write-tree")


# Names that git keeps for itself are none of the tree's.
git_names = file_names.filter(lambda name: not name.lower().startswith((b".git", b"git~")))
directories = st.dictionaries(
    git_names,
    st.recursive(
        files | links, lambda nodes: st.dictionaries(git_names, nodes, max_size=4), max_leaves=8
    ),
    max_size=5,
).map(without_empty_directories)


@needs_git
@given(tree=directories, algorithm=st.sampled_from(["sha1", "sha256"]))
@settings(max_examples=25)
def test_git_write_tree_says_the_same(tree: Tree, algorithm: str) -> None:
    assert digest(tree, algorithm) == write_tree(tree, algorithm)


@needs_git
@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_directories_sort_as_if_their_names_ended_in_a_slash(algorithm: str) -> None:
    tree: Tree = {b"a": {b"x": File()}, b"a-": File(), b"a.b": File(), b"a0": {b"y": File()}}
    assert digest(tree, algorithm) == write_tree(tree, algorithm)
    sample = without_empty_directories(SAMPLE)
    assert digest(sample, algorithm) == write_tree(sample, algorithm)
