"""Private caches behind nginx: passwords, tokens, certificates, proxies, and who may see what.

One nginx with a port for each kind of door. Each test looks through all that the command printed
and wrote for its secret.
"""

from __future__ import annotations

import base64
import shutil
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from certificates import Authority, Issued
from proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from command import Ran
    from e2e.conftest import Command, Demo, Start

pytestmark = pytest.mark.e2e

USER, SECRET = "puller", "canary-7a3f-hunter2"
BASIC = base64.b64encode(f"{USER}:{SECRET}".encode()).decode()
TLS = ["tls", "h2", "client", "expired", "misnamed"]
DOORS = ["basic", "token", "other", "redirect", "none", "unauthorized", *TLS]
NGINX = """\
daemon off;
user root;
worker_processes 1;
pid {folder}/pid;
error_log stderr notice;
events {{ }}
http {{
  log_format seen '$server_port|$server_protocol|$http_authorization|$ssl_client_verify';
  access_log {folder}/seen.log seen;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  root {root};
  server {{ listen 127.0.0.1:{basic}; auth_basic "cache"; auth_basic_user_file {folder}/htpasswd; }}
  server {{ listen 127.0.0.1:{token};
    if ($http_authorization != "Bearer {secret}") {{ return 401; }} }}
  server {{ listen 127.0.0.1:{other}; }}
  server {{ listen 127.0.0.1:{redirect}; auth_basic "cache"; auth_basic_user_file {folder}/htpasswd;
    location /nar/ {{ return 302 http://127.0.0.1:{other}$uri; }} }}
  server {{ listen 127.0.0.1:{none}; location / {{ return 403; }} }}
  server {{ listen 127.0.0.1:{unauthorized}; location / {{ return 401; }} }}
  server {{ listen 127.0.0.1:{tls} ssl; {tls_files} }}
  server {{ listen 127.0.0.1:{h2} ssl http2; {h2_files} }}
  server {{ listen 127.0.0.1:{client} ssl; {client_files}
    ssl_client_certificate {folder}/ours.pem; ssl_verify_client on; }}
  server {{ listen 127.0.0.1:{expired} ssl; {expired_files} }}
  server {{ listen 127.0.0.1:{misnamed} ssl; {misnamed_files} }}
}}
"""


@dataclass(frozen=True, slots=True)
class Doors:
    """Where nginx listens, and what it has seen."""

    ports: dict[str, int]
    folder: Path
    authority: Authority
    stranger: Authority
    """Whom the server knows nothing of."""

    def url(self, door: str, parameters: str = "", *, user: str = "") -> str:
        scheme = "https" if door in TLS else "http"
        return f"{scheme}://{user}127.0.0.1:{self.ports[door]}{parameters}"

    def seen(self, door: str) -> list[list[str]]:
        """Protocol, authorization and client's certificate of each request at a door so far."""
        lines = (line.split("|") for line in (self.folder / "seen.log").read_text().splitlines())
        return [fields for port, *fields in lines if int(port) == self.ports[door]]


