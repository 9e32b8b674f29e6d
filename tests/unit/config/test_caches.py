from __future__ import annotations

import base64
import logging
import ssl
from typing import TYPE_CHECKING

import pytest

from nixfetch.cache.memo import Memo
from nixfetch.cache.memory import Memory
from nixfetch.config.caches import open_caches
from nixfetch.config.cacheurl import CacheUrl
from nixfetch.config.keyring import SecretError
from nixfetch.errors import TransportError
from nixfetch.plan.retry import RetrySchedule
from nixfetch.transport import AuthenticationError, Pace, TransportOptions
from servers import Answer, LoopbackServer, Request, certified

if TYPE_CHECKING:
    from pathlib import Path

OPTIONS = TransportOptions(trust_env=False, pace=Pace(connect=20, stall=20))
INFO = b"StoreDir: /nix/store\nPriority: 7\n"


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("user", "query", "expected"),
    [
        ("", "token-file={file}", "Bearer hunter2"),
        ("", "token-env=T", "Bearer tt"),
        ("", "user=me&password-file={file}", basic("me:hunter2")),
        ("me@", "password-env=T", basic("me:tt")),
        ("me:pw@", "token-env=T", basic("me:pw")),
        ("v@", "", basic("v:q")),
        ("tok%20en@", "", basic("tok en:")),
        ("", "", basic("u:p")),
    ],
)
def test_what_a_cache_is_told(tmp_path: Path, user: str, query: str, expected: str) -> None:
    file, netrc = tmp_path / "secret", tmp_path / "netrc"
    file.write_text("hunter2\n")
    netrc.touch(mode=0o600)
    netrc.write_text("machine 127.0.0.1 login u password p machine 127.0.0.1 login v password q")
    heard = []

    def answer(request: Request) -> Answer:
        heard.append(request.headers.get("authorization"))
        return Answer(INFO)

    with LoopbackServer() as server:
        server.faults["*"] = answer
        url = f"http://{user}127.0.0.1:{server.port}?{query.format(file=file)}"
        group = open_caches([url], options=OPTIONS, netrc_file=netrc, environ={"T": "tt"})
        with group as caches:
            [cache] = caches.in_order()
            assert cache.priority == 7
            assert cache.url == server.url
    assert heard == [expected]


def test_certificates_of_a_url(tmp_path: Path) -> None:
    tls, ca_file = certified(tmp_path)
    with LoopbackServer({"nix-cache-info": INFO}, tls=tls) as server:
        with open_caches([f"{server.url}?ca-file={ca_file}"], options=OPTIONS) as caches:
            assert caches.in_order()[0].priority == 7
        environ = {"CREDENTIALS_DIRECTORY": str(ca_file.parent)}
        url = f"{server.url}?ca-file={ca_file.name}"
        with open_caches([url], options=OPTIONS, environ=environ) as caches:
            assert caches.in_order()[0].priority == 7
        retry = RetrySchedule(tries=1)
        with (
            open_caches([server.url], options=OPTIONS, retry=retry) as caches,
            pytest.raises(TransportError),
        ):
            _ = caches.in_order()[0].priority


def test_files_that_are_not_there_are_found_at_once(tmp_path: Path) -> None:
    for name in ("ca-file", "tls-certificate", "token-file"):
        with pytest.raises(SecretError) as caught:
            open_caches([f"https://h?{name}={tmp_path}/none"], environ={})
        assert caught.value.facts["file"] == f"{tmp_path}/none"
        assert caught.value.facts["cache"] == "https://h"


def test_wrong_credentials_are_no_secret_in_errors(tmp_path: Path) -> None:
    with LoopbackServer() as server:
        server.faults["*"] = Answer(status=401)
        url = f"http://127.0.0.1:{server.port}?token-env=T"
        with (
            open_caches([url], options=OPTIONS, environ={"T": "hunter2"}) as caches,
            pytest.raises(AuthenticationError) as caught,
        ):
            _ = caches.in_order()[0].priority
    assert "hunter2" not in f"{caught.value} {caught.value!r}"


def test_retries_of_a_url() -> None:
    url = CacheUrl.parse("https://h?retry-attempts=2&retry-delay=100&retry-max-delay=500")
    usual = RetrySchedule(longest_asked=9.0)
    assert url.schedule(usual) == RetrySchedule(tries=2, base=0.1, longest=0.5, longest_asked=9.0)
    assert CacheUrl.parse("https://h").schedule(usual) == usual
    assert CacheUrl.parse("https://h?retry-attempts=0").schedule(usual).tries == 1
    with LoopbackServer() as server:
        server.faults["*"] = Answer(status=500)
        text = f"{server.url}?retry-attempts=2&retry-delay=0"
        with open_caches([text], options=OPTIONS) as caches, pytest.raises(TransportError):
            _ = caches.in_order()[0].priority
        assert server.asked("nix-cache-info") == 2


def test_what_was_said_is_remembered(tmp_path: Path) -> None:
    def opened(*, offline: bool = False) -> int:
        memory = Memory(Memo(tmp_path / "memo"))
        with open_caches([server.url], options=OPTIONS, memory=memory, offline=offline) as caches:
            return caches.in_order()[0].priority

    with LoopbackServer({"nix-cache-info": INFO}) as server:
        assert opened() == opened() == opened(offline=True) == 7
        assert server.asked("nix-cache-info") == 1


def test_directories_are_asked_offline_and_not_remembered(tmp_path: Path) -> None:
    (tmp_path / "nix-cache-info").write_bytes(INFO)
    memo = tmp_path / "memo"
    with open_caches([str(tmp_path)], memory=Memory(Memo(memo)), offline=True) as caches:
        assert caches.in_order()[0].priority == 7
    assert not memo.exists()


def test_unknown_parameters_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), open_caches(["https://h?token=hunter2"], environ={}):
        pass
    assert "parameter token is not known" in caplog.text
    assert "hunter2" not in caplog.text


def test_a_client_certificate_of_a_url(tmp_path: Path) -> None:
    tls, ca_file = certified(tmp_path)
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_verify_locations(ca_file)
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    key = "tls-certificate=ca.pem&tls-private-key=key.pem"
    with LoopbackServer({"nix-cache-info": INFO}, tls=tls) as server:
        url = f"{server.url}?ca-file={ca_file}&retry-attempts=1"
        with open_caches([f"{url}&{key}"], options=OPTIONS, environ=environ) as caches:
            assert caches.in_order()[0].priority == 7
        with open_caches([url], options=OPTIONS) as caches, pytest.raises(TransportError):
            _ = caches.in_order()[0].priority


def test_no_cache_at_all() -> None:
    with open_caches([]) as caches:
        assert caches.in_order() == []
