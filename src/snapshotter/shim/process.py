"""The stand-ins as processes: what they read, print and exit with.

Exit codes are Nix's: 0, or 1 for whatever went wrong. So is the form of what is printed: links or
paths on stdout, all else on stderr, which nix-snapshotter logs where the exit code is not 0.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from io import TextIOWrapper
from typing import TYPE_CHECKING, Self, TextIO

import nixfetch
from snapshotter.shim import commandline
from snapshotter.shim.commandline import Realise, Tell

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

FAILED = 1
"""Nix's exit code for all that can go wrong here."""
_NO_ROOT = (
    "warning: you did not specify '--add-root'; the result might be removed by the garbage"
    " collector\n"
)


@dataclass(frozen=True, slots=True)
class Process:
    """What a program is given."""

    arguments: Sequence[str]
    """Without its name."""
    environ: Mapping[str, str]
    stdout: TextIO
    stderr: TextIO

    @classmethod
    def this(cls) -> Self:
        """The one that we are."""
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="surrogateescape")  # links may be called anything
        return cls(sys.argv[1:], os.environ, sys.stdout, sys.stderr)

    def realise(self, asked: Realise) -> list[str]:
        """Do what is asked; gives links, or paths."""
        from snapshotter.shim.realise import realise

        return realise(
            asked.paths,
            asked.link,
            environ=self.environ,
            say=lambda line: self.stderr.write(f"{line}\n"),
        )

    def tell(self, asked: Tell, usage: str) -> None:
        """Say something about the program of this `usage`."""
        if asked.what == "help":
            about = "By nixfetch, for nix-snapshotter on machines without Nix."
            self.stdout.write(f"Usage: {usage}\n{about}\n")
            return
        from importlib.metadata import version

        self.stdout.write(f"{usage.partition(' ')[0]} (nixfetch) {version('nixfetch')}\n")


def nix_store(process: Process) -> int:
    """Be `nix-store`; the exit code."""

    def run() -> None:
        asked = commandline.parse_nix_store(process.arguments)
        if isinstance(asked, Tell):
            process.tell(asked, commandline.NIX_STORE)
            return
        process.stdout.writelines(f"{line}\n" for line in process.realise(asked))
        if asked.paths and asked.link is None:
            process.stderr.write(_NO_ROOT)

    return _exit_code(run, process)


def external_builder(process: Process) -> int:
    """Be the external builder; the exit code."""

    def run() -> None:
        asked = commandline.parse_external_builder(process.arguments)
        if isinstance(asked, Tell):
            process.tell(asked, commandline.EXTERNAL_BUILDER)
        else:
            process.realise(asked)

    return _exit_code(run, process)


def _exit_code(run: Callable[[], None], process: Process) -> int:
    try:
        run()
        process.stdout.flush()
    except nixfetch.NixfetchError as error:
        from snapshotter.shim import problems

        process.stderr.writelines(f"{line}\n" for line in problems.lines(error))
        return FAILED
    except KeyboardInterrupt:
        process.stderr.write("error: interrupted by the user\n")
        return FAILED
    except BrokenPipeError:  # who reads our output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:  # noqa: BLE001 - a bug: one line for a log all the same
        process.stderr.write(f"error: a bug of nixfetch: {type(error).__name__}: {error}\n")
        return FAILED
    return 0
