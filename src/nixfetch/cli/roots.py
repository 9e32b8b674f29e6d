"""`nixfetch roots list`, `add`, `remove`: what keeps paths of the store from the collector.

A root is a NAME, kept in ROOT/nix/var/nix/gcroots/nixfetch, or a LINK: a path with a slash in it,
which becomes a symbolic link to the store path, as `nix build --out-link` makes it. `add` replaces
a root of that name. `remove` of a LINK removes the link too. `list` also shows the roots that
Nix made; those of running processes it does not.

A PATH must be valid in the store; it and all that it refers to are kept.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from nixfetch.cli.context import Context
    from nixfetch.store import LocalStore, Root

SUMMARY = "what keeps paths of the store from the collector"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="print all roots, and what they keep")
    add = actions.add_parser("add", help="keep a path")
    add.add_argument("root", metavar="NAME|LINK", type=root_name)
    add.add_argument("path", metavar="PATH")
    remove = actions.add_parser("remove", help="let go of a path")
    remove.add_argument("root", metavar="NAME|LINK", type=root_name)


def root_name(text: str) -> str:
    """A NAME or LINK, checked.

    Raises:
        RootNameError: nothing can be called so.
    """
    from nixfetch.store.roots import parse_root

    parse_root(text)
    return text


def existing_store(context: Context, *, read_only: bool = False) -> LocalStore:
    """Open the store, and make none.

    Raises:
        StoreError: there is none, or it cannot be opened.
    """
    from pathlib import Path

    from nixfetch.store.disk import is_there
    from nixfetch.store.layout import Layout

    if not is_there(Layout(Path(context.config.store_root())).database / "db.sqlite"):
        read_only = True  # which says what is wrong
    return context.store(read_only=read_only)


def run(args: argparse.Namespace, context: Context) -> int:
    from nixfetch.store import Roots

    if args.action == "list":
        with existing_store(context, read_only=True) as store:
            _list(Roots(store).list(), store.root, context)
        return 0
    paths = context.paths([args.path]) if args.action == "add" else []
    with existing_store(context) as store:
        if args.action == "remove":
            Roots(store).remove(args.root)
        for path in paths:
            Roots(store).add(args.root, path)
    return 0


def _list(roots: list[Root], store: Path, context: Context) -> None:
    from nixfetch.cli.output import printable

    if context.config.json:
        report = {
            "store": str(store),
            "roots": [
                {
                    "kind": root.kind.value,
                    "name": root.name,
                    "link": str(root.link),
                    "path": None if root.path is None else str(root.path),
                    "valid": root.is_valid,
                    "stale": root.is_stale,
                }
                for root in roots
            ],
        }
        context.output.line(json.dumps(report))
        return
    for root in roots:
        what = "nothing: the link is gone" if root.is_stale else str(root.path)
        note = "" if root.is_valid or root.is_stale else " (not valid, so nothing is kept)"
        context.output.line(printable(f"{root.name} -> {what}{note}".replace("\n", "\\n")))
