"""Credentials of buckets: who gives them, how they are renewed, and what refusals mean."""

from __future__ import annotations

import itertools
import json
import logging
import shlex
import sys
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import boto3
import botocore.session
import pytest

from nixfetch.errors import TransportError
from nixfetch.transport import AuthenticationError, ForbiddenError, Pace, TransportOptions
from nixfetch.transport.s3 import S3Location, S3Transport
from nixfetch.transport.s3.access import BotoAccess
from nixfetch.transport.s3.refusals import AwsConfigError
from servers import Answer, LoopbackServer, Request

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OPTIONS = TransportOptions(trust_env=False, pace=Pace(connect=5, stall=5))
SECRET = "hunter2hunter2"
TOKEN = "a-token-that-nobody-may-see"


class Home:
    """AWS's files of somebody, and buckets reached with what they say."""

    def __init__(self, folder: Path, server: LoopbackServer) -> None:
        self.folder = folder
        self.server = server
        self.sessions = 0
        self.profile = "ours"
        self.seconds = itertools.count(0.0, 10.0)

    def credentials(self, key: str, **more: str) -> None:
        lines = [f"[{self.profile}]", f"aws_access_key_id = {key}"]
        lines += [f"aws_secret_access_key = {SECRET}", f"aws_session_token = {TOKEN}"]
        lines += [f"{name} = {value}" for name, value in more.items()]
        (self.folder / "credentials").write_text("\n".join(lines))

    def config(self, **values: str) -> None:
        lines = [f"[profile {self.profile}]"]
        lines += [f"{name} = {value}" for name, value in values.items()]
        (self.folder / "config").write_text("\n".join(lines))

    def session(self) -> boto3.Session:
        self.sessions += 1
        core = botocore.session.Session(profile=self.profile)  # which leaves out the environment
        core.set_config_variable("credentials_file", str(self.folder / "credentials"))
        core.set_config_variable("config_file", str(self.folder / "config"))
        return boto3.Session(botocore_session=core)

    def bucket(self, parameters: str = "", *, options: TransportOptions = OPTIONS) -> S3Transport:
        location = S3Location.parse(f"s3://cache?endpoint={self.server.url}{parameters}")
        access = BotoAccess(
            location, options, self.session, clock=lambda: float(next(self.seconds))
        )
        return S3Transport(
            access, "cache", pace=options.pace, requester_pays=location.requester_pays
        )


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer({"cache/x": b"data"}) as server:
        yield server


@pytest.fixture
def home(tmp_path: Path, server: LoopbackServer) -> Home:
    home = Home(tmp_path, server)
    home.credentials("ONE")
    return home


def read(transport: S3Transport, pace: Pace | None = None) -> bytes:
    with transport.open("x", pace=pace) as body:
        return b"".join(body.chunks)


def refused(transport: S3Transport) -> TransportError:
    with pytest.raises(TransportError) as caught:
        read(transport)
    error = caught.value
    told = f"{error} {error.hint} {error.__cause__!r}"
    assert SECRET not in told
    assert TOKEN not in told
    return error


def said(code: str, status: int = 403, more: str = "", **headers: str) -> Answer:
    text = f"<Error><Code>{code}</Code><Message>no</Message>{more}</Error>"
    return Answer(text.encode(), status, {"Content-Type": "application/xml", **headers})


def key_of(request: Request) -> str:
    return request.headers["authorization"].partition("Credential=")[2].partition("/")[0]


def region_of(request: Request) -> str:
    return request.headers["authorization"].partition("Credential=")[2].split("/")[2]


# Who gives them.


def test_the_provider_is_named(home: Home) -> None:
    with closing(home.bucket()) as bucket:
        assert bucket.provider() == "shared-credentials-file"


