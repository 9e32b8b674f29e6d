"""S3 by itself: URLs, codes and what is asked for; the contract suite has the real thing."""

from __future__ import annotations

import io
import logging
import socket
import tracemalloc
from contextlib import closing
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
import botocore.session
import pytest
from botocore import exceptions
from botocore.response import StreamingBody

from nixfetch.errors import TransportError
from nixfetch.transport import (
    AuthenticationError,
    ForbiddenError,
    NotFoundError,
    Pace,
    Range,
    TransportOptions,
    UnsatisfiableRangeError,
    UrlError,
)
from nixfetch.transport.s3 import S3Location, S3Transport, connect
from servers import Answer, LoopbackServer, certified, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

OPTIONS = TransportOptions(trust_env=False, pace=Pace(connect=5, stall=5))
AMAZON: dict[str, Any] = {"bucket": "cache"}
MINIO: dict[str, Any] = {"bucket": "cache", "addressing": "path"}


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("s3://cache", AMAZON),
        ("S3://cache/", AMAZON),
        ("s3://cache/a/b%20c/", AMAZON | {"prefix": "a/b c"}),
        (
            "s3://cache?region=eu-west-1&profile=ci",
            AMAZON | {"region": "eu-west-1", "profile": "ci"},
        ),
        ("s3://cache?region=&profile=&endpoint=&scheme=", AMAZON),
        ("s3://cache?scheme=http", AMAZON | {"use_ssl": False}),
        ("s3://cache?addressing-style=auto", AMAZON),
        ("s3://cache?addressing-style=path", AMAZON | {"addressing": "path"}),
        ("s3://a.b", {"bucket": "a.b", "addressing": "path"}),
        ("s3://a.b?addressing-style=virtual", {"bucket": "a.b"}),
        ("s3://cache?endpoint=minio:9000", MINIO | {"endpoint": "https://minio:9000"}),
        (
            "s3://cache?endpoint=minio&scheme=http",
            MINIO | {"endpoint": "http://minio", "use_ssl": False},
        ),
        ("s3://cache?endpoint=http://minio:9000/", MINIO | {"endpoint": "http://minio:9000"}),
        ("s3://cache?endpoint=http%3A%2F%2Fminio", MINIO | {"endpoint": "http://minio"}),
        (
            "s3://cache?endpoint=https://minio&addressing-style=virtual",
            AMAZON | {"endpoint": "https://minio"},
        ),
        ("s3://cache?requester-pays=true", AMAZON | {"requester_pays": True}),
        ("s3://cache?requester-pays=", AMAZON),
    ],
)
def test_what_a_url_says(url: str, found: Mapping[str, Any]) -> None:
    assert S3Location.parse(url) == S3Location(**found)


@pytest.mark.parametrize(
    "url",
    [
        "s3://",
        "s3:///prefix",
        "s3:bucket",
        "s3://bucket:80",
        "s3://user:hush@bucket",
        "s3://bucket#x",
        "s3://[bucket",
        "s3://bucket?endpiont=x",
        "s3://bucket?addressing-style=hosted",
        "s3://bucket?scheme=ftp",
        "s3://bucket?requester-pays=yes",
        "s3://bucket?endpoint=ftp://x",
        "s3://bucket?endpoint=http://",
        "s3://bucket?endpoint=host:port",
        "s3://bucket?endpoint=http://user:hush@host",
        "https://bucket",
    ],
)
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(UrlError) as caught:
        S3Location.parse(url)
    assert "hush" not in str(caught.value)


@pytest.fixture(scope="module")
def session() -> boto3.Session:
    return boto3.Session(aws_access_key_id="key", aws_secret_access_key="secret")


