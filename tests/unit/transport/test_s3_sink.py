from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from nixfetch.errors import TransportError
from nixfetch.transport.answers import BrokenAnswerError
from nixfetch.transport.s3.sink import MOST_PARTS, PART, S3Sink, part_size
from nixfetch.transport.sink import ReadOnlyError
from nixfetch.transport.urls import UrlError

if TYPE_CHECKING:
    from collections.abc import Callable

    from nixfetch.transport.base import Pace

T = TypeVar("T")


def error(code: str, status: int) -> ClientError:
    answer: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "operation")


class Client:
    """Answers what it was told to, and remembers what was asked."""

    def __init__(self, **answers: object) -> None:
        self.answers = {"create_multipart_upload": {"UploadId": "id"}, **answers}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.closed = False

    def __getattr__(self, operation: str) -> Callable[..., object]:
        def ask(**request: Any) -> object:
            body = request.get("Body")
            if isinstance(body, bytearray):  # it is used again
                request["Body"] = bytes(body)
            self.asked.append((operation, request))
            answer = self.answers.get(operation, {"ETag": f"tag-{len(self.asked)}"})
            if isinstance(answer, list):
                answer = answer.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return ask

    @property
    def operations(self) -> list[str]:
        return [operation for operation, _ in self.asked]


class Access:
    def __init__(self, client: Client) -> None:
        self._client = client

    def client(self, pace: Pace) -> Any:
        return self._client

    def provider(self) -> str | None:
        return "env"

    def renew(self) -> bool:
        return False

    def close(self) -> None:
        self._client.closed = True


def once(act: Callable[[], T]) -> T:
    return act()


def twice(act: Callable[[], T]) -> T:
    try:
        return act()
    except TransportError:
        return act()


def sink(client: Client, **options: Any) -> S3Sink:
    return S3Sink(Access(client), "bucket", "/some/prefix/", persist=once, **options)


def test_a_small_object_is_one_request() -> None:
    client = Client()
    with sink(client).writing("nar/x.nar") as upload:
        upload.write(b"data")
        upload.write(b" and more")
    assert client.asked == [
        (
            "put_object",
            {
                "Bucket": "bucket",
                "Key": "some/prefix/nar/x.nar",
                "Body": b"data and more",
                "ContentType": "application/x-nix-nar",
            },
        )
    ]


def test_a_large_one_goes_in_parts() -> None:
    client = Client()
    with sink(client, requester_pays=True).writing("nar/x.nar", size=2 * PART) as upload:
        upload.write(bytes(PART + 1))
        upload.write(bytes(PART))
    sizes = [len(request["Body"]) for name, request in client.asked if name == "upload_part"]
    assert sizes == [PART, PART, 1]
    name, done = client.asked[-1]
    assert name == "complete_multipart_upload"
    assert done["MultipartUpload"]["Parts"] == [
        {"ETag": f"tag-{number + 1}", "PartNumber": number} for number in (1, 2, 3)
    ]
    assert all(request["RequestPayer"] == "requester" for _, request in client.asked)


def test_what_is_given_up_is_aborted() -> None:
    client = Client(abort_multipart_upload=error("InternalError", 500))
    with pytest.raises(KeyError), sink(client).writing("nar/x.nar", size=PART) as upload:
        give_up(upload)
    assert client.operations[-1] == "abort_multipart_upload"
    client = Client(complete_multipart_upload=error("InternalError", 500))
    with pytest.raises(TransportError), sink(client).writing("nar/x.nar", size=PART) as upload:
        upload.write(bytes(PART))
    assert client.operations[-1] == "abort_multipart_upload"


def give_up(upload: Any) -> None:
    upload.write(bytes(PART))
    raise KeyError


def test_a_part_is_tried_again() -> None:
    client = Client(upload_part=[error("SlowDown", 503), {"ETag": "tag"}])
    patient = S3Sink(Access(client), "bucket", persist=twice)
    with patient.writing("nar/x.nar", size=PART) as upload:
        upload.write(bytes(PART))
    assert client.operations.count("upload_part") == 2


def test_an_upload_whose_end_got_lost() -> None:
    lost = error("NoSuchUpload", 404)
    client = Client(complete_multipart_upload=lost, head_object={"ContentLength": PART})
    with sink(client).writing("nar/x.nar", size=PART) as upload:
        upload.write(bytes(PART))
    client = Client(complete_multipart_upload=lost, head_object={"ContentLength": 1})
    with pytest.raises(TransportError), sink(client).writing("nar/x.nar", size=PART) as upload:
        upload.write(bytes(PART))


def test_an_object_that_is_there_is_left_alone() -> None:
    client = Client(put_object=error("PreconditionFailed", 412))
    assert not sink(client).put("x.narinfo", b"text", replace=False)
    assert client.asked[0][1]["IfNoneMatch"] == "*"
    assert client.asked[0][1]["ContentType"] == "text/x-nix-narinfo"


def test_buckets_that_know_no_conditions() -> None:
    client = Client(
        put_object=[error("NotImplemented", 501), {}, {}],
        head_object=[error("404", 404), {"ContentLength": 3}],
    )
    old = sink(client)
    assert old.put("one", b"1", replace=False)
    assert not old.put("two", b"2", replace=False)
    assert client.operations == ["put_object", "head_object", "put_object", "head_object"]


def test_other_errors_stay_errors() -> None:
    client = Client(put_object=error("InternalError", 500))
    with pytest.raises(TransportError, match="busy or broken") as caught:
        sink(client).put("one", b"1", replace=False)
    assert caught.value.facts["url"] == "s3://bucket/some/prefix/one"
    client = Client(put_object=EndpointConnectionError(endpoint_url="http://x"))
    with pytest.raises(TransportError, match="connection failed"):
        sink(client).put("one", b"1")
    client = Client(put_object=ValueError("what it cannot parse"))
    with pytest.raises(BrokenAnswerError):
        sink(client).put("one", b"1")


@pytest.mark.parametrize(
    ("operation", "act"),
    [
        ("put_object", lambda sink: sink.put("x", b"")),
        ("list_objects_v2", lambda sink: list(sink.entries())),
        ("delete_object", lambda sink: sink.delete(["x"])),
    ],
)
def test_credentials_that_may_not(operation: str, act: Callable[[S3Sink], object]) -> None:
    with pytest.raises(ReadOnlyError, match="bucket refuses to be") as caught:
        act(sink(Client(**{operation: error("AccessDenied", 403)})))
    assert "s3:PutObject" in str(caught.value.hint)
    with pytest.raises(ReadOnlyError) as caught:
        act(sink(Client(**{operation: error("SignatureDoesNotMatch", 403)})))
    assert "secret key" in str(caught.value.hint)


def test_what_is_not_there() -> None:
    client = Client(head_object=error("403", 403), delete_object=error("NoSuchKey", 404))
    assert sink(client).size("x") is None
    sink(client).delete(["x"])


def test_names_are_utf_8() -> None:
    with pytest.raises(UrlError):
        sink(Client()).size("a%ff")


def test_closing() -> None:
    client = Client()
    sink(client).close()
    assert client.closed


def test_parts_are_as_many_as_there_may_be() -> None:
    assert part_size(0) == part_size(MOST_PARTS * PART) == PART
    for size in (MOST_PARTS * PART + 1, 10**12):
        assert part_size(size) * MOST_PARTS >= size
    assert part_size(None) * MOST_PARTS > 60 * 10**9
