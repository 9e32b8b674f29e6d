"""The frame around every verb: arguments, signals, errors, exit codes.

A verb is a module with

    SUMMARY                      one line for `nixfetch --help`
    add_arguments(parser)        its own flags and operands
    run(args, context) -> int    does it; the exit code
    exit_code(error) -> int      that of an error, where it is not the error's own; optional

Its docstring, but for the first line, is what `nixfetch VERB --help` says. Verbs are imported for
their arguments, so they import nothing heavy at their head.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

from nixfetch.cli import arguments as command_line
from nixfetch.cli.context import Context, UsageError
from nixfetch.cli.output import Output, OutputClosed
from nixfetch.cli.stops import Stopped, raising_stopped
from nixfetch.errors import FormatError, NixfetchError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping, Sequence
    from types import ModuleType

VERBS = {
    "fetch": "fetch",
    "path-info": "path_info",
    "closure": "closure",
    "verify": "verify",
    "gc": "gc",
    "roots": "roots",
    "mounts": "mounts",
    "run": "run",
    "nar": "nar",
    "key": "key",
    "sign": "sign",
    "serve": "serve",
    "mirror": "mirror",
    "warm": "warm",
    "doctor": "doctor",
    "config": "config",
}
"""By the name that is typed: the module."""

_TRACEBACK = 2  # -vv


def _module(name: str) -> ModuleType:
    return import_module(f"nixfetch.cli.{name}")


def run(
    arguments: Sequence[str],
    *,
    output: Output | None = None,
    environ: Mapping[str, str] | None = None,
    verbs: Mapping[str, str] = VERBS,
    load: Callable[[str], ModuleType] = _module,
) -> int:
    """Run one command line. For the main thread: it listens to signals.

    Args:
        arguments: without the name of the program.
        output: where to write; the streams of this process by default.
        environ: the environment; that of this process by default.
        verbs: by the name that is typed: the name of the module.
        load: gives the module of that name.

    Returns:
        The exit code.
    """
    output = Output.of_process() if output is None else output
    run = _Run(output, os.environ if environ is None else environ, verbs, load)
    try:
        with raising_stopped():
            return run.go(arguments)
    except Stopped as stop:
        run.fail(_interrupted(stop))
        return stop.exit_code


def parsers() -> dict[str, argparse.ArgumentParser]:
    """The whole command line, by what is typed (``nixfetch``, ``nixfetch fetch``, …)."""
    top = command_line.top_parser(VERBS, _module)
    found: dict[str, argparse.ArgumentParser] = {top.prog: top}
    for verb, name in VERBS.items():
        parser = command_line.verb_parser(verb, _module(name))
        found[parser.prog] = parser
        found.update(command_line.actions_of(parser))
    return found


class _Run:
    def __init__(
        self,
        output: Output,
        environ: Mapping[str, str],
        verbs: Mapping[str, str],
        load: Callable[[str], ModuleType],
    ) -> None:
        self._output = output
        self._environ = environ
        self._verbs, self._load = verbs, load
        # As far as they are known: what fails early fails in text, and briefly.
        self._log_format = "text"
        self._verbosity = 0
        self._code_of = _own_code

    def go(self, arguments: Sequence[str]) -> int:
        code = self._attempt(lambda: self._verb(arguments))
        return self._attempt(self._flush) or code

    def fail(self, error: BaseException) -> None:
        """Show `error`."""
        from nixfetch.cli import problems

        if self._verbosity >= _TRACEBACK:
            problems.show_traceback(error, self._output, log_format=self._log_format)
        if not isinstance(error, NixfetchError):
            error = problems.unforeseen(error)
        problems.show(error, self._output, log_format=self._log_format)

    def _attempt(self, step: Callable[[], int]) -> int:
        try:
            return step()
        except OutputClosed:
            return 0
        except command_line.Answer as answer:
            text = answer.text
            return self._attempt(lambda: self._answer(text))
        except NixfetchError as error:
            self.fail(error)
            return self._code_of(error)
        except Exception as error:  # noqa: BLE001 - a bug: one line all the same
            self.fail(error)
            return self._code_of(NixfetchError("a bug"))

    def _flush(self) -> int:
        self._output.flush()
        return 0

    def _answer(self, text: str) -> int:
        self._output.data(text)
        return 0

    def _verb(self, arguments: Sequence[str]) -> int:
        try:
            args = command_line.parse(arguments, self._verbs, self._load)
        except FormatError as error:  # a verb's own parser of an operand
            raise UsageError(error.problem, hint=error.hint, **error.facts) from error
        module = self._load(self._verbs[args.verb])
        self._code_of = getattr(module, "exit_code", _own_code)
        self._log_format = getattr(args, "log_format", self._log_format)
        self._verbosity = getattr(args, "verbosity", self._verbosity)
        context = Context.load(vars(args), self._environ, self._output)
        self._log_format = context.config.log_format
        self._verbosity = context.config.verbosity
        code: int = module.run(args, context)
        return code


def _own_code(error: NixfetchError) -> int:
    return error.exit_code


def _interrupted(stop: Stopped) -> NixfetchError:
    return NixfetchError(
        f"interrupted by {stop.name}",
        hint="run it again to go on; what was not finished is as if it had not been asked for",
    )
