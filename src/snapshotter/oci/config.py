"""The configuration of an image: what to run, and the digests of its layers unpacked.

What is known here is a field; what a base image says besides (health checks, shells, labels of
builders) is handed on as it came.

Source: opencontainers/image-spec, config.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from snapshotter.oci.digests import hasher
from snapshotter.oci.model import MAX_LAYERS, MAX_MANIFEST, Platform
from snapshotter.oci.reading import DocumentError, Fields, canonical

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_WORDS = 10_000  # of a command line, and of an environment
MAX_HISTORY = 4 * MAX_LAYERS  # lines; most of them are of steps that made no layer
EPOCH = "1970-01-01T00:00:01Z"
"""When our images were made: the same bytes whenever they were, and the time of store paths."""
_KNOWN = frozenset({"Entrypoint", "Cmd", "Env", "User", "WorkingDir", "Labels"})
_DIFF_LAYERS = "layers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """What a container of the image runs, where nobody says otherwise."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    """``Cmd``: the arguments, or the program where there is no entrypoint."""
    environment: tuple[str, ...] = ()
    """``NAME=VALUE`` each."""
    user: str = ""
    working_directory: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    other: Mapping[str, Any] = field(default_factory=dict)
    """What else stands there: JSON."""

    @classmethod
    def read(cls, fields: Fields) -> Process:
        """Of JSON.

        Raises:
            DocumentError: a member is what it cannot be.
        """
        return cls(
            entrypoint=fields.texts("Entrypoint", MAX_WORDS),
            command=fields.texts("Cmd", MAX_WORDS),
            environment=fields.texts("Env", MAX_WORDS),
            user=fields.text("User", ""),
            working_directory=fields.text("WorkingDir", ""),
            labels=fields.mapping("Labels"),
            other={name: fields.members[name] for name in fields.members.keys() - _KNOWN},
        )

    def over(self, base: Process) -> Process:
        """This one, and of `base` what this one does not say.

        A new entrypoint makes the command of the base meaningless, as in a Dockerfile. Variables
        are joined by name, and stay in their order.
        """
        command = self.command or (() if self.entrypoint else base.command)
        return Process(
            entrypoint=self.entrypoint or base.entrypoint,
            command=command,
            environment=_joined(base.environment, self.environment),
            user=self.user or base.user,
            working_directory=self.working_directory or base.working_directory,
            labels={**base.labels, **self.labels},
            other={**base.other, **self.other},
        )

    def document(self) -> dict[str, Any]:
        """As it stands in JSON."""
        known = {
            "Entrypoint": list(self.entrypoint),
            "Cmd": list(self.command),
            "Env": list(self.environment),
            "User": self.user,
            "WorkingDir": self.working_directory,
            "Labels": dict(self.labels),
        }
        return {**self.other, **{name: value for name, value in known.items() if value}}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """The configuration of an image."""

    platform: Platform
    diff_ids: tuple[str, ...]
    """Digests of the layers, unpacked, from the lowest up."""
    process: Process = field(default_factory=Process)
    history: tuple[Mapping[str, Any], ...] = ()
    created: str = EPOCH

    @classmethod
    def parse(cls, data: bytes) -> ImageConfig:
        """Read the configuration of an image.

        Raises:
            DocumentError: it is none.
        """
        fields = Fields.parse(data, what="configuration", limit=MAX_MANIFEST)
        rootfs = fields.child("rootfs")
        if rootfs is None or rootfs.text("type", _DIFF_LAYERS) != _DIFF_LAYERS:
            raise DocumentError("configuration has no layers", place=fields.at("rootfs"))
        diff_ids = rootfs.texts("diff_ids", MAX_LAYERS)
        for diff_id in diff_ids:
            hasher(diff_id)
        process = fields.child("config")
        return cls(
            platform=Platform.read(fields),
            diff_ids=diff_ids,
            process=Process.read(process) if process else Process(),
            history=tuple(line.members for line in fields.each("history", MAX_HISTORY)),
            created=fields.text("created", ""),
        )

    @property
    def history_fits(self) -> bool:
        """Whether there is a line of history for each layer."""
        made = [line for line in self.history if line.get("empty_layer") is not True]
        return len(made) == len(self.diff_ids)

    def json(self) -> bytes:
        """The one way in which we write it."""
        document: dict[str, Any] = {
            **self.platform.document(),
            "config": self.process.document(),
            "rootfs": {"type": _DIFF_LAYERS, "diff_ids": list(self.diff_ids)},
        }
        if self.created:
            document["created"] = self.created
        if self.history:
            document["history"] = [dict(line) for line in self.history]
        return canonical(document)


def _joined(base: tuple[str, ...], ours: tuple[str, ...]) -> tuple[str, ...]:
    found: dict[str, str] = {}
    for variable in (*base, *ours):
        found[variable.partition("=")[0]] = variable
    return tuple(found.values())
