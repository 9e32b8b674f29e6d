"""Paths whose commit failed: gone when the store is closed, if anybody can tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import places
from nixfetch.store import LocalStore, Registration
from nixfetch.store.database import Database
from nixfetch.store.doubts import not_valid
from nixfetch.store.layout import Layout
from simulated_cache import SimulatedCache, store_path
from unit.store.disk_trees import python

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

SETTLE = """
import logging, resource, sys
from nixfetch.errors import StoreError
from nixfetch.plan.trust import Trusted
from nixfetch.store import LocalStore
from simulated_cache import POLICY, SimulatedCache
from unit.store.test_local import add

logging.basicConfig(stream=sys.stdout, format="%(levelname)s %(message)s", level=logging.WARNING)
root, healed = sys.argv[1:]
cache = SimulatedCache()
path = cache.add("a", {b"file": b"content", b"other": b"more"})
store = LocalStore(root)
add(store, cache, path)
log = store.layout.database / "db.sqlite-wal"
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
# No file may grow beyond this: as if the disk were full, but for a few bytes.
resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size + 100, limits[1]))
try:
    store.settle()
except StoreError as error:
    print(type(error).__name__)
print(*sorted(name.name for name in store.layout.store.glob("*-a")))
if healed == "yes":
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
store.close()
"""


def settled(root: Path, *, healed: bool) -> list[str]:
    return python(SETTLE, root, "yes" if healed else "no").splitlines()


def test_what_was_not_registered_goes(memory_path: Path) -> None:
    root = memory_path / "root"
    path = store_path("a")
    assert settled(root, healed=True) == ["DatabaseError", path.base]
    assert places.names(root / "nix/store") == []
    assert places.names(root / "nix/var/nixfetch/inflight") == []
    with LocalStore(root, read_only=True) as store:
        assert store.all_valid() == []
    assert (root / "nix/var/nix/db/reserved").exists()


def test_what_nobody_can_tell_of_stays_and_is_said(memory_path: Path) -> None:
    root = memory_path / "root"
    path = store_path("a")
    error, tree, warning = settled(root, healed=False)
    assert (error, tree) == ("DatabaseError", path.base)
    assert warning.startswith(
        "WARNING 1 path may lie in the store without being valid: `nixfetch gc` removes such ("
    )
    assert places.names(root / "nix/store") == [path.base]


def test_what_is_valid_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = SimulatedCache()
    there, other = cache.add("there", b"1"), store_path("other")
    layout = Layout(tmp_path)
    layout.database.mkdir(parents=True)
    database = Database(layout.database)
    info = cache.infos[there]
    with database.writing():
        database.register(
            [Registration(path=there, nar_hash=info.nar_hash, nar_size=info.nar_size)]
        )
    assert not_valid(database, layout, [there, other]) == [other]
    assert database.all_valid() == [there]
    database.close()
    assert not_valid(database, layout, [there, other]) == []  # nobody can say any more
    assert "2 paths may lie in the store without being valid" in caplog.text
