"""`nixfetch doctor [URL]`: what is wrong with a cache, or with this machine, and the fix.

With a URL it examines that cache: whether it answers and lets us in, its protocol and latency,
its nix-cache-info, its clock, ranges, and who gave the credentials. With --nars PATH… also
whether a key that we trust signed each PATH, whether it has listings, and whether every NAR of
their closure is there; one byte of each is asked for.

Without a URL it examines this machine: the store, its disk and database, decoders, settings,
proxies, and looks whether each configured cache answers. With --offline none but directories is
asked.

Prints a line for each check, with ok, warn or fail, and the fix below it; with --json one
document. Exits with 0 when nothing failed, else with what the gravest failure means: 6 this
machine, 4 not to be believed, 5 not reachable or not let in, 3 something is missing.
"""

from __future__ import annotations

import json
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from nixfetch.cache.small import OfflineError
    from nixfetch.cli.context import Context
    from nixfetch.config.caches import Reach
    from nixfetch.doctor import Check, NarCensus
    from nixfetch.errors import NixfetchError
    from nixfetch.formats.storepath import StorePath
    from nixfetch.transport import Transport

SUMMARY = "what is wrong with a cache or this machine, and the fix"
_MOST_LOST = 10  # paths named in the text; --json has all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", nargs="?", metavar="URL", help="the cache to examine")
    parser.add_argument(
        "--nars", nargs="+", default=[], metavar="PATH", help="whether their NARs are there"
    )


def run(args: argparse.Namespace, context: Context) -> int:
    from nixfetch.doctor import exit_code

    context.output.goes_on = True  # the exit code is a verdict, whoever reads the lines
    checks = []
    for check in _Doctor(args, context).checks():
        checks.append(check)
        if not context.config.json:
            _tell(check, context)
    code = exit_code(checks)
    if context.config.json:
        subject = {"cache": _shown_url(args.url)} if args.url else {"store": _store(context)}
        report = {**subject, "checks": list(map(_as_json, checks)), "exit_code": code}
        context.output.line(json.dumps(report))
    return code


def _store(context: Context) -> str | None:
    """Its root, wherever one is when the report is read."""
    from pathlib import Path

    root = context.config.store
    return None if root is None else str(Path(root).absolute())


class _Doctor:
    def __init__(self, args: argparse.Namespace, context: Context) -> None:
        self._url: str | None = args.url
        self._nars: list[str] = args.nars
        self._context = context

    def checks(self) -> Iterator[Check]:
        from nixfetch.doctor import Asking, Check, examine_cache, glance

        policy = self._context.policy()
        reaches = self._reaches()
        if self._url is not None:
            if not self._may_ask(reaches[0]):
                yield Check.failed("reachable", _offline())
                return
            paths = self._named()
            yield from examine_cache(reaches[0], Asking(policy=policy, paths=paths))
        else:
            yield from self._machine()
            for reach in reaches:
                if self._may_ask(reach):
                    yield glance(reach, Asking(policy=policy))
                else:
                    yield Check(name=reach.url.display, state="warn", found=_offline().problem)
        if self._nars:
            yield from self._census(reaches)

    def _may_ask(self, reach: Reach) -> bool:
        return reach.url.is_directory or not self._context.config.offline

    def _reaches(self) -> list[Reach]:
        from nixfetch.cli.context import UsageError
        from nixfetch.config.caches import reach
        from nixfetch.config.cacheurl import CacheUrl, CacheUrlError
        from nixfetch.config.composed import netrc_file, transport_options
        from nixfetch.config.keyring import Keyring

        config = self._context.config
        try:
            urls = [CacheUrl.parse(self._url)] if self._url is not None else None
        except CacheUrlError as error:
            raise UsageError(error.problem, hint=error.hint, **error.facts) from error
        keyring = Keyring(self._context.environ, netrc_file(config))
        return [
            reach(url, options=transport_options(config), keyring=keyring)
            for url in urls or map(CacheUrl.parse, config.substituters)
        ]

    def _machine(self) -> Iterator[Check]:
        from pathlib import Path

        from nixfetch.doctor import examine_machine

        config = self._context.config
        yield from examine_machine(
            Path(config.store_root()), environ=self._context.environ, notes=config.skipped
        )

    def _named(self) -> list[StorePath]:
        """The PATHs whose names are known without asking."""
        return self._context.paths([text for text in self._nars if "-" in text])

    def _census(self, reaches: list[Reach]) -> Iterator[Check]:
        from nixfetch.config.caches import open_caches
        from nixfetch.doctor import Check, take_census
        from nixfetch.errors import NixfetchError

        context = self._context
        with ExitStack() as stack:
            if self._url is not None:
                from nixfetch.config.composed import netrc_file, transport_options

                caches = stack.enter_context(
                    open_caches(
                        [self._url],
                        options=transport_options(context.config),
                        netrc_file=netrc_file(context.config),
                        environ=context.environ,
                    )
                )
            else:
                caches = stack.enter_context(context.caches())
            transports: dict[str, Transport] = {}
            for reach in filter(self._may_ask, reaches):
                transport = stack.enter_context(closing(reach.transport()))
                transports.setdefault(transport.url, transport)

            def transport_to(url: str) -> Transport:
                if url not in transports:  # what is remembered of it may name it
                    raise _offline()
                return transports[url]

            try:
                census = take_census(
                    context.paths(self._nars, caches=caches),
                    caches=caches,
                    transport=transport_to,
                    policy=context.policy(),
                )
            except NixfetchError as error:
                yield Check.failed("NARs", error)
                return
        yield from self._counted(census)

    def _counted(self, census: NarCensus) -> Iterator[Check]:
        from nixfetch.doctor import Check, exit_code
        from nixfetch.doctor.checks import MISSING

        yield Check(
            name="NARs",
            state="fail" if census.lost else "ok",
            found=f"{census.there} are there, {len(census.lost)} are not",
            facts={"there": census.there, "lost": [str(path) for path, _ in census.lost]},
            exit_code=MISSING if census.lost else 0,
        )
        checks = [_lost(path, reason) for path, reason in census.lost]
        shown = len(checks) if self._context.config.json else _MOST_LOST
        yield from checks[:shown]
        if left_out := checks[shown:]:
            yield Check(
                name="NARs",
                state="fail",
                found=f"{len(left_out)} more not there; --json lists all",
                exit_code=exit_code(left_out),
            )


def _lost(path: StorePath, reason: NixfetchError) -> Check:
    from nixfetch.doctor import Check
    from nixfetch.doctor.checks import MISSING
    from nixfetch.transport import NotFoundError

    check = Check.failed(str(path), reason)
    return replace(check, exit_code=MISSING) if isinstance(reason, NotFoundError) else check


def _offline() -> OfflineError:
    from nixfetch.cache.small import OfflineError

    return OfflineError("not asked: the run is offline", hint="leave out --offline")


def _shown_url(url: str) -> str:
    from nixfetch.config.cacheurl import without_secrets

    return without_secrets(url)


def _tell(check: Check, context: Context) -> None:
    from nixfetch.cli.output import shown

    context.output.line(shown(f"{check.state:4}  {check.name}: {check.found}".replace("\n", "\\n")))
    if check.fix and check.state != "ok":
        context.output.line(shown(f"      fix: {check.fix}".replace("\n", "\\n")))


def _as_json(check: Check) -> dict[str, object]:
    from nixfetch.cli.output import shown

    return {
        "check": check.name,
        "state": check.state,
        "found": shown(check.found),
        "fix": check.fix,
        "facts": dict(check.facts),
        "exit_code": check.exit_code,
    }
