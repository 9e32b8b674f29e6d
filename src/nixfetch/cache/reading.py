"""From the text of a narinfo to what is to be believed of a path. Asks nobody."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from nixfetch.errors import TrustError
from nixfetch.formats.narinfo import NarInfo, NarInfoError
from nixfetch.formats.signing import SIGNATURE_SIZE
from nixfetch.transport.urls import UrlError, checked_text, redacted, scheme, segments

if TYPE_CHECKING:
    from nixfetch.formats.storepath import StorePath
    from nixfetch.plan.trust import Trusted, TrustPolicy

_MOST_SIGNATURES = 32  # of one path that are kept; real ones have one or two
_ELSEWHERE = frozenset({"http", "https"})  # schemes by which a cache may name another place


class WrongPathError(TrustError):
    """The cache answered with another path than it was asked for."""


class NarUrlError(TrustError):
    """The narinfo names a file that is no cache's to name; no signature covers that field."""


class NotNarInfoError(NarInfoError):
    """A page for people came in the place of a narinfo."""


def parsed(raw: bytes, hash_part: str) -> NarInfo:
    """What a cache claims about the path with this hash part.

    Raises:
        NarInfoError: it is malformed, or no narinfo at all.
        WrongPathError: it is about another path.
    """
    if raw.lstrip()[:1] == b"<":
        raise NotNarInfoError(
            "not a narinfo but a page for people",
            hint="somebody answers in the cache's place: a login page of this network, perhaps",
        )
    info = NarInfo.parse(raw)
    if info.path.hash_part != hash_part:
        raise WrongPathError("cache answered with another path", asked=hash_part, got=info.path)
    return info


def admitted(raw: bytes, path: StorePath, policy: TrustPolicy, *, check: bool) -> Trusted:
    """As `parsed` and `trusted`."""
    return trusted(parsed(raw, path.hash_part), path, policy, check=check)


def trusted(info: NarInfo, path: StorePath, policy: TrustPolicy, *, check: bool) -> Trusted:
    """What `info` claims, once somebody whom `policy` trusts vouches for it.

    Args:
        info: the claim.
        path: what it should be about.
        policy: whom to believe.
        check: False to take the cache's word.

    Raises:
        WrongPathError: the same hash part under another name.
        UnsignedError, FalseContentAddressError, WeakHashError: nobody vouches for it.
        NarUrlError: its NAR is said to be where no cache may send us.
    """
    if info.path != path:
        raise WrongPathError("cache answered with another path", asked=path, got=info.path)
    _check_url(info.url)
    return _slim(policy.admit(info, check=check))


def _check_url(url: str) -> None:
    """See that a transport may be asked for it; which of the two kinds it can do is its own."""
    try:
        if scheme(checked_text(url)) not in _ELSEWHERE:
            segments(url)
    except UrlError as error:
        raise NarUrlError(
            "narinfo names a file outside of the cache", url=redacted(url), reason=error.problem
        ) from error


def _slim(trusted: Trusted) -> Trusted:
    """`trusted` without what nothing needs any more, and nobody vouched for.

    A closure of 10^5 paths has no room for the text of each narinfo. And of signatures only such
    go on as can be one, those that count first: real Nix refuses to work on a store with others.
    """
    signatures = [each for each in trusted.info.signatures if len(each.data) == SIGNATURE_SIZE]
    signatures.sort(key=lambda each: each.key_name not in trusted.signed_by)
    kept = tuple(signatures[:_MOST_SIGNATURES])
    return replace(trusted, info=replace(trusted.info, raw=b"", extra=(), signatures=kept))
