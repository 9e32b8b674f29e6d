"""Real Nix collects, links and verifies the store while we fetch into it: nobody minds."""

from __future__ import annotations

import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest

from crash.subject import is_sound, remove, rounds
from real_nix import SYSTEMS, real_nix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from crash.subject import Closure
    from real_nix import RealNix

pytestmark = pytest.mark.crash

WORK = (["--gc"], ["--optimise"], ["--verify", "--check-contents"])


@pytest.mark.parametrize("dedup", [True, False], ids=["dedup", "no-dedup"])
def test_every_version_at_work_on_the_store(
    flat: Closure, show: Callable[[str], None], *, dedup: bool
) -> None:
    more = ["--root", "wanted"] if dedup else ["--root", "wanted", "--no-dedup"]
    with ExitStack() as stack:
        nixes = [stack.enter_context(real_nix(system)) for system in SYSTEMS]
        store = nixes[-1].place / "store"  # where both can see it
        times, commands = rounds(25, 2), 0
        for _ in range(times):
            remove(store)
            with _working(nixes, store) as (done, problems):
                ran = flat.fetch(store, *more)
            commands += len(done)
            assert ran.code == 0, ran.err
            assert ran.errors == []
            assert problems == []
            flat.is_fetched(store)
            is_sound(store, nixes[-1])
    show(f"{times} rounds beside {len(nixes)} versions of Nix, {commands} commands of theirs")


@contextmanager
def _working(nixes: list[RealNix], store: Path) -> Iterator[tuple[list[int], list[str]]]:
    """Each of `nixes` at each kind of work, again and again; exit codes, and what went wrong."""
    stopped = threading.Event()
    codes: list[int] = []
    problems: list[str] = []

    def work(nix: RealNix) -> None:
        while not stopped.is_set():
            for arguments in WORK:
                done = nix.run("nix-store", "--store", store, *arguments, check=False)
                codes.append(done.returncode)
                text = done.stderr.decode()
                if done.returncode or "error" in text or "modified" in text:
                    problems.append(f"{nix.enter} {arguments}: {done.returncode} {text}")

    threads = [threading.Thread(target=work, args=(nix,)) for nix in nixes]
    for thread in threads:
        thread.start()
    try:
        yield codes, problems
    finally:
        stopped.set()
        for thread in threads:
            thread.join()
