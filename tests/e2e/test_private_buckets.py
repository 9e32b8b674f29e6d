"""Private buckets: moto's server, which checks signatures, keys, tokens and policies here."""

from __future__ import annotations

import json
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import boto3
import httpx
import pytest
from moto.server import ThreadedMotoServer

from proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from command import Ran
    from e2e.conftest import Command, Demo

pytestmark = pytest.mark.e2e

# Nobody asks the metadata service of a cloud, where these tests may run.
ALONE = {"AWS_EC2_METADATA_DISABLED": "true"}
READS = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": ["s3:*", "sts:AssumeRole"], "Resource": "*"},
    ],
}
SECRET = "hunter2" * 6


@dataclass(frozen=True, slots=True)
class Guarded:
    """A bucket that only those read who may."""

    url: str
    endpoint: str
    reader: dict[str, str]
    """Credentials of a user who may, as the environment has them."""
    stranger: dict[str, str]
    """Of a user who may nothing."""
    role: str


def keys(iam: Any, user: str) -> dict[str, str]:
    iam.create_user(UserName=user)
    key = iam.create_access_key(UserName=user)["AccessKey"]
    return {
        "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
    }


@pytest.fixture(scope="module")
def guarded(demo: Demo) -> Iterator[Guarded]:
    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    session = boto3.Session(aws_access_key_id="key", aws_secret_access_key="secret")
    with ExitStack() as stack:
        stack.callback(server.stop)
        s3: Any = session.client("s3", "us-east-1", endpoint_url=endpoint)
        stack.enter_context(closing(s3))
        iam: Any = session.client("iam", "us-east-1", endpoint_url=endpoint)
        stack.enter_context(closing(iam))
        s3.create_bucket(Bucket="guarded")
        cache = demo.cache("cache-xz")
        for file in filter(lambda file: file.is_file(), cache.rglob("*")):
            s3.put_object(
                Bucket="guarded", Key=str(file.relative_to(cache)), Body=file.read_bytes()
            )
        reader, stranger = keys(iam, "reader"), keys(iam, "stranger")
        iam.put_user_policy(UserName="reader", PolicyName="reads", PolicyDocument=json.dumps(READS))
        trust = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
        role = iam.create_role(
            RoleName="puller",
            AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]}),
        )["Role"]["Arn"]
        iam.put_role_policy(RoleName="puller", PolicyName="reads", PolicyDocument=json.dumps(READS))
        before = reset_auth(endpoint, "0")
        stack.callback(reset_auth, endpoint, before)
        url = f"s3://guarded?endpoint={endpoint}&region=us-east-1"
        yield Guarded(url, endpoint, reader, stranger, role)


def reset_auth(endpoint: str, actions: str) -> str:
    """Have moto check who asks after so many actions; gives how many it was before."""
    answer = httpx.post(f"{endpoint}/moto-api/reset-auth", content=actions.encode(), timeout=30)
    return str(answer.raise_for_status().json()["PREVIOUS_INITIAL_NO_AUTH_ACTION_COUNT"])


def profiles(nixfetch: Command, guarded: Guarded, **more: str) -> None:
    """Write AWS's files: ``reader`` with the reader's keys, ``other`` with what is given."""
    folder = nixfetch.home / ".aws"
    folder.mkdir()
    reader = "\n".join(f"{name.lower()} = {value}" for name, value in guarded.reader.items())
    (folder / "credentials").write_text(f"[reader]\n{reader}\n")
    lines = [f"{name} = {value}" for name, value in more.items()]
    (folder / "config").write_text("\n".join(["[profile other]", *lines]))


def fetch(nixfetch: Command, demo: Demo, url: str, *more: str, **environ: str) -> Ran:
    ran = nixfetch.fetch(demo.root, *more, source=url, key=demo.key, **ALONE, **environ)
    secrets = [value for name, value in environ.items() if "SECRET" in name or "TOKEN" in name]
    for secret in secrets:
        assert secret not in ran.out + ran.err
        for file in nixfetch.home.parent.rglob("*"):
            assert not file.is_file() or secret.encode() not in file.read_bytes()
    return ran


def refusal(ran: Ran, nixfetch: Command, code: int = 5) -> str:
    assert (ran.code, ran.out, len(ran.errors)) == (code, "", 1), ran.err
    nixfetch.is_empty()
    return ran.err


def test_who_may_read_reads(guarded: Guarded, nixfetch: Command, demo: Demo) -> None:
    ran = fetch(nixfetch, demo, guarded.url, "-vv", **guarded.reader)
    assert ran.code == 0, ran.err
    nixfetch.is_whole(demo.closure, demo.key)