def test_credentials_are_looked_for_once(home: Home, server: LoopbackServer) -> None:
    with closing(home.bucket()) as bucket:
        (home.folder / "credentials").unlink()
        home.credentials("ONE")
        assert [read(bucket) for _ in range(3)] == [b"data"] * 3
    assert home.sessions == 1
    assert {key_of(request) for request in server.requests} == {"ONE"}


def test_nothing_is_looked_for_before_something_is_asked(home: Home) -> None:
    home.config(credential_process=f"touch {shlex.quote(str(home.folder / 'asked'))}")
    (home.folder / "credentials").unlink()
    home.bucket().close()
    assert not (home.folder / "asked").exists()


@pytest.mark.parametrize(
    "code",
    [
        "ExpiredToken",
        "InvalidToken",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "RequestTimeTooSkewed",
    ],
)
def test_refused_credentials_name_their_provider(
    home: Home, server: LoopbackServer, code: str
) -> None:
    server.faults["cache/x"] = said(code)
    with closing(home.bucket()) as bucket:
        error = refused(bucket)
    assert isinstance(error, AuthenticationError)
    assert (error.facts["code"], error.facts["provider"]) == (code, "shared-credentials-file")
    assert error.hint
    assert server.asked("cache/x") == 1


def test_a_forbidden_object_names_the_provider_too(home: Home, server: LoopbackServer) -> None:
    server.faults["cache/x"] = said("AccessDenied")
    with closing(home.bucket()) as bucket:
        error = refused(bucket)
    assert isinstance(error, ForbiddenError)
    assert error.facts["provider"] == "shared-credentials-file"


# Renewing them.


def test_a_file_that_was_renewed_is_read_again(home: Home, server: LoopbackServer) -> None:
    def fault(request: Request) -> Answer | None:
        return said("ExpiredToken", 400) if key_of(request) == "ONE" else None

    server.faults["cache/x"] = fault
    with closing(home.bucket()) as bucket:
        refused(bucket)
        home.credentials("TWO")
        assert read(bucket) == b"data"
    assert list(map(key_of, server.requests)) == ["ONE", "ONE", "TWO"]


def test_many_refusals_are_one_reason_to_look(home: Home, server: LoopbackServer) -> None:
    home.seconds = itertools.count(0.0, 0.5)
    server.faults["cache/x"] = said("ExpiredToken", 400)
    with closing(home.bucket()) as bucket:
        for _ in range(5):
            refused(bucket)
    assert home.sessions == 2


def test_a_file_that_is_broken_meanwhile_does_not_hide_the_refusal(
    home: Home, server: LoopbackServer
) -> None:
    server.faults["cache/x"] = said("ExpiredToken", 400)
    with closing(home.bucket()) as bucket:
        refused(bucket)
        (home.folder / "credentials").write_text("[ours\n")
        assert refused(bucket).facts["code"] == "ExpiredToken"


def process(home: Home, *, seconds: float) -> None:
    """A program that gives a new key each time, for so many seconds."""
    program = home.folder / "program.py"
    program.write_text(
        f"import json, pathlib\n"
        f"count = pathlib.Path({str(home.folder / 'count')!r})\n"
        f"count.write_text(str(int(count.read_text()) + 1) if count.exists() else '1')\n"
        f"until = {(datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()!r}\n"
        f"print(json.dumps({{'Version': 1, 'AccessKeyId': 'KEY' + count.read_text(),"
        f" 'SecretAccessKey': {SECRET!r}, 'SessionToken': {TOKEN!r}, 'Expiration': until}}))\n"
    )
    home.config(credential_process=f"{shlex.quote(sys.executable)} {shlex.quote(str(program))}")
    (home.folder / "credentials").unlink()


def test_credentials_that_end_are_renewed_before(home: Home, server: LoopbackServer) -> None:
    process(home, seconds=700)  # botocore wants new ones when there are less than 900 left
    with closing(home.bucket()) as bucket:
        assert read(bucket) == b"data"
        assert read(bucket) == b"data"
        assert bucket.provider() == "custom-process"
    first, second = map(key_of, server.requests)
    assert first != second