@pytest.fixture
def doors(demo: Demo, start: Start, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    program = shutil.which("nginx", path="/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin")
    if program is None:
        pytest.skip("no nginx")
    folder = tmp_path_factory.mktemp("nginx")
    authority = Authority(folder, "ours")
    certificates = {
        "tls": authority.issue("tls"),
        "h2": authority.issue("h2"),
        "client": authority.issue("client"),
        "expired": authority.issue("expired", days=-1),
        "misnamed": authority.issue("misnamed", host="cache.example"),
    }
    files = {f"{name}_files": _directives(issued) for name, issued in certificates.items()}
    ports = dict(zip(DOORS, free_ports(len(DOORS)), strict=True))
    (folder / "htpasswd").write_text(f"{USER}:{{PLAIN}}{SECRET}\n")
    (folder / "nginx.conf").write_text(
        NGINX.format(folder=folder, root=demo.cache("cache-zstd"), secret=SECRET, **ports, **files)
    )
    command = [program, "-c", folder / "nginx.conf", "-p", folder, "-e", "stderr"]
    with start(command, "start worker process"):
        yield Doors(ports, folder, authority, Authority(folder, "stranger"))


def _directives(issued: Issued) -> str:
    return f"ssl_certificate {issued.certificate}; ssl_certificate_key {issued.key};"


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [free.getsockname()[1] for free in sockets]
    for free in sockets:
        free.close()
    return ports


class Visitor:
    """Fetches the fixture closure, and looks whether the secret shows anywhere."""

    def __init__(self, nixfetch: Command, demo: Demo, folder: Path) -> None:
        self.nixfetch, self.demo = nixfetch, demo
        self.secrets = folder / "secrets"  # where a test may write some
        self.secrets.mkdir()
        self.environ: dict[str, str] = {}

    def secret(self, name: str, content: str) -> Path:
        file = self.secrets / name
        file.write_text(content)
        file.chmod(0o600)
        return file

    def fetch(self, url: str, *flags: str | Path) -> Ran:
        ran = self.nixfetch(
            *["fetch", self.demo.root, "--from", url, "--trusted-key", self.demo.key],
            *["-vv", "--json", *flags],
            **self.environ,
        )
        self._is_discreet(ran)
        return ran

    def gets_in(self, url: str, *flags: str | Path) -> None:
        ran = self.fetch(url, *flags)
        assert ran.code == 0, ran.err
        assert self.nixfetch.valid() == sorted(self.demo.closure)

    def is_refused(self, url: str, *words: str) -> None:
        ran = self.fetch(url)
        assert ran.code == 5, ran.err
        assert ran.errors
        for word in words:
            assert word in ran.err
        self.nixfetch.is_empty()

    def _is_discreet(self, ran: Ran) -> None:
        for shown in (SECRET, BASIC, "canary"):
            assert shown not in ran.out
            assert shown not in ran.err
            for place in (self.nixfetch.store, self.nixfetch.home):
                for file in place.rglob("*"):
                    written = str(file) if not file.is_file() else f"{file}{file.read_bytes()!r}"
                    assert shown not in written, file


@pytest.fixture
def visitor(nixfetch: Command, demo: Demo, tmp_path: Path) -> Visitor:
    return Visitor(nixfetch, demo, tmp_path)


# Passwords.


def test_a_password_in_the_url(doors: Doors, visitor: Visitor) -> None:
    visitor.gets_in(doors.url("basic", user=f"{USER}:{SECRET}@"))


def test_a_password_in_netrc(doors: Doors, visitor: Visitor) -> None:
    text = f"machine 127.0.0.1 login {USER} password {SECRET}\n"
    visitor.environ["NIXFETCH_NETRC_FILE"] = str(visitor.secret("netrc", text))
    visitor.gets_in(doors.url("basic"))


def test_the_netrc_of_nix_conf(doors: Doors, visitor: Visitor) -> None:
    netrc = visitor.secret("netrc", f"default login {USER} password {SECRET}")
    visitor.environ["NIX_CONFIG"] = f"netrc-file = {netrc}"
    visitor.gets_in(doors.url("basic"))


def test_a_password_in_a_file(doors: Doors, visitor: Visitor) -> None:
    file = visitor.secret("password", f"{SECRET}\n")
    visitor.gets_in(doors.url("basic", f"?user={USER}&password-file={file}"))


def test_a_password_in_a_variable(doors: Doors, visitor: Visitor) -> None:
    visitor.environ["CACHE_PASSWORD"] = SECRET
    visitor.gets_in(doors.url("basic", "?password-env=CACHE_PASSWORD", user=f"{USER}@"))


@pytest.mark.parametrize(
    "user", ["", f"{USER}:canary-wrong@", f"stranger:{SECRET}@"], ids=["none", "wrong", "stranger"]
)
def test_a_wrong_password(doors: Doors, visitor: Visitor, user: str) -> None:
    visitor.is_refused(doors.url("basic", user=user), "not authorised", "401", "hint:")
    assert len(doors.seen("basic")) <= 2  # neither retried nor asked for each path


def test_a_password_file_that_is_lost(doors: Doors, visitor: Visitor) -> None:
    ran = visitor.fetch(doors.url("basic", f"?user={USER}&password-file=/nowhere/password"))
    assert ran.code == 78
    assert "/nowhere/password" in ran.err


# Tokens.


def test_a_token_in_a_file(doors: Doors, visitor: Visitor) -> None:
    file = visitor.secret("token", f"{SECRET}\n")
    visitor.gets_in(doors.url("token", f"?token-file={file}"))


def test_a_token_in_a_variable(doors: Doors, visitor: Visitor) -> None:
    visitor.environ["CACHE_TOKEN"] = SECRET
    visitor.gets_in(doors.url("token", "?token-env=CACHE_TOKEN"))


def test_a_token_of_systemd(doors: Doors, visitor: Visitor) -> None:
    visitor.secret("token", SECRET)
    visitor.environ["CREDENTIALS_DIRECTORY"] = str(visitor.secrets)
    visitor.gets_in(doors.url("token", "?token-file=token"))


def test_a_wrong_token(doors: Doors, visitor: Visitor) -> None:
    file = visitor.secret("token", "canary-wrong")
    visitor.is_refused(doors.url("token", f"?token-file={file}"), "401", "hint:")


# Doors that stay shut, and doors that lead on.


@pytest.mark.parametrize(("door", "status"), [("none", "403"), ("unauthorized", "401")])
def test_a_door_that_stays_shut(doors: Doors, visitor: Visitor, door: str, status: str) -> None:
    visitor.is_refused(doors.url(door, user=f"{USER}:{SECRET}@"), status, "hint:")


def test_credentials_stay_behind_at_a_redirect(doors: Doors, visitor: Visitor) -> None:
    visitor.gets_in(doors.url("redirect", user=f"{USER}:{SECRET}@"))
    assert {said for _, said, _ in doors.seen("redirect")} == {f"Basic {BASIC}"}
    assert doors.seen("other")
    assert {said for _, said, _ in doors.seen("other")} == {"-"}


# TLS.


@pytest.mark.parametrize("how", ["URL", "environment", "nix.conf"])
def test_an_authority_of_our_own(doors: Doors, visitor: Visitor, how: str) -> None:
    file = doors.authority.file
    match how:
        case "URL":
            visitor.gets_in(doors.url("tls", f"?ca-file={file}"))
        case "environment":
            visitor.environ["NIX_SSL_CERT_FILE"] = str(file)
            visitor.gets_in(doors.url("tls"))
        case _:
            visitor.environ["NIX_CONFIG"] = f"ssl-cert-file = {file}"
            visitor.gets_in(doors.url("tls"))


def test_a_server_that_would_speak_http_2(doors: Doors, visitor: Visitor) -> None:
    visitor.gets_in(doors.url("h2", f"?ca-file={doors.authority.file}"))
    assert {protocol for protocol, _, _ in doors.seen("h2")} == {"HTTP/1.1"}


@pytest.mark.parametrize(
    ("door", "words"),
    [
        ("tls", "certificate verify failed"),
        ("expired", "expired"),
        ("misnamed", "127.0.0.1"),
    ],
)
def test_a_server_that_is_not_believed(
    doors: Doors, visitor: Visitor, door: str, words: str
) -> None:
    authority = doors.stranger if door == "tls" else doors.authority
    url = doors.url(door, f"?ca-file={authority.file}", user=f"{USER}:{SECRET}@")
    visitor.is_refused(url, words, "hint:")
    assert doors.seen(door) == []


def test_a_certificate_says_who_we_are(doors: Doors, visitor: Visitor) -> None:
    ours = doors.authority.issue("us", host="us.example")
    url = doors.url(
        "client",
        f"?ca-file={doors.authority.file}&tls-certificate={ours.certificate}"
        f"&tls-private-key={ours.key}",
    )
    visitor.gets_in(url)
    assert {verified for _, _, verified in doors.seen("client")} == {"SUCCESS"}


def test_a_certificate_and_its_key_in_one_file(doors: Doors, visitor: Visitor) -> None:
    ours = doors.authority.issue("us", host="us.example")
    both = visitor.secret("both.pem", ours.certificate.read_text() + ours.key.read_text())
    visitor.gets_in(doors.url("client", f"?ca-file={doors.authority.file}&tls-certificate={both}"))


@pytest.mark.parametrize("which", ["none", "stranger's", "expired"])
def test_a_certificate_that_is_refused(doors: Doors, visitor: Visitor, which: str) -> None:
    url = doors.url("client", f"?ca-file={doors.authority.file}")
    if which != "none":
        authority = doors.stranger if which == "stranger's" else doors.authority
        theirs = authority.issue("them", host="x.example", days=-1 if which == "expired" else 9)
        url += f"&tls-certificate={theirs.certificate}&tls-private-key={theirs.key}"
    visitor.is_refused(url, "400")  # which is what nginx makes of it


def test_a_key_of_another_certificate(doors: Doors, visitor: Visitor) -> None:
    one, other = (doors.authority.issue(name, host="x.example") for name in ("one", "other"))
    url = doors.url(
        "client",
        f"?ca-file={doors.authority.file}&tls-certificate={one.certificate}"
        f"&tls-private-key={other.key}",
    )
    visitor.is_refused(url, "client certificate", "hint:")


# Proxies.


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy(USER, SECRET) as proxy:
        yield proxy


def through(proxy: Proxy, visitor: Visitor, login: str) -> None:
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "http_proxy"):
        visitor.environ[name] = f"http://{login}{proxy.address}"


@pytest.mark.parametrize("door", ["tls", "other"])
def test_a_proxy_that_knows_us(doors: Doors, visitor: Visitor, proxy: Proxy, door: str) -> None:
    through(proxy, visitor, f"{USER}:{SECRET}@")
    parameters = f"?ca-file={doors.authority.file}" if door == "tls" else ""
    visitor.gets_in(doors.url(door, parameters))
    assert proxy.lines


@pytest.mark.parametrize("login", ["", f"{USER}:canary-wrong@"], ids=["nobody", "wrong"])
@pytest.mark.parametrize("door", ["tls", "other"])
def test_a_proxy_that_does_not(
    doors: Doors, visitor: Visitor, proxy: Proxy, door: str, login: str
) -> None:
    through(proxy, visitor, login)
    parameters = f"?ca-file={doors.authority.file}" if door == "tls" else ""
    visitor.is_refused(doors.url(door, parameters), "407", "HTTPS_PROXY")
    assert doors.seen(door) == []


def test_no_proxy(doors: Doors, visitor: Visitor, proxy: Proxy) -> None:
    through(proxy, visitor, "")
    visitor.environ["NO_PROXY"] = "127.0.0.1"
    visitor.gets_in(doors.url("other"))
    assert proxy.lines == []
