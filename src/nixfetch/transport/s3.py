"""Caches in S3 buckets and their look-alikes. Knows S3's addresses and codes; knows nothing of Nix.

    s3://bucket[/prefix]?region=&endpoint=&scheme=&profile=&addressing-style=auto|path|virtual

Without an endpoint it is Amazon's of the region, and the bucket is part of the host name, unless
it has a dot, which a wildcard certificate does not cover. With one, the bucket is part of the
path, unless ``addressing-style=virtual``. Source: nix, src/libstore/s3-url.cc.

Credentials are found by boto3's own chain (environment, profile, SSO, web identity, instance
metadata); where it finds none we ask without a signature, as public buckets want it. botocore
neither retries (whoever calls us does) nor checks checksums (look-alikes send wrong ones, and
everything is hashed further up).
"""

from __future__ import annotations

from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Lock
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, cast
from urllib.parse import unquote, urlsplit

from botocore import exceptions
from urllib3.exceptions import HTTPError  # botocore lets some of them pass while a body is read

from nixfetch.errors import TransportError, facts
from nixfetch.transport import answers, causes
from nixfetch.transport.base import AuthenticationError, Body, Pace
from nixfetch.transport.options import user_agent
from nixfetch.transport.urls import UrlError, checked_text, parameters, redacted, scheme, segments
from nixfetch.transport.waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import boto3
    from botocore.response import StreamingBody

    from nixfetch.transport.base import Range
    from nixfetch.transport.options import TransportOptions

_FIRST_ERROR = 300  # status; from here on the body is an error's
_ERROR_SIZE = 64 * 1024  # bytes; S3 says what is wrong in less than one KiB
CHUNK_SIZE = 256 * 1024  # bytes; what `Body.chunks` allows
REGION = "us-east-1"  # Nix's default

PARAMETERS = frozenset({"region", "endpoint", "scheme", "profile", "addressing-style"})

# What S3's codes are in plain HTTP, where the status that comes with them says something else.
# Source: nix, src/libstore/s3-binary-cache-store.cc and filetransfer.cc.
_STATUS = {
    "NoSuchKey": 404,
    "AccessDenied": 403,
    "InvalidRange": 416,
    "ExpiredToken": 401,
    "InvalidAccessKeyId": 401,
    "InvalidToken": 401,
    "RequestTimeTooSkewed": 401,
    "SignatureDoesNotMatch": 401,
    "TokenRefreshRequired": 401,
    "IncompleteBody": 503,
    "InternalError": 500,
    "RequestExpired": 503,
    "RequestTimeout": 408,
    "ServiceUnavailable": 503,
    "SlowDown": 503,
}
_THROTTLING = ("Throttling", 429)  # the code begins with it
_NO_CREDENTIALS = (
    exceptions.CredentialRetrievalError,
    exceptions.NoCredentialsError,
    exceptions.PartialCredentialsError,
    exceptions.SSOError,
    exceptions.TokenRetrievalError,
)
_CONNECTION = (
    HTTPError,
    exceptions.ConnectionError,
    exceptions.HTTPClientError,
    exceptions.IncompleteReadError,
)
_CHANGED = 412  # the object is no longer the one that If-Match names


class ObjectChangedError(TransportError):
    """The object is not the version that was asked for."""