def test_a_secret_that_is_wrong(guarded: Guarded, nixfetch: Command, demo: Demo) -> None:
    wrong = {**guarded.reader, "AWS_SECRET_ACCESS_KEY": SECRET}
    said = refusal(fetch(nixfetch, demo, guarded.url, "-vv", **wrong), nixfetch)
    assert "SignatureDoesNotMatch" in said
    assert "provider: env" in said


def test_a_key_that_nobody_knows(guarded: Guarded, nixfetch: Command, demo: Demo) -> None:
    wrong = {"AWS_ACCESS_KEY_ID": "AKIANOBODY", "AWS_SECRET_ACCESS_KEY": SECRET}
    said = refusal(fetch(nixfetch, demo, guarded.url, **wrong), nixfetch)
    assert "InvalidAccessKeyId" in said
    assert "provider: env" in said


def test_a_token_that_is_none(guarded: Guarded, nixfetch: Command, demo: Demo) -> None:
    wrong = {**guarded.reader, "AWS_SESSION_TOKEN": SECRET}
    said = refusal(fetch(nixfetch, demo, guarded.url, **wrong), nixfetch)
    assert "InvalidToken" in said


def test_who_may_nothing(guarded: Guarded, nixfetch: Command, demo: Demo) -> None:
    said = refusal(fetch(nixfetch, demo, guarded.url, **guarded.stranger), nixfetch)
    assert "cache refuses everything" in said


def test_a_profile_that_is_needed(guarded: Guarded, nixfetch: Command, demo: Demo) -> None:
    profiles(nixfetch, guarded)
    ran = fetch(nixfetch, demo, f"{guarded.url}&profile=lost")
    assert "no such AWS profile" in refusal(ran, nixfetch, 78)
    good = demo.cache("cache-xz").as_uri()
    ran = fetch(nixfetch, demo, f"{guarded.url}&profile=lost", "--from", good)
    assert (ran.code, ran.errors) == (0, []), ran.err
    assert "does not say its priority: no such AWS profile" in ran.err
    ran = fetch(nixfetch, demo, f"{guarded.url}&profile=reader", **guarded.stranger)
    assert ran.code == 0, ran.err


def test_the_profile_of_the_environment(guarded: Guarded, nixfetch: Command, demo: Demo) -> None:
    profiles(nixfetch, guarded)
    ran = fetch(nixfetch, demo, guarded.url, AWS_PROFILE="reader")
    assert ran.code == 0, ran.err


def test_a_role_of_a_profile(guarded: Guarded, nixfetch: Command, demo: Demo) -> None:
    profiles(
        nixfetch,
        guarded,
        role_arn=guarded.role,
        source_profile="reader",
        region="us-east-1",
        endpoint_url=guarded.endpoint,
    )
    ran = fetch(nixfetch, demo, f"{guarded.url}&profile=other")
    assert ran.code == 0, ran.err
    nixfetch.is_whole(demo.closure, demo.key)


def test_a_role_that_may_not_be_taken(guarded: Guarded, nixfetch: Command, demo: Demo) -> None:
    profiles(
        nixfetch,
        guarded,
        role_arn=guarded.role,
        credential_source="Environment",
        region="us-east-1",
        endpoint_url=guarded.endpoint,
    )
    ran = fetch(nixfetch, demo, f"{guarded.url}&profile=other", **guarded.stranger)
    said = refusal(ran, nixfetch)
    assert "provider: assume-role" in said
    assert "AssumeRole" in said


def test_the_doctor_names_the_provider(guarded: Guarded, nixfetch: Command) -> None:
    ran = nixfetch("doctor", guarded.url, **ALONE, **guarded.reader)
    assert ran.code == 0, ran.out
    assert "ok    credentials: AWS: env\n" in ran.out
    assert "ok    ranges" in ran.out
    ran = nixfetch("doctor", guarded.url, **ALONE, **guarded.stranger)
    assert ran.code == 5, ran.out
    assert "cache refuses everything" in ran.out


@pytest.mark.parametrize("password", ["let-me-through", "canary-wrong"])
def test_a_proxy_on_the_way(guarded: Guarded, nixfetch: Command, demo: Demo, password: str) -> None:
    with Proxy("us", "let-me-through") as proxy:
        environ = {**guarded.reader, "HTTP_PROXY": f"http://us:{password}@{proxy.address}"}
        ran = fetch(nixfetch, demo, guarded.url, "-vv", **environ)
    assert proxy.lines
    assert password not in ran.err
    if password == "let-me-through":
        assert ran.code == 0, ran.err
    else:
        assert "HTTP_PROXY" in refusal(ran, nixfetch)
