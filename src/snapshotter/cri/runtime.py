"""CRI's own image service, in containerd: what it lists, and what it is passed. Knows no store."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import nixfetch
from snapshotter._pb import cri_pb2
from snapshotter.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from snapshotter.cri.connection import Connection

SERVICE: Final = "runtime.v1.ImageService"
LISTING = 30.0  # seconds for CRI to hear of an image; it takes milliseconds
FIRST_LOOK, LAST_LOOK = 0.002, 0.25  # seconds between two looks


class NotListedError(UnavailableError):
    """CRI does not know an image that containerd has."""


def listed(connection: Connection, name: str) -> str | None:
    """The ID of the image that CRI knows by a name; None: none.

    Raises:
        SnapshotterError: it does not say.
    """
    request = cri_pb2.ImageStatusRequest(image=cri_pb2.ImageSpec(image=name))
    answer = connection.call(f"/{SERVICE}/ImageStatus", request, cri_pb2.ImageStatusResponse)
    return answer.image.id or None


def await_listing(
    connection: Connection,
    name: str,
    id_: str,
    *,
    cancelled: Callable[[], bool],
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> None:
    """Wait until CRI knows an image by a name.

    CRI hears of containerd's images by events, and makes no container of one that it has not
    heard of yet.

    Args:
        connection: to containerd.
        name: of the image.
        id_: of the image.
        cancelled: whether nobody waits for it any more.
        now: the clock: seconds.
        sleep: waits for some seconds.

    Raises:
        NotListedError: it does not hear of it.
        SnapshotterError: it does not say.
        CancelledError: `cancelled` said so.
    """
    deadline, pause = now() + LISTING, FIRST_LOOK
    while (found := listed(connection, name)) != id_:
        if cancelled():
            raise nixfetch.CancelledError("caller has given up", waiting_for=name)
        if now() > deadline:
            raise NotListedError(
                "image is in containerd, but its CRI does not list it",
                image=name,
                id=id_,
                listed=found or "nothing",
                hint="is this the namespace of CRI, and is CRI's plugin enabled?",
            )
        sleep(pause)
        pause = min(pause * 2, LAST_LOOK)
