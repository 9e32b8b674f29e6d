from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from filled_store import Filled, damage, fill
from nixfetch.formats.signing import SecretKey
from nixfetch.plan.content import WrongContentError
from nixfetch.plan.trust import FalseContentAddressError, TrustPolicy, UnsignedError
from nixfetch.store import ContentMismatchError, LocalStore
from nixfetch.store.database import DatabaseError
from nixfetch.store.disk import DiskError
from nixfetch.store.trees import remove_tree
from nixfetch.verify import (
    LostPathError,
    LostReferenceError,
    NotRegisteredError,
    Verdict,
    verify_paths,
)
from simulated_cache import POLICY, store_path
from unit.store.disk_trees import directory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nixfetch.errors import NixfetchError
    from nixfetch.formats.storepath import StorePath
    from nixfetch.store import Registration


@pytest.fixture
def filled(tmp_path: Path) -> Filled:
    return fill(tmp_path)


def verify(
    filled: Filled, *, policy: TrustPolicy = POLICY, contents: bool = True, jobs: int | None = 2
) -> dict[StorePath, list[type[NixfetchError]]]:
    """What is wrong, by path."""
    with filled.open() as store:
        verdicts = verify_paths(store, filled.all, policy=policy, contents=contents, jobs=jobs)
    assert [verdict.path for verdict in verdicts] == filled.all
    return {
        verdict.path: list(map(type, verdict.problems)) for verdict in verdicts if verdict.problems
    }


def execute(filled: Filled, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(filled.root / "nix/var/nix/db/db.sqlite")) as connection:
        connection.execute(statement, values)
        connection.commit()


def remove(filled: Filled, path: StorePath) -> None:
    with directory(filled.on_disk(path).parent) as fd:
        remove_tree(fd, path.base.encode())


@pytest.mark.parametrize("jobs", [None, 1, 8])
def test_a_store_as_it_was_made_is_good(filled: Filled, jobs: int | None) -> None:
    assert verify(filled, jobs=jobs) == {}


def test_who_signed_is_told(filled: Filled) -> None:
    with filled.open() as store:
        library, source = verify_paths(store, [filled.library, filled.source], policy=POLICY)
    assert library == Verdict(filled.library, (), ("simulated-1",), content_addressed=False)
    assert source == Verdict(filled.source, (), (), content_addressed=True)
    assert library.is_good
    assert library.is_registered


def test_verdicts_are_told_as_they_come_each_once(filled: Filled) -> None:
    told: list[Verdict] = []
    with filled.open() as store:
        verdicts = verify_paths(
            store, [filled.top, filled.text, filled.top], policy=POLICY, on_result=told.append
        )
    assert [verdict.path for verdict in verdicts] == [filled.top, filled.text]
    assert sorted(told, key=lambda verdict: verdict.path) == sorted(
        verdicts, key=lambda verdict: verdict.path
    )


def test_many_more_paths_than_threads(filled: Filled) -> None:
    paths = [store_path(f"gone-{number}") for number in range(100)]
    with filled.open() as store:
        verdicts = verify_paths(store, paths, policy=POLICY, jobs=2)
    assert [verdict.path for verdict in verdicts] == paths
    assert all(isinstance(verdict.problems[0], NotRegisteredError) for verdict in verdicts)
    assert not any(verdict.is_registered for verdict in verdicts)


def test_whoever_listens_can_stop_it(filled: Filled) -> None:
    def stop(_: Verdict) -> None:
        raise KeyboardInterrupt

    with filled.open() as store, pytest.raises(KeyboardInterrupt):
        verify_paths(store, filled.all, policy=POLICY, jobs=1, on_result=stop)


def append(file: Path) -> None:
    damage(file, file.read_bytes() + b"!")


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    damage(file, bytes(data))


def empty(file: Path) -> None:
    damage(file, b"")


def run_it(file: Path) -> None:
    file.chmod(0o555)


@pytest.mark.parametrize("change", [append, flip, empty, run_it])
def test_changed_content_is_found(filled: Filled, change: Callable[[Path], None]) -> None:
    change(filled.on_disk(filled.library) / "lib/a")
    assert verify(filled) == {filled.library: [ContentMismatchError]}
    assert verify(filled, contents=False) == {}


def test_what_differs_is_told(filled: Filled) -> None:
    append(filled.on_disk(filled.library) / "lib/a")
    with filled.open() as store:
        (verdict,) = verify_paths(store, [filled.library], policy=POLICY)
        registration = store.get(filled.library)
    assert registration is not None
    (problem,) = verdict.problems
    assert problem.facts["expected"] == str(registration.nar_hash)
    assert problem.facts["expected_size"] == registration.nar_size


