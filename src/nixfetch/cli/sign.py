"""`nixfetch sign --key-file FILE PATH…`: sign valid paths of the store.

Adds the signatures to the store's database, where whoever copies or serves the paths finds
them. Signs what was registered and reads no files: `nixfetch verify` does. A second time
changes nothing.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from nixfetch.cli.context import Context

SUMMARY = "sign valid paths of the store"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="*", metavar="PATH", help="what to sign")
    parser.add_argument("--all", action="store_true", help="every valid path of the store")
    parser.add_argument(
        "-r", "--recursive", action="store_true", help="also all that the PATHs refer to"
    )
    parser.add_argument(
        "-k", "--key-file", metavar="FILE", required=True, help="holds the secret key"
    )


def run(args: argparse.Namespace, context: Context) -> int:
    from pathlib import Path

    from nixfetch.cli.context import UsageError
    from nixfetch.store.keyfile import read_secret_key
    from nixfetch.store.signatures import closure, sign_paths

    if bool(args.paths) == args.all:
        raise UsageError("say which paths to sign: PATH…, or --all")
    key = read_secret_key(Path(args.key_file))
    asked = None if args.all else context.paths(args.paths)
    # Reading first: opening for writing would make a store where there is none.
    context.store(read_only=True).close()
    with context.store() as store:
        paths = store.all_valid() if asked is None else asked
        if args.recursive:
            paths = closure(store, paths)
        signed = sign_paths(store, paths, key)
    if context.config.json:
        report = {"store": str(store.root), "key": key.name, "signed": list(map(str, signed))}
        context.output.line(json.dumps(report))
    elif context.config.verbosity >= 0:
        context.output.error(f"added {len(signed)} signatures by {key.name}")
    return 0
