"""grpc.health.v1: whether the daemon answers. Check alone; who calls Watch is told so."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from snapshotter._pb.health_pb2 import HealthCheckRequest, HealthCheckResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

SERVICE = "grpc.health.v1.Health"


def handler(
    services: Collection[str], serving: Callable[[], bool]
) -> grpc.GenericRpcHandler[HealthCheckRequest, HealthCheckResponse]:
    """The service, for a server.

    Args:
        services: the names that may be asked for; an empty one, for all of it, always may.
        serving: whether calls are answered.
    """

    def check(request: HealthCheckRequest, context: grpc.ServicerContext) -> HealthCheckResponse:
        if request.service and request.service not in services:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        status = HealthCheckResponse.SERVING if serving() else HealthCheckResponse.NOT_SERVING
        return HealthCheckResponse(status=status)

    method = grpc.unary_unary_rpc_method_handler(
        check,
        request_deserializer=HealthCheckRequest.FromString,
        response_serializer=HealthCheckResponse.SerializeToString,
    )
    return grpc.method_handlers_generic_handler(SERVICE, {"Check": method})
