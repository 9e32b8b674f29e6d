from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from filled_store import Filled, fill
from nixfetch.formats.signing import SecretKey
from nixfetch.store.local import ReadOnlyStoreError
from nixfetch.store.signatures import InvalidPathError, claim, closure, sign_paths
from simulated_cache import store_path

if TYPE_CHECKING:
    from pathlib import Path

KEY = SecretKey.from_seed("mine-1", b"m" * 32)


@pytest.fixture
def filled(tmp_path: Path) -> Filled:
    return fill(tmp_path)


def test_a_signature_is_added_and_verifies(filled: Filled) -> None:
    with filled.open(read_only=False) as store:
        assert sign_paths(store, filled.all, KEY) == filled.all
    with filled.open() as store:
        for path in filled.all:
            registration = store.get(path)
            assert registration is not None
            message = claim(registration).fingerprint()
            signers = {signature.key_name for signature in registration.signatures}
            assert "mine-1" in signers
            assert any(KEY.public().signed(one, message) for one in registration.signatures)
            if path in {filled.top, filled.library}:
                assert "simulated-1" in signers


def test_a_second_time_changes_nothing(filled: Filled) -> None:
    with filled.open(read_only=False) as store:
        sign_paths(store, [filled.top, filled.top], KEY)
        before = store.get(filled.top)
        assert sign_paths(store, [filled.top], KEY) == []
        assert store.get(filled.top) == before


def test_none_is_signed_when_one_is_not_valid(filled: Filled) -> None:
    with filled.open(read_only=False) as store:
        before = store.get(filled.top)
        with pytest.raises(InvalidPathError):
            sign_paths(store, [filled.top, store_path("gone")], KEY)
        assert store.get(filled.top) == before


def test_a_store_that_is_read_only_is_not_signed(filled: Filled) -> None:
    with filled.open() as store, pytest.raises(ReadOnlyStoreError):
        sign_paths(store, [filled.top], KEY)


def test_the_closure(filled: Filled) -> None:
    with filled.open() as store:
        assert set(closure(store, [filled.top])) == {filled.top, filled.library, filled.source}
        assert closure(store, [filled.text]) == [filled.text]
        with pytest.raises(InvalidPathError):
            closure(store, [store_path("gone")])
