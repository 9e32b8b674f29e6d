"""Examines one cache: asks it a few dozen small things, each once, and says what came of it."""

from __future__ import annotations

import math
import time
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from nixfetch.doctor.checks import MISSING, Check
from nixfetch.errors import FormatError, NixfetchError, TransportError, TrustError
from nixfetch.formats import narinfo
from nixfetch.formats.cacheinfo import MAX_SIZE, CacheInfo
from nixfetch.formats.narinfo import NarInfo
from nixfetch.formats.storepath import STORE_DIR
from nixfetch.streams import codecs
from nixfetch.streams.limits import at_most, read_all
from nixfetch.transport.base import AuthenticationError, ForbiddenError, NotFoundError, Range
from nixfetch.transport.credentials import Basic, Bearer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from nixfetch.config.caches import Reach
    from nixfetch.formats.storepath import StorePath
    from nixfetch.plan.trust import TrustPolicy
    from nixfetch.transport import Transport

INFO = "nix-cache-info"
NOWHERE = f"{'0' * 32}.narinfo"
"""Of a path that no cache has."""
ROUNDS = 10  # requests that latency is taken from
_SLOW = 0.5  # seconds; a closure of a thousand paths asks in some forty rounds
_SKEW = 60.0  # seconds; S3 refuses at 15 minutes, certificates seldom mind a minute
_ENOUGH = 10.0  # seconds; of a cache so slow, fewer requests tell as much
_ANSWERS = (FormatError, TrustError, TransportError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """How to examine: whom to believe, and the clocks."""

    policy: TrustPolicy
    paths: Sequence[StorePath] = ()
    """That the cache should have."""
    now: Callable[[], float] = field(default=time.time)
    """Seconds since 1970."""
    clock: Callable[[], float] = field(default=time.monotonic)
    """Seconds."""
    rounds: int = ROUNDS


def examine_cache(reach: Reach, asking: Asking) -> Iterator[Check]:
    """Look at one cache from all sides; each finding as it comes.

    Args:
        reach: where it is, and how to get in.
        asking: how.
    """
    yield from _parameters(reach)
    examination = _Examination(reach, asking)
    try:
        transport = reach.transport()
    except NixfetchError as error:
        yield Check.failed("credentials", error)
        return
    with closing(transport):
        yield from examination.of(transport)


def glance(reach: Reach, asking: Asking) -> Check:
    """Whether a cache answers and is one, in a single check of its name."""
    name = reach.url.display
    try:
        with closing(reach.transport()) as transport:
            began = asking.clock()
            raw = _read(transport, INFO, MAX_SIZE)
            took = asking.clock() - began
        info = CacheInfo.parse(raw)
    except ForbiddenError as error:
        return Check(
            name=name,
            state="warn",
            found=f"{error.problem} ({INFO})",
            fix=f"nixfetch doctor {name}",
        )
    except NotFoundError:
        return Check(name=name, state="warn", found=f"answers, but has no {INFO}")
    except NixfetchError as error:
        return Check.failed(name, error)
    if info.store_dir != STORE_DIR:
        return _other_store(name, info)
    priority = info.priority if reach.url.priority is None else reach.url.priority
    return Check(
        name=name,
        found=f"answers in {_milliseconds(took)}, priority {priority}",
        facts={"seconds": took, "priority": priority},
    )


class _Examination:
    def __init__(self, reach: Reach, asking: Asking) -> None:
        self._reach, self._asking = reach, asking
        self._probe = INFO
        """What is asked for when any answer will do."""

    def of(self, transport: Transport) -> Iterator[Check]:
        credentials = self._credentials(transport)
        yield credentials
        if credentials.state == "fail":
            return
        reached, raw = self._reachable(transport)
        yield reached
        if reached.state == "fail":
            return
        if raw is not None:
            yield from self._info(raw)
        if not self._reach.url.is_directory:
            yield from self._head()
            yield self._latency(transport)
        nars = []
        for path in self._asking.paths:
            info, check = self._narinfo(transport, path)
            yield check
            if info is not None:
                nars.append(info.url)
                yield self._listing(transport, path)
        if not self._asking.paths:
            yield self._keys()
        if names := [*nars, *([INFO] if raw else [])]:
            yield self._range(transport, names)

    def _credentials(self, transport: Transport) -> Check:
        name = "credentials"
        url = self._reach.url
        if url.url.startswith("s3:"):
            from nixfetch.transport.s3 import S3Transport

            assert isinstance(transport, S3Transport)
            try:
                provider = transport.provider()
            except NixfetchError as error:
                return Check.failed(name, error)
            found = f"AWS: {provider}" if provider else "AWS: none found, so nothing is signed"
            return Check(name=name, found=found, facts={"provider": provider})
        match self._reach.credentials:
            case Basic(user=user):
                found = f"a password for {user!r}"
            case Bearer():
                found = "a token"
            case _:
                found = "in the URL" if "@" in url.url.partition("://")[2] else "none"
        if self._reach.options.client_certificate is not None:
            found += f"; certificate {self._reach.options.client_certificate}"
        return Check(name=name, found=found)

    def _reachable(self, transport: Transport) -> tuple[Check, bytes | None]:
        name = "reachable"
        began = self._asking.clock()
        try:
            raw = _read(transport, INFO, MAX_SIZE)
        except ForbiddenError as error:
            self._probe = NOWHERE
            return self._behind_403(transport, error), None
        except NotFoundError:
            fix = f"the URL may lack a part of its path, or the cache its {INFO}"
            found = f"answers, but has no {INFO}"
            return Check(name=name, state="warn", found=found, fix=fix), None
        except NixfetchError as error:
            return Check.failed(name, error), None
        took = self._asking.clock() - began
        found = f"first answer after {_milliseconds(took)}"
        return Check(name=name, found=found, facts={"seconds": took}), raw

    def _behind_403(self, transport: Transport, error: ForbiddenError) -> Check:
        names = [f"{path.hash_part}.narinfo" for path in self._asking.paths] or [NOWHERE]
        try:
            _read(transport, names[0], narinfo.MAX_SIZE)
        except ForbiddenError:
            fix = "it answers 403 to all that is asked: are there credentials for it?"
            closed = AuthenticationError("cache refuses everything", hint=fix)
            closed.facts = dict(error.facts)
            return Check.failed("reachable", closed)
        except NotFoundError:
            pass
        except NixfetchError as other:
            return Check.failed("reachable", other)
        return Check(name="reachable", state="warn", found=f"answers, but not for {INFO} (403)")

    def _info(self, raw: bytes) -> Iterator[Check]:
        try:
            info = CacheInfo.parse(raw)
        except FormatError as error:
            yield Check.failed(INFO, error, fix="somebody answers in the cache's place")
            return
        if info.store_dir != STORE_DIR:
            yield _other_store(INFO, info)
            return
        priority = f"priority {info.priority}"
        if self._reach.url.priority is not None:
            priority += f" ({self._reach.url.priority} by its URL)"
        mass = (
            "likes to be asked for many paths"
            if info.want_mass_query
            else "not for asking in masses"
        )
        yield Check(
            name=INFO,
            found=f"store directory {info.store_dir}, {priority}, {mass}",
            facts={
                "store_dir": info.store_dir,
                "priority": info.priority,
                "want_mass_query": info.want_mass_query,
            },
        )

    def _head(self) -> Iterator[Check]:
        """What only the head of an answer over HTTP says."""
        if not self._reach.url.url.startswith("http"):
            return
        from nixfetch.transport import probe

        reach = self._reach
        try:
            head = probe.head(
                reach.target, INFO, options=reach.options, credentials=reach.credentials
            )
        except TransportError as error:
            yield Check.failed("protocol", error)
            return
        over = " over TLS" if reach.url.url.startswith("https") else ""
        server = f", {head.server[:100]}" if head.server else ""
        yield Check(name="protocol", found=f"HTTP/1.1{over}{server}")
        if head.date is not None:
            yield _clock(head.date - self._asking.now())

    def _latency(self, transport: Transport) -> Check:
        times = []
        for _ in range(self._asking.rounds):
            began = self._asking.clock()
            try:
                _read(transport, self._probe, MAX_SIZE)
            except NotFoundError:
                pass  # an answer, too
            except NixfetchError as error:
                return Check.failed("latency", error)
            times.append(self._asking.clock() - began)
            if sum(times) > _ENOUGH:
                break
        half, most = percentile(times, 50), percentile(times, 95)
        slow = half > _SLOW
        return Check(
            name="latency",
            state="warn" if slow else "ok",
            found=f"half within {_milliseconds(half)}, 95 % within {_milliseconds(most)}"
            f" ({len(times)} requests)",
            fix="a cache that is nearer, or a mirror, makes closures of many paths faster"
            if slow
            else None,
            facts={"p50_seconds": half, "p95_seconds": most, "requests": len(times)},
        )

    def _narinfo(self, transport: Transport, path: StorePath) -> tuple[NarInfo | None, Check]:
        name = f"key of {path.base}"
        try:
            raw = _read(transport, f"{path.hash_part}.narinfo", narinfo.MAX_SIZE)
            info = NarInfo.parse(raw)
            if info.path != path:
                raise TrustError("cache answered with another path", got=str(info.path))
            trusted = self._asking.policy.admit(info, check=not self._reach.url.trusted)
        except NotFoundError as error:
            missing = Check.failed(name, error, fix="another cache may have it")
            return None, replace(missing, exit_code=MISSING)
        except NixfetchError as error:
            return None, Check.failed(name, error)
        if trusted.signed_by:
            found = f"signed by {', '.join(trusted.signed_by)}, which we trust"
        elif trusted.content_addressed:
            found = "content-addressed: needs no signature"
        else:
            found = "not signed, and not asked to be"
        return info, Check(name=name, found=found, facts={"signed_by": list(trusted.signed_by)})

    def _keys(self) -> Check:
        policy = self._asking.policy
        if self._reach.url.trusted or not policy.check:
            return Check(
                name="keys",
                state="warn",
                found="signatures are not checked",
                fix="leave out ?trusted=1, --no-check-sigs and require-sigs = false",
            )
        names = ", ".join(sorted({key.name for key in policy.keys})) or "none"
        return Check(
            name="keys",
            state="ok" if policy.keys else "warn",
            found=f"trusted: {names}",
            fix="--nars PATH, with a path of the cache, says whether its key is among them",
        )

    def _listing(self, transport: Transport, path: StorePath) -> Check:
        try:
            with transport.open(f"{path.hash_part}.ls") as body:
                next(body.chunks, b"")
        except NotFoundError:
            return Check(
                name="listing",
                state="warn",
                found="no .ls: what is in a path shows only when its NAR is read",
                fix="?write-nar-listing=true where paths are uploaded",
            )
        except _ANSWERS as error:
            return Check.failed("listing", error)
        return Check(name="listing", found="has .ls")

    def _range(self, transport: Transport, names: Sequence[str]) -> Check:
        """Whether a part can be had of the first of `names` that is there."""
        part = None
        for name in names:
            try:
                with transport.open(name, Range(start=1, stop=2)) as body:
                    part = body.start, body.size
                break
            except NotFoundError:  # which the count of the NARs tells of
                continue
            except _ANSWERS as error:
                return Check.failed("ranges", error)
        if part == (1, 1):
            return Check(name="ranges", found="honoured: downloads that break off can go on")
        if part is None:
            return Check(name="ranges", state="warn", found="not known: no NAR to ask for is there")
        return Check(
            name="ranges",
            state="warn",
            found="ignored: a download that breaks off begins anew",
            fix="have the server, or what stands before it, honour Range",
        )


def _parameters(reach: Reach) -> Iterator[Check]:
    if reach.url.unknown:
        yield Check(
            name="URL",
            state="warn",
            found=f"parameters without effect: {', '.join(reach.url.unknown)}",
            fix="look for a slip of the pen",
        )


def _other_store(name: str, info: CacheInfo) -> Check:
    return Check(
        name=name,
        state="fail",
        found=f"it is for the store {info.store_dir}, not {STORE_DIR}",
        fix="such paths cannot be used here: take another cache",
        exit_code=TransportError.exit_code,
    )


def _clock(skew: float) -> Check:
    found = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} this machine's"
    if abs(skew) <= _SKEW:
        return Check(name="clock", found=found, facts={"skew_seconds": skew})
    return Check(
        name="clock",
        state="warn",
        found=found,
        fix="one of the two is wrong: certificates and S3's signatures go by the clock",
        facts={"skew_seconds": skew},
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of `values` that at least so many percent of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(math.ceil(len(ordered) * percent / 100) - 1, 0)]


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def _read(transport: Transport, name: str, limit: int) -> bytes:
    with transport.open(name) as body:
        chunks = at_most(body.chunks, limit, what=name)
        if body.encoding is not None:
            chunks = codecs.decode(body.encoding, chunks)
        return read_all(chunks, limit, what=name)
