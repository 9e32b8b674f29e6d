"""A real registry on loopback, open, with passwords, or with tokens of a server of our own.

    with tokens() as server, running(folder, auth=server) as hub:
        hub.host                       # "127.0.0.1:40000"
        hub.requests()                 # what was asked, from its log

All know one user: USER, PASSWORD.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

from images import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from certificates import Issued

USER, PASSWORD = "somebody", "hunter2"
_HTPASSWD = f"{USER}:$2y$05$abcdefghijklmnopqrstuuoXuKqgZXLiJqzfmMXDDhSFPIvxV7t8."  # bcrypt
_PATIENCE = 30.0  # seconds until a registry that does not answer is an error of the test
_SERVICE, _ISSUER = "registry.test", "tokens.test"


def docker_config(folder: Path, host: str, *, password: str = PASSWORD) -> Path:
    """A config.json with a login, as `docker login` leaves it."""
    folder.mkdir(exist_ok=True)
    auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    return folder


@dataclass(frozen=True, slots=True)
class Hub:
    """A registry that runs."""

    host: str
    log: Path

    def requests(self) -> list[tuple[str, str, int]]:
        """Method, target and status of all requests so far."""
        found = re.findall(r'"([A-Z]+) (/v2/\S*) HTTP/[\d.]+" (\d+)', self.log.read_text())
        return [(method, target, int(status)) for method, target, status in found]


@contextmanager
def running(
    folder: Path, *, auth: Tokens | str | None = None, tls: Issued | None = None
) -> Iterator[Hub]:
    """A registry, with its blobs and its log below `folder`.

    Args:
        folder: of its own.
        auth: a server of tokens; "basic"; None: for everybody.
        tls: its certificate.
    """
    program = shutil.which("docker-registry", path=f"{os.environ['PATH']}:/usr/bin:/usr/sbin")
    if program is None:
        pytest.skip("there is no docker-registry here")
    folder.mkdir(parents=True, exist_ok=True)
    host = f"127.0.0.1:{free_port()}"
    config: dict[str, Any] = {
        "version": "0.1",
        "log": {"accesslog": {"disabled": False}, "level": "warn"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "blobs")}},
        "http": {"addr": host},
    }
    if tls is not None:
        config["http"]["tls"] = {"certificate": str(tls.certificate), "key": str(tls.key)}
    if auth == "basic":
        (folder / "htpasswd").write_text(f"{_HTPASSWD}\n")
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}
    elif isinstance(auth, Tokens):
        (folder / "tokens.pem").write_bytes(auth.certificate_pem)
        config["auth"] = {
            "token": {
                "realm": auth.url,
                "service": _SERVICE,
                "issuer": _ISSUER,
                "rootcertbundle": str(folder / "tokens.pem"),
            }
        }
    (folder / "config.json").write_text(json.dumps(config))  # JSON is YAML
    log = folder / "registry.log"
    with (
        log.open("w") as output,
        subprocess.Popen(
            [program, "serve", folder / "config.json"],
            env={"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"},
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            _await(f"http{'s' if tls else ''}://{host}/v2/", process, log)
            yield Hub(host, log)
        finally:
            process.terminate()


def _await(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    with httpx.Client(trust_env=False, verify=False) as client:
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, "the registry does not answer"
            try:
                client.get(url)
            except httpx.TransportError:
                time.sleep(0.02)
            else:
                return


# Tokens.


@dataclass(slots=True)
class Tokens:
    """A server of tokens: signs what its one user asks for, and reading for everybody."""

    url: str
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    asked: list[tuple[list[str], bool]] = field(default_factory=list)
    """Scopes, and whether it was the user."""

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def sign(self, scopes: list[str], *, known: bool) -> str:
        """A token for what of `scopes` may be given."""
        self.asked.append((scopes, known))
        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            given = actions.split(",") if known else ["pull"]
            access.append({"type": kind, "name": name, "actions": given})
        der = self.certificate.public_bytes(serialization.Encoding.DER)
        now = int(time.time())
        head = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(der).decode()]}
        claims = {
            "iss": _ISSUER, "sub": USER if known else "", "aud": _SERVICE, "jti": f"{now}",
            "iat": now, "nbf": now - 60, "exp": now + 300, "access": access,
        }  # fmt: skip
        text = b".".join(_base64(json.dumps(part).encode()) for part in (head, claims))
        r, s = decode_dss_signature(self.key.sign(text, ec.ECDSA(hashes.SHA256())))
        return (text + b"." + _base64(r.to_bytes(32, "big") + s.to_bytes(32, "big"))).decode()


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


@contextmanager
def tokens() -> Iterator[Tokens]:
    """A server of tokens that runs."""
    key = ec.generate_private_key(ec.SECP256R1())
    found = Tokens("", key, _certificate(key))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            login = self.headers.get("Authorization")
            expected = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            if login is not None and login != f"Basic {expected}":
                self.send_response(401)
                self.end_headers()
                return
            scopes = parse_qs(urlsplit(self.path).query).get("scope", [])
            token = found.sign(scopes, known=login is not None)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"token": token}).encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.url = f"http://127.0.0.1:{server.server_port}/token"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()


def _certificate(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _ISSUER)])
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
