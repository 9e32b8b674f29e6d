"""Reads the objects of one bucket, below one prefix."""

from __future__ import annotations

import logging
from contextlib import closing, contextmanager
from time import monotonic, time
from typing import TYPE_CHECKING, Any, cast

from botocore import exceptions
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from nixfetch.errors import TransportError, facts
from nixfetch.transport import answers
from nixfetch.transport.base import AuthenticationError, Body, Pace
from nixfetch.transport.s3 import refusals
from nixfetch.transport.s3.access import BotoAccess
from nixfetch.transport.s3.location import S3Location
from nixfetch.transport.urls import UrlError, redacted, scheme, segments
from nixfetch.transport.waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import boto3
    from botocore.response import StreamingBody

    from nixfetch.transport.base import Range
    from nixfetch.transport.options import TransportOptions
    from nixfetch.transport.s3.access import Access

CHUNK_SIZE = 256 * 1024  # bytes; what `Body.chunks` allows


_TALKATIVE = ("boto3", "botocore", "urllib3")


def connect(
    url: str, *, options: TransportOptions, session: boto3.Session | None = None
) -> S3Transport:
    """The transport of an ``s3://`` URL; credentials are looked for when it is used.

    Args:
        url: see `S3Location`.
        options: as for every transport.
        session: where credentials come from; None: a new one of the URL's profile.

    Raises:
        UrlError: `url` says nothing usable.
    """
    location = S3Location.parse(url)
    for name in _TALKATIVE:
        _hush(logging.getLogger(name))

    def make() -> boto3.Session:
        return session or _session(location.profile, options.pace)

    return S3Transport(
        BotoAccess(location, options, make),
        location.bucket,
        location.prefix,
        pace=options.pace,
        requester_pays=location.requester_pays,
    )


def _hush(logger: logging.Logger) -> None:
    """Have `logger` say no more than INFO, unless somebody has said how much it is to say.

    What it says at DEBUG has tokens in it: requests with their fields, answers of services that
    give credentials. Who wants all of a program's messages does not want those.
    """
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)


def _session(profile: str | None, pace: Pace) -> boto3.Session:
    """A session whose services that give credentials are not waited for without end."""
    import boto3
    from botocore.config import Config
    from botocore.session import Session

    core = Session(profile=profile)
    core.set_default_client_config(
        Config(
            connect_timeout=pace.connect,
            read_timeout=pace.stall,
            retries={"total_max_attempts": 2, "mode": "standard"},
        )
    )
    return boto3.Session(botocore_session=core)


class S3Transport:
    """Reads from one bucket, below one prefix.

    Args:
        access: gives boto3's clients; it becomes the transport's to close.
        bucket: its name.
        prefix: of all keys, without the slash at its end.
        pace: of requests that have none of their own.
        requester_pays: say with each request that the bill is ours.
        now: seconds since 1970, to judge a Retry-After date by.
    """

    def __init__(
        self,
        access: Access,
        bucket: str,
        prefix: str = "",
        *,
        pace: Pace | None = None,
        requester_pays: bool = False,
        now: Callable[[], float] = time,
    ) -> None:
        self._access = access
        self._pace = pace or Pace()
        self._bucket = bucket
        self._prefix = prefix.strip("/")
        self._always = {"RequestPayer": "requester"} if requester_pays else {}
        self._now = now

    @property
    def url(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def close(self) -> None:
        self._access.close()

    def provider(self) -> str | None:
        """Who gave the credentials, such as ``env`` or ``assume-role``; None: there are none.

        Raises:
            AuthenticationError: somebody should give some and does not.
            TransportError: whoever should does not answer.
        """
        with facts(url=self.url):
            return self._access.provider()

    @contextmanager
    def open(
        self, name: str, wanted: Range | None = None, *, pace: Pace | None = None
    ) -> Iterator[Body]:
        shown = redacted(name) if scheme(name) else f"{self.url}/{redacted(name)}"
        pace = pace or self._pace
        with facts(url=shown):
            answer = self._answer(self._key(name), wanted, pace)
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

    def _answer(self, key: str, wanted: Range | None, pace: Pace) -> Mapping[str, Any]:
        """The object, or the part of it; from its start where it has changed meanwhile.

        S3 knows no If-Range. If-Match is near enough, with a second request for the rare case;
        a look-alike that ignores it is found out by the ETag of its answer.
        """
        if wanted is None or wanted.whole:
            return self._get(pace, key)
        request = {"Range": answers.range_field(wanted)}
        if wanted.validator is not None:
            request["IfMatch"] = wanted.validator
        try:
            answer = self._get(pace, key, **request)
        except refusals.ObjectChangedError:
            return self._get(pace, key)
        partial = answer["ResponseMetadata"]["HTTPStatusCode"] == answers.PARTIAL
        if not partial or wanted.validator in {None, answer.get("ETag")}:
            return answer
        answer["Body"].close()
        return self._get(pace, key)

    def _get(self, pace: Pace, key: str, **request: str) -> Mapping[str, Any]:
        try:
            return self._get_once(pace, key, **request)
        except AuthenticationError as error:
            if error.facts.get("code") not in refusals.CREDENTIALS or not self._access.renew():
                raise
            return self._get_once(pace, key, **request)

    def _get_once(self, pace: Pace, key: str, **request: str) -> Mapping[str, Any]:
        client = self._access.client(pace)
        began = monotonic()
        try:
            return client.get_object(Bucket=self._bucket, Key=key, **self._always, **request)
        except exceptions.ClientError as error:
            provider = self._access.provider()
            raise refusals.refusal(error, provider=provider, now=self._now) from error
        except (exceptions.BotoCoreError, HTTPError) as error:
            # The latter while an error's own body was read.
            raise refusals.failure(error) from error
        except (ResponseParserError, ValueError, TypeError, OverflowError) as error:
            # What botocore's parsers say to bodies and header fields that are not what they
            # should be. The first one quotes them.
            raise answers.BrokenAnswerError(
                "malformed answer", retryable=True, reason=type(error).__name__
            ) from error
        finally:
            pace.answered(monotonic() - began)


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
                raise refusals.failure(error) from error
            waiting.count(monotonic() - began, len(chunk))
        if not chunk:
            break
        received += len(chunk)
        yield chunk
    if size is not None and received != size:
        raise TransportError(
            "body ended early", retryable=True, url=shown, received=received, expected=size
        )
