"""boto3's session of a bucket: its credentials, and clients made with them.

Credentials are found by boto3's own chain (environment, profile, SSO, web identity, containers,
instance metadata), once, when something is asked for the first time, and renewed by it before they
end. Where it finds none we ask without a signature, as public buckets want it. Where a file has
others by the time they are refused, those are taken.
"""

from __future__ import annotations

import math
from contextlib import closing
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, cast

from botocore import exceptions
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from nixfetch.transport import causes
from nixfetch.transport.options import user_agent
from nixfetch.transport.s3 import heads, refusals
from nixfetch.transport.urls import UrlError
from nixfetch.transport.waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import boto3
    from botocore.credentials import Credentials

    from nixfetch.transport.base import Pace
    from nixfetch.transport.options import TransportOptions
    from nixfetch.transport.s3.location import S3Location

_FIRST_ERROR = 300  # status; from here on the body is an error's
_ERROR_SIZE = 64 * 1024  # bytes; S3 says what is wrong in less than one KiB
_AGAIN = 5.0  # seconds until it is worth while to look for other credentials again
_IN_A_FILE = frozenset({"shared-credentials-file", "config-file", "custom-process"})
"""Providers of credentials that may have others, and that botocore does not ask again."""
_CREDENTIALS = (
    exceptions.BotoCoreError,
    exceptions.ClientError,
    HTTPError,
    ResponseParserError,
    OSError,
    ValueError,
    KeyError,
    TypeError,
)
"""What botocore's providers raise: they parse files and what programs and services say."""


class S3Client(Protocol):
    """The two calls of boto3's client that we make."""

    def get_object(self, **request: str) -> Mapping[str, Any]: ...

    def close(self) -> None: ...


class Access(Protocol):
    """How `S3Transport` gets at a bucket; threads may share it."""

    def client(self, pace: Pace) -> S3Client:
        """A client whose credentials last.

        Raises:
            AwsConfigError: there is no such profile, or the configuration is malformed.
            AuthenticationError: there are credentials, and they cannot be had.
            TransportError: whoever gives them does not answer.
            UrlError: no client can be made of the region or endpoint.
        """
        ...

    def provider(self) -> str | None:
        """Who gave the credentials, in botocore's words such as ``env``; None: there are none.

        Raises:
            As `client`.
        """
        ...

    def renew(self) -> bool:
        """Look for other credentials, since these were refused; whether there are."""
        ...

    def close(self) -> None: ...


