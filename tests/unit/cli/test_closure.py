from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import pytest

from nixfetch.cli import app
from nixfetch.cli.output import Output
from simulated_cache import KEY, SimulatedCache, store_path

if TYPE_CHECKING:
    from pathlib import Path

A, B, GONE = store_path("a"), store_path("b"), store_path("gone")


class Machine:
    """A cache and a store in one directory, and the verb at work on them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.cache = SimulatedCache()
        self.cache.add("b", b"b")
        self.cache.add("a", b"a", references=[B])
        self.code = 0
        self.err = ""

    def __call__(self, *words: str, verb: str = "closure", trust: bool = True) -> str:
        """What it writes to stdout; `code` and `err` have the rest."""
        cache = self.directory / "cache"
        self.cache.dump(cache)
        flags = ["--from", f"file://{cache}", "--store", str(self.directory / "store")]
        flags += ["--trusted-key", str(KEY.public())] if trust else []
        out, err = io.BytesIO(), io.BytesIO()
        home = {"HOME": str(self.directory), "NIX_CONF_DIR": str(self.directory)}
        self.code = app.run([verb, *words, *flags], output=Output(out, err), environ=home)
        self.err = err.getvalue().decode()
        return out.getvalue().decode()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize("name", [str(A), A.base, A.hash_part])
def test_references_come_first(machine: Machine, name: str) -> None:
    assert machine(name) == f"{B}\n{A}\n"
    assert machine.code == 0


def test_json_is_one_array(machine: Machine) -> None:
    assert json.loads(machine(str(A), "--json")) == [str(B), str(A)]


def test_a_missing_path_does_not_hide_the_others(machine: Machine) -> None:
    assert machine(str(GONE), str(A)) == f"{B}\n{A}\n"
    assert machine.code == 3


def test_a_path_that_lacks_a_reference_is_not_printed(machine: Machine) -> None:
    machine.cache.add("c", references=[GONE])
    assert machine(str(A), str(store_path("c"))) == f"{B}\n{A}\n"
    assert machine.code == 3


def test_what_nobody_vouches_for_is_an_error(machine: Machine) -> None:
    assert machine(str(A), trust=False) == ""
    assert machine.code == 4


def test_local_asks_the_store(machine: Machine) -> None:
    machine(str(A), "--progress", "none", verb="fetch")
    assert machine(A.hash_part, "--local", trust=False) == f"{B}\n{A}\n"


def test_a_path_that_is_not_in_the_store_is_exit_code_3(machine: Machine) -> None:
    machine(str(B), "--progress", "none", verb="fetch")
    assert machine(str(A), str(B), "--local", "--json") == f'["{B}"]\n'
    assert machine.code == 3
