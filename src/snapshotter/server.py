"""The daemon: what it is made of, how it begins, and how it ends.

It begins with what nobody else may have: the lock of its root. Then rows, directories and roots
are put right, then the socket is made; whoever can connect is answered. It ends in the other
order: no more connections, a while for calls that are under way, then they are told to give up,
then the database is closed. Whatever is cut off is put right at the next start, so a kill is
never wrong, only late.

The one place of this package that has threads of its own, beside those of gRPC.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import grpc

import nixfetch
from snapshotter import grpc_health, grpc_snapshots, owned
from snapshotter.containerd import Containerd
from snapshotter.core import Snapshotter
from snapshotter.cri import runtime
from snapshotter.cri import service as image_service
from snapshotter.cri.connection import Connection
from snapshotter.cri.imageroots import ImageRoots
from snapshotter.cri.pulls import Place, Pulls
from snapshotter.errors import PreconditionError
from snapshotter.farm import Farms
from snapshotter.fetching import Counted, Fetcher
from snapshotter.image.machine import machine
from snapshotter.layers import Layers
from snapshotter.metastore import Metastore
from snapshotter.metrics import Metrics
from snapshotter.notify import inherited, notify
from snapshotter.overlay import Overlay
from snapshotter.sockets import Relay, SocketError, claim, passing_name, private, rename
from snapshotter.strategy import Auto
from snapshotter.substitute import Substitute

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from snapshotter.config import Settings
    from snapshotter.fetching import Source
    from snapshotter.mounting import Mode

MAX_MESSAGE = 16 * 1024 * 1024  # bytes; containerd's own limit, four times that of gRPC
WORKERS = 128  # calls at a time; a cold layer keeps one for minutes. A thread is made when needed
GRACE = 5.0  # seconds that calls have to end by themselves
UNWINDING = 3.0  # seconds that they have to end once they were told to; with GRACE below 10
VERSION_PATIENCE = 1.0  # seconds for containerd to say its version
FARMS = "nix/var/nixfetch/farms"  # below the root of the store
SETTLING = 0.5  # seconds from a removal to the freeing of its space: removals come in flocks

_OPTIONS = (
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.so_reuseport", 0),
)
_log = logging.getLogger(__name__)


class RootError(PreconditionError):
    """The root cannot be used."""

    exit_code = 6


class InUseError(PreconditionError):
    """Another daemon has that root."""

    exit_code = 75


def serve(
    settings: Settings,
    *,
    source: Source,
    environ: Mapping[str, str],
    wait: Callable[[], object],
) -> bool:
    """Serve until `wait` returns.

    Args:
        settings: of the daemon.
        source: where store paths come from.
        environ: the environment, for systemd's part of it.
        wait: called once calls are answered; returns when it is time to end.

    Returns:
        Whether all calls had ended; else threads are still at it.

    Raises:
        SnapshotterError: it cannot begin.
        StoreError: the store cannot be opened.
    """
    with ExitStack() as stack:
        outer = inherited(environ)
        if outer is not None:
            stack.callback(outer.close)
        stack.enter_context(_root(settings.root))
        metrics = Metrics()
        parts = _compose(settings, source, metrics, stack)
        parts.snapshotter.recover()
        running = _Running(settings, parts, metrics, outer)
        try:
            running.begin()
            notify(environ, "READY=1")
            wait()
            notify(environ, "STOPPING=1")
        finally:
            clean = running.end()
        if not clean:
            stack.pop_all()  # what is still at work needs it all; the end of the process frees it
    return clean


@contextmanager
def _root(root: Path) -> Iterator[None]:
    """The root for oneself."""
    owned.claim(root, link=True)
    try:
        fd = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise RootError(
            "root of snapshots cannot be used", directory=root, reason=error.strerror
        ) from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InUseError("another daemon has that root", directory=root) from error
        yield
    finally:
        os.close(fd)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What answers calls."""

    snapshotter: Snapshotter
    images: _Images | None


@dataclass(frozen=True, slots=True)
class _Images:
    """What answers calls about images."""

    connection: Connection
    pulls: Pulls


def _compose(settings: Settings, source: Source, metrics: Metrics, stack: ExitStack) -> _Parts:
    """All that makes snapshots, from the disk up; what is opened is closed with `stack`."""
    rows = Metastore(settings.root / "metadata.db", durable=settings.durable)
    stack.callback(rows.close)
    with nixfetch.facts(store=settings.store):
        store = stack.enter_context(nixfetch.LocalStore(settings.store))
    fetcher = Fetcher(source, metrics)
    closures = Substitute(store, fetcher)
    closures.sweep()
    counted = Counted(closures, fetcher, metrics)
    snapshotter = Snapshotter(
        store=rows,
        layers=Layers(settings.root),
        overlay=Overlay.of_this_machine(),
        closures=counted,
        # On the store's own file system, for they are hard links; nobody else's are among them.
        farms=Farms(settings.store / FARMS / rows.instance, store),
        mode=_mode(settings, stack),
        max_binds=settings.max_binds,
    )
    connection = _image_connection(settings)
    if connection is None:
        return _Parts(snapshotter, None)
    place = Place(
        connection=stack.enter_context(connection),
        namespace=settings.image_service.namespace,
        snapshotter=settings.image_service.snapshotter,
    )
    roots = ImageRoots(counted, rows.instance)
    pulls = Pulls(
        place,
        roots,
        store,
        machine=machine(),
        instance=rows.instance,
        scratch=settings.root,
    )
    return _Parts(snapshotter, _Images(connection, pulls))


