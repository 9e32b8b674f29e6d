"""What kubelet does with a node: sandboxes, images and containers, through CRI.

    kubelet = Kubelet(runtime=host.socket, images=nix.address)
    kubelet.pull("nix:0/nix/store/…"); pod = kubelet.pod("one", folder, cgroup="/tests")
    pod.run("nix:0/nix/store/…", "--version").out

Has messages of its own, from the public definition, so that it tests the ones that we have.

Source: k8s.io/cri-api, pkg/apis/runtime/v1/api.proto.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from containerd_host import Ran

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PATIENCE = 120.0  # seconds for one call; all take less than two on a quiet machine
HOST = 2  # the network of the machine itself: NamespaceMode.NODE
EXITED = 2  # ContainerState.CONTAINER_EXITED

_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "ImageSpec": {"image": (1, "string")},
    "ImageFilter": {"image": (1, "ImageSpec")},
    "Image": {"id": (1, "string"), "repo_tags": (2, "string*"), "repo_digests": (3, "string*")},
    "ListImagesRequest": {"filter": (1, "ImageFilter")},
    "ListImagesResponse": {"images": (1, "Image*")},
    "ImageStatusRequest": {"image": (1, "ImageSpec")},
    "ImageStatusResponse": {"image": (1, "Image")},
    "PullImageRequest": {"image": (1, "ImageSpec"), "sandbox_config": (3, "PodSandboxConfig")},
    "PullImageResponse": {"image_ref": (1, "string")},
    "RemoveImageRequest": {"image": (1, "ImageSpec")},
    "RemoveImageResponse": {},
    "ImageFsInfoRequest": {},
    "FilesystemIdentifier": {"mountpoint": (1, "string")},
    "FilesystemUsage": {"timestamp": (1, "int64"), "fs_id": (2, "FilesystemIdentifier")},
    "ImageFsInfoResponse": {"image_filesystems": (1, "FilesystemUsage*")},
    "PodSandboxMetadata": {
        "name": (1, "string"),
        "uid": (2, "string"),
        "namespace": (3, "string"),
    },
    "NamespaceOption": {"network": (1, "int64")},
    "LinuxSandboxSecurityContext": {"namespace_options": (1, "NamespaceOption")},
    "LinuxPodSandboxConfig": {
        "cgroup_parent": (1, "string"),
        "security_context": (2, "LinuxSandboxSecurityContext"),
    },
    "PodSandboxConfig": {
        "metadata": (1, "PodSandboxMetadata"),
        "log_directory": (3, "string"),
        "linux": (8, "LinuxPodSandboxConfig"),
    },
    "RunPodSandboxRequest": {"config": (1, "PodSandboxConfig")},
    "RunPodSandboxResponse": {"pod_sandbox_id": (1, "string")},
    "StopPodSandboxRequest": {"pod_sandbox_id": (1, "string")},
    "StopPodSandboxResponse": {},
    "RemovePodSandboxRequest": {"pod_sandbox_id": (1, "string")},
    "RemovePodSandboxResponse": {},
    "ContainerMetadata": {"name": (1, "string"), "attempt": (2, "int64")},
    "LinuxContainerSecurityContext": {"namespace_options": (3, "NamespaceOption")},
    "LinuxContainerConfig": {"security_context": (2, "LinuxContainerSecurityContext")},
    "ContainerConfig": {
        "metadata": (1, "ContainerMetadata"),
        "image": (2, "ImageSpec"),
        "command": (3, "string*"),
        "args": (4, "string*"),
        "log_path": (11, "string"),
        "linux": (15, "LinuxContainerConfig"),
    },
    "CreateContainerRequest": {
        "pod_sandbox_id": (1, "string"),
        "config": (2, "ContainerConfig"),
        "sandbox_config": (3, "PodSandboxConfig"),
    },
    "CreateContainerResponse": {"container_id": (1, "string")},
    "StartContainerRequest": {"container_id": (1, "string")},
    "StartContainerResponse": {},
    "ContainerStatusRequest": {"container_id": (1, "string")},
    "ContainerStatus": {"state": (3, "int64"), "exit_code": (7, "int64")},
    "ContainerStatusResponse": {"status": (1, "ContainerStatus")},
    "StopContainerRequest": {"container_id": (1, "string"), "timeout": (2, "int64")},
    "StopContainerResponse": {},
    "RemoveContainerRequest": {"container_id": (1, "string")},
    "RemoveContainerResponse": {},
}
"""By name: the fields, each with its number and its type; an asterisk for many. Enumerations are
numbers on the wire."""


def _classes() -> dict[str, Any]:
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="tests/kubelet.proto", package="tests.kubelet", syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            plain = kind.removesuffix("*")
            scalar = {"string": kinds.TYPE_STRING, "int64": kinds.TYPE_INT64}.get(plain)
            message.field.add(
                name=field,
                number=number,
                label=kinds.LABEL_REPEATED if kind != plain else kinds.LABEL_OPTIONAL,
                type=scalar or kinds.TYPE_MESSAGE,
                type_name=None if scalar else f".tests.kubelet.{plain}",
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tests.kubelet.{name}"))
        for name in _MESSAGES
    }


_CLASSES = _classes()


class CallError(Exception):
    """A call failed."""

    def __init__(self, method: str, status: str, text: str) -> None:
        super().__init__(f"{method}: {status}: {text}")
        self.status, self.text = status, text


class Kubelet:
    """One kubelet, with its two endpoints.

    Args:
        runtime: the socket of the container runtime.
        images: that of the image service.
    """

    def __init__(self, *, runtime: Path, images: Path) -> None:
        self._channels = {
            "RuntimeService": grpc.insecure_channel(f"unix:{quote(str(runtime))}"),
            "ImageService": grpc.insecure_channel(f"unix:{quote(str(images))}"),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for channel in self._channels.values():
            channel.close()

    def call(self, service: str, method: str, *, patience: float = PATIENCE, **fields: Any) -> Any:
        """One call; fields of its request by name, messages as dictionaries.

        Args:
            service: ``RuntimeService`` or ``ImageService``.
            method: of it.
            patience: seconds.
            fields: of the request.

        Raises:
            CallError: it failed.
        """
        ask = self._channels[service].unary_unary(
            f"/runtime.v1.{service}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=_CLASSES[f"{method}Response"].FromString,
        )
        try:
            return ask(_CLASSES[f"{method}Request"](**fields), timeout=patience)
        except grpc.RpcError as error:
            raise CallError(method, error.code().name, error.details() or "") from error

    def pull(self, reference: str) -> str:
        """Gives the ID of the image."""
        return str(self.call("ImageService", "PullImage", image={"image": reference}).image_ref)

    def image(self, reference: str) -> Any:
        """The image of that name or ID; None: there is none."""
        answer = self.call("ImageService", "ImageStatus", image={"image": reference})
        return answer.image if answer.image.id else None

    def images(self) -> list[str]:
        """All tags."""
        found = self.call("ImageService", "ListImages").images
        return sorted(tag for image in found for tag in image.repo_tags)

    def remove(self, reference: str) -> None:
        self.call("ImageService", "RemoveImage", image={"image": reference})

    def pod(self, name: str, logs: Path, *, cgroup: str) -> Pod:
        """Run the sandbox of a pod, in the network of the machine."""
        config = {
            "metadata": {"name": name, "uid": f"uid-{name}", "namespace": "default"},
            "log_directory": str(logs),
            "linux": {
                "cgroup_parent": cgroup,
                "security_context": {"namespace_options": {"network": HOST}},
            },
        }
        id_ = self.call("RuntimeService", "RunPodSandbox", config=config).pod_sandbox_id
        return Pod(self, str(id_), config, logs)


@dataclass(slots=True)
class Pod:
    """A pod whose sandbox runs."""

    kubelet: Kubelet
    id: str
    config: dict[str, Any]
    logs: Path

    def run(self, image: str, *args: str, name: str = "one", command: Sequence[str] = ()) -> Ran:
        """Run a container to its end, and remove it.

        Args:
            image: what it is of: a reference, or an ID.
            args: instead of those of the image.
            name: of the container.
            command: instead of that of the image.
        """
        id_ = self.start(image, *args, name=name, command=command)
        status = self._ended(id_)
        log = (self.logs / f"{name}.log").read_text()
        self._runtime("RemoveContainer", container_id=id_)
        return Ran(int(status.exit_code), _stream(log, "stdout"), _stream(log, "stderr"))

    def start(self, image: str, *args: str, name: str = "one", command: Sequence[str] = ()) -> str:
        """Start a container; gives its ID."""
        host = {"security_context": {"namespace_options": {"network": HOST}}}
        config = {
            "metadata": {"name": name},
            "image": {"image": image},
            "command": list(command),
            "args": list(args),
            "log_path": f"{name}.log",
            "linux": host,
        }
        id_ = self._runtime(
            "CreateContainer", pod_sandbox_id=self.id, config=config, sandbox_config=self.config
        ).container_id
        self._runtime("StartContainer", container_id=id_)
        return str(id_)

    def is_running(self, id_: str) -> bool:
        return bool(self._status(id_).state == 1)

    def end(self) -> None:
        """End all its containers, and forget it."""
        with suppress(CallError):
            self._runtime("StopPodSandbox", pod_sandbox_id=self.id)
        self._runtime("RemovePodSandbox", pod_sandbox_id=self.id)

    def _ended(self, id_: str) -> Any:
        deadline = time.monotonic() + PATIENCE
        while (status := self._status(id_)).state != EXITED:
            assert time.monotonic() < deadline, "the container does not end"
            time.sleep(0.02)
        return status

    def _status(self, id_: str) -> Any:
        return self._runtime("ContainerStatus", container_id=id_).status

    def _runtime(self, method: str, **fields: Any) -> Any:
        return self.kubelet.call("RuntimeService", method, **fields)


def _stream(log: str, name: str) -> str:
    """What a container wrote; each line of a log has a time, a stream and a tag before it."""
    lines = (line.split(" ", 3) for line in log.splitlines())
    return "".join(
        text + ("\n" if tag == "F" else "") for _, stream, tag, text in lines if stream == name
    )
