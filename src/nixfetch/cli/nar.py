"""`nixfetch nar ACTION`: NAR files, made, unpacked, looked into.

FILE is a NAR or a compressed one, `-` for standard input; its first bytes tell which. All
actions that read a NAR read it to its end, and refuse (exit 4) one that real Nix would not
have written, or that has bytes behind its end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from nixfetch.cli.context import Context
    from nixfetch.formats.hashes import Hash
    from nixfetch.formats.nar import Event

SUMMARY = "NAR files: make, unpack, list"
STDIN = "-"
HELD_IN_MEMORY = 1024 * 1024  # bytes of a listing; a longer one waits in a temporary file
ALGORITHMS = ("sha256", "sha512", "sha1", "md5", "blake3")
FORMATS = ("sri", "base32", "base16", "base64")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _add_dump(actions)
    _add_unpack(actions)
    _add_ls(actions)
    _add_cat(actions)
    _add_hash(actions)


def run(args: argparse.Namespace, context: Context) -> int:
    from nixfetch.errors import facts

    act: Callable[[argparse.Namespace, Context], None] = args.act
    with facts(file=getattr(args, "file", None)):
        act(args, context)
    return 0


def _add_dump(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add(actions, "dump", _dump, "write the NAR of any file or directory to stdout")
    parser.add_argument("path", metavar="PATH", help="file, directory or symbolic link")


def _add_unpack(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add(
        actions,
        "unpack",
        _unpack,
        "make the files that are in a NAR, all of them or none. They get ordinary modes (0644, "
        "0755, less the umask) and the time of now, as `nix-store --restore` has it",
    )
    _add_file(parser)
    parser.add_argument("destination", metavar="DEST", help="where to; must not exist")


def _add_ls(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add(
        actions, "ls", _ls, "list what is in a NAR; prints nothing unless all of it is good"
    )
    _add_file(parser)
    parser.add_argument("inside", metavar="SUB", nargs="?", default="/", help="where in it; /")
    parser.add_argument("-R", "--recursive", action="store_true", help="list all that is below")
    parser.add_argument("-l", "--long", action="store_true", help="with modes, sizes, targets")


def _add_cat(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add(
        actions,
        "cat",
        _cat,
        "write a file that is in a NAR to stdout, while it is read: trust what came only when the "
        "exit code is 0",
    )
    _add_file(parser)
    parser.add_argument("inside", metavar="SUB", help="which file in it")


def _add_hash(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = _add(
        actions,
        "hash",
        _hash,
        "print the hash of the NAR of a file or directory; for `-`, of the NAR that is on "
        "standard input",
    )
    parser.add_argument("file", metavar="PATH", help="file, directory, symbolic link, or `-`")
    parser.add_argument("--type", default="sha256", choices=ALGORITHMS, help="sha256")
    forms = parser.add_mutually_exclusive_group()
    for form in FORMATS:
        forms.add_argument(
            f"--{form}", action="store_const", const=form, dest="form", help=f"print it as {form}"
        )
    _add_reading(parser)


def _add(
    actions: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    act: Callable[[argparse.Namespace, Context], None],
    text: str,
) -> argparse.ArgumentParser:
    description = text[0].upper() + text[1:] + "."
    parser = actions.add_parser(
        name, help=text.partition(". ")[0].partition(";")[0], description=description
    )
    parser.set_defaults(act=act)
    return parser


def _add_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="the NAR; - for standard input")
    _add_reading(parser)


def _add_reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--compression", metavar="NAME", help="of FILE, where it does not show (br, lzma)"
    )
    parser.add_argument(
        "--nar-max-depth", metavar="N", type=int, help="levels of directories to accept; 64"
    )


def _dump(args: argparse.Namespace, context: Context) -> None:
    from pathlib import Path

    from nixfetch.store.narfile import dumped

    for piece in dumped(Path(args.path)):
        context.output.data(piece)


def _unpack(args: argparse.Namespace, _context: Context) -> None:
    from pathlib import Path

    from nixfetch.store.narfile import unpack

    with _events(args) as events:
        unpack(events, Path(args.destination))


def _ls(args: argparse.Namespace, context: Context) -> None:
    import os

    from nixfetch.formats.narview import components, json_pieces, lines, subtree

    path = components(os.fsencode(args.inside))
    with _events(args) as events:
        node = subtree(events, path)
        if context.config.json:
            text = (
                piece.encode("utf-8", "surrogateescape")
                for piece in json_pieces(node, recursive=args.recursive)
            )
            _print_at_end(text, context, last=b"\n")
        else:
            name = path[-1] if path else b""
            listed = lines(node, name=name, recursive=args.recursive, long=args.long)
            _print_at_end((line + b"\n" for line in listed), context)


def _cat(args: argparse.Namespace, context: Context) -> None:
    import os

    from nixfetch.errors import facts
    from nixfetch.formats.narview import components, contents, subtree

    path = components(os.fsencode(args.inside))
    with _events(args) as events, facts(inside=args.inside):
        for piece in contents(subtree(events, path)):
            context.output.data(piece)


def _hash(args: argparse.Namespace, context: Context) -> None:
    from pathlib import Path

    from nixfetch.store.narfile import checked, dumped, hash_of

    if args.file == STDIN:
        with _opening(args) as nar:
            result = hash_of(checked(nar, max_depth=_max_depth(args)), args.type)
    else:
        result = hash_of(dumped(Path(args.file)), args.type)
    context.output.line(_rendered(result, args.form or FORMATS[0]))


def _rendered(result: Hash, form: str) -> str:
    match form:
        case "base32":
            return result.base32
        case "base16":
            return result.hex
        case "base64":
            return result.sri.partition("-")[2]
        case _:
            return result.sri


def _events(args: argparse.Namespace) -> AbstractContextManager[Iterator[Event]]:
    from contextlib import contextmanager

    from nixfetch.store.narfile import events

    @contextmanager
    def opened() -> Iterator[Iterator[Event]]:
        with _opening(args) as nar:
            yield events(nar, max_depth=_max_depth(args))

    return opened()


def _opening(args: argparse.Namespace) -> AbstractContextManager[Iterator[bytes]]:
    from pathlib import Path

    from nixfetch.cli.context import UsageError
    from nixfetch.store.narfile import opening
    from nixfetch.streams.codecs import supported

    known = supported()
    if args.compression is not None and args.compression not in known:
        raise UsageError("no such compression", compression=args.compression, known=list(known))
    file: Path | None = None if args.file == STDIN else Path(args.file)
    return opening(file, compression=args.compression)


def _max_depth(args: argparse.Namespace) -> int:
    from nixfetch.cli.context import UsageError
    from nixfetch.formats.nar.wire import MAX_DEPTH

    depth: int | None = args.nar_max_depth
    if depth is not None and depth < 1:
        raise UsageError("a NAR has one level at least", nar_max_depth=depth)
    return MAX_DEPTH if depth is None else depth


def _print_at_end(pieces: Iterable[bytes], context: Context, *, last: bytes = b"") -> None:
    """Print when all has come: what is listed of a bad archive would be lies."""
    from tempfile import SpooledTemporaryFile

    from nixfetch.store.disk import disk_errors

    with SpooledTemporaryFile(HELD_IN_MEMORY) as held:
        for piece in pieces:
            with disk_errors("temporary file"):
                held.write(piece)
        with disk_errors("temporary file"):
            held.seek(0)
        while piece := held.read(HELD_IN_MEMORY):
            context.output.data(piece)
    context.output.data(last)
