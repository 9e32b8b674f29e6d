"""`nixfetch key generate NAME`, `nixfetch key public`: Ed25519 keys in Nix's form.

`generate` prints a new secret key: send it to a file that nobody else can read. `public` reads
a secret key from standard input and prints the key that others verify with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from nixfetch.cli.context import Context

SUMMARY = "Ed25519 keys to sign paths with"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    generate = actions.add_parser("generate", help="print a new secret key")
    generate.add_argument(
        "name", metavar="NAME", help="what signatures call it: a host name and a number, as HOST-1"
    )
    actions.add_parser("public", help="from the secret key on stdin to its public key")


def run(args: argparse.Namespace, context: Context) -> int:
    if args.action == "generate":
        _generate(args.name, context)
    else:
        _public(context)
    return 0


def _generate(name: str, context: Context) -> None:
    import secrets

    from nixfetch.cli.context import UsageError
    from nixfetch.formats.signing import SEED_SIZE, KeyFormatError, SecretKey

    try:
        key = SecretKey.from_seed(name, secrets.token_bytes(SEED_SIZE))
    except KeyFormatError as error:
        raise UsageError(error.problem, key=name) from error
    context.output.line(key.text())
    if context.config.verbosity >= 0:
        context.output.error("hint: `nixfetch key public` makes the key that others verify with")
    if _others_can_read_stdout(context):
        context.output.error(
            "warning: others can read the file that this secret key goes to; chmod 600 it"
        )


def _public(context: Context) -> None:
    from nixfetch.store.keyfile import read_secret_key

    context.output.line(str(read_secret_key(None).public()))


def _others_can_read_stdout(context: Context) -> bool:
    import os
    import stat

    from nixfetch.store.keyfile import OTHERS

    try:
        mode = os.fstat(context.output.out.fileno()).st_mode if context.output.out else 0
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(mode) and bool(mode & OTHERS)
