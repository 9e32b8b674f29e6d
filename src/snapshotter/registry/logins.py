"""Logins at registries, as `docker login` leaves them: config.json, and the programs it names.

    {"auths": {HOST: {"auth": base64(USER:PASSWORD), "identitytoken": …}},
     "credHelpers": {HOST: NAME}, "credsStore": NAME}

A program ``docker-credential-NAME`` is asked first, where one is named; then the file itself is
looked at. What a program prints is never shown, and no value has a secret in its repr.

Source: docker/cli, cli/config/configfile/file.go; docker-credential-helpers, client/client.go.
"""

from __future__ import annotations

import base64
import binascii
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import nixfetch
from snapshotter.imageref import DOCKER_HUB
from snapshotter.oci.digests import ImageError
from snapshotter.oci.reading import Fields, document

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

MAX_CONFIG = 1024 * 1024  # bytes
TIMEOUT = 15.0  # seconds for a program; those that ask a cloud for a token take a few
_HUB_KEY = "https://index.docker.io/v1/"
_HUB_HOSTS = frozenset({"index.docker.io", "registry-1.docker.io", DOCKER_HUB})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}\Z")
_TOKEN_USER = "<token>"  # noqa: S105 - what a program says where a user's name should be
_NOT_FOUND = b"credentials not found"


class LoginError(nixfetch.StoreError):
    """The logins of this machine cannot be read."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A token that stands for a user, and is exchanged for others."""

    token: str = field(repr=False)


Login = nixfetch.Basic | Identity | nixfetch.Bearer


@dataclass(frozen=True, slots=True)
class Logins:
    """What a config.json says."""

    auths: Mapping[str, Mapping[str, object]] = field(default_factory=dict, repr=False)
    """By host."""
    helpers: Mapping[str, str] = field(default_factory=dict)
    """Names of programs, by host."""
    store: str | None = None
    """The name of the program for all other hosts."""
    run: Callable[[str, str], bytes | None] = field(
        default_factory=lambda: run_helper, repr=False, compare=False
    )

    @classmethod
    def load(cls, file: Path) -> Logins:
        """Read a config.json; none is fine.

        Raises:
            LoginError: it is there, and cannot be read, or is no such file.
        """
        try:
            with file.open("rb") as opened:
                data = opened.read(MAX_CONFIG + 1)
        except (FileNotFoundError, NotADirectoryError):
            return cls()
        except OSError as error:
            raise LoginError(
                "cannot read the logins", file=str(file), reason=error.strerror
            ) from error
        try:
            fields = Fields.of(document(data, what="config.json", limit=MAX_CONFIG), "config.json")
            return cls._of(fields)
        except ImageError as error:
            # Not chained: what is quoted of the file may be a secret.
            known = {name: value for name, value in error.facts.items() if name == "place"}
            with nixfetch.facts(**known):
                raise LoginError("malformed logins", file=str(file)) from None

    @classmethod
    def _of(cls, fields: Fields) -> Logins:
        auths = fields.child("auths")
        helpers = fields.mapping("credHelpers")
        return cls(
            auths={
                _host(key): Fields.of(value, "auths").members
                for key, value in (auths.members if auths else {}).items()
            },
            helpers={_host(key): name for key, name in helpers.items()},
            store=fields.text("credsStore", "") or None,
        )

    def find(self, host: str) -> Login | None:
        """The login at a registry; None where there is none.

        Args:
            host: as references have it, with its port.

        Raises:
            LoginError: a program fails, or what is there is malformed.
        """
        host = _host(host)
        with nixfetch.facts(host=host):
            name = self.helpers.get(host) or self.store
            if name is not None and (found := self._asked(name, host)) is not None:
                return found
            auth = self.auths.get(host)
            return _of_file(Fields("auths", auth)) if auth else None

    def _asked(self, name: str, host: str) -> Login | None:
        output = self.run(name, _HUB_KEY if host == DOCKER_HUB else host)
        if output is None:
            return None
        try:
            fields = Fields.parse(output, what="login", limit=MAX_CONFIG)
            user, secret = fields.text("Username", ""), fields.text("Secret")
        except ImageError:
            raise LoginError("program for logins answers in another way", helper=name) from None
        return Identity(secret) if user == _TOKEN_USER else nixfetch.Basic(user, secret)


def run_helper(
    name: str, server: str, *, timeout: float = TIMEOUT, path: str | None = None
) -> bytes | None:
    """Ask ``docker-credential-NAME`` for a login.

    Args:
        name: of the program.
        server: at which.
        timeout: seconds that it may take.
        path: where it is looked for; $PATH by default.

    Returns:
        What it prints; None when it has none for that server.

    Raises:
        LoginError: it is not there, fails, or takes too long.
    """
    program = f"docker-credential-{name}"
    if not _NAME.match(name):
        raise LoginError("not a name of a program for logins", helper=ascii(name[:100]))
    found = shutil.which(program, path=path)
    if found is None:
        raise LoginError("program for logins is not there", helper=program)
    try:
        done = subprocess.run(  # noqa: S603 - the user's own config.json names it
            [found, "get"],
            input=server.encode(),
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise LoginError(
            "program for logins takes too long", helper=program, seconds=timeout
        ) from None
    except OSError as error:
        raise LoginError(
            "cannot run the program for logins", helper=program, reason=error.strerror
        ) from error
    if done.returncode == 0:
        return done.stdout
    if _NOT_FOUND in done.stdout.lower():
        return None
    raise LoginError("program for logins fails", helper=program, status=done.returncode)


def _of_file(fields: Fields) -> Login | None:
    try:
        if identity := fields.text("identitytoken", ""):
            return Identity(identity)
        if token := fields.text("registrytoken", ""):
            return nixfetch.Bearer(token)
        if auth := fields.text("auth", ""):
            user, colon, password = base64.b64decode(auth, validate=True).decode().partition(":")
            if not colon:
                raise LoginError("malformed login")
            return nixfetch.Basic(user, password.rstrip("\0"))
        user = fields.text("username", "")
        return nixfetch.Basic(user, fields.text("password", "")) if user else None
    except (ImageError, binascii.Error, UnicodeDecodeError):
        raise LoginError("malformed login") from None


def _host(key: str) -> str:
    """A key of config.json, or a host, in the one form that both have here."""
    host = key.removeprefix("https://").removeprefix("http://").partition("/")[0]
    return DOCKER_HUB if host in _HUB_HOSTS else host