@pytest.fixture(scope="module")
def nobody() -> boto3.Session:
    """A session that finds no credentials."""
    bare = botocore.session.Session()
    bare.register_component("credential_provider", botocore.credentials.CredentialResolver([]))
    return boto3.Session(botocore_session=bare)


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("s3://cache/p", "https://cache.s3.amazonaws.com/p/x"),
        ("s3://cache/p?region=eu-west-1", "https://cache.s3.eu-west-1.amazonaws.com/p/x"),
        ("s3://a.b?region=eu-west-1", "https://s3.eu-west-1.amazonaws.com/a.b/x"),
        ("s3://cache?endpoint=minio:9000", "https://minio:9000/cache/x"),
        ("s3://cache?endpoint=minio:9000&scheme=http", "http://minio:9000/cache/x"),
        (
            "s3://cache?endpoint=http://minio&addressing-style=virtual",
            "http://cache.minio/x",
        ),
    ],
)
def test_what_is_asked_for(session: boto3.Session, url: str, asked: str) -> None:
    with closing(connect(url, options=OPTIONS, session=session)) as transport:
        client: Any = transport._access.client(OPTIONS.pace)
        signed = client.generate_presigned_url(
            "get_object", {"Bucket": transport._bucket, "Key": transport._key("x")}
        )
    assert urlsplit(signed)._replace(query="").geturl() == asked


def test_without_credentials_nothing_is_signed(
    session: boto3.Session, nobody: boto3.Session
) -> None:
    with LoopbackServer({"cache/x": b"data"}) as server:
        for who in (session, nobody):
            url = f"s3://cache?endpoint={server.url}"
            with closing(connect(url, options=OPTIONS, session=who)) as transport:
                assert read(transport, "x") == b"data"
    signed, anonymous = (request.headers for request in server.requests)
    assert "authorization" in signed
    assert "authorization" not in anonymous
    assert "nixfetch/" in signed["user-agent"]


def test_an_unknown_profile_is_named() -> None:
    """Not before something is asked for: another cache may be good."""
    with (
        closing(connect("s3://cache?profile=no-such-profile", options=OPTIONS)) as transport,
        pytest.raises(AuthenticationError) as caught,
    ):
        read(transport, "x")
    assert caught.value.facts == {"url": "s3://cache/x", "profile": "no-such-profile"}
    assert caught.value.exit_code == 78
    assert caught.value.hint


def test_an_endpoint_that_is_down_is_named(session: boto3.Session) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
    url = f"s3://cache?endpoint={endpoint}"
    with (
        closing(connect(url, options=OPTIONS, session=session)) as transport,
        pytest.raises(TransportError) as caught,
    ):
        read(transport, "x")
    assert caught.value.facts["endpoint"] == endpoint


def test_400_to_what_was_not_signed_says_so(nobody: boto3.Session, session: boto3.Session) -> None:
    body = b"<Error><Code>UnsupportedAlgorithm</Code><Message>x</Message></Error>"
    with LoopbackServer({"cache/x": b"data"}) as server:
        server.faults["cache/x"] = Answer(body, 400)
        for who, expected in ((nobody, True), (session, False)):
            url = f"s3://cache?endpoint={server.url}"
            with (
                closing(connect(url, options=OPTIONS, session=who)) as transport,
                pytest.raises(TransportError) as caught,
            ):
                read(transport, "x")
            assert caught.value.facts["code"] == "UnsupportedAlgorithm"
            assert ("nothing was signed" in (caught.value.hint or "")) is expected


def test_an_unusable_region_is_an_error(session: boto3.Session) -> None:
    url = "s3://cache?region=not a region"
    with (
        closing(connect(url, options=OPTIONS, session=session)) as transport,
        pytest.raises(TransportError) as caught,
    ):
        read(transport, "x")
    assert not caught.value.retryable


class Bucket:
    """A client with canned answers, and who gives it."""

    def __init__(self, *answers: Mapping[str, Any] | Exception) -> None:
        self._answers = list(answers)
        self.requests: list[dict[str, str]] = []

    def client(self, pace: Pace) -> Bucket:
        return self

    def provider(self) -> str | None:
        return "env"

    def renew(self) -> bool:
        return False

    def get_object(self, **request: str) -> Mapping[str, Any]:
        self.requests.append(request)
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        pass


def found(body: bytes, status: int = 200, **fields: object) -> dict[str, Any]:
    return {
        "Body": StreamingBody(io.BytesIO(body), len(body)),
        "ContentLength": len(body),
        "ResponseMetadata": {"HTTPStatusCode": status},
        **fields,
    }