def test_credentials_that_last_are_kept(home: Home, server: LoopbackServer) -> None:
    process(home, seconds=7000)
    with closing(home.bucket()) as bucket:
        assert [read(bucket), read(bucket)] == [b"data"] * 2
    assert list(map(key_of, server.requests)) == ["KEY1", "KEY1"]


@pytest.mark.parametrize(
    "config",
    [
        {"credential_process": "false"},
        {"credential_process": f"echo {SECRET}"},
        {"credential_process": f'echo \'{{"Version": 1, "Secret": "{SECRET}"}}\''},
        {"credential_process": "no-such-program-anywhere"},
        {"sso_session": "lost", "sso_account_id": "1", "sso_role_name": "r"},
        {
            "sso_start_url": "https://127.0.0.1:1/start",
            "sso_region": "us-east-1",
            "sso_account_id": "1",
            "sso_role_name": "r",
        },
        {"role_arn": "arn:aws:iam::1:role/r", "source_profile": "lost"},
        {"role_arn": "arn:aws:iam::1:role/r", "web_identity_token_file": "/nowhere/token"},
    ],
    ids=[
        "fails",
        "no JSON",
        "half",
        "lost program",
        "lost session",
        "no login",
        "lost profile",
        "no token",
    ],
)
def test_credentials_that_cannot_be_had(
    home: Home, server: LoopbackServer, config: dict[str, str]
) -> None:
    (home.folder / "credentials").unlink()
    home.config(**config)
    with closing(home.bucket()) as bucket:
        error = refused(bucket)
    assert isinstance(error, AuthenticationError), error
    assert error.hint
    assert server.requests == []


@pytest.mark.parametrize("text", ["[profile", "no section", "[profile ours]\n\xff\n"])
def test_a_configuration_that_is_malformed(home: Home, server: LoopbackServer, text: str) -> None:
    (home.folder / "config").write_bytes(text.encode("latin-1"))
    with closing(home.bucket()) as bucket:
        error = refused(bucket)
    assert isinstance(error, AwsConfigError), error
    assert error.exit_code == 78
    assert server.requests == []


def test_no_login_says_how(home: Home) -> None:
    (home.folder / "credentials").unlink()
    home.config(
        sso_start_url="https://127.0.0.1:1/start",
        sso_region="us-east-1",
        sso_account_id="1",
        sso_role_name="r",
    )
    with closing(home.bucket()) as bucket:
        error = refused(bucket)
    assert "aws sso login" in str(error.hint)
    assert error.facts["provider"] == "sso"


def test_half_a_pair_of_keys_is_no_public_bucket(home: Home, server: LoopbackServer) -> None:
    (home.folder / "credentials").write_text("[ours]\naws_access_key_id = ONE\n")
    with closing(home.bucket()) as bucket:
        assert isinstance(refused(bucket), AuthenticationError)
    assert server.requests == []


class Sts:
    """Gives no roles: it answers each POST with the same error."""

    def __init__(self, answer: bytes) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(403)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def assume_role(home: Home, url: str) -> None:
    source = f"[source]\naws_access_key_id = S\naws_secret_access_key = {SECRET}\n"
    (home.folder / "credentials").write_text(source)
    home.config(
        role_arn="arn:aws:iam::1:role/r",
        source_profile="source",
        endpoint_url=url,
        region="us-east-1",
        retry_mode="standard",
        max_attempts="1",
    )


@pytest.mark.parametrize(
    "answer",
    [
        b"<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>",
        f"<SecretAccessKey>{SECRET}".encode(),
    ],
    ids=["denied", "malformed"],
)
def test_a_role_that_is_refused_is_no_missing_object(home: Home, answer: bytes) -> None:
    with closing(Sts(answer)) as sts:
        assume_role(home, sts.url)
        with closing(home.bucket()) as bucket, pytest.raises(AuthenticationError) as caught:
            read(bucket)
    error = caught.value
    assert error.facts["provider"] == "assume-role"
    assert SECRET not in str(error)
    assert error.facts.get("asked", "AssumeRole") == "AssumeRole"


