"""The small objects of one cache, each read whole: narinfos, and what it says about itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nixfetch.cache.download import ENCODING_WINDOW
from nixfetch.errors import FormatError, TransportError
from nixfetch.streams import codecs
from nixfetch.streams.limits import at_most, read_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nixfetch.cache.gate import Gate, Waits
    from nixfetch.transport.base import Pace, Transport


class OfflineError(TransportError):
    """The cache is remote, and the run is to stay on this machine."""


class SmallObjects:
    """Reads them. Safe to share among threads."""

    def __init__(
        self,
        transport: Transport,
        gate: Gate,
        waits: Waits,
        *,
        throttle: Callable[[int], object],
        offline: bool,
    ) -> None:
        """Ask for nothing yet.

        Args:
            transport: where they are.
            gate: when to try, and how often.
            waits: of the same cache.
            throttle: is told of all that came, and may wait.
            offline: do not ask.
        """
        self._transport = transport
        self._gate = gate
        self._waits = waits
        self._throttle = throttle
        self._offline = offline

    def read(
        self,
        name: str,
        limit: int,
        *,
        hurried: bool,
        pausing: Callable[[], object] = lambda: None,
    ) -> bytes:
        """A whole object, under no encoding.

        Args:
            name: its name.
            limit: bytes that it may have.
            hurried: another cache is left; see `plan.health`.
            pausing: called while it is waited for; see `Gate.asking`.

        Raises:
            TooLargeError: it is larger.
            CodecError: it is under an encoding that it does not follow.
            TransportError: it does not come.
        """

        def once(pace: Pace) -> bytes:
            began = self._waits.now()
            with self._transport.open(name, pace=pace) as body:
                # The limit counts before and after decoding: neither an endless body nor a
                # small one that unfolds gets further.
                chunks = at_most(body.chunks, limit, what=name)
                if hurried:  # a pace that is enough for a large object is none for this
                    chunks = self._until(began + self._waits.budget.left, chunks)
                if body.encoding is not None:
                    chunks = codecs.decode(body.encoding, chunks, memory_limit=ENCODING_WINDOW)
                return read_all(chunks, limit, what=name)

        self.check_online()
        try:
            raw = self._gate.ask(once, hurried=hurried, pausing=pausing)
        except FormatError as error:
            self._gate.disbelieved(error)
            raise
        self._throttle(len(raw))
        return raw

    def check_online(self) -> None:
        """Make sure that the cache may be asked.

        Raises:
            OfflineError: it may not.
        """
        if self._offline:
            raise OfflineError("not asked: the run is offline", hint="leave out --offline")

    def _until(self, end: float, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            if self._waits.now() > end:
                raise TransportError("answer is too slow", retryable=True)
            yield chunk