def refused(code: str, status: int, **headers: str) -> exceptions.ClientError:
    answer: Any = {
        "Error": {"Code": code},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers},
    }
    return exceptions.ClientError(answer, "GetObject")


def read(transport: S3Transport, name: str, wanted: Range | None = None) -> bytes:
    with transport.open(name, wanted) as body:
        return b"".join(body.chunks)


def failure(answer: Mapping[str, Any] | Exception, wanted: Range | None = None) -> TransportError:
    with pytest.raises(TransportError) as caught:
        read(S3Transport(Bucket(answer), "cache", "p", now=lambda: 0.0), "x", wanted)
    assert caught.value.facts["url"] == "s3://cache/p/x"
    return caught.value


@pytest.mark.parametrize(
    ("code", "status", "kind", "retryable"),
    [
        ("NoSuchKey", 404, NotFoundError, False),
        ("404", 404, NotFoundError, False),
        ("AccessDenied", 403, ForbiddenError, False),
        ("AllAccessDisabled", 403, ForbiddenError, False),
        ("403", 403, ForbiddenError, False),
        ("NoSuchBucket", 404, TransportError, False),
        ("ExpiredToken", 400, AuthenticationError, False),
        ("InvalidAccessKeyId", 403, AuthenticationError, False),
        ("SignatureDoesNotMatch", 403, AuthenticationError, False),
        ("RequestTimeTooSkewed", 403, AuthenticationError, False),
        ("Whatever", 401, AuthenticationError, False),
        ("InternalError", 500, TransportError, True),
        ("SlowDown", 503, TransportError, True),
        ("RequestTimeout", 400, TransportError, True),
        ("ServiceUnavailable", 503, TransportError, True),
        ("ThrottlingException", 400, TransportError, True),
        ("IncompleteBody", 400, TransportError, True),
        ("RequestExpired", 400, TransportError, True),
        ("Whatever", 502, TransportError, True),
        ("InvalidRange", 416, UnsatisfiableRangeError, False),
        ("PermanentRedirect", 301, TransportError, False),
        ("InvalidRequest", 400, TransportError, False),
    ],
)
def test_what_a_code_means(
    code: str, status: int, kind: type[TransportError], *, retryable: bool
) -> None:
    error = failure(refused(code, status))
    assert (type(error), error.retryable) == (kind, retryable)
    assert (error.facts["code"], error.facts["status"]) == (code, status)


def test_retry_after_reaches_the_caller() -> None:
    assert failure(refused("SlowDown", 503, **{"retry-after": "7"})).retry_after == 7.0


@pytest.mark.parametrize(
    ("raised", "kind", "retryable"),
    [
        (exceptions.EndpointConnectionError(endpoint_url="u"), TransportError, True),
        (exceptions.ConnectTimeoutError(endpoint_url="u"), TransportError, True),
        (exceptions.ReadTimeoutError(endpoint_url="u"), TransportError, True),
        (exceptions.ConnectionClosedError(endpoint_url="u"), TransportError, True),
        (exceptions.ParamValidationError(report="r"), TransportError, False),
    ],
)
def test_what_botocore_says(
    raised: exceptions.BotoCoreError, kind: type[TransportError], *, retryable: bool
) -> None:
    error = failure(raised)
    assert (type(error), error.retryable) == (kind, retryable)
    assert error.__cause__ is raised


def test_keys_are_decoded_names() -> None:
    bucket = Bucket(found(b""), found(b""))
    transport = S3Transport(bucket, "cache", "/p/")
    read(transport, "nar/a+b=c%2520%20d?hash=1")
    read(S3Transport(bucket, "cache"), "%C3%BC")
    assert [request["Key"] for request in bucket.requests] == ["p/nar/a+b=c%20 d", "ü"]
    assert transport.url == "s3://cache/p"
    with pytest.raises(UrlError, match="UTF-8"):
        read(transport, "%ff")


