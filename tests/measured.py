"""The real `nixfetch fetch` in a process of its own: what came of it, how long it took, its memory.

No settings of this machine or of its user count.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nixfetch.formats.signing import PublicKey
from nixfetch.plan.trust import TrustPolicy
from nixfetch.store import LocalStore
from nixfetch.verify import verify_paths

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MEBIBYTE = 1024 * 1024
_TICK = 0.01  # seconds between two looks at the process's memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What came of a command."""

    code: int
    out: str
    err: str
    seconds: float
    peak: int
    """Bytes of memory, at most, as the kernel counts resident pages."""

    @property
    def errors(self) -> list[str]:
        """The lines on stderr that begin an error."""
        return [line for line in self.err.splitlines() if line.startswith("error:")]


@dataclass(frozen=True, slots=True)
class Place:
    """A store that begins empty, and a home."""

    store: Path
    home: Path

    @classmethod
    def below(cls, folder: Path) -> Place:
        """One in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "home").mkdir()
        return cls(folder / "store", folder / "home")

    def command(self, paths: Iterable[str], sources: Iterable[str], key: str) -> list[str]:
        """The command that fetches `paths`."""
        command = [sys.executable, "-m", "nixfetch.cli", "fetch", *paths]
        for source in sources:
            command += ["--from", source]
        return [*command, "--trusted-key", key, "--store", str(self.store)]

    def environ(self, settings: Mapping[str, str]) -> dict[str, str]:
        """What a command gets to see."""
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "NIX_CONF_DIR": "/nowhere",
            "XDG_CONFIG_DIRS": "/nowhere",
        }
        if "PYTHONPATH" in os.environ:
            environ["PYTHONPATH"] = os.environ["PYTHONPATH"]
        return {**environ, **settings}

    def fetch(
        self,
        paths: Iterable[str],
        sources: Iterable[str],
        key: str,
        *,
        limit: float,
        settings: Mapping[str, str],
    ) -> Ended:
        """Fetch, and fail when it takes more than `limit` seconds."""
        return measured(
            self.command(paths, sources, key), environ=self.environ(settings), limit=limit
        )

    def names(self) -> list[str]:
        """All that lies in the store directory."""
        directory = self.store / "nix/store"
        if not directory.exists():
            return []
        return sorted(entry.name for entry in directory.iterdir() if entry.name != ".links")

    def valid(self) -> list[str]:
        """Paths that are registered."""
        if not self.store.exists():
            return []
        with LocalStore(self.store, read_only=True) as store:
            return sorted(map(str, store.all_valid()))

    def is_empty(self) -> None:
        """Hold the store to having nothing, not even leftovers."""
        assert self.names() == []
        assert self.valid() == []

    def is_whole(self, paths: Iterable[str], key: str) -> None:
        """Hold the store to having `paths`, verified, and nothing else."""
        policy = TrustPolicy((PublicKey.parse(key),))
        with LocalStore(self.store, read_only=True) as store:
            valid = sorted(store.all_valid())
            for verdict in verify_paths(store, valid, policy=policy, jobs=1):
                assert not verdict.problems, verdict
                assert not verdict.warnings, verdict
        expected = sorted(paths)
        assert [str(path) for path in valid] == expected
        assert self.names() == sorted(Path(path).name for path in expected)

    def kept(self) -> int:
        """Bytes on disk beside the store directory and the database: partial downloads."""
        var = self.store / "nix/var"
        return sum(
            file.lstat().st_size
            for file in var.rglob("*")
            if file.is_file() and "db" not in file.relative_to(var).parts
        )


def measured(command: Sequence[str], *, environ: Mapping[str, str], limit: float) -> Ended:
    """Run a command to its end, and fail when that is more than `limit` seconds away."""
    begin = time.monotonic()
    with subprocess.Popen(
        command,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        watchdog = threading.Timer(limit, stop)
        watchdog.start()
        peak = [0]
        watcher = threading.Thread(target=_watch, args=(process, peak))
        watcher.start()
        try:
            out, err = process.communicate()
        finally:
            watchdog.cancel()
            process.kill()
            watcher.join()
    seconds = time.monotonic() - begin
    assert not late.is_set(), f"not at its end after {limit} s: {err}"
    assert "Traceback" not in err, err
    return Ended(code=process.returncode, out=out, err=err, seconds=seconds, peak=peak[0])


def _watch(process: subprocess.Popen[str], peak: list[int]) -> None:
    """Follow VmHWM: rusage's figure would begin with the memory of this process."""
    status = Path(f"/proc/{process.pid}/status")
    while process.returncode is None:
        try:
            text = status.read_text()
        except OSError:
            return
        for line in text.splitlines():
            if line.startswith("VmHWM:"):
                peak[0] = max(peak[0], int(line.split()[1]) * 1024)
        time.sleep(_TICK)
