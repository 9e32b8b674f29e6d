"""The `nixfetch` command: one module a verb. Parses, calls one function of the library, prints."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command with the arguments of this process, and exit."""
    from nixfetch.cli import app

    sys.exit(app.run(sys.argv[1:]))


__all__ = ("main",)