def test_how_a_range_is_asked_for() -> None:
    part = found(b"56", 206, ContentRange="bytes 5-6/7", ETag='"a"')
    bucket = Bucket(part)
    wanted = Range(start=5, stop=10, validator='"a"')
    with S3Transport(bucket, "cache").open("x", wanted) as body:
        assert (body.start, body.size, body.validator) == (5, 2, '"a"')
    [request] = bucket.requests
    assert (request["Range"], request["IfMatch"]) == ("bytes=5-9", '"a"')


@pytest.mark.parametrize(
    "first",
    [
        refused("PreconditionFailed", 412),
        found(b"56", 206, ContentRange="bytes 5-6/7", ETag='"b"'),  # If-Match was ignored
    ],
)
def test_a_changed_object_is_read_from_its_start(first: Mapping[str, Any] | Exception) -> None:
    bucket = Bucket(first, found(b"changed", ETag='"b"'))
    with S3Transport(bucket, "cache").open("x", Range(start=5, validator='"a"')) as body:
        assert (body.start, body.validator) == (0, '"b"')
        assert b"".join(body.chunks) == b"changed"
    assert bucket.requests[1] == {"Bucket": "cache", "Key": "x"}


def test_a_remote_without_ranges_gives_the_whole_object() -> None:
    bucket = Bucket(found(b"whole"))
    with S3Transport(bucket, "cache").open("x", Range(start=3)) as body:
        assert (body.start, body.size) == (0, 5)


@pytest.mark.parametrize("wanted", [None, Range(start=4)])
def test_a_wrong_part_is_retryable(wanted: Range | None) -> None:
    error = failure(found(b"56", 206, ContentRange="bytes 5-6/7"), wanted)
    assert error.retryable


def test_a_changed_object_in_whole_is_not_asked_for_twice() -> None:
    bucket = Bucket(found(b"changed", ETag='"b"'))
    with S3Transport(bucket, "cache").open("x", Range(start=5, validator='"a"')) as body:
        assert b"".join(body.chunks) == b"changed"


def test_encodings_are_named() -> None:
    bucket = Bucket(found(b"raw", ContentEncoding="aws-chunked,br"))
    with S3Transport(bucket, "cache").open("x") as body:
        assert body.encoding == "br"
    assert failure(found(b"raw", ContentEncoding="exi")).facts["encoding"] == "exi"


def test_a_short_body_without_complaint_is_noticed() -> None:
    answer = found(b"12")
    answer["ContentLength"] = 4
    error = failure(answer)
    assert error.retryable
    assert (error.facts["received"], error.facts["expected"]) == (2, 4)


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer({"cache/x": b"data"}) as server:
        yield server


@pytest.mark.parametrize(
    ("answer", "retryable"),
    [
        (Answer(b"", 503), True),
        (Answer(b"busy", 429), True),
        (Answer(reset=True), True),
        (Answer(b"data", delay=10), True),
        (Answer(b"data", pause=10, piece=1), True),
        (Answer(b"data", cut=2, reset=True), True),
        (Answer(b"gone", 404), False),
    ],
)
def test_each_request_is_made_once(
    session: boto3.Session, server: LoopbackServer, answer: Answer, *, retryable: bool
) -> None:
    server.faults["cache/x"] = answer
    options = TransportOptions(trust_env=False, pace=Pace(stall=1))
    url = f"s3://cache?endpoint={server.url}"
    with (
        closing(connect(url, options=options, session=session)) as transport,
        pytest.raises(TransportError) as caught,
    ):
        read(transport, "x")
    assert caught.value.retryable is retryable
    assert caught.value.facts["url"] == "s3://cache/x"
    wait_until(lambda: server.asked("cache/x") > 0, seconds=30)
    assert server.asked("cache/x") == 1


def test_wrong_checksums_of_look_alikes_do_no_harm(
    session: boto3.Session, server: LoopbackServer
) -> None:
    server.objects["cache/x"] = Answer(b"data", headers={"x-amz-checksum-crc32": "AAAAAA=="})
    url = f"s3://cache?endpoint={server.url}"
    with closing(connect(url, options=OPTIONS, session=session)) as transport:
        assert read(transport, "x") == b"data"


