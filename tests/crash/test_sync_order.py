"""In what order a fetch makes things durable, read from a trace of its system calls.

writes to a tree < syncfs < its rename < fsync of the store directory < fsync of the database
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from crash.subject import environ

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from crash.subject import Closure

pytestmark = pytest.mark.crash

CALLS = (
    "openat,write,linkat,symlinkat,utimensat,rename,renameat,renameat2,"
    "fsync,fdatasync,syncfs,pwrite64"
)
LOG = "db.sqlite-wal"


@dataclass(slots=True)
class Call:
    """One system call: when it began and ended, counted in lines of the trace."""

    name: str
    text: str
    """Its arguments and its result, with the files that descriptors stand for."""
    begun: int
    ended: int


def calls(trace: Path) -> Iterator[Call]:
    """The calls that succeeded, in the order of their ends."""
    open_: dict[str, Call] = {}
    for number, line in enumerate(trace.read_text("utf-8", "replace").splitlines()):
        thread, _, rest = line.partition(" ")
        rest = rest.strip()
        if found := re.match(r"(\w+)\((.*) <unfinished \.\.\.>$", rest):
            open_[thread] = Call(found[1], found[2], number, -1)
        elif found := re.match(r"<\.\.\. (\w+) resumed>(.*)", rest):
            call = open_.pop(thread)
            call.text += found[2]
            call.ended = number
            if " = -1 " not in call.text:
                yield call
        elif (found := re.match(r"(\w+)\((.*)", rest)) and " = -1 " not in rest:
            yield Call(found[1], found[2], number, number)


@pytest.mark.parametrize("which", ["small", "flat"])
def test_each_path_is_on_the_disk_before_anybody_is_told(
    which: str, store: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if shutil.which("strace") is None:
        pytest.skip("no strace")
    closure: Closure = request.getfixturevalue(which)
    trace = tmp_path / "trace"
    command: list[str | Path] = [
        "strace",
        "-f",
        "-y",
        "-s",
        "4096",
        "-o",
        trace,
        "-e",
        f"trace={CALLS}",
    ]
    subprocess.run(
        [*command, *closure.command(store)], env=environ(), capture_output=True, check=True
    )
    made = list(calls(trace))
    names = [Path(path).name for path in closure.paths]
    for name in names:
        _is_in_order(made, str(store / "nix/store"), name)


def _is_in_order(made: Sequence[Call], directory: str, name: str) -> None:
    [rename] = _those(
        made, lambda call: call.name.startswith("rename") and f'"{name}"' in call.text
    )
    staging = re.findall(r'"([^"]*)"', rename.text)[0]
    into = [call for call in made if staging in call.text and call is not rename]
    assert into
    last = max(call.ended for call in into)
    synced = _those(
        made,
        lambda call: call.name == "syncfs" and call.begun > last and call.ended < rename.begun,
    )
    assert synced, f"{name} got its name before its data was on the disk"
    named = min(
        call.ended
        for call in made
        if call.name == "fsync" and f"<{directory}>" in call.text and call.begun > rename.ended
    )
    written = [call for call in made if call.name == "pwrite64" and LOG in call.text]
    # All that the log of the database says of it comes after its name is on the disk.
    assert not [call for call in written if rename.begun < call.begun < named]
    told = [call for call in written if name in call.text]
    assert not told or min(call.begun for call in told) > named
    committed = [
        call
        for call in made
        if call.name in {"fsync", "fdatasync"} and LOG in call.text and call.begun > named
    ]
    assert committed
    assert any(named < call.begun < committed[0].begun for call in written)


def _those(made: Sequence[Call], wanted: Callable[[Call], bool]) -> list[Call]:
    return [call for call in made if wanted(call)]
