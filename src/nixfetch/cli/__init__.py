"""The `nixfetch` command: one module a verb. Parses, calls one function of the library, prints."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress


def main() -> None:
    """Run the command with the arguments of this process, and exit."""
    # Until the frame listens to it, Ctrl-C ends the process without a word.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    _fill_standard_descriptors()
    from nixfetch.cli import app

    sys.exit(app.run(sys.argv[1:]))


def _fill_standard_descriptors() -> None:
    """Open what was closed: else the next file would be 1, and a stray print would land in it."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            with suppress(OSError):  # no /dev: then all stays as it is
                os.open(os.devnull, os.O_RDWR)


__all__ = ("main",)
