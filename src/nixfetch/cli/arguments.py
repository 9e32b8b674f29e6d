"""The command line as text: global flags before and behind the verb, help, what was meant.

Knows no setting and no verb but by name: a verb's module is imported when it is the one asked
for. argparse does the work; this changes four things about it: nothing is printed and no process
is ended here (`Answer` and `UsageError` say what would be), a flag may stand before the verb,
behind it or behind an action of the verb and adds up where it repeats, and mistakes come with a
"did you mean".
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from nixfetch.cli.context import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from types import ModuleType

_WIDEST = 100  # columns of help
_NARROWEST = 20  # columns; argparse needs some
_GLOBAL = "global flags"
_PARAGRAPH = "\n\n"
_EXIT_CODES = """\
`nixfetch VERB --help` says more about a verb. The flags may stand before it or behind it.

exit codes: 0 done, 1 other failure, 2 usage, 3 some paths are in no cache, 4 not to be believed
or not intact, 5 network or authentication, 6 this machine (store, disk, permissions),
78 configuration, 130 and 143 interrupted
"""


class Answer(BaseException):
    """`--help` or `--version`: its text is all that is wanted. No `Exception`: no failure."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


def parse(
    arguments: Sequence[str], verbs: Mapping[str, str], load: Callable[[str], ModuleType]
) -> argparse.Namespace:
    """Read a command line.

    Args:
        arguments: without the name of the program.
        verbs: by the name that is typed: the name for `load`.
        load: gives the module of a verb.

    Returns:
        The verb's own arguments, `verb`, and those global flags that were given.

    Raises:
        Answer: help or the version was asked for.
        UsageError: it makes no sense.
        NixfetchError: a verb's own parser of a value refused it.
    """
    top = top_parser(verbs, load)
    position = _position_of_verb(arguments, top.global_flags)
    args = top.parse_args(arguments[:position])
    if position == len(arguments):
        raise UsageError("a verb is missing", hint=f"one of {', '.join(verbs)}")
    args.verb = arguments[position]
    if args.verb not in verbs:
        raise UsageError(f"no such verb: {args.verb}", hint=_meant(args.verb, verbs, "nixfetch"))
    parser = verb_parser(args.verb, load(verbs[args.verb]))
    return parser.parse_args(arguments[position + 1 :], args)


def top_parser(verbs: Mapping[str, str], load: Callable[[str], ModuleType]) -> _Top:
    """The parser of what stands before the verb."""
    return _Top(verbs, load)


def verb_parser(name: str, module: ModuleType) -> argparse.ArgumentParser:
    """The parser of one verb, with the global flags."""
    parser = _Parser(
        prog=f"nixfetch {name}",
        description=(module.__doc__ or "").partition(_PARAGRAPH)[2].strip() or module.SUMMARY,
    )
    module.add_arguments(parser)
    add_global_flags(parser)
    return parser