def test_a_pipe_is_no_content(filled: Filled) -> None:
    library = filled.on_disk(filled.library) / "lib"
    library.chmod(0o755)
    os.mkfifo(library / "d")
    assert verify(filled) == {filled.library: [ContentMismatchError]}


def test_a_lost_path_is_found_at_itself_and_its_referrer(filled: Filled) -> None:
    remove(filled, filled.library)
    expected = {filled.library: [LostPathError], filled.top: [LostReferenceError]}
    assert verify(filled) == verify(filled, contents=False) == expected


class Unreadable(LocalStore):
    """Its directory is none, so every system call on it fails."""

    @property
    def fd(self) -> int:
        return self._file

    def __init__(self, root: Path) -> None:
        super().__init__(root, read_only=True)
        self._file = os.open(root / "nix/var/nix/db/schema", os.O_RDONLY)

    def close(self) -> None:
        os.close(self._file)
        super().close()


def test_what_cannot_be_read_is_this_machines_fault(filled: Filled) -> None:
    with Unreadable(filled.root) as store:
        (verdict,) = verify_paths(store, [filled.library], policy=POLICY)
    assert list(map(type, verdict.problems)) == [DiskError]
    assert verdict.problems[0].facts["errno"] == "ENOTDIR"


class Buggy(LocalStore):
    def get(self, path: StorePath) -> Registration | None:
        raise ZeroDivisionError(path)


def test_a_bug_in_a_thread_comes_out(filled: Filled) -> None:
    with Buggy(filled.root, read_only=True) as store, pytest.raises(ZeroDivisionError):
        verify_paths(store, filled.all, policy=POLICY)


class Forgetful(LocalStore):
    """Knows each path once."""

    def get(self, path: StorePath) -> Registration | None:
        registration, self._known = (super().get(path) if self._known else None), False
        return registration

    _known = True


def test_a_path_that_is_collected_meanwhile_is_not_damaged(filled: Filled) -> None:
    remove(filled, filled.text)
    with Forgetful(filled.root, read_only=True) as store:
        (verdict,) = verify_paths(store, [filled.text], policy=POLICY, jobs=1)
    assert not verdict.is_registered


def test_rows_that_make_no_sense(filled: Filled) -> None:
    execute(filled, "update ValidPaths set hash = 'x' where path = ?", str(filled.text))
    assert verify(filled) == {filled.text: [DatabaseError]}


@pytest.mark.parametrize(
    "policy",
    [
        TrustPolicy((SecretKey.from_seed("other-1", b"o" * 32).public(),)),
        replace(POLICY, needed=2),
        TrustPolicy(),
    ],
)
def test_too_few_signatures(filled: Filled, policy: TrustPolicy) -> None:
    unsigned = {filled.top: [UnsignedError], filled.library: [UnsignedError]}
    assert verify(filled, policy=policy) == unsigned
    assert verify(filled, policy=replace(policy, check=False)) == {}


def test_what_was_built_here_needs_no_signature(filled: Filled) -> None:
    execute(
        filled, "update ValidPaths set sigs = null, ultimate = 1 where path = ?", str(filled.top)
    )
    assert verify(filled) == {}


def test_a_signed_field_that_changed_in_the_database(filled: Filled) -> None:
    execute(
        filled,
        "delete from Refs where referrer = (select id from ValidPaths where path = ?)",
        str(filled.top),
    )
    assert verify(filled) == {filled.top: [UnsignedError]}


def test_all_problems_of_a_path_are_told(filled: Filled) -> None:
    remove(filled, filled.source)
    flip(filled.on_disk(filled.top) / "bin/run")
    assert verify(filled, policy=TrustPolicy())[filled.top] == [
        UnsignedError,
        LostReferenceError,
        ContentMismatchError,
    ]


def test_a_content_address_of_another_path(filled: Filled) -> None:
    execute(
        filled,
        "update ValidPaths set ca = (select ca from ValidPaths where path = ?) where path = ?",
        str(filled.source),
        str(filled.text),
    )
    assert verify(filled)[filled.text][0] is FalseContentAddressError


def test_content_and_its_registration_changed_together(filled: Filled) -> None:
    """Nothing is signed here; only the content address knows better."""
    flip(filled.on_disk(filled.source) / "main.c")
    with filled.open() as store:
        (verdict,) = verify_paths(store, [filled.source], policy=POLICY)
    actual = str(verdict.problems[0].facts["actual"])
    execute(filled, "update ValidPaths set hash = ? where path = ?", actual, str(filled.source))
    assert verify(filled) == {filled.source: [WrongContentError]}
