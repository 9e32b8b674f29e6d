from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest

import nixfetch
from fake_containerd import Fake, fake_containerd
from snapshotter._pb import images_pb2
from snapshotter.cri.connection import Connection
from snapshotter.cri.runtime import LAST_LOOK, LISTING, NotListedError, await_listing, listed
from snapshotter.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME, ID = "nix:0/a:latest", "sha256:id"


@pytest.fixture
def fake() -> Iterator[Fake]:
    with fake_containerd() as found:
        for name in (NAME, ID):
            image = images_pb2.Image(name=name)
            image.target.digest = "sha256:manifest"
            found.images[name] = image
        yield found


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


def wait(connection: Connection, clock: Clock, id_: str = ID, *, cancelled: bool = False) -> None:
    await_listing(connection, NAME, id_, cancelled=lambda: cancelled, now=clock, sleep=clock.sleep)


def test_what_is_listed(fake: Fake) -> None:
    with Connection(fake.socket) as connection:
        assert listed(connection, NAME) == ID
        assert listed(connection, "other") is None


def test_cri_hears_of_it_at_once_or_later(fake: Fake) -> None:
    clock = Clock()
    with Connection(fake.socket) as connection:
        wait(connection, clock)
        assert clock.pauses == []
        fake.deaf = 12
        wait(connection, clock)
    assert len(clock.pauses) == 12
    assert clock.pauses[0] < 0.01
    assert max(clock.pauses) == LAST_LOOK


def test_cri_never_hears_of_it(fake: Fake) -> None:
    clock = Clock()
    with (
        Connection(fake.socket) as connection,
        pytest.raises(NotListedError, match=f"listed={ID}"),  # that of an older image
    ):
        wait(connection, clock, "sha256:newer")
    assert LISTING < clock.now < LISTING + 1


def test_nobody_waits(fake: Fake) -> None:
    fake.deaf = 100
    with Connection(fake.socket) as connection, pytest.raises(nixfetch.CancelledError):
        wait(connection, Clock(), cancelled=True)


def test_cri_is_not_there(fake: Fake) -> None:
    fake.faults["ImageService/ImageStatus"] = grpc.StatusCode.UNIMPLEMENTED
    with Connection(fake.socket) as connection, pytest.raises(UnavailableError):
        wait(connection, Clock())