def add_global_flags(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Let `parser` know the global flags."""
    group = parser.add_argument_group(_GLOBAL)
    # SUPPRESS: a flag that is not given leaves the one from before the verb alone.
    add = partial(group.add_argument, default=argparse.SUPPRESS)
    return [
        add("--store", metavar="ROOT", help="the store: paths land in ROOT/nix/store"),
        add(
            "--from",
            metavar="URL",
            action=_Collect,
            help="a cache: https://..., http://..., s3://bucket, file:///dir; repeatable",
        ),
        add(
            "--trusted-key",
            metavar="NAME:BASE64",
            action=_Collect,
            help="trust this key too; repeatable",
        ),
        add("--no-check-sigs", action="store_true", help="accept paths that nobody signed"),
        add("--sigs-needed", metavar="N", help="signatures of N different keys are needed"),
        add("--jobs", metavar="N", help="paths unpacked at the same time"),
        add("--bandwidth", metavar="RATE", help="bytes a second to download at most: 500K, 10M"),
        add("--offline", action="store_true", help="ask no cache but directories"),
        add("--race", action="store_true", help="ask caches of equal priority at the same time"),
        add("--refresh", action="store_true", help="ask anew, whatever is remembered of caches"),
        add("--json", action="store_true", help="JSON on stdout"),
        add(
            "--progress",
            choices=("auto", "tty", "plain", "json", "none"),
            help="how to show progress on stderr",
        ),
        add(
            "--log-format",
            choices=("text", "json", "internal-json"),
            help="logs on stderr; internal-json is Nix's own",
        ),
        add("-v", "--verbose", dest="verbosity", action=_Louder, help="more on stderr"),
        add("-q", "--quiet", dest="verbosity", action=_Quieter, help="only errors on stderr"),
        add("--config", metavar="FILE", help="a TOML file of settings"),
    ]


def _position_of_verb(arguments: Sequence[str], flags: Collection[argparse.Action]) -> int:
    """Where the first argument is that is no flag, and no value of one."""
    with_value = {name for flag in flags if flag.nargs is None for name in flag.option_strings}
    position = 0
    while position < len(arguments) and arguments[position].startswith("-"):
        position += 2 if arguments[position] in with_value else 1
    return min(position, len(arguments))


class _Parser(argparse.ArgumentParser):
    """Raises where its parent prints and exits."""

    def __init__(self, **options: Any) -> None:
        options["formatter_class"] = _Formatter
        super().__init__(**{**options, "add_help": False, "allow_abbrev": False})
        self.register("action", "parsers", _Actions)
        self.add_argument("-h", "--help", action=_Help, help="show this help and exit")

    def parse_args(  # type: ignore[override] # one signature of its parent's two will do
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            # What follows an unknown flag may be its value, and so may be anything.
            first = next((word for word in unknown if word.startswith("-")), unknown[0])
            if not first.startswith("-") or first == "--":
                self.error(f"one argument too many: {first}")
            name = first.partition("=")[0]
            known = [option for action in self._actions for option in action.option_strings]
            raise UsageError(f"no such flag: {name}", hint=_meant(name, known, self.prog))
        return found

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"`{self.prog} --help` says more")


class _Top(_Parser):
    """What stands before the verb; its help lists the verbs, and alone imports them all."""

    def __init__(self, verbs: Mapping[str, str], load: Callable[[str], ModuleType]) -> None:
        super().__init__(
            prog="nixfetch",
            usage="nixfetch [FLAGS] VERB ...",
            description="Nix store paths from binary caches, verified, into a store; without Nix.",
        )
        self.add_argument("--version", action=_Version, help="print the version and exit")
        self.global_flags = add_global_flags(self)
        self._verbs, self._load = verbs, load

    def format_help(self) -> str:
        width = max(map(len, self._verbs))
        lines = [
            f"  {verb:{width}}  {self._load(module).SUMMARY}"
            for verb, module in self._verbs.items()
        ]
        return "\n".join([super().format_help(), "verbs:", *lines, "", _EXIT_CODES])


class _Actions(argparse._SubParsersAction):  # type: ignore[type-arg] # noqa: SLF001 - as documented for `register`
    """Actions of a verb, such as ``config show``: they know the global flags too."""

    def add_parser(self, name: str, **options: Any) -> Any:
        parser = super().add_parser(name, **options)
        add_global_flags(parser)
        return parser

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        del parser, option_string
        assert isinstance(values, list)
        setattr(namespace, self.dest, values[0])
        # The parent's would begin a namespace of its own, in which nothing adds up.
        self.choices[values[0]].parse_args(values[1:], namespace)


class _Flag(argparse.Action):
    """A flag without a value."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(
            option_strings, dest, **{"default": argparse.SUPPRESS, **options, "nargs": 0}
        )


class _Help(_Flag):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        raise Answer(parser.format_help())


class _Version(_Flag):
    def __call__(self, *_: object) -> NoReturn:
        from importlib.metadata import version

        raise Answer(f"nixfetch {version('nixfetch')}\n")


class _Collect(argparse.Action):
    """A repeatable flag whose values add up, before the verb and behind it."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        del parser, option_string
        setattr(namespace, self.dest, [*getattr(namespace, self.dest, []), values])


class _Louder(_Flag):
    """``-v``: one more."""

    step = 1

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, *_: object
    ) -> None:
        del parser
        setattr(namespace, self.dest, getattr(namespace, self.dest, 0) + self.step)


class _Quieter(_Louder):
    """``-q``: one less."""

    step = -1


def _meant(word: str, known: Collection[str], program: str) -> str:
    """What was meant by `word`, or where to look it up."""
    from difflib import get_close_matches

    names = {name.lstrip("-"): name for name in known}
    for close in get_close_matches(word.lstrip("-"), names, n=1):
        return f"did you mean `{names[close]}`?"
    return f"`{program} --help` lists what there is"


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Leaves global flags out of the usage, where they would drown the verb's own."""

    def __init__(self, prog: str, **options: Any) -> None:
        # Without a width argparse imports shutil to ask for it, and with that all compressors.
        super().__init__(prog, **{"width": min(_columns(), _WIDEST) - 2, **options})

    def add_usage(
        self,
        usage: str | None,
        actions: Iterable[argparse.Action],
        groups: Any,
        prefix: str | None = None,
    ) -> None:
        own = [action for action in actions if not _is_global(action)]
        super().add_usage(usage, own, groups, prefix)


def _is_global(action: argparse.Action) -> bool:
    return getattr(getattr(action, "container", None), "title", None) == _GLOBAL


def _columns() -> int:
    if (columns := os.environ.get("COLUMNS", "")).isdecimal():
        return max(int(columns), _NARROWEST)
    try:
        return os.get_terminal_size(1).columns or 80
    except OSError:
        return 80


def actions_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parsers of the actions of a verb (``nixfetch nar ls``), by what is typed."""
    return {
        action.prog: action
        for group in parser._actions  # noqa: SLF001 - argparse has no other way to ask
        if isinstance(group, argparse._SubParsersAction)  # noqa: SLF001 - the same
        for action in group.choices.values()
    }
