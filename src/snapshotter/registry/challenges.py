"""What a registry wants to see before it answers, and the tokens that it takes for that.

    401, WWW-Authenticate: Bearer realm="https://auth…/token",service="…",scope="…"
    GET realm?service=…&scope=…   with the login, or without one          -> a token
    POST realm, grant_type=refresh_token                                  where the login is a token
    401, WWW-Authenticate: Basic realm="…"                                the login itself

A token is for scopes, such as ``repository:a/b:pull,push``, and for no longer than this run.
Knows no client: whoever asks over the network does it for this.

Source: distribution, docs/spec/auth/token.md and oauth.md; RFC 9110, section 11.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlencode, urlsplit

import nixfetch
from snapshotter.oci.digests import ImageError
from snapshotter.oci.reading import Fields
from snapshotter.registry.logins import Identity, Login

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MAX_TOKEN = 64 * 1024  # bytes of an answer with a token; real ones have 2 to 6 KiB
MAX_HEADER = 16 * 1024  # bytes of a challenge
_LONE = re.compile(r"\s*,?\s*(?P<scheme>[A-Za-z][A-Za-z0-9-]*)\s*(?=,|$)")
_PART = re.compile(
    r"\s*,?\s*(?:(?P<scheme>[A-Za-z][A-Za-z0-9-]*)\s+(?=[A-Za-z]|$))?"
    r'(?P<name>[A-Za-z_]+)\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^\s,"]+))'
)
_GOOD, _REFUSED, _BROKEN = 200, frozenset({400, 401, 403}), 500
HINT = "docker login {host}, or another --authfile"
_CLIENT = "nixfetch-snapshotter"


class Asking(Protocol):
    """Asks the server of tokens."""

    def __call__(
        self, url: str, *, authorization: str | None, form: Mapping[str, str] | None
    ) -> tuple[int, bytes]:
        """GET a URL, or POST a form to it.

        Returns:
            The status, and the body as far as `MAX_TOKEN`.
        """
        ...


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way in that a registry offers."""

    scheme: str
    """Lower case."""
    parameters: Mapping[str, str]


def parse(header: str) -> Challenge | None:
    """The challenge that we can answer: Bearer before Basic; None where there is neither."""
    found: dict[str, dict[str, str]] = {}
    scheme = ""
    place, text = 0, header[:MAX_HEADER]
    # One after the other: a search would go over the rest of a malformed header again and again.
    while part := _LONE.match(text, place) or _PART.match(text, place):
        place = part.end()
        if part.re is _LONE:
            scheme = part["scheme"].lower()
            found.setdefault(scheme, {})
            continue
        scheme = (part["scheme"] or scheme).lower()
        value = part["plain"] or re.sub(r"\\(.)", r"\1", part["quoted"] or "")
        found.setdefault(scheme, {})[part["name"].lower()] = value
    for word in ("bearer", "basic"):
        if word in found:
            return Challenge(word, found[word])
    return None


@dataclass(slots=True)
class Doorman:
    """Says what to send to one registry.

    Args:
        host: of the registry, for messages.
        login: at it; None: as anybody.
        ask: asks the server of tokens.
        plain_http: whether the registry itself is asked without TLS; then its tokens may be too.
    """

    host: str
    login: Login | None
    ask: Asking
    plain_http: bool = False
    _challenge: Challenge | None = None
    _tokens: dict[frozenset[str], str] = field(default_factory=dict, repr=False)

    def authorization(self, scopes: Iterable[str]) -> str | None:
        """The value of the Authorization field for a request, as far as is known by now."""
        if self._challenge is None:
            return self.login.authorization() if isinstance(self.login, nixfetch.Bearer) else None
        if self._challenge.scheme == "basic":
            return self.login.authorization() if isinstance(self.login, nixfetch.Basic) else None
        token = self._tokens.get(frozenset(scopes))
        return None if token is None else f"Bearer {token}"

    def refused(self, header: str, scopes: Iterable[str]) -> None:
        """Learn from a refusal; the same request can be tried again then.

        Args:
            header: the value of WWW-Authenticate.
            scopes: that the request needs.

        Raises:
            AuthenticationError: there is nothing more to try.
        """
        wanted = frozenset(scopes)
        sent = self.authorization(wanted)
        challenge = parse(header)
        if challenge is None:
            raise self._refusal("registry wants a login of a kind that is not known here")
        self._challenge = challenge
        if challenge.scheme == "bearer":
            old = self._tokens.pop(wanted, None)
            self._tokens[wanted] = self._token(challenge, wanted)
            if old == self._tokens[wanted]:
                raise self._refusal("registry refuses the token")
        elif self.authorization(wanted) is None:
            raise self._refusal("registry wants a login")
        elif self.authorization(wanted) == sent:
            raise self._refusal("registry refuses the login")

    def _token(self, challenge: Challenge, scopes: frozenset[str]) -> str:
        realm = self._realm(challenge.parameters.get("realm", ""))
        service = challenge.parameters.get("service")
        wanted = sorted(scopes) or challenge.parameters.get("scope", "").split()
        with nixfetch.facts(realm=realm):
            if isinstance(self.login, Identity):
                status, body = self.ask(
                    realm, authorization=None, form=_form(self.login, service, wanted)
                )
            else:
                query = [("service", service)] if service else []
                query += [("scope", scope) for scope in wanted]
                basic = self.login if isinstance(self.login, nixfetch.Basic) else None
                status, body = self.ask(
                    f"{realm}{'&' if '?' in realm else '?'}{urlencode(query)}",
                    authorization=basic.authorization() if basic else None,
                    form=None,
                )
            return self._token_of(status, body)

    def _realm(self, realm: str) -> str:
        url = urlsplit(realm)
        schemes = {"https", "http"} if self.plain_http else {"https"}
        if url.scheme not in schemes or not url.hostname or url.username or url.fragment:
            with nixfetch.facts(realm=realm[:200]):
                raise self._refusal("registry sends us for a token where we do not go")
        return realm

    def _token_of(self, status: int, body: bytes) -> str:
        if status in _REFUSED:
            problem = "login is refused" if self.login else "registry wants a login"
            with nixfetch.facts(status=status):
                raise self._refusal(problem)
        if status != _GOOD:
            raise nixfetch.TransportError(
                "no token from the server of tokens",
                retryable=status >= _BROKEN,
                status=status,
            )
        try:
            fields = Fields.parse(body, what="token", limit=MAX_TOKEN)
            found = fields.text("token", "") or fields.text("access_token", "")
        except ImageError:
            found = ""
        return nixfetch.Bearer(found).token  # which refuses an empty one, and others

    def _refusal(self, problem: str) -> nixfetch.AuthenticationError:
        return nixfetch.AuthenticationError(
            problem, host=self.host, hint=HINT.format(host=self.host)
        )


def _form(login: Identity, service: str | None, scopes: list[str]) -> dict[str, str]:
    return {
        "grant_type": "refresh_token",
        "refresh_token": login.token,
        "service": service or "",
        "client_id": _CLIENT,
        "scope": " ".join(scopes),
    }
