"""`nixfetch serve`: the store, or a cache directory, as a read-only binary cache over HTTP.

Real Nix and nixfetch can fetch from it. Of a store it serves the valid paths with the signatures
that they were registered with; --key-file signs them once more. It says on stderr where it
listens, and serves until it is interrupted; -v logs each request.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from nixfetch.cli.stops import Stopped

if TYPE_CHECKING:
    import argparse

    from nixfetch.cli.context import Context
    from nixfetch.serve import Address

SUMMARY = "the store, or a cache directory, as a binary cache over HTTP"
_DEFAULT = "127.0.0.1:5000"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--listen",
        metavar="HOST:PORT",
        type=_address,
        default=_DEFAULT,
        help=f"where to listen; port 0 is one that is free (default: {_DEFAULT})",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--cache", metavar="DIR", type=Path, help="serve this cache directory")
    what.add_argument(
        "--key-file",
        metavar="FILE",
        type=Path,
        help="a secret key that signs the paths of the store as they are served",
    )


def run(args: argparse.Namespace, context: Context) -> int:
    from nixfetch.serve import DirectorySource, Source, StoreSource, make_server
    from nixfetch.store.keyfile import read_secret_key

    with ExitStack() as stack:
        source: Source
        if args.cache is not None:
            source, what = stack.enter_context(DirectorySource(args.cache)), args.cache
        else:
            key = read_secret_key(args.key_file) if args.key_file is not None else None
            store = stack.enter_context(context.store(read_only=True))
            source, what = StoreSource(store, key=key), store.root
        server = stack.enter_context(make_server(source, args.listen))
        context.output.error(f"serving {what} on {server.url}")
        try:
            server.serve_forever()
        except Stopped as stop:  # how a server ends: nothing is left undone
            return stop.exit_code
    return 0


def _address(text: str) -> Address:
    from nixfetch.serve.address import Address

    return Address.parse(text)
