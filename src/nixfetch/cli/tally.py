"""How far a fetch is: counts made of its events, a rate, and what it waits for. Shows nothing.

Pure: time comes in as an argument. `Tally.take` is fed events, `Tally.sample` the clock a few
times a second; the rate is that of the last `_WINDOW` seconds, so a stall shows at once and a
slow beginning does not weigh on what follows.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from nixfetch.fetch.progress import Advanced, Failed, Fetched, Found, Present, Started, Walked

if TYPE_CHECKING:
    from nixfetch.fetch.progress import Event
    from nixfetch.formats.storepath import StorePath

_WINDOW = 5.0  # seconds that the rate looks back
_SILENCE = 1.0  # seconds without a byte after which it is the network that is waited for


class _Sample(NamedTuple):
    when: float
    received: int
    network: float
    decoding: float
    disk: float


@dataclass(slots=True)
class _Path:
    """One path that is not yet had. Sizes are bytes."""

    to_download: int
    to_unpack: int
    downloaded: int = 0
    unpacked: int = 0
    started: bool = False


class Tally:
    """Counts. Sizes are bytes; `paths` are those that are to be fetched."""

    def __init__(self, now: float) -> None:
        self.paths = self.fetched = self.failed = 0
        self.to_download = self.to_unpack = 0
        self.downloaded = self.unpacked = 0
        """Of what is to be; a second try begins at zero again."""
        self.walked = False
        self._received = 0  # never goes back
        self._spent = [0.0, 0.0, 0.0]  # seconds: network, decoding, disk
        self._open: dict[StorePath, _Path] = {}
        self._samples = deque([_Sample(now, 0, 0.0, 0.0, 0.0)])
        self._last_byte = now

    def take(self, event: Event, now: float) -> None:
        """Count `event`."""
        match event:
            case Found(path, file_size, nar_size):
                self._open[path] = _Path(file_size or nar_size, nar_size)
                self.paths += 1
                self.to_download += file_size or nar_size
                self.to_unpack += nar_size
            case Walked():
                self.walked = True
            case Started(path):
                self._start(self._open[path])
            case Advanced(path):
                self._advance(self._open[path], event)
                self._last_byte = now
            case Fetched(path):
                self._open.pop(path, None)
                self.fetched += 1
            case Failed(path):
                self._fail(path)
            case Present():
                pass

    def sample(self, now: float) -> None:
        """Look at the clock; a few times a second will do."""
        self._samples.append(_Sample(now, self._received, *self._spent))
        while len(self._samples) > 2 and now - self._samples[1].when >= _WINDOW:  # noqa: PLR2004 - two make a rate
            self._samples.popleft()

    @property
    def rate(self) -> float:
        """Bytes a second that arrived of late."""
        first, last = self._samples[0], self._samples[-1]
        return (last.received - first.received) / max(last.when - first.when, 0.001)

    @property
    def seconds_left(self) -> float | None:
        """Until all is downloaded, at that rate; None where that cannot be told."""
        missing = self.to_download - self.downloaded
        return missing / self.rate if self.walked and self.rate and missing > 0 else None

    def waiting_for(self, now: float) -> str | None:
        """What would have to be faster: narinfos, network, decompression or disk.

        None when nothing is under way.
        """
        started = [path for path in self._open.values() if path.started]
        if not started:
            return "narinfos" if not self.walked else None
        if all(path.unpacked >= path.to_unpack for path in started):
            return "disk"
        if now - self._last_byte >= _SILENCE:
            return "network"
        first, last = self._samples[0], self._samples[-1]
        spent = {
            "network": last.network - first.network,
            "decompression": last.decoding - first.decoding,
            "disk": last.disk - first.disk,
        }
        return max(spent, key=lambda name: spent[name])

    def _start(self, path: _Path) -> None:
        self.downloaded -= path.downloaded
        self.unpacked -= path.unpacked
        path.downloaded = path.unpacked = 0
        path.started = True

    def _advance(self, path: _Path, event: Advanced) -> None:
        path.downloaded += event.downloaded
        path.unpacked += event.unpacked
        self.downloaded += event.downloaded
        self.unpacked += event.unpacked
        self._received += event.downloaded
        spent = event.spent
        for index, seconds in enumerate((spent.network, spent.decoding, spent.disk)):
            self._spent[index] += seconds

    def _fail(self, path: StorePath) -> None:
        self.failed += 1
        lost = self._open.pop(path, None)
        if lost is not None:  # what was to come will not
            self.paths -= 1
            self.to_download -= max(0, lost.to_download - lost.downloaded)
            self.to_unpack -= max(0, lost.to_unpack - lost.unpacked)
