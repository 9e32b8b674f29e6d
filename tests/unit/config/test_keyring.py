from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nixfetch.config.access import Access
from nixfetch.config.cacheurl import CacheUrl, CacheUrlError
from nixfetch.config.keyring import Keyring, SecretError, without_user
from nixfetch.config.netrc import NetrcError
from nixfetch.transport import Basic, Bearer

if TYPE_CHECKING:
    from nixfetch.transport import Credentials

SECRET = "hunter2"


def credentials(
    url: str, environ: dict[str, str] | None = None, netrc: Path | None = None
) -> Credentials | None:
    return Keyring(environ or {}, netrc).credentials(CacheUrl.parse(url))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(f"{SECRET}\n")
    return path


@pytest.fixture
def netrc(tmp_path: Path) -> Path:
    path = tmp_path / "netrc"
    path.touch(mode=0o600)
    path.write_text("machine h login u password p\nmachine h login v password q\n")
    return path


def test_a_token(file: Path) -> None:
    assert credentials(f"https://h?token-file={file}") == Bearer(SECRET)
    assert credentials("https://h?token-env=T", {"T": f" {SECRET} \n"}) == Bearer(SECRET)


def test_a_password(file: Path) -> None:
    for url in (
        f"https://h?password-file={file}&user=u%40x",
        f"https://u%40x@h?password-file={file}",
    ):
        assert credentials(url) == Basic("u@x", SECRET)
    assert credentials("https://h?password-env=P", {"P": "p q"}) == Basic("", "p q")


def test_who_counts_more(file: Path, netrc: Path) -> None:
    assert credentials(f"https://u:p@h?token-file={file}", netrc=netrc) is None
    assert credentials("https://u:@h", netrc=netrc) is None
    assert credentials(f"https://h?token-file={file}", netrc=netrc) == Bearer(SECRET)
    assert credentials("https://h", netrc=netrc) == Basic("u", "p")
    assert credentials("https://H:81/x", netrc=netrc) == Basic("u", "p")
    assert credentials("https://v@h", netrc=netrc) == Basic("v", "q")
    assert credentials("https://h?user=v", netrc=netrc) == Basic("v", "q")
    assert credentials("https://token@h", netrc=netrc) == Basic("token", "")
    assert credentials("https://other", netrc=netrc) is None


@pytest.mark.parametrize(
    ("url", "provider"),
    [
        ("https://u:p@h", "its URL"),
        ("https://h?token-env=T", "token-env=T"),
        ("https://h?token-env=t", "token-env=…"),
        ("https://h?password-file={file}", "password-file={file}"),
        ("https://h", "netrc {netrc}"),
        ("https://x@h", "a user without a password"),
        ("https://other", None),
        ("s3://h", None),
    ],
)
def test_what_says_who_we_are(file: Path, netrc: Path, url: str, provider: str | None) -> None:
    keyring = Keyring({"T": "x", "t": "x"}, netrc)
    found = keyring.find(CacheUrl.parse(url.format(file=file)))[1]
    assert found == (provider and provider.format(file=file, netrc=netrc))


def test_names_that_are_not_ascii(netrc: Path) -> None:
    netrc.write_text("machine xn--bcher-kva.example login u password p")
    assert credentials("https://Bücher.example", netrc=netrc) == Basic("u", "p")
    assert credentials(f"https://{'ü' * 70}", netrc=netrc) is None


def test_only_http_has_credentials(tmp_path: Path) -> None:
    missing = tmp_path / "none"
    assert credentials("s3://h", netrc=missing) is None
    assert credentials("file:///h", netrc=missing) is None
    assert CacheUrl.parse("s3://h?token-file=/x&ca-file=/y").unknown == ("token-file",)
    assert CacheUrl.parse("/h?user=u&ca-file=/y").unknown == ("user", "ca-file")


def test_netrc_is_read_when_it_is_needed(tmp_path: Path, file: Path) -> None:
    missing = tmp_path / "none"
    assert credentials(f"https://h?token-file={file}", netrc=missing) == Bearer(SECRET)
    with pytest.raises(SecretError) as caught:
        credentials("https://h", netrc=missing)
    assert caught.value.facts == {"file": missing, "reason": "No such file or directory"}
    assert caught.value.exit_code == 78


