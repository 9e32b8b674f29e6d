"""What S3's codes and botocore's errors mean. Knows no clients: errors in, errors out."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

from botocore import exceptions
from urllib3.exceptions import HTTPError  # botocore lets some of them pass while a body is read

from nixfetch.errors import TransportError
from nixfetch.transport import answers, causes
from nixfetch.transport.base import AuthenticationError, ForbiddenError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# What S3's codes are in plain HTTP, where the status that comes with them says something else.
# Source: nix, src/libstore/s3-binary-cache-store.cc and filetransfer.cc.
_STATUS = {
    "NoSuchKey": 404,
    "AccessDenied": 403,
    "InvalidRange": 416,
    "IncompleteBody": 503,
    "InternalError": 500,
    "RequestExpired": 503,
    "RequestTimeout": 408,
    "ServiceUnavailable": 503,
    "SlowDown": 503,
}
_THROTTLING = ("Throttling", 429)  # the code begins with it
_RENEW = "they are over: renew them where they come from (aws sso login, a new role session, …)"
_HINTS = {
    "ExpiredToken": _RENEW,
    "TokenRefreshRequired": _RENEW,
    "InvalidToken": "the session token belongs to other keys, or to another endpoint",
    "InvalidAccessKeyId": "the endpoint does not know this access key: is it of another account?",
    "SignatureDoesNotMatch": "the secret key does not belong to the access key",
    "RequestTimeTooSkewed": "set this machine's clock: it is more than 15 minutes off",
}
_WHERE = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, ~/.aws, or ?profile= in the URL"
CREDENTIALS = frozenset(_HINTS)
"""Codes that say that the credentials are no good."""
_BAD_REQUEST = 400
_UNAUTHORIZED = 401
_PROXY = 407
_CHANGED = 412  # the object is no longer the one that If-Match names

_CONNECTION = (
    HTTPError,
    exceptions.ConnectionError,
    exceptions.HTTPClientError,
    exceptions.IncompleteReadError,
)
NONE = "none found"
"""What stands for the provider of credentials where there is none."""

Failure: TypeAlias = exceptions.BotoCoreError | HTTPError


class AwsConfigError(AuthenticationError):
    """The AWS configuration of this machine has no such profile, or cannot be read."""

    exit_code = 78


class ObjectChangedError(TransportError):
    """The object is not the version that was asked for."""


def refusal(
    error: exceptions.ClientError, *, provider: str | None, now: Callable[[], float]
) -> TransportError:
    """What an answer other than the object means.

    Args:
        error: says it in S3's words.
        provider: whose credentials were sent; None: nobody's.
        now: seconds since 1970, to judge a Retry-After date by.
    """
    code = str(error.response.get("Error", {}).get("Code", ""))
    metadata: Mapping[str, Any] = error.response.get("ResponseMetadata", {})
    status = int(metadata.get("HTTPStatusCode", 0))
    if code == "NoSuchBucket":
        hint = "look at the bucket, the region and the endpoint in the URL"
        return TransportError("no such bucket", code=code, status=status, hint=hint)
    if status == _CHANGED:
        return ObjectChangedError("object has changed", code=code, status=status)
    refused = answers.refusal(_plain(code, status), metadata.get("HTTPHeaders", {}), now=now)
    refused.facts |= {"code": code, "status": status}
    if isinstance(refused, AuthenticationError) and status != _PROXY:
        refused.problem = (
            "AWS credentials are refused" if provider else "bucket wants AWS credentials"
        )
        refused.hint = _HINTS.get(code) or _lack(provider)
    elif status == _BAD_REQUEST and provider is None:  # some say so to what is not signed
        refused.hint = f"nothing was signed, as no AWS credentials were found: {_WHERE}"
    if isinstance(refused, AuthenticationError | ForbiddenError) and status != _PROXY:
        refused.facts["provider"] = provider or NONE
    return refused


def _plain(code: str, status: int) -> int:
    prefix, throttled = _THROTTLING
    if code.startswith(prefix):
        return throttled
    return _UNAUTHORIZED if code in CREDENTIALS else _STATUS.get(code, status)


def _lack(provider: str | None) -> str:
    if provider is None:
        return f"none were found: {_WHERE}"
    return "look at the AWS credentials, the region and the endpoint"


def failure(error: Failure) -> TransportError:
    """What a request that got no answer, or a body that broke off, means."""
    for link in causes.chain(error):
        if isinstance(link, TransportError):  # of `heads`; botocore has wrapped it
            return link
    reason, endpoint = causes.reason(error), _endpoint(error)
    if _is_proxy_refusal(error):
        hint = "look at the user and password in HTTP_PROXY and HTTPS_PROXY in the environment"
        return AuthenticationError("proxy asks for credentials", status=_PROXY, hint=hint)
    if causes.is_certificate(error):
        hint = causes.CERTIFICATE_HINT
        return TransportError("cannot connect", reason=reason, hint=hint, **endpoint)
    if isinstance(error, _CONNECTION):
        return TransportError("connection failed", retryable=True, reason=reason, **endpoint)
    return TransportError("request failed", reason=reason)


def _endpoint(error: BaseException) -> dict[str, Any]:
    """Whom botocore wanted to talk to, as far as it says so: no path, and nothing secret."""
    asked = str(getattr(error, "kwargs", {}).get("endpoint_url") or "")
    try:
        parts = urlsplit(asked)
    except ValueError:
        return {}
    host = parts.netloc.rpartition("@")[2]
    return {"endpoint": f"{parts.scheme}://{host}"} if host else {}


def _is_proxy_refusal(error: BaseException) -> bool:
    words = f"Tunnel connection failed: {_PROXY} "
    return any(
        isinstance(link, OSError) and not isinstance(link, ssl.SSLError) and words in f"{link} "
        for link in causes.chain(error)
    )


def no_credentials(
    error: Exception, *, provider: str | None, profile: str | None
) -> TransportError:
    """What it means that credentials cannot be had, or not be renewed.

    Args:
        error: of botocore, of a service that it asked for them, or of whatever parsed them.
        provider: who gave them so far.
        profile: the one that was asked for.
    """
    if isinstance(error, exceptions.ProfileNotFound):
        return AwsConfigError(
            "no such AWS profile",
            profile=error.kwargs.get("profile", profile),
            hint="~/.aws/config and ~/.aws/credentials have profiles, AWS_PROFILE or ?profile= in"
            " the URL names one",
        )
    known = {"provider": provider, "profile": profile}
    shown: dict[str, Any] = {name: value for name, value in known.items() if value is not None}
    if isinstance(error, exceptions.ClientError):  # of STS or SSO
        shown["code"] = error.response.get("Error", {}).get("Code", "")
        shown["asked"] = error.operation_name
    elif isinstance(error, exceptions.BotoCoreError):
        shown["reason"] = causes.reason(error)
    else:  # what could not be parsed may be quoted in its words
        shown["reason"] = type(error).__name__
    if isinstance(error, exceptions.SSOError | exceptions.TokenRetrievalError):
        hint = f"aws sso login{f' --profile {profile}' if profile else ''}"
    else:
        hint = "look at the AWS configuration: aws sts get-caller-identity asks the same"
    if isinstance(error, _CONNECTION) and not causes.is_certificate(error):
        return TransportError("cannot ask for AWS credentials", retryable=True, hint=hint, **shown)
    if isinstance(error, exceptions.ConfigParseError):
        hint = "mend the AWS configuration: AWS_CONFIG_FILE, or ~/.aws/config"
        return AwsConfigError("malformed AWS configuration", hint=hint, **shown)
    return AuthenticationError("no usable AWS credentials", hint=hint, **shown)
