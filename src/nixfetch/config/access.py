"""How to get into a private cache, as parameters of its URL say it: where secrets are, never one.

token-file=PATH | token-env=NAME                 a bearer token
password-file=PATH | password-env=NAME, user=    a password, for `user` or the URL's user
tls-certificate=PATH, tls-private-key=PATH       PEM files that say who we are; Nix's names
ca-file=PATH                                     PEM file of the authorities of this cache
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field

from nixfetch.config.errors import ConfigError

FOR_HTTP = {
    "user": "user",
    "token-file": "token_file",
    "token-env": "token_env",
    "password-file": "password_file",
    "password-env": "password_env",
    "tls-certificate": "certificate",
    "tls-private-key": "certificate_key",
    "ca-file": "ca_file",
}
"""Attributes of `Access`, by the parameters of a cache over HTTP."""
FOR_S3 = {"ca-file": "ca_file"}

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,254}")
_PLAIN_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")
_HIDDEN = "…"
_SECRET = ("token-", "password-")


class AccessError(ConfigError):
    """The parameters contradict each other, or one cannot be. Carries `parameter`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Where the secrets of a cache are. At most one kind of them is given."""

    user: str | None = None
    token_file: str | None = None
    token_env: str | None = field(default=None, repr=False)
    password_file: str | None = None
    password_env: str | None = field(default=None, repr=False)
    certificate: str | None = None
    certificate_key: str | None = None
    ca_file: str | None = None

    @classmethod
    def parse(cls, parameters: dict[str, str]) -> Access:
        """Read those of `parameters` that are about access.

        Args:
            parameters: by their names in the URL, decoded; all of them are among `FOR_HTTP`.

        Raises:
            AccessError: they make no sense.
        """
        for name, value in parameters.items():
            if not value or "\0" in value:
                raise AccessError("unusable parameter", parameter=name)
            if name.endswith("-env") and not _VARIABLE.fullmatch(value):
                # It may be the secret itself.
                raise AccessError("not the name of a variable", parameter=name)
        access = cls(**{FOR_HTTP[name]: value for name, value in parameters.items()})
        kinds = [name for name in parameters if name.startswith(_SECRET)]
        if len(kinds) > 1:
            raise AccessError("more than one kind of credentials", parameter=" and ".join(kinds))
        if access.has_token and access.user is not None:
            raise AccessError("a token has no user", parameter="user")
        if access.certificate_key is not None and access.certificate is None:
            raise AccessError("key without its certificate", parameter="tls-private-key")
        return access

    @property
    def has_token(self) -> bool:
        """Whether there is a bearer token."""
        return self.token_file is not None or self.token_env is not None

    @property
    def secret(self) -> dict[str, str]:
        """The parameter that names the token or password, as it may be shown; or nothing."""
        return {name: value for name, value in self.shown.items() if name.startswith(_SECRET)}

    @property
    def shown(self) -> dict[str, str]:
        """The parameters again, as they may be shown."""
        given = asdict(self)
        return {
            name: _variable(given[key]) if name.endswith("-env") else given[key]
            for name, key in FOR_HTTP.items()
            if given[key] is not None
        }


def _variable(name: str) -> str:
    """The name of a variable, unless it may be a token that somebody wrote in its place."""
    return name if _PLAIN_VARIABLE.fullmatch(name) else _HIDDEN