def test_a_role_that_nobody_gives_just_now_may_be_had_later(home: Home) -> None:
    with LoopbackServer() as gone:
        assume_role(home, gone.url)
    with closing(home.bucket()) as bucket:
        error = refused(bucket)
    assert not isinstance(error, AuthenticationError)
    assert error.retryable


# Regions.


@pytest.mark.parametrize(
    "answer",
    [
        said("PermanentRedirect", 301, **{"x-amz-bucket-region": "eu-west-1"}),
        said("PermanentRedirect", 301, "<Region>eu-west-1</Region>"),
        said("AuthorizationHeaderMalformed", 400, "<Region>eu-west-1</Region>"),
        Answer(b"", 307, {"x-amz-bucket-region": "eu-west-1", "Location": "http://127.0.0.1:1/"}),
    ],
    ids=["header", "body", "signature", "temporary"],
)
def test_a_bucket_in_another_region(home: Home, server: LoopbackServer, answer: Answer) -> None:
    server.faults["cache/x"] = lambda one: answer if region_of(one) == "us-east-1" else None
    with closing(home.bucket()) as bucket:
        assert [read(bucket), read(bucket)] == [b"data"] * 2
    regions = list(map(region_of, server.requests))
    assert regions == ["us-east-1", "eu-west-1", "eu-west-1"]


@pytest.mark.parametrize("region", ["us-east-1", "eu-west-1"])
def test_a_bucket_that_is_sent_about_in_circles(
    home: Home, server: LoopbackServer, region: str
) -> None:
    server.faults["cache/x"] = said("PermanentRedirect", 301, **{"x-amz-bucket-region": region})
    with closing(home.bucket()) as bucket:
        error = refused(bucket)
    assert not error.retryable
    assert len(server.requests) == 2


@pytest.mark.parametrize("region", ["evil.example/x?", "127.0.0.1:80#", "a b", "", "x" * 200])
def test_a_region_that_is_none(home: Home, server: LoopbackServer, region: str) -> None:
    server.faults["*"] = said("PermanentRedirect", 301, f"<Region>{region}</Region>")
    with closing(home.bucket()) as bucket:
        assert not refused(bucket).retryable
    assert len(server.requests) <= 2


# Requests.


def test_what_is_signed(home: Home, server: LoopbackServer) -> None:
    with closing(home.bucket("&requester-pays=true")) as bucket:
        assert read(bucket) == b"data"
    [request] = server.requests
    signed = request.headers["authorization"].partition("SignedHeaders=")[2].partition(",")[0]
    assert "accept-encoding" not in signed
    assert request.headers.get("accept-encoding", "identity") == "identity"
    assert request.headers["x-amz-request-payer"] == "requester"
    assert "x-amz-request-payer" in signed


def test_the_bill_is_not_ours_unasked(home: Home, server: LoopbackServer) -> None:
    with closing(home.bucket()) as bucket:
        read(bucket)
    assert "x-amz-request-payer" not in server.requests[0].headers


def test_a_client_for_each_pair_of_limits(home: Home) -> None:
    with closing(home.bucket()) as bucket:
        for pace in (Pace(connect=1, stall=2), Pace(connect=1, stall=2, slowest=7), Pace()):
            read(bucket, pace)
        access = bucket._access
        assert isinstance(access, BotoAccess)
        assert len(access._clients) == 2


def test_logs_of_this_package_hold_no_secrets(
    home: Home, server: LoopbackServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.faults["cache/x"] = said("ExpiredToken", 400)
    with caplog.at_level(logging.DEBUG), closing(home.bucket()) as bucket:
        refused(bucket)
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("nixfetch")]
    assert TOKEN not in json.dumps(ours)
