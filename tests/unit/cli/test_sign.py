from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from command import Raw, nixfetch
from filled_store import Filled, fill
from nixfetch.formats.signing import SecretKey
from simulated_cache import store_path

if TYPE_CHECKING:
    from pathlib import Path

KEY = SecretKey.from_seed("mine-1", b"m" * 32)


@pytest.fixture
def filled(tmp_path: Path) -> Filled:
    return fill(tmp_path / "store")


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / "key"
    file.write_text(KEY.text() + "\n")
    file.chmod(0o600)
    return file


def signers(filled: Filled) -> set[str]:
    """Base names of the paths that the key signed."""
    with filled.open() as store:
        registrations = [(path, store.get(path)) for path in filled.all]
    return {
        str(path)
        for path, registration in registrations
        if registration and any(one.key_name == KEY.name for one in registration.signatures)
    }


def sign(filled: Filled, key_file: Path, *arguments: str) -> Raw:
    return nixfetch("sign", "--store", filled.root, "--key-file", key_file, *arguments)


def test_one_path(filled: Filled, key_file: Path) -> None:
    ran = sign(filled, key_file, str(filled.top))
    assert ran == Raw(0, b"", "added 1 signatures by mine-1\n")
    assert signers(filled) == {str(filled.top)}
    assert sign(filled, key_file, str(filled.top), "-q") == Raw(0, b"", "")


def test_with_all_that_it_refers_to(filled: Filled, key_file: Path) -> None:
    sign(filled, key_file, "-r", filled.top.hash_part)
    assert signers(filled) == {str(filled.top), str(filled.library), str(filled.source)}


def test_all_as_json_and_again(filled: Filled, key_file: Path) -> None:
    report = {"store": str(filled.root), "key": "mine-1", "signed": list(map(str, filled.all))}
    assert json.loads(sign(filled, key_file, "--all", "--json").out) == report
    assert json.loads(sign(filled, key_file, "--all", "--json").out) == report | {"signed": []}
    verified = nixfetch(
        "verify", "--all", "--store", filled.root, "--trusted-key", str(KEY.public())
    )
    assert verified.code == 0


def test_a_path_that_is_not_valid(filled: Filled, key_file: Path) -> None:
    ran = sign(filled, key_file, str(filled.top), str(store_path("gone")))
    assert (ran.code, ran.out) == (6, b"")
    assert "error: path is not valid in this store" in ran.err
    assert not signers(filled)


def test_a_key_that_others_can_read(filled: Filled, key_file: Path) -> None:
    key_file.chmod(0o644)
    ran = sign(filled, key_file, "--all")
    assert ran.code == 0
    assert f"warning: {key_file}: others may read" in ran.err
    assert KEY.text() not in ran.err


def test_no_store_is_made(key_file: Path, tmp_path: Path) -> None:
    ran = nixfetch("sign", "--store", tmp_path / "new", "-k", key_file, "--all")
    assert ran.code == 6
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("text", "code"), [(None, 6), ("nonsense", 4), (str(KEY.public()), 4)])
def test_no_secret_key(text: str | None, code: int, filled: Filled, tmp_path: Path) -> None:
    file = tmp_path / "other"
    if text is not None:
        file.write_text(text)
        file.chmod(0o600)
    assert sign(filled, file, "--all").code == code


@pytest.mark.parametrize("arguments", [[], ["--all", "x"]])
def test_usage(arguments: list[str], filled: Filled, key_file: Path) -> None:
    assert sign(filled, key_file, *arguments).code == 2
    assert nixfetch("sign", "--all", "--store", filled.root).code == 2
