"""Requests to one registry: with who we are, over redirects, and what a refusal says.

What a registry may make us do: follow redirects of GET and HEAD, never from TLS to none; go to the
server of tokens that it names (`challenges`). Authorization goes to its own origin and nowhere
else. Plain HTTP is for loopback, and for whoever asks for it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import random
import re
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import httpx

import nixfetch
from snapshotter.oci.digests import ImageError
from snapshotter.oci.reading import Fields
from snapshotter.registry.challenges import HINT, MAX_TOKEN, Doorman

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from snapshotter.registry.logins import Login

MAX_REDIRECTS = 5
MAX_REFUSAL = 16 * 1024  # bytes of an answer that says no
MAX_ERRORS = 100  # that such an answer lists
CREATED, PARTIAL, UNSATISFIABLE = 201, 206, 416
_GOOD = range(200, 300)
_BAD_REQUEST, _UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND = 400, 401, 403, 404
_RETRYABLE = frozenset({408, 425, 429, 500, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_SECONDS = re.compile(r"[0-9]{1,6}\Z")
_TLS_HINT = "--plain-http talks to it without TLS, --ca-file trusts its certificate"

T = TypeVar("T")


class RegistryError(nixfetch.TransportError):
    """The registry did not answer as it should."""


class DeniedError(nixfetch.AuthenticationError):
    """The registry knows who asks, and does not allow it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How failures are waited out."""

    schedule: nixfetch.RetrySchedule = field(default_factory=nixfetch.RetrySchedule)
    sleep: Callable[[float], None] = time.sleep
    fraction: Callable[[], float] = random.random

    def wait(self, failures: int, error: nixfetch.TransportError) -> None:
        """Wait after failure number `failures`, from 1; raise `error` when that is no use."""
        delay = None
        if error.retryable:
            delay = self.schedule.delay(
                failures, fraction=self.fraction(), retry_after=error.retry_after
            )
        if delay is None:
            raise error
        self.sleep(delay)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """One request."""

    method: str
    url: httpx.URL
    scopes: frozenset[str]
    headers: Mapping[str, str]
    content: bytes | None


class Endpoint:
    """One registry, as something that answers requests. Not to be shared among threads.

    Args:
        client: sends them; follows no redirects.
        host: of the registry, with its port.
        login: at it; None: as anybody.
        plain_http: without TLS.
        patience: how failures are waited out.
    """

    def __init__(
        self,
        client: httpx.Client,
        host: str,
        *,
        login: Login | None,
        plain_http: bool,
        patience: Patience,
    ) -> None:
        self.host = host
        self.patience = patience
        self._client = client
        local = is_loopback(host)
        scheme = "http" if plain_http or local else "https"
        self._base = self._parsed(f"{scheme}://{host}/v2/")
        self._known = plain_http or not local
        self._doorman = Doorman(host, login, self._ask_for_token, plain_http=scheme == "http")

    def url(self, repository: str, rest: str) -> httpx.URL:
        """Of something in a repository.

        Raises:
            RegistryError: a registry on loopback does not answer at all.
        """
        if not self._known:
            self.patiently(self._probe)
            self._known = True
        return self._base.copy_with(path=f"/v2/{repository}/{rest}")

    @contextmanager
    def opened(
        self,
        method: str,
        url: httpx.URL,
        scopes: Iterable[str],
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> Iterator[httpx.Response]:
        """Send a request, once; the answer is a good one, and its body not read.

        Args:
            method: GET and HEAD follow redirects.
            url: as `url` or `moved` gave it.
            scopes: what a token has to be for.
            headers: more than the usual ones.
            content: the body.

        Raises:
            NotFoundError: there is no such thing.
            AuthenticationError: not for us: `DeniedError` where it was said who we are.
            TransportError: anything else; `retryable` says whether to try again.
        """
        asked = _Asked(
            method=method,
            url=url,
            scopes=frozenset(scopes),
            headers=headers or {},
            content=content,
        )
        with contextlib.closing(self._answer(asked)) as response:
            yield response

    def patiently(self, step: Callable[[], T]) -> T:
        """Do something as often as it takes.

        Raises:
            TransportError: it failed too often, or in a way that no waiting helps.
        """
        failures = 0
        while True:
            try:
                return step()
            except nixfetch.TransportError as error:
                failures += 1
                self.patience.wait(failures, error)

    def chunks(self, response: httpx.Response) -> Iterator[bytes]:
        """The body of an answer.

        Raises, while it is iterated:
            RegistryError: it breaks off.
        """
        raw = response.iter_raw()  # as they come: what was received is kept when it breaks off
        while True:
            try:
                chunk = next(raw, None)
            except httpx.HTTPError as error:
                raise self._failed(error) from error
            if chunk is None:
                return
            yield chunk

    def body(self, response: httpx.Response, limit: int) -> bytes:
        """A small body, whole.

        Raises:
            ImageError: it is larger than `limit` bytes.
            RegistryError: it breaks off.
        """
        found = bytearray()
        for chunk in self.chunks(response):
            found += chunk
            if len(found) > limit:
                raise ImageError("answer of the registry is too large", host=self.host, limit=limit)
        return bytes(found)

    def moved(self, url: httpx.URL, response: httpx.Response) -> httpx.URL:
        """Where the answer to a request for `url` sends us.

        Raises:
            RegistryError: nowhere, or where we do not go.
        """
        location = response.headers.get("location", "")
        try:
            found = url.join(location)
        except (httpx.InvalidURL, ValueError):  # its message may quote a signature
            raise RegistryError("malformed redirect", host=self.host) from None
        if not location or found.scheme not in {"http", "https"} or not found.host:
            raise RegistryError("malformed redirect", host=self.host)
        if url.scheme == "https" and found.scheme != "https":
            raise RegistryError("redirect from https to http", host=self.host)
        return found.copy_with(userinfo=b"", fragment=None)

    def _answer(self, asked: _Asked) -> httpx.Response:
        may_ask, url = True, asked.url
        for _ in range(MAX_REDIRECTS + 2):
            response = self._send(asked, url)
            status = response.status_code
            if status in _GOOD:
                return response
            with contextlib.closing(response):
                if status == _UNAUTHORIZED and may_ask and self._is_own(url):
                    self._doorman.refused(
                        response.headers.get("www-authenticate", ""), asked.scopes
                    )
                    may_ask = False
                elif status in _REDIRECTS and asked.method in {"GET", "HEAD"}:
                    url = self.moved(url, response)
                else:
                    raise self._refusal(response, url)
        raise RegistryError("too many redirects", host=self.host, limit=MAX_REDIRECTS)

    def _send(self, asked: _Asked, url: httpx.URL) -> httpx.Response:
        headers = dict(asked.headers)
        who = self._doorman.authorization(asked.scopes) if self._is_own(url) else None
        if who is not None:
            headers["Authorization"] = who
        request = self._client.build_request(
            asked.method, url, headers=headers, content=asked.content
        )
        try:
            return self._client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise self._failed(error) from error

    def _ask_for_token(
        self, url: str, *, authorization: str | None, form: Mapping[str, str] | None
    ) -> tuple[int, bytes]:
        headers = {"Authorization": authorization} if authorization else {}
        request = self._client.build_request(
            "POST" if form else "GET", self._parsed(url), headers=headers, data=form
        )
        try:
            response = self._client.send(request, stream=True)
        except httpx.HTTPError as error:
            raise self._failed(error) from error
        with contextlib.closing(response):
            return response.status_code, self.body(response, MAX_TOKEN)

    def _probe(self) -> None:
        """Find out whether a registry on loopback talks TLS: then it answers a request with 400."""
        try:
            status = self._client.get(self._base).status_code
        except httpx.RemoteProtocolError:
            status = _BAD_REQUEST
        except httpx.HTTPError as error:
            raise self._failed(error) from error
        if status == _BAD_REQUEST:
            self._base = self._base.copy_with(scheme="https")
            self._doorman.plain_http = False

    def _is_own(self, url: httpx.URL) -> bool:
        base = self._base
        return (url.scheme, url.host, url.port) == (base.scheme, base.host, base.port)

    def _parsed(self, text: str) -> httpx.URL:
        try:
            return httpx.URL(text)
        except (httpx.InvalidURL, ValueError):
            raise RegistryError("malformed URL", host=self.host) from None

    def _failed(self, error: httpx.HTTPError) -> RegistryError:
        final = isinstance(error, httpx.UnsupportedProtocol | httpx.ProxyError)
        tls = isinstance(error, httpx.ConnectError) and "SSL" in str(error)
        return RegistryError(
            "no answer from the registry",
            retryable=isinstance(error, httpx.TransportError) and not final and not tls,
            hint=_TLS_HINT if tls else None,
            host=self.host,
            reason=str(error)[:200] or type(error).__name__,
        )

    def _refusal(self, response: httpx.Response, url: httpx.URL) -> nixfetch.TransportError:
        status, said = response.status_code, self._said(response)
        with_name = {"host": self.host, "name": url.path.removeprefix("/v2/"), "said": said}
        error: nixfetch.TransportError
        if status == _NOT_FOUND:
            error = nixfetch.NotFoundError("registry has no such thing")
        elif status == _UNAUTHORIZED:
            error = nixfetch.AuthenticationError(
                "registry wants a login", hint=HINT.format(host=self.host)
            )
        elif status == _FORBIDDEN:
            error = DeniedError("registry does not allow it")
        else:
            seconds = response.headers.get("retry-after", "")
            error = RegistryError(
                "registry answers with an error",
                retryable=status in _RETRYABLE,
                retry_after=float(seconds) if _SECONDS.match(seconds) else None,
            )
        known = {**with_name, "status": status}
        error.facts = {name: value for name, value in known.items() if value is not None}
        return error

    def _said(self, response: httpx.Response) -> str | None:
        """What an answer says about itself: the code and the message of the first error."""
        try:
            body = self.body(response, MAX_REFUSAL)
            errors = Fields.parse(body, what="answer", limit=MAX_REFUSAL).each("errors", MAX_ERRORS)
            if not errors:
                return None
            code, message = errors[0].text("code", ""), errors[0].text("message", "")
        except (RegistryError, ImageError):
            return None
        return f"{code}: {message}"[:200] if code or message else None


def is_loopback(host: str) -> bool:
    """Whether a host, with its port or without, is this machine."""
    name = re.sub(r":[0-9]+\Z", "", host).strip("[]")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def scopes(repository: str, *, push: bool = False) -> tuple[str, ...]:
    """What a token has to be for, to work in a repository."""
    return (f"repository:{repository}:{'pull,push' if push else 'pull'}",)
