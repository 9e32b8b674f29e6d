"""What containerd can be told, each with the status that gRPC has for it.

    SnapshotterError
    ├── InvalidArgumentError   the request can never be right
    ├── NotFoundError          there is no such snapshot
    ├── AlreadyExistsError     there is one, or a layer that needs no blob is ready
    ├── PreconditionError      not in the state that it has now
    ├── UnavailableError       try again later: caches, containerd
    └── InternalError          our own data are not what they should be

Errors of `nixfetch` pass as they are; `grpc_errors` gives each of its families a status.
"""

from __future__ import annotations

import nixfetch


class SnapshotterError(nixfetch.NixfetchError):
    """Base of what this package raises on purpose; facts and hint as in `nixfetch`."""


class InvalidArgumentError(SnapshotterError):
    """What was asked can never be right: a label, a name, a filter."""


class NotFoundError(SnapshotterError):
    """There is no such snapshot."""


class AlreadyExistsError(SnapshotterError):
    """The name is taken, or the layer is there and its blob is not needed."""


class PreconditionError(SnapshotterError):
    """It cannot be done in the state that the snapshot has."""


class UnavailableError(SnapshotterError):
    """Something else has to answer first; the same request may well succeed later."""

    exit_code = 5


class InternalError(SnapshotterError):
    """Our own data are not what they should be."""

    exit_code = 6