def test_certificates(session: boto3.Session, tmp_path: Path) -> None:
    context, ca_file = certified(tmp_path)
    with LoopbackServer({"cache/x": b"data"}, tls=context) as server:
        url = f"s3://cache?endpoint={server.url}"
        believing = TransportOptions(trust_env=False, ca_file=str(ca_file))
        with closing(connect(url, options=believing, session=session)) as transport:
            assert read(transport, "x") == b"data"
        with (
            closing(connect(url, options=OPTIONS, session=session)) as transport,
            pytest.raises(TransportError) as caught,
        ):
            read(transport, "x")
    assert not caught.value.retryable
    assert "certificate verify failed" in str(caught.value.facts["reason"])


@pytest.mark.parametrize("status", [404, 500])
def test_the_body_of_an_error_is_not_read_whole(
    session: boto3.Session, server: LoopbackServer, status: int
) -> None:
    server.faults["cache/x"] = Answer(b"x" * (64 * 1024 * 1024), status)
    url = f"s3://cache?endpoint={server.url}"
    with closing(connect(url, options=OPTIONS, session=session)) as transport:
        tracemalloc.start()
        with pytest.raises(TransportError):
            read(transport, "x")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 16 * 1024 * 1024


@pytest.mark.parametrize(
    "header",
    [
        {"Last-Modified": "garbage"},
        {"x-amz-missing-meta": "abc"},
        {"x-amz-mp-parts-count": "1e999"},
    ],
)
def test_odd_headers_are_the_remotes_fault(
    session: boto3.Session, server: LoopbackServer, header: dict[str, str]
) -> None:
    server.faults["cache/x"] = Answer(b"data", headers=header)
    url = f"s3://cache?endpoint={server.url}"
    with (
        closing(connect(url, options=OPTIONS, session=session)) as transport,
        pytest.raises(TransportError, match="malformed answer"),
    ):
        read(transport, "x")


@pytest.mark.parametrize("body", [b"<html><p>login", b"<", b"\xff", b"{}"])
@pytest.mark.parametrize("status", [403, 404, 500])
def test_errors_in_other_words(
    session: boto3.Session, server: LoopbackServer, body: bytes, status: int
) -> None:
    server.faults["cache/x"] = Answer(body, status)
    url = f"s3://cache?endpoint={server.url}"
    with (
        closing(connect(url, options=OPTIONS, session=session)) as transport,
        pytest.raises(TransportError),
    ):
        read(transport, "x")


def test_a_proxy_that_refuses_a_tunnel() -> None:
    tunnel = OSError("Tunnel connection failed: 407 Proxy Authentication Required")
    raised = exceptions.ProxyConnectionError(proxy_url="http://proxy:3128", error=tunnel)
    raised.__cause__ = tunnel
    error = failure(raised)
    assert isinstance(error, AuthenticationError)
    assert "HTTPS_PROXY" in str(error.hint)


# What others hear of it.


@pytest.fixture
def loggers() -> Iterator[list[logging.Logger]]:
    """Of botocore and what it stands on, as they are before anybody has said anything."""
    names = ("boto3", "botocore", "urllib3")
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.NOTSET)
    yield loggers
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


@pytest.mark.usefixtures("loggers")
def test_who_wants_all_messages_gets_no_tokens(caplog: pytest.LogCaptureFixture) -> None:
    session = boto3.Session("AKIATESTS", "hush-hush-hush", "t0k3n-t0k3n")
    with caplog.at_level(logging.DEBUG), LoopbackServer({"bucket/name": b"data"}) as server:
        url = f"s3://bucket?endpoint={server.url}"
        with (
            closing(connect(url, options=OPTIONS, session=session)) as transport,
            transport.open("name") as body,
        ):
            assert b"".join(body.chunks) == b"data"
        assert server.requests[0].headers["x-amz-security-token"] == "t0k3n-t0k3n"
    assert "t0k3n" not in caplog.text
    assert "hush" not in caplog.text
    assert "Signature=" not in caplog.text


def test_who_wants_botocore_s_own_messages_gets_them(loggers: list[logging.Logger]) -> None:
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    connect("s3://bucket", options=OPTIONS).close()
    assert all(logger.level == logging.DEBUG for logger in loggers)