class BotoAccess:
    """By boto3.

    Args:
        location: of the bucket.
        options: as for every transport.
        session: makes a session, once one is needed; called again to look for other credentials.
        clock: in seconds, monotonic.
    """

    def __init__(
        self,
        location: S3Location,
        options: TransportOptions,
        session: Callable[[], boto3.Session],
        *,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._location = location
        self._options = options
        self._make_session = session
        self._session: boto3.Session | None = None
        self._credentials: Credentials | None = None
        self._resolved = False
        self._clients: dict[tuple[float | None, float | None], S3Client] = {}
        self._retired: list[S3Client] = []
        self._clock = clock
        self._looked = -math.inf
        self._renewed = False
        self._lock = Lock()

    def close(self) -> None:
        with self._lock:
            for client in (*self._clients.values(), *self._retired):
                client.close()

    def provider(self) -> str | None:
        credentials = self._lasting()
        return None if credentials is None else credentials.method

    def client(self, pace: Pace) -> S3Client:
        key = (pace.connect, pace.stall)  # botocore knows no timeouts of one request
        # Not only botocore asks: its own errors would be like those of the bucket.
        signed = self._lasting() is not None
        with self._lock:
            if key not in self._clients:
                self._clients[key] = self._made(pace, signed=signed)
            return self._clients[key]

    def renew(self) -> bool:
        with self._lock:
            now = self._clock()
            if now - self._looked >= _AGAIN:  # else many threads ask for the same reason
                self._looked, self._renewed = now, self._has_others()
            return self._renewed

    def _has_others(self) -> bool:
        before = self._credentials
        if before is None or before.method not in _IN_A_FILE:
            return False
        try:
            session = self._make_session()
            fresh = session.get_credentials()
            if fresh is None or fresh.get_frozen_credentials() == before.get_frozen_credentials():
                return False
        except _CREDENTIALS:
            return False
        self._session, self._credentials = session, fresh
        self._retired += self._clients.values()
        self._clients = {}
        return True

    def _lasting(self) -> Credentials | None:
        """The credentials, renewed where they are about to end."""
        provider = None
        try:
            with self._lock:
                if not self._resolved:
                    self._session = self._make_session()
                    self._credentials = self._session.get_credentials()
                    self._resolved = True
                credentials = self._credentials
            if credentials is not None:
                provider = credentials.method
                # Without our lock: one thread renews, and the old ones do for the others.
                credentials.get_frozen_credentials()
        except _CREDENTIALS as error:
            profile = self._location.profile
            raise refusals.no_credentials(error, provider=provider, profile=profile) from error
        return credentials

    def _made(self, pace: Pace, *, signed: bool) -> S3Client:
        from botocore import UNSIGNED
        from botocore.config import Config

        location, options = self._location, self._options
        assert self._session is not None
        config = Config(
            signature_version="s3v4" if signed else UNSIGNED,
            s3={"addressing_style": location.addressing},
            retries={"total_max_attempts": 1, "mode": "standard"},
            max_pool_connections=options.connections,
            connect_timeout=pace.connect,
            read_timeout=pace.stall,
            user_agent_extra=user_agent(options),
            proxies=None if options.trust_env else {},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        try:
            client = self._session.client(
                "s3",
                region_name=location.region,
                endpoint_url=location.endpoint,
                use_ssl=location.use_ssl,
                verify=options.ca_file,
                config=config,
            )
        except exceptions.BotoCoreError as error:
            raise refusals.failure(error) from error
        except ValueError as error:  # botocore's word for an endpoint or region it cannot use
            raise UrlError("unusable endpoint or region", reason=causes.reason(error)) from error
        # Else botocore asks where a bucket is whose redirects do not say it, and so on for ever.
        events = cast("Any", client).meta.events
        events.register("before-call.s3.HeadBucket", _not_asked)
        # botocore reads the body of an error whole, however long; no setting bounds that.
        endpoint = cast("Any", client)._endpoint  # noqa: SLF001 - see above
        heads.measure(endpoint.http_session, pace)
        endpoint.http_session = _CappedSession(endpoint.http_session, pace)
        return cast("S3Client", client)  # whose stubs want each request field typed


class _Unasked:
    status_code = 200


def _not_asked(**_: object) -> tuple[_Unasked, dict[str, Any]]:
    """An answer that says nothing, in the place of a request."""
    return _Unasked(), {"ResponseMetadata": {"HTTPHeaders": {}}}


class _CappedSession:
    """botocore's HTTP session, which reads no more of an error than an error needs."""

    def __init__(self, session: Any, pace: Pace) -> None:
        self._session = session
        self._pace = pace

    def send(self, request: Any) -> Any:
        response = self._session.send(request)
        if response.status_code >= _FIRST_ERROR:
            with closing(response.raw):
                response._content = self._read(response.raw)  # noqa: SLF001 - it would fill it
        return response

    def _read(self, raw: Any) -> bytes:
        waiting = Waiting(self._pace)
        content = bytearray()
        while len(content) < _ERROR_SIZE:
            began = monotonic()
            piece = raw.read1(_ERROR_SIZE - len(content), decode_content=False)
            waiting.count(monotonic() - began, len(piece))
            if not piece:
                break
            content += piece
        return bytes(content)

    def close(self) -> None:
        self._session.close()