def test_netrc_is_read_once(netrc: Path) -> None:
    keyring = Keyring({}, netrc)
    assert keyring.credentials(CacheUrl.parse("https://h"))
    netrc.unlink()
    assert keyring.credentials(CacheUrl.parse("http://h"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_netrc(netrc: Path) -> None:
    netrc.chmod(0)
    with pytest.raises(SecretError) as caught:
        credentials("https://h", netrc=netrc)
    assert caught.value.facts["reason"] == "Permission denied"
    assert "netrc-file" in str(caught.value.hint)


def test_a_netrc_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SecretError) as caught:
        credentials("https://h", netrc=tmp_path)
    assert caught.value.facts["reason"] == "Is a directory"
    assert "netrc-file" in str(caught.value.hint)


def test_a_malformed_netrc(netrc: Path) -> None:
    netrc.write_bytes(b'machine x\nlogin "hunter2')
    with pytest.raises(NetrcError) as caught:
        credentials("https://h", netrc=netrc)
    assert caught.value.facts == {"file": netrc, "line": 2}
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("mode", "warned"), [(0o600, False), (0o400, False), (0o640, True), (0o644, True)]
)
def test_a_netrc_that_others_may_read(
    netrc: Path, caplog: pytest.LogCaptureFixture, mode: int, *, warned: bool
) -> None:
    netrc.chmod(mode)
    with caplog.at_level(logging.WARNING):
        credentials("https://h", netrc=netrc)
    assert [f"(mode {mode:04o})" in record.getMessage() for record in caplog.records] == [
        True
    ] * warned


def test_words_that_mean_nothing_are_told(netrc: Path, caplog: pytest.LogCaptureFixture) -> None:
    netrc.write_text(f"machine h\nlogin u password x {SECRET}")
    with caplog.at_level(logging.WARNING):
        credentials("https://h", netrc=netrc)
    assert f"{netrc}:2: a word means nothing" in caplog.text
    assert SECRET not in caplog.text


def test_no_netrc_at_all() -> None:
    assert credentials("https://h", netrc=Path("/dev/null")) is None


def test_relative_files_are_below_the_directory_of_credentials(file: Path) -> None:
    environ = {"CREDENTIALS_DIRECTORY": str(file.parent)}
    assert credentials("https://h?token-file=secret", environ) == Bearer(SECRET)
    assert Keyring(environ).file("secret") == str(file)
    assert Keyring({}).file(str(file)) == str(file)
    with pytest.raises(SecretError) as caught:
        credentials("https://h?token-file=secret")
    assert "CREDENTIALS_DIRECTORY" in str(caught.value.hint)


@pytest.mark.parametrize(
    "content", [b"", b"\n", b" \n\t", b"hunter2\0", b"hunter2\xff", b"hunter2\x1b", b"x" * 70_000]
)
def test_what_is_no_secret(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(SecretError) as caught:
        credentials(f"https://h?password-file={file}")
    assert caught.value.facts["file"] == str(file)
    assert SECRET not in f"{caught.value!r}{caught.value.__cause__!r}{caught.value.__context__!r}"


@pytest.mark.parametrize("token", ["hunter2 x", "hünter2"])
def test_what_is_no_token(token: str) -> None:
    with pytest.raises(SecretError):
        credentials("https://h?token-env=T", {"T": token})


def test_only_the_first_line_counts(file: Path) -> None:
    file.write_text(f"  {SECRET}\r\nsomething else\n")
    assert credentials(f"https://h?token-file={file}") == Bearer(SECRET)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SecretError) as caught:
        credentials(f"https://h?token-file={tmp_path}/none")
    assert caught.value.facts["file"] == f"{tmp_path}/none"
    with pytest.raises(SecretError) as caught:
        credentials("https://h?token-env=MY_TOKEN")
    assert caught.value.facts == {"variable": "MY_TOKEN"}
    with pytest.raises(SecretError) as caught:
        credentials("https://h?token-env=ghp_hunter2")  # the token itself, by mistake
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "query",
    [
        "token-file=/x&token-env=X",
        "token-file=/x&password-file=/y",
        "password-file=/x&password-env=X",
        "token-file=/x&user=u",
        "tls-private-key=/x",
        "token-file=",
        "user=",
        "ca-file=%00",
        "token-env=not-a-name-hunter2",
        "retry-attempts=-1",
        "retry-delay=x",
    ],
)
def test_what_makes_no_sense(query: str) -> None:
    with pytest.raises(CacheUrlError) as caught:
        CacheUrl.parse(f"https://h?{query}")
    assert caught.value.facts["parameter"]
    assert SECRET not in str(caught.value)


def test_a_token_has_no_user() -> None:
    with pytest.raises(CacheUrlError, match="a token has no user"):
        CacheUrl.parse("https://u@h?token-file=/x")


def test_how_access_is_shown() -> None:
    url = CacheUrl.parse(
        "https://u:hunter2@h?token-env=ghp_hunter2&ca-file=/c&tls-certificate=/d&retry-attempts=3"
    )
    assert str(url) == (
        "https://h?ca-file=/c&retry-attempts=3&tls-certificate=/d&token-env=%E2%80%A6"
    )
    assert SECRET not in f"{url!r} {url.access!r}"
    assert str(CacheUrl.parse("https://h?token-env=MY_TOKEN")) == "https://h?token-env=MY_TOKEN"
    assert CacheUrl.parse("https://h").access == Access()


def test_a_url_without_its_user() -> None:
    assert without_user("https://u:p@h:1/x") == "https://h:1/x"
    assert without_user("https://h/x@y") == "https://h/x@y"
