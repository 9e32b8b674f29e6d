"""The frame around every verb: arguments, signals, errors, exit codes.

A verb is a module with

    SUMMARY                      one line for `nixfetch --help`
    add_arguments(parser)        its own flags and operands
    run(args, context) -> int    does it; the exit code

Verbs are imported for their arguments, so they import nothing heavy at their head.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

from nixfetch.cli.output import Output, OutputClosed
from nixfetch.errors import NixfetchError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType, ModuleType

VERBS = {
    "fetch": "fetch",
    "path-info": "path_info",
    "closure": "closure",
    "verify": "verify",
    "nar": "nar",
    "key": "key",
    "sign": "sign",
    "serve": "serve",
    "config": "config",
}
"""By the name that is typed: the module."""

INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM
_TRACEBACK = 2  # -vv


class Terminated(BaseException):
    """SIGTERM came. No `Exception`: nothing but the frame handles it."""


def run(arguments: Sequence[str]) -> int:
    """Run one command line; the exit code."""
    output = Output.of_process()
    args = _parse(arguments)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return _run(args, output)
    except NixfetchError as error:
        from nixfetch.cli import problems

        problems.show(error, output, log_format=getattr(args, "log_format", None))
        if getattr(args, "verbosity", None) and args.verbosity >= _TRACEBACK:
            raise
        return error.exit_code
    except OutputClosed:
        return 0
    except (KeyboardInterrupt, Terminated) as stop:
        # From here on a second signal ends the process at once.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        output.error("error: interrupted; what was not finished is as if it had not been asked for")
        return INTERRUPTED if isinstance(stop, KeyboardInterrupt) else TERMINATED
    finally:
        output.flush()


def _run(args: argparse.Namespace, output: Output) -> int:
    from nixfetch.cli.context import Context

    context = Context.load(vars(args), os.environ, output)
    code: int = _module(args.verb).run(args, context)
    return code


def _terminate(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated


def _module(verb: str) -> ModuleType:
    return import_module(f"nixfetch.cli.{VERBS[verb]}")


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="nixfetch",
        description="Nix store paths from binary caches, verified, into a store; without Nix.",
        epilog="`nixfetch VERB --help` says more. Exit codes: 0 done, 1 other failure, 2 usage, "
        "3 in no cache, 4 not to be believed, 5 network, 6 this machine, 78 configuration.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="store_true", help="print the version and exit")
    shared = _global_flags()
    _take(top, shared)
    verbs = top.add_subparsers(dest="verb", metavar="VERB", title="verbs")
    for name in VERBS:
        module = _module(name)
        verb = verbs.add_parser(
            name,
            help=module.SUMMARY,
            description=(module.__doc__ or "").partition("\n\n")[2] or module.SUMMARY,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(verb)
        _take(verb, shared)
    return top


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    top = parser()
    args = top.parse_args(arguments)
    if args.version:
        from importlib.metadata import version

        sys.stdout.write(f"nixfetch {version('nixfetch')}\n")
        top.exit()
    if args.verb is None:
        top.error("say what to do: a verb is missing")
    return args


def _take(parser: argparse.ArgumentParser, shared: argparse.ArgumentParser) -> None:
    """Let `parser` know the global flags, which may stand before or behind the verb."""
    group = parser.add_argument_group("global flags")
    for action in shared._actions:  # noqa: SLF001 - as argparse's own `parents` does it
        group._add_action(action)  # noqa: SLF001


def _global_flags() -> argparse.ArgumentParser:
    # SUPPRESS: a flag that is not given leaves the one from before the verb alone.
    flags = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    add = flags.add_argument
    add("--store", metavar="ROOT", help="the store: paths land in ROOT/nix/store")
    add(
        "--from",
        metavar="URL",
        action=_Collect,
        help="a cache: https://…, http://…, s3://bucket, file:///dir; repeatable",
    )
    add(
        "--trusted-key",
        metavar="NAME:BASE64",
        action=_Collect,
        help="trust this key too; repeatable",
    )
    add("--no-check-sigs", action="store_true", help="accept paths that nobody signed")
    add("--sigs-needed", metavar="N", type=int, help="signatures of N different keys are needed")
    add("--jobs", metavar="N", type=int, help="paths unpacked at the same time")
    add("--json", action="store_true", help="JSON on stdout")
    add(
        "--progress",
        choices=("auto", "tty", "plain", "json", "none"),
        help="how to show progress on stderr",
    )
    add(
        "--log-format",
        choices=("text", "json", "internal-json"),
        help="logs on stderr; internal-json is Nix's own",
    )
    add("-v", "--verbose", dest="verbosity", action=_Louder, nargs=0, help="more on stderr")
    add("-q", "--quiet", dest="verbosity", action=_Quieter, nargs=0, help="less on stderr")
    add("--config", metavar="FILE", help="a TOML file of settings")
    return flags


class _Collect(argparse.Action):
    """A repeatable flag whose values add up, before the verb and behind it."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[object] | None,
        option_string: str | None = None,
    ) -> None:
        del parser, option_string
        setattr(namespace, self.dest, [*getattr(namespace, self.dest, []), values])


class _Louder(argparse.Action):
    """``-v``: one more."""

    step = 1

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[object] | None,
        option_string: str | None = None,
    ) -> None:
        del parser, values, option_string
        setattr(namespace, self.dest, getattr(namespace, self.dest, 0) + self.step)


class _Quieter(_Louder):
    """``-q``: one less."""

    step = -1