def _image_connection(settings: Settings) -> Connection | None:
    """To the containerd whose images are served; None: those of none are."""
    address = settings.image_service.containerd_address or settings.containerd_address
    if not settings.image_service.enable or address is None:
        return None
    return Connection(address)


def _mode(settings: Settings, stack: ExitStack) -> Callable[[], Mode]:
    match settings.mount_mode:
        case "target" | "lower" as mode:
            return lambda: mode
        case _:
            if settings.containerd_address is None:
                return lambda: "lower"
            containerd = Containerd(settings.containerd_address, timeout=VERSION_PATIENCE)
            return Auto(stack.enter_context(containerd).version)


class _Running:
    """The servers and the threads of a daemon."""

    def __init__(
        self,
        settings: Settings,
        parts: _Parts,
        metrics: Metrics,
        outer: socket.socket | None,
    ) -> None:
        self._settings, self._metrics, self._outer = settings, metrics, outer
        self._snapshotter, self._images = parts.snapshotter, parts.images
        self._listening = settings.address if outer is None else settings.root / "relay.sock"
        self._ending = threading.Event()
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="call")
        self._server = grpc.server(self._workers, options=_OPTIONS)
        self._helpers = [threading.Thread(target=self._clean, name="cleaner", daemon=True)]
        if self._images is not None:
            sweep, ending = self._images.pulls.keep_swept, self._ending
            self._helpers.append(
                threading.Thread(target=sweep, args=[ending], name="images", daemon=True)
            )
        self._stack = ExitStack()

    def begin(self) -> None:
        """Answer calls."""
        self._server.add_generic_rpc_handlers(self._handlers())
        claim(self._listening)
        # Under a passing name, so that who sees the socket is answered.
        passing = passing_name(self._listening)
        claim(passing)
        with private():
            self._listen(passing)
        self._stack.callback(passing.unlink, missing_ok=True)
        self._server.start()
        if self._settings.metrics_address is not None:
            self._offer_metrics(self._settings.metrics_address)
        rename(passing, self._listening)
        self._stack.callback(self._listening.unlink, missing_ok=True)
        if self._outer is not None:
            self._stack.callback(Relay(self._outer, self._listening).close)
        for helper in self._helpers:
            helper.start()
        _log.info("serving on %s", self._settings.address)

    def end(self) -> bool:
        """Answer no more; whether all calls have ended."""
        self._ending.set()
        self._snapshotter.rubbish.set()  # wakes the cleaner
        self._stack.close()  # who connects from now on waits for the next daemon
        self._server.stop(GRACE).wait(GRACE + 1.0)
        # Those that were under way were cancelled by now, and look for that now and then.
        last = threading.Thread(target=self._workers.shutdown, daemon=True)
        last.start()
        last.join(UNWINDING)
        for helper in self._helpers:
            if helper.is_alive():
                helper.join(1.0)
        clean = not any(thread.is_alive() for thread in (last, *self._helpers))
        _log.info("stopped" if clean else "stopped; calls that did not end are cut off")
        return clean

    def _handlers(self) -> list[grpc.GenericRpcHandler[Any, Any]]:
        services = [grpc_snapshots.SERVICE]
        handlers = [grpc_snapshots.handler(self._snapshotter, self._metrics)]
        if self._images is not None:
            images = self._images
            services.append(runtime.SERVICE)
            handlers.append(
                image_service.handler(
                    images.connection, images.pulls, self._metrics, root=self._settings.root
                )
            )
        return [*handlers, grpc_health.handler(services, self._is_serving)]

    def _listen(self, socket_file: Path) -> None:
        address = str(socket_file)
        try:
            self._server.add_insecure_port(f"unix:{quote(address)}")
        except RuntimeError as error:
            raise SocketError("socket cannot be made", socket=address, reason=error) from error

    def _offer_metrics(self, address: str) -> None:
        from snapshotter.metrics_http import MetricsServer

        self._stack.enter_context(
            MetricsServer(address, render=self._render, healthy=self._is_serving)
        )

    def _is_serving(self) -> bool:
        return not self._ending.is_set()

    def _render(self) -> str:
        counts = self._snapshotter.counts()
        return self._metrics.render({kind.word: count for kind, count in counts.items()})

    def _clean(self) -> None:
        """Free what was removed, when there is time."""
        while not self._ending.is_set():
            try:
                self._snapshotter.cleanup(stopped=self._ending.is_set)
            except nixfetch.NixfetchError as error:  # the next removal is the next try
                _log.warning("what was removed takes space for now: %s", error)
            self._snapshotter.rubbish.wait()
            self._ending.wait(SETTLING)
