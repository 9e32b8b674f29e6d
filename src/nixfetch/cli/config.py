"""`nixfetch config show`: the settings that are in force.

With --origin it says where each came from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from nixfetch.cli.context import Context

SUMMARY = "the settings that are in force, and where they came from"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    show = actions.add_parser("show", help="print all settings")
    show.add_argument("--origin", action="store_true", help="say where each value came from")


def run(args: argparse.Namespace, context: Context) -> int:
    from nixfetch.config import show

    context.output.data(show(context.config, origin=args.origin, as_json=context.config.json))
    return 0
