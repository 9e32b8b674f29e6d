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

    def __call__(self, *words: str, verb: str = "path-info", trust: bool = True) -> str:
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


def test_a_path_a_line(machine: Machine) -> None:
    assert machine(str(A), B.base, B.hash_part) == f"{B}\n{A}\n"
    assert machine.err == ""


def test_recursive_with_sizes(machine: Machine) -> None:
    assert machine(str(A), "-rsS", "--sigs") == "".join(
        f"{path}\t        120\t{size:11d}\t{machine.cache.infos[path].signatures[0]}\n"
        for path, size in ((B, 120), (A, 240))
    )


def test_human_readable(machine: Machine) -> None:
    assert machine(str(B), "--size", "--human-readable") == f"{B}\t   0.1 KiB\n"


def test_json_is_format_1_by_default(machine: Machine) -> None:
    out = machine(str(A), "--json")
    assert out == machine(str(A), "--json", "--json-format", "1")
    assert json.loads(out)[str(A)]["version"] == 1
    assert out.endswith("}\n")


def test_json_format_2(machine: Machine) -> None:
    value = json.loads(machine(str(A), "-r", "--closure-size", "--json", "--json-format", "2"))
    assert value["version"] == 2
    assert value["info"][A.base]["closureSize"] == 240
    assert set(value["info"]) == {A.base, B.base}


def test_a_missing_path_is_null_and_exit_code_3(machine: Machine) -> None:
    value = json.loads(machine(str(GONE), str(A), "--json"))
    assert value[str(GONE)] is None
    assert value[str(A)] is not None
    assert machine.code == 3


def test_the_rest_is_printed(machine: Machine) -> None:
    assert machine(str(GONE), str(A)) == f"{A}\n"
    assert machine.code == 3


def test_a_broken_narinfo_is_exit_code_4_and_no_key(machine: Machine) -> None:
    machine.cache.objects[machine.cache.narinfo_name(B)] = b"nonsense"
    assert set(json.loads(machine(str(A), str(B), str(GONE), "--json"))) == {str(A), str(GONE)}
    assert machine.code == 4


@pytest.mark.parametrize("json_flag", [[], ["--json"]])
def test_what_nobody_vouches_for_is_shown_with_a_warning(
    machine: Machine, json_flag: list[str]
) -> None:
    assert str(A) in machine(str(A), "-r", *json_flag, trust=False)
    assert machine.code == 0
    [line] = machine.err.splitlines()
    assert line.startswith("warning: would not be fetched: path is signed by no trusted key")
    assert "(signed by simulated-1)" in line
    assert line.endswith(f": {B}, {A}")


def test_a_warning_counts_what_it_does_not_name(machine: Machine) -> None:
    machine.cache.key = None
    paths = [str(machine.cache.add(f"p{number}")) for number in range(5)]
    machine(*paths, str(A))
    [line] = machine.err.splitlines()
    assert line.startswith("warning: would not be fetched: path is not signed; sign it")
    assert line.endswith(" and 2 more")


def test_local_asks_the_store(machine: Machine) -> None:
    machine(str(A), "--progress", "none", verb="fetch")
    value = json.loads(machine(str(A), B.hash_part, "--local", "--json", "-S", trust=False))
    assert set(value) == {str(A), str(B)}
    assert value[str(A)]["closureSize"] == 240
    assert value[str(A)]["registrationTime"]
    assert "url" not in value[str(A)]
    assert machine.err == ""


def test_a_path_that_is_not_in_the_store_is_exit_code_3(machine: Machine) -> None:
    machine(str(B), "--progress", "none", verb="fetch")
    assert json.loads(machine(str(A), "--local", "--json")) == {str(A): None}
    assert machine.code == 3


def test_without_a_store_local_is_exit_code_6(machine: Machine) -> None:
    assert machine(str(A), "--local") == ""
    assert machine.code == 6
