"""`nixfetch gc`: deletes the paths of the store that no root reaches.

Roots are what `nixfetch roots list` shows, and what running processes use or are fetching; the
store may be in use meanwhile. Prints the deleted paths, the oldest first among those that nothing
refers to. What dead processes left behind, and files that no path uses any more, go too.

After `nixfetch verify --rebuild-db` could not register all that was there, nothing is deleted:
those trees would go, and what only they refer to. --unregistered says that they may.

SIZE is in bytes, or ends in K, M, G or T, which are powers of 1024. With --keep-free and
--max-delete both, the smaller amount is deleted.

Exits with 6 when something could not be removed or there are such trees, 75 when another collector
works. What could not be removed is named and not among the deleted paths, though it is valid no
more; all else is deleted, and the next run tries again.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

from nixfetch.cli.sizes import amount, size

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from nixfetch.cli.context import Context
    from nixfetch.store.collect import Collected

SUMMARY = "deletes the paths of the store that no root reaches"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dry-run", action="store_true", help="say what would be deleted, and delete nothing"
    )
    parser.add_argument(
        "--keep-free",
        metavar="SIZE",
        type=size,
        help="delete no more paths than it takes to have SIZE free on the disk",
    )
    parser.add_argument(
        "--max-delete",
        metavar="SIZE",
        type=size,
        help="delete no more paths as soon as SIZE is freed",
    )
    parser.add_argument(
        "--unregistered",
        action="store_true",
        help="delete also what `verify --rebuild-db` could not register",
    )


def run(args: argparse.Namespace, context: Context) -> int:
    from pathlib import Path

    from nixfetch.cache.partial import Partials
    from nixfetch.cli.roots import existing_store
    from nixfetch.errors import facts
    from nixfetch.store.collect import collect
    from nixfetch.store.layout import Layout
    from nixfetch.store.reserve import give_up_reserve

    context.output.goes_on = True
    if not args.dry_run:
        root = context.config.store_root()
        with facts(store=root):
            give_up_reserve(Layout(Path(root).absolute()))
    with existing_store(context, read_only=args.dry_run) as store:
        collected = collect(
            store,
            dry_run=args.dry_run,
            keep_free=args.keep_free,
            max_delete=args.max_delete,
            unregistered_too=args.unregistered,
            on_deleted=lambda path: None if context.config.json else context.output.line(str(path)),
        )
        if not args.dry_run:
            Partials(store.layout.partial).sweep()
    if context.config.json:
        context.output.line(json.dumps(_report(collected, store.root, dry_run=args.dry_run)))
    return _say(collected, context, dry_run=args.dry_run)


def _report(collected: Collected, root: Path, *, dry_run: bool) -> dict[str, object]:
    from nixfetch.cli.problems import as_json

    return {
        "store": str(root),
        "dry_run": dry_run,
        "paths": list(map(str, collected.paths)),
        "leftovers": list(collected.leftovers),
        "bytes_freed": collected.bytes_freed,
        "links_removed": collected.links_removed,
        "failures": [as_json(failure) for failure in collected.failures],
    }


def _say(collected: Collected, context: Context, *, dry_run: bool) -> int:
    from nixfetch.cli import logs, problems

    log_format = context.config.log_format
    for failure in collected.failures:
        problems.show(failure, context.output, log_format=log_format)
    if context.config.verbosity >= 0:
        verb, about = ("would delete", "at least ") if dry_run else ("deleted", "")
        count = len(collected.paths)
        left = len(collected.leftovers)
        leftovers = f" and {left} leftover{'s' * (left != 1)}" if left else ""
        text = (
            f"{verb} {count} path{'s' * (count != 1)}{leftovers}: "
            f"{about}{amount(collected.bytes_freed)} freed"
        )
        if kept := len(collected.failures):
            text += f"; {kept} could not be removed"
        context.output.error(logs.line(log_format, logging.INFO, text))
    return collected.failures[0].exit_code if collected.failures else 0
