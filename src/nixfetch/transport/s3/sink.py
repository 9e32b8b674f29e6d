"""Writes the objects of one bucket, below one prefix.

Small objects go in one request, larger ones in parts, which become an object when the last
request says so, and are dropped when that does not come: by us, and after a kill by the bucket's
own rule for unfinished uploads, which it should have.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from time import time
from typing import TYPE_CHECKING, Any

from botocore import exceptions
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from nixfetch.errors import NixfetchError, facts
from nixfetch.transport import answers
from nixfetch.transport.base import AuthenticationError, ForbiddenError, NotFoundError, Pace
from nixfetch.transport.s3 import refusals
from nixfetch.transport.s3.location import S3Location
from nixfetch.transport.s3.transport import connect
from nixfetch.transport.sink import Entry, ReadOnlyError
from nixfetch.transport.urls import UrlError, segments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from nixfetch.transport.options import TransportOptions
    from nixfetch.transport.s3.access import Access
    from nixfetch.transport.sink import Persist

PART = 5 * 1024 * 1024  # bytes; the least that S3 takes, and what one upload holds in memory
MOST_PARTS = 10_000  # of one object
MOST_KEYS = 1000  # that one request removes
_UNKNOWN = 64 * 1024**3  # bytes; taken for the size of an object that may be of any
_NOT_IMPLEMENTED = frozenset({"NotImplemented", "InvalidArgument", "InvalidRequest"})
_TYPES = {
    "nix-cache-info": "text/x-nix-cache-info",
    "narinfo": "text/x-nix-narinfo",
    "ls": "application/json",
    "nar": "application/x-nix-nar",
}


def connect_sink(url: str, *, options: TransportOptions, persist: Persist) -> S3Sink:
    """The sink of an ``s3://`` URL; credentials are looked for when it is used.

    Args:
        url: see `S3Location`.
        options: as for every transport.
        persist: does one request until it is answered.

    Raises:
        UrlError: `url` says nothing usable.
        AuthenticationError: the profile is unknown.
    """
    location = S3Location.parse(url)
    return S3Sink(
        connect(url, options=options)._access,  # noqa: SLF001 - of the same room
        location.bucket,
        location.prefix,
        persist=persist,
        pace=options.pace,
        requester_pays=location.requester_pays,
    )


class S3Sink:
    """Writes to one bucket, below one prefix.

    Args:
        access: gives boto3's clients; it becomes the sink's to close.
        bucket: its name.
        prefix: of all keys, without the slash at its end.
        persist: does one request until it is answered.
        pace: how long one may take.
        requester_pays: say with each request that the bill is ours.
        now: seconds since 1970, to judge a Retry-After date by.
    """

    def __init__(
        self,
        access: Access,
        bucket: str,
        prefix: str = "",
        *,
        persist: Persist,
        pace: Pace | None = None,
        requester_pays: bool = False,
        now: Callable[[], float] = time,
    ) -> None:
        self._access = access
        self._bucket = bucket
        self._prefix = prefix.strip("/")
        self._persist = persist
        self._pace = pace or Pace()
        self._always = {"RequestPayer": "requester"} if requester_pays else {}
        self._now = now
        self._conditions = True  # whether it knows If-None-Match on writing

    @property
    def url(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def close(self) -> None:
        self._access.close()

    @contextmanager
    def writing(self, name: str, *, size: int | None = None) -> Iterator[S3Upload]:
        upload = S3Upload(self, name, part_size(size))
        try:
            yield upload
            upload.finish()
        except BaseException:
            upload.abort()
            raise

    def put(self, name: str, data: bytes | bytearray, *, replace: bool = True) -> bool:
        request: dict[str, Any] = {"Body": data, "ContentType": _type(name)}
        if not replace and self._conditions:
            try:
                self.ask("put_object", name, IfNoneMatch="*", **request)
            except refusals.ObjectChangedError:
                return False
            except NixfetchError as error:
                if error.facts.get("code") not in _NOT_IMPLEMENTED:
                    raise
                self._conditions = False
            else:
                return True
        if not replace and self.size(name) is not None:
            return False
        self.ask("put_object", name, **request)
        return True

    def size(self, name: str) -> int | None:
        try:
            head = self.ask("head_object", name)
        except NotFoundError:  # forbidden as well: writing will tell
            return None
        return int(head["ContentLength"])

    def entries(self, folder: str = "") -> Iterator[Entry]:
        below = f"{folder}/" if folder else ""
        whole = f"{self._prefix}/{below}" if self._prefix else below
        more: dict[str, str] = {}
        while True:
            answer = self.call("list_objects_v2", folder, Prefix=whole, Delimiter="/", **more)
            for found in answer.get("Contents", ()):
                name = found["Key"].removeprefix(whole)
                if name:
                    modified = found["LastModified"].timestamp()
                    yield Entry(below + name, int(found["Size"]), modified)
            if not answer.get("IsTruncated"):
                return
            more = {"ContinuationToken": answer["NextContinuationToken"]}

    def delete(self, names: Iterable[str]) -> None:
        # One by one: S3 removes many at once in no order, and look-alikes lack that request.
        for name in names:
            with suppress(NotFoundError):
                self.ask("delete_object", name)

    def key(self, name: str) -> str:
        """The key of an object."""
        try:
            path = b"/".join(segments(name)).decode()
        except UnicodeDecodeError:
            raise UrlError("name is not UTF-8, as keys are") from None
        return f"{self._prefix}/{path}" if self._prefix else path

    def ask(self, operation: str, name: str, **request: Any) -> Mapping[str, Any]:
        """Make one request about one object, until it is answered."""
        return self.call(operation, name, Key=self.key(name), **request)

    def call(self, operation: str, name: str, **request: Any) -> Mapping[str, Any]:
        """Make one request, until it is answered."""
        with facts(url=f"{self.url}/{name}"):
            return self._persist(lambda: self._once(operation, request))

    def _once(self, operation: str, request: Mapping[str, Any]) -> Mapping[str, Any]:
        client: Any = self._access.client(self._pace)
        try:
            answer: Mapping[str, Any] = getattr(client, operation)(
                Bucket=self._bucket, **self._always, **request
            )
        except exceptions.ClientError as error:
            raise self._refusal(operation, error) from error
        except (exceptions.BotoCoreError, HTTPError) as error:
            raise refusals.failure(error) from error
        except (ResponseParserError, ValueError, TypeError, OverflowError) as error:
            raise answers.BrokenAnswerError(
                "malformed answer", retryable=True, reason=type(error).__name__
            ) from error
        return answer

    def _refusal(self, operation: str, error: exceptions.ClientError) -> NixfetchError:
        refused = refusals.refusal(error, provider=self._access.provider(), now=self._now)
        if operation == "head_object" or not isinstance(
            refused, AuthenticationError | ForbiddenError
        ):
            return refused
        read_only = ReadOnlyError(
            "bucket refuses to be written to"
            if operation != "list_objects_v2"
            else "bucket refuses to be listed",
            hint=refused.hint
            if isinstance(refused, AuthenticationError)
            else "the credentials need s3:PutObject, s3:GetObject, s3:ListBucket and"
            " s3:AbortMultipartUpload; s3:DeleteObject to prune",
        )
        read_only.facts = dict(refused.facts)
        return read_only


class S3Upload:
    """An object on its way into a bucket: holds one part in memory."""

    def __init__(self, sink: S3Sink, name: str, part: int) -> None:
        self._sink = sink
        self._name = name
        self._held = bytearray(part)  # one for all parts: growing and freeing costs more memory
        self._fill = 0
        self._sent = 0
        self._id: str | None = None
        self._etags: list[str] = []

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            taken = view[: len(self._held) - self._fill]
            self._held[self._fill : self._fill + len(taken)] = taken
            self._fill += len(taken)
            view = view[len(taken) :]
            if self._fill == len(self._held):
                self._send()

    def finish(self) -> None:
        """Have all that was written be an object."""
        del self._held[self._fill :]
        if self._id is None:
            self._sink.put(self._name, self._held)
            return
        if self._held:
            self._send()
        parts = [
            {"ETag": etag, "PartNumber": number} for number, etag in enumerate(self._etags, start=1)
        ]
        try:
            self._sink.ask(
                "complete_multipart_upload",
                self._name,
                UploadId=self._id,
                MultipartUpload={"Parts": parts},
            )
        except NotFoundError:  # as it says when a first answer got lost
            if self._sink.size(self._name) != self._sent:
                raise
        self._id = None

    def abort(self) -> None:
        """Leave nothing of it; as far as the bucket lets us."""
        if self._id is None:
            return
        with suppress(NixfetchError):
            self._sink.ask("abort_multipart_upload", self._name, UploadId=self._id)
        self._id = None

    def _send(self) -> None:
        if self._id is None:
            begun = self._sink.ask(
                "create_multipart_upload", self._name, ContentType=_type(self._name)
            )
            self._id = begun["UploadId"]
        sent = self._sink.ask(
            "upload_part",
            self._name,
            UploadId=self._id,
            PartNumber=len(self._etags) + 1,
            Body=self._held,  # as it is: a copy would be the largest thing in memory
        )
        self._etags.append(sent["ETag"])
        self._sent += len(self._held)
        self._fill = 0


def part_size(size: int | None) -> int:
    """Bytes of each part of an object of `size` bytes, or less."""
    return max(PART, -(-(_UNKNOWN if size is None else size) // MOST_PARTS))


def _type(name: str) -> str:
    base = name.rpartition("/")[2]
    if base in _TYPES:
        return _TYPES[base]
    if name.startswith("nar/"):
        return _TYPES["nar"]
    return _TYPES.get(base.rpartition(".")[2], "application/octet-stream")
