"""Reads tokens, passwords and netrc when a cache is opened. Shows none of them.

What says who we are to a cache over HTTP, the first one that says something:

    user and password in its URL
    the parameters of its URL, see `access`
    netrc, for the host of the URL, and for the user in the URL if there is one
    a user alone, without a password
"""

from __future__ import annotations

import logging
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from nixfetch.config.errors import ConfigError
from nixfetch.config.netrc import Netrc
from nixfetch.errors import facts
from nixfetch.transport.credentials import Basic, Bearer, Credentials

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nixfetch.config.access import Access
    from nixfetch.config.cacheurl import CacheUrl

MAX_SECRET = 64 * 1024  # bytes; servers take heads of 8 to 64 KiB
MAX_CERTIFICATES = 16 * 1024 * 1024  # bytes; the bundles of distributions have 250 KiB
MAX_NETRC = 1024 * 1024  # bytes; people and scripts write kilobytes
DIRECTORY = "CREDENTIALS_DIRECTORY"  # systemd's, for LoadCredential=

_NETRC_HINT = "netrc-file names it (see `nixfetch config show --origin`); /dev/null for none"

_log = logging.getLogger(__name__)
_OTHERS = 0o077  # permission bits of everybody but the owner


class SecretError(ConfigError):
    """A secret cannot be had. The facts never hold it."""


@dataclass(slots=True)
class Keyring:
    """Where to look for them. Reads netrc once, and only when a cache wants it."""

    environ: Mapping[str, str] = field(repr=False)
    netrc_file: Path | None = None
    """None: there is none."""
    _netrc: Netrc | None = field(default=None, repr=False)

    def credentials(self, url: CacheUrl) -> Credentials | None:
        """Who we are to the cache at `url`; None where nothing says, or the URL itself does.

        Raises:
            SecretError: a file or a variable that should hold a secret has none.
            NetrcError: netrc is malformed.
        """
        return self.find(url)[0]

    def find(self, url: CacheUrl) -> tuple[Credentials | None, str | None]:
        """Who we are to the cache at `url`, and what says so, for people; raises as `credentials`.

        Neither where nothing does. Where the URL itself does, it stays there.
        """
        parts = urlsplit(url.url)
        if parts.scheme not in {"http", "https"}:
            return None, None
        if parts.password is not None:
            return None, "its URL"
        user = url.access.user if parts.username is None else unquote(parts.username)
        secret, provider = self._secret(url.access)
        if secret is not None:
            token = url.access.has_token
            return Bearer(_checked_token(secret)) if token else Basic(user or "", secret), provider
        found = self._read_netrc().find(_ascii(parts.hostname or ""), user)
        if found is not None:
            return found, f"netrc {self.netrc_file}"
        return (None, None) if user is None else (Basic(user, ""), "a user without a password")

    def file(self, path: str) -> str:
        """Where a file that a URL names is: a relative one below the credentials directory.

        Raises:
            SecretError: it cannot be read.
        """
        place = self._place(path)
        with facts(file=place):
            _read(Path(place), MAX_CERTIFICATES)
        return place

    def _place(self, path: str) -> str:
        if path.startswith("/"):
            return path
        directory = self.environ.get(DIRECTORY)
        if not directory:
            hint = f"a relative path is one below ${DIRECTORY}, which is not set"
            raise SecretError("path is not absolute", file=path, hint=hint)
        return os.path.join(directory, path)  # noqa: PTH118 - text in, text out

    def _secret(self, access: Access) -> tuple[str | None, str | None]:
        """The token or password that is named, and how it is named."""
        provider = next((f"{name}={value}" for name, value in access.secret.items()), None)
        if (file := access.token_file or access.password_file) is not None:
            place = self._place(file)
            with facts(file=place):
                return _first_line(_read(Path(place), MAX_SECRET)[0]), provider
        if (name := access.token_env or access.password_env) is not None:
            with facts(variable=next(iter(access.secret.values()))):
                if name not in self.environ:
                    raise SecretError("variable that should hold a secret is not set")
                return _first_line(os.fsencode(self.environ[name])), provider
        return None, None

    def _read_netrc(self) -> Netrc:
        if self._netrc is None:
            self._netrc = Netrc() if self.netrc_file is None else self._parsed(self.netrc_file)
        return self._netrc

    def _parsed(self, path: Path) -> Netrc:
        with facts(file=path):
            try:
                content, mode = _read(path, MAX_NETRC)
            except SecretError as error:
                error.problem, error.hint = "cannot read the netrc file", _NETRC_HINT
                raise
            netrc = Netrc.parse(content.decode("utf-8", "surrogateescape"))
        if stat.S_ISREG(mode) and mode & _OTHERS and netrc.entries:
            _log.warning(
                "%s holds passwords, and others than its owner may use it (mode %04o)",
                path,
                stat.S_IMODE(mode),
            )
        for line in netrc.passed_over:
            _log.warning("%s:%d: a word means nothing; are there quotes missing?", path, line)
        return netrc


def _ascii(host: str) -> str:
    """The name as it is looked up, and as curl compares it: ``bücher`` is ``xn--bcher-kva``."""
    try:
        return host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError:
        return host  # the transport says what is wrong with it


def without_user(url: str) -> str:
    """`url` without user and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _read(path: Path, limit: int) -> tuple[bytes, int]:
    """The content of a file, and its mode.

    Raises:
        SecretError: it cannot be had.
    """
    try:
        with path.open("rb") as file:
            content, mode = file.read(limit + 1), os.fstat(file.fileno()).st_mode
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a name of a file"
        raise SecretError("cannot read credentials", reason=reason) from error
    if len(content) > limit:
        raise SecretError("file of credentials is too large", limit=limit)
    return content, mode


def _first_line(content: bytes) -> str:
    # An error of the decoder would hold the secret.
    text = content.decode("utf-8", "surrogateescape")
    secret = text.strip().partition("\n")[0].strip()
    if any("\ud800" <= character <= "\udfff" for character in secret):
        raise SecretError("secret is not UTF-8")
    if not secret:
        raise SecretError("secret is empty")
    if any(character < " " or character == "\x7f" for character in secret):
        raise SecretError("secret has control characters")
    return secret


def _checked_token(token: str) -> str:
    """`token`, if it can stand in a header.

    Raises:
        SecretError: it cannot.
    """
    if not token.isascii() or " " in token:
        raise SecretError("token has characters that no token has")
    return token