class S3Client(Protocol):
    """The two calls of boto3's client that we make."""

    def get_object(self, **request: str) -> Mapping[str, Any]: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Location:
    """What an ``s3://`` URL says."""

    bucket: str
    prefix: str = ""
    """Without slashes at its ends."""
    region: str = REGION
    endpoint: str | None = None
    """An http or https URL; None: Amazon's."""
    profile: str | None = None
    """Of the AWS configuration files; None: the environment's choice."""
    addressing: Literal["virtual", "path"] = "virtual"
    """``virtual``: the bucket is in the host name; ``path``: in the path."""
    use_ssl: bool = True

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read an ``s3://`` URL.

        Raises:
            UrlError: a bucket, parameter or value is missing or unknown.
        """
        try:
            parts = urlsplit(checked_text(url))
        except ValueError:
            raise UrlError("malformed URL", url=redacted(url)) from None
        bucket = parts.netloc
        if scheme(url) != "s3" or not bucket or set(bucket) & set("@:[]%") or parts.fragment:
            hint = "s3://bucket[/prefix]?region=&endpoint=…; credentials come from AWS's own files"
            raise UrlError("malformed S3 URL", url=redacted(url), hint=hint)
        fields = parameters(parts.query, PARAMETERS)
        protocol = _choice(fields, "scheme", "https", "http")
        endpoint = _endpoint(fields.get("endpoint", ""), protocol)
        style = _choice(fields, "addressing-style", "auto", "path", "virtual")
        in_path = style == "path" or (style == "auto" and bool(endpoint or "." in bucket))
        return cls(
            bucket=bucket,
            prefix=unquote(parts.path).strip("/"),
            region=fields.get("region") or REGION,
            endpoint=endpoint,
            profile=fields.get("profile") or None,
            addressing="path" if in_path else "virtual",
            use_ssl=protocol == "https",
        )


def _choice(fields: Mapping[str, str], name: str, default: str, *others: str) -> str:
    value = fields.get(name) or default
    if value not in {default, *others}:
        known = ", ".join((default, *others))
        raise UrlError("unknown value in the URL", parameter=name, hint=f"known here: {known}")
    return value


def _endpoint(text: str, protocol: str) -> str | None:
    if not text:
        return None
    url = text if "://" in text else f"{protocol}://{text}"
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises when it is no number
    except ValueError:
        raise UrlError("malformed endpoint in the URL") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username is not None:
        raise UrlError("malformed endpoint in the URL", hint="HOST[:PORT] or http(s)://HOST[:PORT]")
    return url.rstrip("/")


def connect(
    url: str, *, options: TransportOptions, session: boto3.Session | None = None
) -> S3Transport:
    """The transport of an ``s3://`` URL.

    Args:
        url: see `S3Location`.
        options: as for every transport.
        session: where credentials come from; None: a new one of the URL's profile.

    Raises:
        UrlError: `url` says nothing usable.
        AuthenticationError: the profile is unknown, or its credentials cannot be had.
    """
    import boto3

    location = S3Location.parse(url)
    with facts(url=f"s3://{location.bucket}"):
        try:
            session = session or boto3.Session(profile_name=location.profile)
            make = partial(_client, location, session, options)
            client = make(options.pace)
        except exceptions.ProfileNotFound as error:
            raise AuthenticationError("no such AWS profile", profile=location.profile) from error
        except exceptions.BotoCoreError as error:
            raise _failure(error) from error
        except ValueError as error:  # botocore's word for an endpoint or region it cannot use
            raise UrlError("unusable endpoint or region", reason=causes.reason(error)) from error
    return S3Transport(client, location.bucket, location.prefix, pace=options.pace, paced=make)


def _client(
    location: S3Location, session: boto3.Session, options: TransportOptions, pace: Pace
) -> S3Client:
    from botocore import UNSIGNED
    from botocore.config import Config

    known = session.get_credentials() is not None
    config = Config(
        signature_version="s3v4" if known else UNSIGNED,
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
    client = session.client(
        "s3",
        region_name=location.region,
        endpoint_url=location.endpoint,
        use_ssl=location.use_ssl,
        verify=options.ca_file,
        config=config,
    )
    # botocore reads the body of an error whole, however long; no setting bounds that.
    endpoint = cast("Any", client)._endpoint  # noqa: SLF001 - see above
    endpoint.http_session = _CappedSession(endpoint.http_session)
    return cast("S3Client", client)  # whose stubs want each request field typed


class _CappedSession:
    """botocore's HTTP session, which reads no more of an error than an error needs."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def send(self, request: Any) -> Any:
        response = self._session.send(request)
        if response.status_code >= _FIRST_ERROR:
            response._content = response.raw.read(  # noqa: SLF001 - what it would fill itself
                _ERROR_SIZE, decode_content=False
            )
            response.raw.close()
        return response

    def close(self) -> None:
        self._session.close()


