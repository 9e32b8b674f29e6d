from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import pytest

import nixfetch
from snapshotter.registry.challenges import Challenge, Doorman, parse
from snapshotter.registry.logins import Identity, Login

if TYPE_CHECKING:
    from collections.abc import Mapping

BEARER = 'Bearer realm="https://auth.test/token",service="hub",scope="repository:a:pull"'
PULL, PUSH = ("repository:a/b:pull",), ("repository:a/b:pull,push",)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (
            BEARER,
            Challenge(
                "bearer",
                {
                    "realm": "https://auth.test/token",
                    "service": "hub",
                    "scope": "repository:a:pull",
                },
            ),
        ),
        ('Basic realm="a, b=c"', Challenge("basic", {"realm": "a, b=c"})),
        ("Basic", Challenge("basic", {})),
        ('basic realm=x, Bearer realm="y"', Challenge("bearer", {"realm": "y"})),
        (r'BEARER Realm="a\"b" , service=s', Challenge("bearer", {"realm": 'a"b', "service": "s"})),
        ('Negotiate, Bearer realm="y"', Challenge("bearer", {"realm": "y"})),
        ("", None),
        ("Negotiate", None),
        ('Digest realm="x", nonce="y"', None),
        ("=" * 10_000, None),
        ('Bearer realm="' + "x" * 100_000, None),
    ],
)
def test_challenges(header: str, expected: Challenge | None) -> None:
    assert parse(header) == expected


@dataclass(slots=True)
class Server:
    """A server of tokens that remembers what it was asked."""

    answers: list[tuple[int, bytes]] = field(default_factory=list)
    asked: list[tuple[str, str | None, Mapping[str, str] | None]] = field(default_factory=list)

    def __call__(
        self, url: str, *, authorization: str | None, form: Mapping[str, str] | None
    ) -> tuple[int, bytes]:
        self.asked.append((url, authorization, form))
        return self.answers.pop(0)


def token(text: str, key: str = "token") -> tuple[int, bytes]:
    return 200, json.dumps({key: text}).encode()


def doorman(server: Server, login: Login | None = None, *, plain_http: bool = False) -> Doorman:
    return Doorman("hub.test", login, server, plain_http=plain_http)


def test_nobody_gets_a_token_for_a_scope() -> None:
    server = Server([token("t1"), token("t2", "access_token")])
    door = doorman(server)
    assert door.authorization(PULL) is None
    door.refused(BEARER, PULL)
    assert door.authorization(PULL) == "Bearer t1"
    assert door.authorization(PUSH) is None
    door.refused(BEARER, PUSH)
    assert door.authorization(PUSH) == "Bearer t2"
    url, authorization, form = server.asked[0]
    assert (authorization, form) == (None, None)
    assert parse_qs(urlsplit(url).query) == {"service": ["hub"], "scope": ["repository:a/b:pull"]}


def test_a_login_goes_to_the_server_of_tokens() -> None:
    server = Server([token("t1")])
    doorman(server, nixfetch.Basic("u", "p")).refused(BEARER, PULL)
    assert server.asked[0][1] == nixfetch.Basic("u", "p").authorization()


def test_an_identity_is_exchanged() -> None:
    server = Server([token("t1", "access_token")])
    doorman(server, Identity("secret")).refused(BEARER, PULL)
    url, authorization, form = server.asked[0]
    assert (url, authorization) == ("https://auth.test/token", None)
    assert form is not None
    assert (form["grant_type"], form["refresh_token"]) == ("refresh_token", "secret")
    assert form["scope"] == "repository:a/b:pull"


def test_a_login_of_basic() -> None:
    door = doorman(Server(), nixfetch.Basic("u", "p"))
    assert door.authorization(PULL) is None
    door.refused('Basic realm="x"', PULL)
    assert door.authorization(PULL) == nixfetch.Basic("u", "p").authorization()
    with pytest.raises(nixfetch.AuthenticationError, match="refuses the login"):
        door.refused('Basic realm="x"', PULL)


def test_a_token_of_the_registry_itself() -> None:
    door = doorman(Server(), nixfetch.Bearer("mine"))
    assert door.authorization(PULL) == "Bearer mine"
    with pytest.raises(nixfetch.AuthenticationError):
        door.refused('Basic realm="x"', PULL)


def test_an_old_token_is_replaced_and_a_refused_one_is_not_tried_again() -> None:
    door = doorman(Server([token("t1"), token("t2"), token("t2")]))
    door.refused(BEARER, PULL)
    door.refused(BEARER, PULL)
    assert door.authorization(PULL) == "Bearer t2"
    with pytest.raises(nixfetch.AuthenticationError, match="refuses the token"):
        door.refused(BEARER, PULL)


@pytest.mark.parametrize(
    ("header", "login", "answer", "problem"),
    [
        ("Negotiate", None, None, "registry wants a login of a kind that is not known here"),
        ("Basic", None, None, "registry wants a login"),
        ("Basic", Identity("secret"), None, "registry wants a login"),
        (BEARER, None, (401, b""), "registry wants a login"),
        (BEARER, nixfetch.Basic("u", "secret"), (403, b""), "login is refused"),
        (BEARER, None, (200, b"{}"), "malformed bearer token"),
        (BEARER, None, (200, b"secret"), "malformed bearer token"),
        (BEARER, None, (200, b'{"token": "a b"}'), "malformed bearer token"),
        *(
            (f'Bearer realm="{realm}"', nixfetch.Basic("u", "secret"), None, None)
            for realm in ("http://auth.test/", "file:///etc/passwd", "", "https://", "//x", "x")
        ),
        (
            'Bearer realm="https://u:p@auth.test/"',
            None,
            None,
            "registry sends us for a token where we do not go",
        ),
    ],
)
def test_refusals(
    header: str, login: Login | None, answer: tuple[int, bytes] | None, problem: str | None
) -> None:
    server = Server([answer] if answer else [])
    with pytest.raises(nixfetch.AuthenticationError) as caught:
        doorman(server, login).refused(header, PULL)
    assert caught.value.problem == problem or (
        problem is None and "where we do not go" in caught.value.problem
    )
    assert "secret" not in f"{caught.value!r} {caught.value} {caught.value.hint}"


def test_a_broken_server_of_tokens_may_be_asked_again() -> None:
    with pytest.raises(nixfetch.TransportError) as caught:
        doorman(Server([(503, b"")])).refused(BEARER, PULL)
    assert caught.value.retryable
    with pytest.raises(nixfetch.TransportError) as caught:
        doorman(Server([(404, b"")])).refused(BEARER, PULL)
    assert not caught.value.retryable


def test_tokens_without_tls_only_from_registries_without() -> None:
    server = Server([token("t")])
    doorman(server, plain_http=True).refused('Bearer realm="http://127.0.0.1/token?a=b"', PULL)
    assert server.asked[0][0].startswith("http://127.0.0.1/token?a=b&scope=")


def test_nothing_shows_a_secret() -> None:
    door = doorman(Server([token("hidden")]), nixfetch.Basic("u", "hidden"))
    door.refused(BEARER, PULL)
    assert "hidden" not in repr(door)
