"""`nixfetch mounts PATH…`: the closure of store paths as mounts, for whoever mounts them.

Each PATH is a full store path, its base name, or a hash part alone. All that it refers to has to
be valid in the store: nothing is fetched. Every path of the closure becomes one mount, read-only,
from where it lies below ROOT to /nix/store; they are sorted, and the same closure gives the same
bytes.

  json     one document: version, closure, and mounts with type, source, target and options
  oci      an array for "mounts" of a config.json, as runc and crun read it
  fstab    lines for fstab(5); mount -a -T FILE takes them too
  bwrap    arguments that end with a NUL each, for bwrap --args FD
  systemd  mount units, each below a comment that names its file
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from nixfetch.cli.context import Context
    from nixfetch.formats.storepath import StorePath
    from nixfetch.store.present import Present

SUMMARY = "the closure of store paths as mounts: json, oci, fstab, bwrap, systemd"
_FORMATS = ("json", "oci", "fstab", "bwrap", "systemd")  # `snapshotter.mounts.FORMATS`


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="PATH", help="whose closure")
    parser.add_argument("--format", choices=_FORMATS, default="json", help="json by default")


def run(args: argparse.Namespace, context: Context) -> int:
    from nixfetch.store.present import Kind, present_closure
    from snapshotter.mounts import binds, render

    paths = _paths(args.paths, context)
    with context.store(read_only=True) as store:
        closure = present_closure(paths, store)
        _refuse_links(closure)
        mounts = binds((each.path, str(store.physical(each.path))) for each in closure)
    files = {str(each.path) for each in closure if each.kind is Kind.FILE}
    context.output.data(render(args.format, mounts, files=files))
    return 0


def _paths(texts: list[str], context: Context) -> list[StorePath]:
    """What is meant; a hash part that the store does not know is something that it lacks."""
    from nixfetch.plan.sources import MissingError
    from nixfetch.store.present import NotPresentError

    try:
        return context.paths(texts)
    except MissingError as error:
        raise NotPresentError(
            error.problem, hint="`nixfetch fetch` brings what is missing", **error.facts
        ) from error


def _refuse_links(closure: tuple[Present, ...]) -> None:
    from nixfetch.errors import StoreError
    from nixfetch.store.present import Kind

    for present in closure:
        if present.kind is Kind.SYMLINK:
            raise StoreError(
                "store path is a symbolic link, and no mount can show one",
                path=str(present.path),
                hint="`nixfetch run` can; or mount what it leads to",
            )