class S3Transport:
    """Reads from one bucket, below one prefix.

    Args:
        client: boto3's; it becomes the transport's to close.
        bucket: its name.
        prefix: of all keys, without the slash at its end.
        pace: which `client` has.
        paced: makes a client of another pace: botocore knows no timeouts of one request.
        now: seconds since 1970, to judge a Retry-After date by.
    """

    def __init__(
        self,
        client: S3Client,
        bucket: str,
        prefix: str = "",
        *,
        pace: Pace | None = None,
        paced: Callable[[Pace], S3Client] | None = None,
        now: Callable[[], float] = time,
    ) -> None:
        self._pace = pace or Pace()
        self._clients = {self._pace: client}
        self._paced = paced
        self._lock = Lock()
        self._bucket = bucket
        self._prefix = prefix.strip("/")
        self._now = now

    @property
    def url(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    def _client(self, pace: Pace) -> S3Client:
        with self._lock:
            if pace not in self._clients:
                if self._paced is None:
                    return self._clients[self._pace]
                self._clients[pace] = self._paced(pace)
            return self._clients[pace]

    @contextmanager
    def open(
        self, name: str, wanted: Range | None = None, *, pace: Pace | None = None
    ) -> Iterator[Body]:
        shown = redacted(name) if scheme(name) else f"{self.url}/{redacted(name)}"
        pace = pace or self._pace
        with facts(url=shown):
            answer = self._answer(self._client(pace), self._key(name), wanted)
        # closing(): `with stream` would give botocore's raw stream instead.
        with closing(answer["Body"]) as stream:
            with facts(url=shown):
                body = _body(answer, stream, wanted, shown, Waiting(pace))
            yield body

    def _key(self, name: str) -> str:
        try:
            path = b"/".join(segments(name)).decode()
        except UnicodeDecodeError:
            raise UrlError("name is not UTF-8, as keys are") from None
        return f"{self._prefix}/{path}" if self._prefix else path

    def _answer(self, client: S3Client, key: str, wanted: Range | None) -> Mapping[str, Any]:
        """The object, or the part of it; from its start where it has changed meanwhile.

        S3 knows no If-Range. If-Match is near enough, with a second request for the rare case;
        a look-alike that ignores it is found out by the ETag of its answer.
        """
        if wanted is None or wanted.whole:
            return self._get(client, key)
        request = {"Range": answers.range_field(wanted)}
        if wanted.validator is not None:
            request["IfMatch"] = wanted.validator
        try:
            answer = self._get(client, key, **request)
        except ObjectChangedError:
            return self._get(client, key)
        partial = answer["ResponseMetadata"]["HTTPStatusCode"] == answers.PARTIAL
        if not partial or wanted.validator in {None, answer.get("ETag")}:
            return answer
        answer["Body"].close()
        return self._get(client, key)

    def _get(self, client: S3Client, key: str, **request: str) -> Mapping[str, Any]:
        try:
            return client.get_object(Bucket=self._bucket, Key=key, **request)
        except exceptions.ClientError as error:
            raise _refusal(error, self._now) from error
        except exceptions.BotoCoreError as error:
            raise _failure(error) from error
        except HTTPError as error:  # while an error's own body was read
            raise _failure(error) from error
        except (ValueError, TypeError, OverflowError) as error:
            # What botocore's parsers say to header fields that are not what they should be.
            raise answers.BrokenAnswerError(
                "malformed answer", retryable=True, reason=type(error).__name__
            ) from error


def _body(
    answer: Mapping[str, Any],
    stream: StreamingBody,
    wanted: Range | None,
    shown: str,
    waiting: Waiting,
) -> Body:
    start, size = 0, answer.get("ContentLength")
    if answer["ResponseMetadata"]["HTTPStatusCode"] == answers.PARTIAL:
        if wanted is None:
            raise answers.BrokenAnswerError("partial answer that was not asked for", retryable=True)
        size = answers.content_range(answer.get("ContentRange"), wanted)
        start = wanted.start
    return Body(
        chunks=_chunks(stream, size, shown, waiting),
        size=size,
        encoding=answers.encoding(answer.get("ContentEncoding")),
        start=start,
        validator=answers.strong(answer.get("ETag")),
    )


def _chunks(
    stream: StreamingBody, size: int | None, shown: str, waiting: Waiting
) -> Iterator[bytes]:
    # What there is, and not until the piece is full: a remote that drips is to be noticed.
    read = cast("Any", stream)._raw_stream.read1  # noqa: SLF001 - botocore's has no such thing
    received = 0
    while True:
        began = monotonic()
        with facts(url=shown, received=received, expected=size):
            try:
                chunk = read(CHUNK_SIZE)
            except (exceptions.BotoCoreError, HTTPError) as error:
                raise _failure(error) from error
            waiting.count(monotonic() - began, len(chunk))
        if not chunk:
            break
        received += len(chunk)
        yield chunk
    if size is not None and received != size:
        raise TransportError(
            "body ended early", retryable=True, url=shown, received=received, expected=size
        )


def _refusal(error: exceptions.ClientError, now: Callable[[], float]) -> TransportError:
    """What an answer other than the object means."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    metadata: Mapping[str, Any] = error.response.get("ResponseMetadata", {})
    status = int(metadata.get("HTTPStatusCode", 0))
    if code == "NoSuchBucket":
        hint = "look at the bucket, the region and the endpoint in the URL"
        return TransportError("no such bucket", code=code, status=status, hint=hint)
    if status == _CHANGED:
        return ObjectChangedError("object has changed", code=code, status=status)
    prefix, throttled = _THROTTLING
    plain = throttled if code.startswith(prefix) else _STATUS.get(code, status)
    refusal = answers.refusal(plain, metadata.get("HTTPHeaders", {}), now=now)
    refusal.facts |= {"code": code, "status": status}
    if isinstance(refusal, AuthenticationError):
        refusal.hint = "look at the AWS credentials and at this machine's clock"
    return refusal


def _failure(error: exceptions.BotoCoreError | HTTPError) -> TransportError:
    """What a request that got no answer, or a body that broke off, means."""
    reason = causes.reason(error)
    if isinstance(error, _NO_CREDENTIALS):
        return AuthenticationError("no usable AWS credentials", reason=reason)
    if causes.is_certificate(error):
        hint = causes.CERTIFICATE_HINT
        return TransportError("cannot connect", reason=reason, hint=hint)
    if isinstance(error, _CONNECTION):
        return TransportError("connection failed", retryable=True, reason=reason)
    return TransportError("request failed", reason=reason)
